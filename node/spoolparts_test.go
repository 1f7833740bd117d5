package node

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"devicetrust/audit/event"
)

func transferred(user, uid string) event.Event {
	return event.Event{Type: event.SFTP, Action: "open", User: user, UID: uid}
}

// fillWith appends long records like e until one is refused, and gives how
// many bytes that took about.
func (s *spool) fillWith(t *testing.T, e event.Event) (n int, err error) {
	t.Helper()
	e.Message = strings.Repeat("x", 60<<10)
	for n < maxSpool {
		if err = s.append(e); err != nil {
			return n, err
		}
		n += len(e.Message)
	}
	return n, errors.New("the spool has no end")
}

func TestTransfersOfOneUserLeaveRoomForThoseOfOthersAndForSessions(t *testing.T) {
	dir := t.TempDir()
	s := testSpool(t, dir)
	s.waits = 0
	if n, err := s.fillWith(t, transferred("alice", "")); !errors.Is(err, errSpoolShare) || n > maxUserShare {
		t.Errorf("alice: after %d: %v", n, err)
	}
	s.close()
	s = testSpool(t, dir)
	s.waits = 0
	if n, err := s.fillWith(t, transferred("alice", "")); !errors.Is(err, errSpoolShare) || n > 0 {
		t.Errorf("alice, after a restart: after %d: %v", n, err)
	}
	all := maxUserShare
	for i := range 10 {
		n, err := s.fillWith(t, transferred(fmt.Sprint(i), ""))
		if all += n; !errors.Is(err, errSpoolShare) {
			t.Fatal(err)
		}
	}
	if all > maxLesser || all < maxLesser-5*maxRecord {
		t.Errorf("all transfers: %d bytes", all)
	}
	if n, err := s.fillWith(t, event.Event{Type: event.SessionRejected}); !errors.Is(err, errSpoolFull) || n == 0 {
		t.Errorf("refusals: after %d: %v", n, err)
	}
	// What a session is goes with the session, whatever else it is.
	if err := s.append(started("a"), transferred("alice", "b")); err != nil {
		t.Errorf("a session: %v", err)
	}
	arrivals(t, s)
	if err := s.append(transferred("alice", "c")); err != nil {
		t.Errorf("after all has arrived: %v", err)
	}
}

func TestWhoCopiesFasterThanTheControlPlaneTakesIsSlowedDown(t *testing.T) {
	s := testSpool(t, t.TempDir())
	s.waits = 0
	if _, err := s.fillWith(t, transferred("alice", "")); !errors.Is(err, errSpoolShare) {
		t.Fatal(err)
	}
	// Nothing is taken, so nobody waits; then something is.
	s.waits = time.Hour
	if n, err := s.fillWith(t, transferred("alice", "")); !errors.Is(err, errSpoolShare) || n > 0 {
		t.Errorf("after %d: %v", n, err)
	}
	one := func() {
		t.Helper()
		n, err := s.shipOnce(t.Context(), func(context.Context, [][]byte) error { return nil })
		if n == 0 || err != nil {
			t.Fatal(n, err)
		}
	}
	one()
	const more = 100
	done := make(chan error, 1)
	go func() {
		for range more {
			if err := s.append(event.Event{Type: event.Port, User: "alice", Message: strings.Repeat("x", 60<<10)}); err != nil {
				done <- err
				return
			}
		}
		done <- nil
	}()
	for {
		select {
		case err := <-done:
			if err != nil {
				t.Error(err)
			}
			// One that waits when the node stops does not hold it up.
			go func() { _, err := s.fillWith(t, transferred("alice", "")); done <- err }()
			eventually(t, "it waits", func() bool { return s.usedBy("alice") > maxUserShare-maxRecord })
			s.close()
			if err := <-done; !errors.Is(err, errSpoolClosed) {
				t.Errorf("at the end: %v", err)
			}
			return
		default:
			if s.usedBy("alice") > maxUserShare/2 {
				one()
			}
		}
	}
}

