package node

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	gossh "golang.org/x/crypto/ssh"

	"devicetrust/audit/event"
)

func enterNode(t *testing.T, change ...func(*serverConfig)) (*testNode, *gossh.Client) {
	t.Helper()
	n := startNode(t, change...)
	return n, n.mustDial(tester, n.cluster.certify(t, alice(), newSigner(t)))
}

func newSession(t *testing.T, c *gossh.Client) *gossh.Session {
	t.Helper()
	s, err := c.NewSession()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func TestAShellHasATerminal(t *testing.T) {
	_, c := enterNode(t)
	s := newSession(t, c)
	modes := gossh.TerminalModes{gossh.ECHO: 0, gossh.VINTR: 3}
	if err := s.RequestPty("xterm-test", 40, 100, modes); err != nil {
		t.Fatal(err)
	}
	// Before there is a shell, and it does not hang.
	if err := s.WindowChange(50, 120); err != nil {
		t.Fatal(err)
	}
	in, _ := s.StdinPipe()
	var out syncBuffer
	s.Stdout = &out
	if err := s.Shell(); err != nil {
		t.Fatal(err)
	}
	until := func(what string) {
		t.Helper()
		eventually(t, what, func() bool { return strings.Contains(out.String(), what) })
	}
	io.WriteString(in, "stty size; echo $TERM $0; tty; test $SSH_TTY = $(tty) && echo same; stty -a | grep -o ' -echo '; ls -l $SSH_TTY; echo END$((1+1))\n")
	until("END2")
	for _, want := range []string{"50 120", "xterm-test -sh", "/dev/pts/", "same", " -echo "} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in %q", want, out.String())
		}
	}
	if os.Geteuid() == 0 && !strings.Contains(out.String(), "crw--w----") {
		t.Errorf("the terminal is not 0620: %q", out.String())
	}
	if err := s.WindowChange(25, 81); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the new size", func() bool {
		io.WriteString(in, "stty size\n")
		return strings.Contains(out.String(), "25 81")
	})
	io.WriteString(in, "exit 3\n")
	var exit *gossh.ExitError
	if err := wait(t, s); !errors.As(err, &exit) || exit.ExitStatus() != 3 {
		t.Errorf("%v", err)
	}
}

func TestControlCInterruptsWhatRunsInATerminal(t *testing.T) {
	_, c := enterNode(t)
	s := newSession(t, c)
	if err := s.RequestPty("xterm", 24, 80, gossh.TerminalModes{}); err != nil {
		t.Fatal(err)
	}
	in, _ := s.StdinPipe()
	var out syncBuffer
	s.Stdout = &out
	// Without a trap, dash forgets an interruption that comes while it starts the
	// next command.
	if err := s.Start("trap 'exit 130' INT; echo ready; while :; do sleep 1; done"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "ready", func() bool { return strings.Contains(out.String(), "ready") })
	io.WriteString(in, "\x03")
	var exit *gossh.ExitError
	if err := wait(t, s); !errors.As(err, &exit) || (exit.Signal() != "INT" && exit.ExitStatus() != 130) {
		t.Errorf("%v", err)
	}
}

func TestACertificateWithoutATerminalGetsNone(t *testing.T) {
	n := startNode(t)
	id := alice()
	id.Permit.PTY = false
	c := n.mustDial(tester, n.cluster.certify(t, id, newSigner(t)))
	if err := newSession(t, c).RequestPty("xterm", 24, 80, nil); err == nil {
		t.Error("it got one")
	}
	if _, _, status := run(t, c, "true"); status != 0 {
		t.Errorf("a command: %d", status)
	}
}

