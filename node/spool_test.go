package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"connectrpc.com/connect"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"devicetrust/audit/event"
)

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

func testSpool(t *testing.T, dir string) *spool {
	t.Helper()
	s, err := openSpool(dir, quiet())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		select {
		case <-s.stop:
		default:
			s.close()
		}
	})
	return s
}

func started(uid string) event.Event { return event.Event{Type: event.SessionStart, UID: uid} }

// arrivals ships all that is there and gives the UIDs in their order.
func arrivals(t *testing.T, s *spool) []string {
	t.Helper()
	var got []string
	for {
		n, err := s.shipOnce(t.Context(), func(_ context.Context, batch [][]byte) error {
			for _, line := range batch {
				var e event.Event
				if err := json.Unmarshal(line, &e); err != nil {
					return err
				}
				got = append(got, e.UID)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if n == 0 {
			return got
		}
	}
}

func TestRecordsArriveInOrderAlsoAfterARestart(t *testing.T) {
	dir := t.TempDir()
	s := testSpool(t, dir)
	var want []string
	for i := range 600 {
		uid := fmt.Sprint(i)
		want = append(want, uid)
		if err := s.append(started(uid)); err != nil {
			t.Fatal(err)
		}
		if i == 300 {
			s.close()
			s = testSpool(t, dir)
		}
	}
	if diff := cmp.Diff(want, arrivals(t, s)); diff != "" {
		t.Error(diff)
	}
	if more := arrivals(t, s); len(more) > 0 {
		t.Errorf("sent again: %q", more)
	}
	s.close()
	if left, _ := filepath.Glob(filepath.Join(dir, "*")); len(left) > 0 {
		t.Errorf("all has arrived and left are %q", left)
	}
}

func TestWhatDidNotArriveIsSentAgain(t *testing.T) {
	dir := t.TempDir()
	s := testSpool(t, dir)
	if err := s.append(started("a"), started("b")); err != nil {
		t.Fatal(err)
	}
	lost := errors.New("lost")
	if _, err := s.shipOnce(t.Context(), func(context.Context, [][]byte) error { return lost }); !errors.Is(err, lost) {
		t.Fatal(err)
	}
	s.close()
	if diff := cmp.Diff([]string{"a", "b"}, arrivals(t, testSpool(t, dir))); diff != "" {
		t.Error(diff)
	}
}

func TestALineCutOffByACrashIsNotSent(t *testing.T) {
	dir := t.TempDir()
	s := testSpool(t, dir)
	if err := s.append(started("a")); err != nil {
		t.Fatal(err)
	}
	s.close()
	files, _ := filepath.Glob(filepath.Join(dir, "*"+segmentSuffix))
	f, err := os.OpenFile(files[0], os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteString(`{"event":"session.st`); err != nil {
		t.Fatal(err)
	}
	f.Close()
	s = testSpool(t, dir)
	if err := s.append(started("b")); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"a", "b"}, arrivals(t, s)); diff != "" {
		t.Error(diff)
	}
}

func TestARecordThatTheControlPlaneRefusesHoldsUpNoOther(t *testing.T) {
	dir := t.TempDir()
	s := testSpool(t, dir)
	if err := s.append(started("a"), started("bad"), started("c")); err != nil {
		t.Fatal(err)
	}
	var got []string
	for range 10 {
		if _, err := s.shipOnce(t.Context(), func(_ context.Context, batch [][]byte) error {
			for _, line := range batch {
				if strings.Contains(string(line), "bad") {
					return connect.NewError(connect.CodeInvalidArgument, errors.New("bad"))
				}
			}
			for _, line := range batch {
				var e event.Event
				if err := json.Unmarshal(line, &e); err != nil {
					return err
				}
				got = append(got, e.UID)
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff([]string{"a", "c"}, got); diff != "" {
		t.Error(diff)
	}
	aside, err := os.ReadFile(filepath.Join(dir, refusedRecords))
	if err != nil || !strings.Contains(string(aside), `"bad"`) {
		t.Errorf("aside: %q, %v", aside, err)
	}
}

func TestRefusedRecordsDoNotFillTheDisk(t *testing.T) {
	dir := t.TempDir()
	s := testSpool(t, dir)
	long := event.Event{Type: event.SessionStart, Message: strings.Repeat("x", 60<<10)}
	const many = 3 * maxRefused / (60 << 10)
	for range many {
		if err := s.append(long); err != nil {
			t.Fatal(err)
		}
	}
	for range many {
		n, err := s.shipOnce(t.Context(), func(context.Context, [][]byte) error {
			return connect.NewError(connect.CodeInvalidArgument, errors.New("bad"))
		})
		if n != 1 || err != nil {
			t.Fatal(n, err)
		}
	}
	aside, err := filepath.Glob(filepath.Join(dir, refusedRecords+"*"))
	if err != nil || len(aside) != 2 {
		t.Fatal(aside, err)
	}
	var size int64
	for _, f := range aside {
		info, err := os.Stat(f)
		if err != nil {
			t.Fatal(err)
		}
		size += info.Size()
	}
	if size > 2*maxRefused || size < maxRefused {
		t.Errorf("%d bytes of refused records", size)
	}
}

func TestParallelSessionsShareTheDisk(t *testing.T) {
	s := testSpool(t, t.TempDir())
	var all sync.WaitGroup
	for i := range 200 {
		all.Go(func() {
			if err := s.append(started(fmt.Sprint(i))); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if got := arrivals(t, s); len(got) != 200 {
		t.Errorf("%d arrived", len(got))
	}
}

// fill puts as much into the spool's count as leaves room bytes.
func (s *spool) fill(room int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.segments = append([]segment{{number: 0, size: maxSpool - room}}, s.segments...)
}

func TestAFullSpoolTakesNoMore(t *testing.T) {
	s := testSpool(t, t.TempDir())
	s.fill(1000)
	if err := s.append(event.Event{Type: event.SessionStart, Message: strings.Repeat("x", 1000)}); !errors.Is(err, errSpoolFull) {
		t.Errorf("too large: %v", err)
	}
	if err := s.append(started("a")); err != nil {
		t.Errorf("it fits: %v", err)
	}
}

func TestRefusedSessionsCannotFillTheSpool(t *testing.T) {
	dir := t.TempDir()
	s := testSpool(t, dir)
	refused := event.Event{Type: event.SessionRejected, Message: strings.Repeat("x", 60<<10)}
	n := 0
	for ; n < 2*maxRejections/(60<<10); n++ {
		if err := s.append(refused); err != nil {
			break
		}
	}
	if err := s.append(refused); !errors.Is(err, errSpoolFull) || n > maxRejections/(60<<10) {
		t.Errorf("after %d: %v", n, err)
	}
	if err := s.append(started("a")); err != nil {
		t.Errorf("a session: %v", err)
	}
	s.close()
	if err := testSpool(t, dir).append(refused); !errors.Is(err, errSpoolFull) {
		t.Errorf("after a restart: %v", err)
	}
}

func TestAnUnwritableDiskRefusesAndHealsWhenItCan(t *testing.T) {
	if os.Getenv("DT_TEST_FULL_DISK") == "" {
		// In a process of its own: the limit is for all that it writes, the
		// log of the tests too.
		again := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+t.Name()+"$")
		again.Env = append(os.Environ(), "DT_TEST_FULL_DISK=1")
		if out, err := again.CombinedOutput(); err != nil {
			t.Errorf("%v\n%s", err, out)
		}
		return
	}
	dir := t.TempDir()
	s := testSpool(t, dir)
	if err := s.append(started("a")); err != nil {
		t.Fatal(err)
	}
	// A full disk, for this process: files may not grow (setrlimit(2)).
	signal.Ignore(unix.SIGXFSZ)
	t.Cleanup(func() { signal.Reset(unix.SIGXFSZ) })
	var before unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_FSIZE, &before); err != nil {
		t.Fatal(err)
	}
	if err := unix.Setrlimit(unix.RLIMIT_FSIZE, &unix.Rlimit{Cur: 120, Max: before.Max}); err != nil {
		t.Fatal(err)
	}
	refused := s.append(event.Event{Type: event.SessionStart, UID: "lost", Message: strings.Repeat("x", 500)})
	again := s.append(event.Event{Type: event.SessionStart, UID: "lost", Message: strings.Repeat("x", 500)})
	if err := unix.Setrlimit(unix.RLIMIT_FSIZE, &before); err != nil {
		t.Fatal(err)
	}
	if refused == nil || again == nil {
		t.Errorf("a record that cannot be written: %v, %v", refused, again)
	}
	if err := s.append(started("b")); err != nil {
		t.Errorf("after there is room again: %v", err)
	}
	if diff := cmp.Diff([]string{"a", "b"}, arrivals(t, s)); diff != "" {
		t.Error(diff)
	}
}

func TestASegmentThatIsEmptyAndGoneIsNotCounted(t *testing.T) {
	s := &spool{dir: t.TempDir(), log: quiet(), arrived: make(chan struct{}, 1), freed: make(chan struct{})}
	w, err := s.newSegment()
	if err != nil {
		t.Fatal(err)
	}
	put := func(uid string) error {
		line, _ := json.Marshal(event.Event{Type: event.SessionStart, UID: uid, Message: strings.Repeat("x", rewindSize)})
		w, err = s.put(w, append(line, '\n'), use{}, true)
		return err
	}
	if err := put("a"); err != nil {
		t.Fatal(err)
	}
	arrivals(t, s)
	s.rewind(w)
	w.file.Close() // a disk that fails
	if err := put("lost"); err == nil {
		t.Fatal("written to a file that is closed")
	}
	if err := put("b"); err != nil {
		t.Fatal(err)
	}
	if len(s.segments) != 1 {
		t.Errorf("segments %+v", s.segments)
	}
	// One that somebody else removed does not hold up the others either.
	s.segments = append([]segment{{number: 0}}, s.segments...)
	if diff := cmp.Diff([]string{"b"}, arrivals(t, s)); diff != "" {
		t.Error(diff)
	}
	s.retire(w)
}

func TestTheSegmentBeingWrittenIsEmptiedWhenItHasArrived(t *testing.T) {
	dir := t.TempDir()
	s := testSpool(t, dir)
	for i := range 300 {
		if err := s.append(event.Event{Type: event.SessionStart, UID: fmt.Sprint(i), Message: strings.Repeat("x", 2000)}); err != nil {
			t.Fatal(err)
		}
		arrivals(t, s)
	}
	var size int64
	files, _ := filepath.Glob(filepath.Join(dir, "*"))
	for _, f := range files {
		info, err := os.Stat(f)
		if err != nil {
			t.Fatal(err)
		}
		size += info.Size()
	}
	if size > 2*rewindSize {
		t.Errorf("%d bytes on the disk after all has arrived", size)
	}
}