func TestWhatIsPatientIsWrittenInItsOrderBeforeItsCallerGoesOn(t *testing.T) {
	dir := t.TempDir()
	s := testSpool(t, dir)
	var want []string
	for i, of := range []event.Type{event.SessionStart, event.SFTP, event.SessionEnd, event.Port, event.SessionStart, event.SessionEnd} {
		uid := fmt.Sprint(i)
		want = append(want, uid)
		if err := s.append(event.Event{Type: of, User: "alice", UID: uid}); err != nil {
			t.Fatal(err)
		}
		// As a node finds it that is started after this one was killed.
		after := t.TempDir()
		if err := os.CopyFS(after, os.DirFS(dir)); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, arrivals(t, testSpool(t, after))); diff != "" {
			t.Error(diff)
		}
	}
	if diff := cmp.Diff(want, arrivals(t, s)); diff != "" {
		t.Error(diff)
	}
}

func TestWhatIsPatientGoesToTheDiskWithWhatIsNot(t *testing.T) {
	s := &spool{dir: t.TempDir(), log: quiet(), arrived: make(chan struct{}, 1), freed: make(chan struct{})}
	w, err := s.newSegment()
	if err != nil {
		t.Fatal(err)
	}
	commit := func(e ...event.Type) {
		t.Helper()
		var group []pending
		for _, of := range e {
			group = append(group, pending{lines: []byte("{}\n"), part: partOf(of), patient: patient(of), result: make(chan error, 1)})
		}
		w = s.commit(w, group)
		for _, p := range group {
			if err := <-p.result; err != nil {
				t.Error(err)
			}
		}
	}
	for _, row := range []struct {
		group     []event.Type
		unsettled bool
	}{
		{[]event.Type{event.SFTP}, true},
		{[]event.Type{event.SessionEnd, event.Port}, true},
		{[]event.Type{event.SFTP, event.SessionStart, event.SessionEnd}, false},
		{[]event.Type{event.SessionEnd}, true},
		{[]event.Type{event.SessionRejected}, false},
		{[]event.Type{event.Exec}, false},
	} {
		if commit(row.group...); w.unsettled != row.unsettled {
			t.Errorf("%q: unsettled: %t", row.group, w.unsettled)
		}
	}
	commit(event.SFTP)
	before := w
	if w, err = s.nextSegment(w); err != nil || before.unsettled {
		t.Errorf("a new segment: %v, and the old one is unsettled: %t", err, before.unsettled)
	}
	commit(event.SFTP)
	if s.retire(w); w.unsettled {
		t.Error("the last segment is closed and not settled")
	}
}

func TestWhatALostPowerLeftOfRecordsHoldsUpNoOther(t *testing.T) {
	dir := t.TempDir()
	s := testSpool(t, dir)
	if err := s.append(started("a")); err != nil {
		t.Fatal(err)
	}
	s.close()
	files, _ := filepath.Glob(filepath.Join(dir, "*"+segmentSuffix))
	whole, err := os.ReadFile(files[0])
	if err != nil {
		t.Fatal(err)
	}
	// Blocks that were counted and not written are zeros (ext4's delayed
	// allocation, XFS), more of them than any record is long.
	torn := string(whole) + strings.Repeat("\x00", 2*batchBytes+17) + "\":1}\n" + strings.Replace(string(whole), `"a"`, `"b"`, 1) + `{"event":"sf`
	if err := os.WriteFile(files[0], []byte(torn), 0o600); err != nil {
		t.Fatal(err)
	}
	s = testSpool(t, dir)
	var got []string
	for range 10 {
		got = append(got, arrivals(t, s)...)
	}
	if diff := cmp.Diff([]string{"a", "b"}, got); diff != "" {
		t.Error(diff)
	}
	if n := s.unsent(); n != 0 {
		t.Errorf("%d bytes are left", n)
	}
}