func TestExitStatusAndSignalsArrive(t *testing.T) {
	n, c := enterNode(t)
	for _, want := range []int{0, 1, 255} {
		if _, _, got := run(t, c, fmt.Sprintf("exit %d", want)); got != want {
			t.Errorf("status %d, want %d", got, want)
		}
	}
	s := newSession(t, c)
	var exit *gossh.ExitError
	if err := s.Run("kill -TERM $$"); !errors.As(err, &exit) || exit.Signal() != "TERM" {
		t.Errorf("%v", err)
	}
	eventually(t, "five ends are recorded", func() bool {
		var codes []int
		for _, e := range n.records() {
			if e.Type == event.SessionEnd {
				codes = append(codes, *e.ExitStatus)
			}
		}
		return len(codes) == 4 && codes[3] == 128+15
	})
}

func TestTheAnswerComesBeforeTheEnd(t *testing.T) {
	_, c := enterNode(t)
	for range 300 { // a command may be over before its request is granted
		s, err := c.NewSession()
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Run("exit 0"); err != nil {
			t.Fatal(err)
		}
	}
}

func TestASignalReachesTheCommand(t *testing.T) {
	_, c := enterNode(t)
	s := newSession(t, c)
	var out syncBuffer
	s.Stdout = &out
	if err := s.Signal(gossh.SIGTERM); err != nil { // before there is anything
		t.Fatal(err)
	}
	if err := s.Start(`trap 'echo caught; exit 5' USR1; echo ready; while :; do sleep 0.05; done`); err != nil {
		t.Fatal(err)
	}
	eventually(t, "ready", func() bool { return strings.Contains(out.String(), "ready") })
	for range 50 { // unread signals block nothing
		s.Signal("WINCH")
	}
	if err := s.Signal(gossh.SIGUSR1); err != nil {
		t.Fatal(err)
	}
	var exit *gossh.ExitError
	if err := wait(t, s); !errors.As(err, &exit) || !strings.Contains(out.String(), "caught") {
		t.Errorf("%v, %q", err, out.String())
	}
}

func TestNoByteIsLostInEitherDirection(t *testing.T) {
	_, c := enterNode(t)
	data := make([]byte, 5<<20)
	rand.Read(data)
	s := newSession(t, c)
	s.Stdin = bytes.NewReader(data)
	out, err := s.Output("cat") // and cat sees the end of its input
	if err != nil || !bytes.Equal(out, data) {
		t.Errorf("%d of %d bytes came back, %v", len(out), len(data), err)
	}
	s = newSession(t, c)
	s.Stdin = bytes.NewReader(data)
	sum, err := s.Output("sha256sum")
	if want := fmt.Sprintf("%x", sha256.Sum256(data)); err != nil || !strings.HasPrefix(string(sum), want) {
		t.Errorf("%s, %v", sum, err)
	}
	// The last bytes before the end, to a reader that takes its time.
	s = newSession(t, c)
	r, _ := s.StdoutPipe()
	if err := s.Start("head -c 3000000 /dev/zero; echo -n END"); err != nil {
		t.Fatal(err)
	}
	slow := &slowReader{r: r}
	all, err := io.ReadAll(slow)
	if err != nil || len(all) != 3000003 || !bytes.HasSuffix(all, []byte("END")) {
		t.Errorf("%d bytes, %v", len(all), err)
	}
	if err := wait(t, s); err != nil {
		t.Error(err)
	}
}

// wait is s.Wait, but not for ever.
func wait(t *testing.T, s *gossh.Session) error {
	t.Helper()
	done := make(chan error, 1)
	go func() { done <- s.Wait() }()
	select {
	case err := <-done:
		return err
	case <-time.After(15 * time.Second):
		t.Fatal("the session goes on")
		return nil
	}
}

// slowReader leaves the window closed for a while after the command is over.
type slowReader struct {
	r     io.Reader
	reads int
}

func (s *slowReader) Read(b []byte) (int, error) {
	if s.reads++; s.reads == 2 {
		time.Sleep(700 * time.Millisecond) // what is tested is slowness
	}
	return s.r.Read(b)
}

func TestATerminalLosesNothingEither(t *testing.T) {
	_, c := enterNode(t)
	for range 5 {
		s := newSession(t, c)
		if err := s.RequestPty("xterm", 24, 80, gossh.TerminalModes{}); err != nil {
			t.Fatal(err)
		}
		out, err := s.Output("seq 1 20000")
		if lines := strings.Count(string(out), "\r\n"); err != nil || lines != 20000 || !strings.HasSuffix(string(out), "20000\r\n") {
			t.Errorf("%d lines, %v", lines, err)
		}
		s.Close()
	}
}

