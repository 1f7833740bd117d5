package sshd

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"devicetrust/policy"
)

// run is the helper as a process would be.
func run(s *site, log string, args []string) (status int, stdout, stderr string) {
	var out, err strings.Builder
	h := Helper{Now: func() time.Time { return s.now }, Location: time.UTC, Stdout: &out, Stderr: &err, Log: log, PID: 7}
	return h.Run(args), out.String(), err.String()
}

// listenLog is the system's log.
func listenLog(t *testing.T) (path string, log *net.UnixConn) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "log")
	log, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { log.Close() })
	return path, log
}

func TestSshdIsToldByTheStatusAndTheLogWhy(t *testing.T) {
	s := newSite(t, noon)
	path, log := listenLog(t)
	if status, out, said := run(s, path, s.good()); status != 0 || out != goodLine || said != "" {
		t.Errorf("admitted: status %d, %q, %q", status, out, said)
	}
	s.publish(func() { s.content.Locks = []policy.Lock{lock(policy.LockTarget{User: "alice"}, "under investigation")} })
	status, out, said := run(s, path, s.good())
	const why = "refused: user=alice serial=42 login=root cause=locked state_age=0s: "
	if status != 0 || out != "" || !strings.HasPrefix(said, why) || !strings.HasSuffix(said, "under investigation\n") {
		t.Errorf("refused: status %d, %q, %q", status, out, said)
	}
	// The first that was logged is the refusal: an admission is sshd's to log.
	line := make([]byte, 2048)
	if err := log.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
		t.Fatal(err)
	}
	n, err := log.Read(line)
	if got := string(line[:n]); err != nil || got != "<85>Mar  1 12:00:00 dtnoded[7]: "+strings.TrimSuffix(said, "\n") {
		t.Errorf("logged %q: %v", got, err)
	}
	// sshd logs that the helper failed where it did, and only there.
	if status, out, _ := run(s, path, []string{"--dir=/x"}); status != 2 || out != "" {
		t.Errorf("misused: status %d, %q", status, out)
	}
	good := s.good()
	s.must(os.Remove(s.dir.State()))
	if status, out, _ := run(s, path, good); status != 1 || out != "" {
		t.Errorf("without a state: status %d, %q", status, out)
	}
	for _, cause := range []string{causeTime, causeFault} {
		if status := (&refusal{cause: cause}).status(); status != 1 {
			t.Errorf("%s: status %d", cause, status)
		}
	}
}

func TestALogThatIsNotReadKeepsNobodyWaiting(t *testing.T) {
	s := newSite(t, noon)
	path, _ := listenLog(t)
	bad := s.arguments("bob", s.certify(newKey(t, 9).PublicKey(), nil))
	begun := time.Now()
	for range 1000 { // more than any socket takes (unix(7), max_dgram_qlen)
		authLog(path).write(noon, 7, strings.Repeat("x", 2*maxLogLine))
	}
	for _, log := range []string{path, "", filepath.Join(t.TempDir(), "none"), "/dev/null", strings.Repeat("x", 200)} {
		if status, out, said := run(s, log, bad); status != 0 || out != "" || said == "" {
			t.Errorf("log %q: status %d, %q, %q", log, status, out, said)
		}
	}
	if took := time.Since(begun); took > 5*time.Second {
		t.Errorf("it took %v", took)
	}
}

func TestWhatTakesTooLongOrFailsIsRefused(t *testing.T) {
	late := make(chan time.Time, 1)
	late <- noon
	ended := make(chan struct{})
	defer close(ended)
	o := within(late, func() outcome { <-ended; return outcome{line: goodLine} })
	if o.line != "" || o.no == nil || o.no.cause != causeTime {
		t.Errorf("without an answer: %q, %v", o.line, o.no)
	}
	o = within(nil, func() outcome { var none []int; return outcome{line: goodLine[none[0]:]} })
	if o.line != "" || o.no == nil || o.no.cause != causeFault || strings.Contains(o.no.String(), "\n") {
		t.Errorf("with a fault: %q, %v", o.line, o.no)
	}
}

type broken struct{}

func (broken) Write([]byte) (int, error) { return 0, errors.New("no space") }

func TestALineThatCannotBeToldAdmitsNobody(t *testing.T) {
	s := newSite(t, noon)
	h := Helper{Now: func() time.Time { return s.now }, Location: time.UTC, Stdout: broken{}, Stderr: broken{}}
	if status := h.Run(s.good()); status != 1 {
		t.Errorf("status %d", status)
	}
}

func TestAskingChangesNothing(t *testing.T) {
	s := newSite(t, noon)
	s.must(os.WriteFile(s.dir.KRL(), []byte("krl"), 0o600))
	good, bad := s.good(), s.arguments("bob", s.certify(newKey(t, 9).PublicKey(), nil))
	before := s.listing()
	for _, args := range [][]string{good, bad, good[:1], good} {
		run(s, "", args)
	}
	s.must(os.Remove(s.dir.UserCA()))
	run(s, "", good)
	s.must(s.dir.WriteUserCA(s.content.UserAuthorities))
	if diff := cmp.Diff(before, s.listing()); diff != "" {
		t.Error(diff)
	}
}

// listing is all that lies in the folder.
func (s *site) listing() map[string]string {
	s.t.Helper()
	files, err := os.ReadDir(string(s.dir))
	s.must(err)
	all := map[string]string{}
	for _, f := range files {
		text, err := os.ReadFile(filepath.Join(string(s.dir), f.Name()))
		s.must(err)
		all[f.Name()] = string(text)
	}
	return all
}