func TestACommandMayLetGoOfItsTerminal(t *testing.T) {
	_, c := enterNode(t)
	s := newSession(t, c)
	if err := s.RequestPty("xterm", 24, 80, gossh.TerminalModes{}); err != nil {
		t.Fatal(err)
	}
	var exit *gossh.ExitError
	out, err := s.Output("exec </dev/null >/dev/null 2>&1; sleep 0.3; echo back >/dev/tty; sleep 0.3; echo again >/dev/tty; exit 3")
	if !errors.As(err, &exit) || exit.ExitStatus() != 3 || string(out) != "back\r\nagain\r\n" {
		t.Errorf("%q, %v", out, err)
	}
}

func TestATerminalsSessionEndsWithItsCommand(t *testing.T) {
	_, c := enterNode(t)
	s := newSession(t, c)
	if err := s.RequestPty("xterm", 24, 80, gossh.TerminalModes{}); err != nil {
		t.Fatal(err)
	}
	// Somebody still has the terminal, and hears no hanging up.
	if err := s.Start("trap '' HUP; sleep 1000 & exit 4"); err != nil {
		t.Fatal(err)
	}
	var exit *gossh.ExitError
	if err := wait(t, s); !errors.As(err, &exit) || exit.ExitStatus() != 4 {
		t.Errorf("%v", err)
	}
}

func TestACommandThatDoesNotReadIsNoObstacle(t *testing.T) {
	_, c := enterNode(t)
	s := newSession(t, c)
	s.Stdin = bytes.NewReader(make([]byte, 8<<20)) // more than a channel's window
	// The client is still sending when the channel closes, and says io.EOF for
	// that; another status than 0 would come before it.
	if err := s.Run("exec <&-; sleep 0.2; true"); err != nil && !errors.Is(err, io.EOF) {
		t.Error(err)
	}
}

func TestAChildLeftBehindHoldsTheSessionAsLongAsItMayWrite(t *testing.T) {
	n, c := enterNode(t)
	s := newSession(t, c)
	var out syncBuffer
	s.Stdout = &out
	if err := s.Start("sleep 1000 & echo $!; echo $$; exit 3"); err != nil {
		t.Fatal(err)
	}
	all := pids(t, &out, 2)
	eventually(t, "the command has ended", func() bool { return gone(all[1]) })
	for _, e := range n.records() {
		if e.Type == event.SessionEnd {
			t.Errorf("its session too: %+v", e)
		}
	}
	s.Close()
	if e := n.recorded(event.SessionEnd); e.ExitStatus == nil || *e.ExitStatus != 3 {
		t.Errorf("%+v", e)
	}
	// As with sshd, it goes on: it was left on purpose.
	if gone(all[0]) {
		t.Error("what was left behind is gone")
	}
}

func TestWhatAChildLeftBehindStillSaysIsHeard(t *testing.T) {
	_, c := enterNode(t)
	s := newSession(t, c)
	out, err := s.Output("(for i in 1 2 3; do sleep 1; echo $i; done) & true")
	if err != nil || string(out) != "1\n2\n3\n" {
		t.Errorf("%q, %v", out, err)
	}
}

func TestAHomeThatIsNotThereIsSaidAndIsRoot(t *testing.T) {
	n := startNode(t)
	id := alice()
	id.Logins = []string{"homeless"}
	id.Traits = map[string][]string{"logins": {"homeless"}}
	c := n.mustDial("homeless", n.cluster.certify(t, id, newSigner(t)))
	out, errs, status := run(t, c, "pwd")
	if out != "/\n" || status != 0 || !strings.Contains(errs, "Could not chdir to home directory /no/such/home") {
		t.Errorf("%q, %q, %d", out, errs, status)
	}
}
