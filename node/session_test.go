package node

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	gossh "golang.org/x/crypto/ssh"

	"devicetrust/audit/event"
	"devicetrust/policy"
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
	if err := s.Start("echo ready; sleep 1000"); err != nil {
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

// slowReader leaves the window closed for longer than the silence that ends
// the reading from a command that is over.
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

func TestACommandThatDoesNotReadIsNoObstacle(t *testing.T) {
	_, c := enterNode(t)
	s := newSession(t, c)
	s.Stdin = bytes.NewReader(make([]byte, 8<<20)) // more than a channel's window
	if err := s.Run("exec <&-; sleep 0.2; true"); err != nil {
		t.Error(err)
	}
}

func TestAChildLeftBehindDoesNotHoldTheSession(t *testing.T) {
	_, c := enterNode(t)
	s := newSession(t, c)
	pidFile := filepath.Join("/tmp", fmt.Sprintf("dt-left-%d", os.Getpid()))
	defer os.Remove(pidFile)
	start := time.Now()
	out, err := s.Output("sleep 600 & echo $!; echo done")
	if err != nil || !strings.HasSuffix(string(out), "done\n") || time.Since(start) > 10*time.Second {
		t.Errorf("%q, %v after %s", out, err, time.Since(start))
	}
	// As with sshd, it goes on: it was left on purpose.
	pid, err := strconv.Atoi(strings.TrimSpace(strings.Split(string(out), "\n")[0]))
	if err != nil || syscall.Kill(pid, 0) != nil {
		t.Errorf("%d is gone, %v", pid, err)
	}
	syscall.Kill(pid, syscall.SIGKILL)
}

func TestWhatAChildLeftBehindStillSaysIsHeard(t *testing.T) {
	_, c := enterNode(t)
	s := newSession(t, c)
	out, err := s.Output("(for i in 1 2 3 4 5; do sleep 0.1; echo $i; done) & true")
	if err != nil || string(out) != "1\n2\n3\n4\n5\n" {
		t.Errorf("%q, %v", out, err)
	}
}

// pids waits for n lines of numbers.
func pids(t *testing.T, out *syncBuffer, n int) []int {
	t.Helper()
	var found []int
	eventually(t, "the processes are there", func() bool {
		found = found[:0]
		for _, f := range strings.Fields(out.String()) {
			if pid, err := strconv.Atoi(f); err == nil {
				found = append(found, pid)
			}
		}
		return len(found) == n
	})
	return found
}

func gone(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return true
	}
	_, _, alive := parseStat(stat)
	return !alive
}

func TestWhenTheClientGoesItsCommandsGo(t *testing.T) {
	n, c := enterNode(t)
	s := newSession(t, c)
	var out syncBuffer
	s.Stdout = &out
	// One hears SIGHUP, one does not.
	if err := s.Start(`trap '' HUP; sleep 1000 & echo $!; (trap - HUP; exec sleep 1000) & echo $!; echo $$; wait; wait; sleep 1000`); err != nil {
		t.Fatal(err)
	}
	all := pids(t, &out, 3)
	c.Close()
	for _, pid := range all {
		eventually(t, fmt.Sprintf("process %d is gone", pid), func() bool { return gone(pid) })
	}
	if e := n.recorded(event.SessionEnd); e.Message == "" {
		t.Errorf("%+v", e)
	}
}

func TestPolicyEndsEverythingOfASession(t *testing.T) {
	n, c := enterNode(t)
	s := newSession(t, c)
	var out, errs syncBuffer
	s.Stdout, s.Stderr = &out, &errs
	if err := s.RequestPty("xterm", 24, 80, gossh.TerminalModes{gossh.ECHO: 0}); err != nil {
		t.Fatal(err)
	}
	in, _ := s.StdinPipe()
	if err := s.Shell(); err != nil {
		t.Fatal(err)
	}
	// A job of its own, deaf to SIGHUP: what nohup makes.
	io.WriteString(in, "set -m; PS1=; (trap '' HUP; exec sleep 1000) & echo $!\n")
	eventually(t, "a number", func() bool { return strings.Contains(out.String(), "\r\n") })
	var pid int
	eventually(t, "the job", func() bool {
		for _, f := range strings.Fields(out.String()) {
			if p, err := strconv.Atoi(f); err == nil {
				pid = p
			}
		}
		return pid != 0
	})
	n.decideBy(access(t, requireDevice))
	eventually(t, "the job is gone", func() bool { return gone(pid) })
	eventually(t, "the reason is on the terminal", func() bool { return strings.Contains(errs.String(), policy.ReasonTrustedDevice) })
	eventually(t, "the connection is closed", func() bool { _, _, err := c.SendRequest("x", true, nil); return err != nil })
	if e := n.recorded(event.SessionEnd); e.Success || e.Message != policy.ReasonTrustedDevice || e.User != "alice" {
		t.Errorf("%+v", e)
	}
}

func TestLocksRevocationsAndRotationsReachOpenSessions(t *testing.T) {
	for name, change := range map[string]func(n *testNode, serial uint64){
		"the user is locked": func(n *testNode, _ uint64) {
			p := access(n.t)
			p.Locks = []policy.Lock{{Name: "l", Target: policy.LockTarget{User: "alice"}, Message: "away"}}
			n.decideBy(p)
		},
		"the certificate is revoked": func(n *testNode, serial uint64) {
			p := access(n.t)
			p.Revoked[serial] = struct{}{}
			n.decideBy(p)
		},
		"the authority is replaced": func(n *testNode, _ uint64) {
			n.cluster.user = newSigner(n.t)
			n.decideBy(access(n.t))
		},
		"the role is gone": func(n *testNode, _ uint64) { n.decideBy(&policy.State{}) },
	} {
		t.Run(name, func(t *testing.T) {
			n, c := enterNode(t)
			s := newSession(t, c)
			if err := s.Start("sleep 1000"); err != nil {
				t.Fatal(err)
			}
			e := n.recorded(event.SessionStart)
			n.decideBy(access(t)) // changes nothing
			change(n, e.Serials[0])
			if err := wait(t, s); err == nil {
				t.Error("it went on")
			}
			if e := n.recorded(event.SessionEnd); e.Success || e.Message == "" {
				t.Errorf("%+v", e)
			}
			if _, err := c.NewSession(); err == nil {
				t.Error("another session was opened")
			}
		})
	}
}

func TestPolicyMayChangeWhileASessionOpens(t *testing.T) {
	n := startNode(t)
	signer := n.cluster.certify(t, alice(), newSigner(t))
	for range 20 {
		n.decideBy(access(t))
		c := n.mustDial(tester, signer)
		var both sync.WaitGroup
		both.Go(func() {
			if s, err := c.NewSession(); err == nil {
				_ = s.Run("sleep 1000") // it ends with the connection
			}
		})
		n.decideBy(access(t, requireDevice))
		both.Wait()
	}
	eventually(t, "nobody is left", n.empty)
}

func TestTheCertificatesEndEndsTheSessionWherePolicySaysSo(t *testing.T) {
	n := startNode(t)
	yes := true
	n.decideBy(access(t, func(s *policy.RoleSpec) { s.Options.DisconnectExpiredCert = &yes }))
	id := alice()
	id.ValidBefore = time.Now().Add(2 * time.Second)
	c := n.mustDial(tester, n.cluster.certify(t, id, newSigner(t)))
	s := newSession(t, c)
	if err := s.Start("sleep 1000"); err != nil {
		t.Fatal(err)
	}
	if err := wait(t, s); err == nil {
		t.Error("it ended by itself")
	}
	if e := n.recorded(event.SessionEnd); !strings.Contains(e.Message, "expired") {
		t.Errorf("%+v", e)
	}
}

func TestAnIdleSessionIsEndedWherePolicySaysSo(t *testing.T) {
	n := startNode(t)
	n.decideBy(access(t, func(s *policy.RoleSpec) { s.Options.ClientIdleTimeout = policy.Duration(600 * time.Millisecond) }))
	c := n.mustDial(tester, n.cluster.certify(t, alice(), newSigner(t)))
	s := newSession(t, c)
	in, _ := s.StdinPipe()
	if err := s.Start("cat >/dev/null"); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for range 12 { // twice the time, never idle for all of it
		<-tick.C
		if _, err := io.WriteString(in, "x"); err != nil {
			t.Fatalf("ended after %s of typing: %v", time.Since(start), err)
		}
	}
	if err := wait(t, s); err == nil {
		t.Error("it ended by itself")
	}
	if e := n.recorded(event.SessionEnd); !strings.Contains(e.Message, "idle") {
		t.Errorf("%+v", e)
	}
}

func TestAPeerThatDoesNotAnswerIsLeft(t *testing.T) {
	n := startNode(t, func(c *serverConfig) { c.limits.keepalive = 100 * time.Millisecond })
	c := dialRaw(t, n.address) // reads nothing unless asked to
	signer := n.cluster.certify(t, alice(), newSigner(t))
	if got := c.sign(tester, signer.PublicKey(), signer); got != authSuccess {
		t.Fatal(got)
	}
	eventually(t, "it is left", func() bool {
		n.server.mu.Lock()
		defer n.server.mu.Unlock()
		return len(n.all) == 0
	})
	// One that answers stays.
	live := n.mustDial(tester, signer)
	time.Sleep(500 * time.Millisecond) // five times what a silent one has
	if _, _, status := run(t, live, "true"); status != 0 {
		t.Errorf("status %d", status)
	}
}

func TestWhatIsNotAvailableIsRefusedWithAReason(t *testing.T) {
	_, c := enterNode(t)
	for _, kind := range []string{"direct-tcpip", "direct-streamlocal@openssh.com"} {
		_, _, err := c.OpenChannel(kind, nil)
		var no *gossh.OpenChannelError
		if !errors.As(err, &no) || no.Reason != gossh.Prohibited || no.Message != "port forwarding is not available on this node" {
			t.Errorf("%s: %v", kind, err)
		}
	}
	if _, _, err := c.OpenChannel("x11", nil); err == nil {
		t.Error("an x11 channel was opened")
	}
	for _, kind := range []string{"tcpip-forward", "streamlocal-forward@openssh.com", "anything"} {
		if ok, _, err := c.SendRequest(kind, true, nil); ok || err != nil {
			t.Errorf("%s: %v, %v", kind, ok, err)
		}
	}
	s := newSession(t, c)
	for _, kind := range []string{"x11-req", "auth-agent-req@openssh.com", "break", "anything"} {
		if ok, err := s.SendRequest(kind, true, nil); ok || err != nil {
			t.Errorf("%s: %v, %v", kind, ok, err)
		}
	}
	if err := s.RequestSubsystem("sftp"); err == nil {
		t.Error("a subsystem was started")
	}
	if out, err := s.Output("echo still here"); err != nil || string(out) != "still here\n" {
		t.Errorf("%q, %v", out, err)
	}
}

func TestAMalformedRequestHarmsNobody(t *testing.T) {
	n, other := enterNode(t)
	signer := n.cluster.certify(t, alice(), newSigner(t))
	c := dialRaw(t, n.address)
	c.sign(tester, signer.PublicKey(), signer)
	channel, ok := c.openSession(0)
	if !ok {
		t.Fatal("no session")
	}
	for _, payload := range []string{"\xff\xff\xff\xfcxterm", "", "\x00", "\x00\x00\x00\x05xterm\xff"} {
		for _, kind := range []string{"pty-req", "window-change", "env", "exec", "signal", "shell", "subsystem"} {
			if kind == "shell" && payload == "" {
				continue
			}
			if c.request(channel, kind, []byte(payload)) {
				t.Errorf("%s %q was granted", kind, payload)
			}
		}
	}
	if !c.request(channel, "exec", gossh.Marshal(struct{ C string }{"true"})) {
		t.Error("a good request after the bad ones is refused")
	}
	if c.request(channel, "exec", gossh.Marshal(struct{ C string }{"true"})) {
		t.Error("a second command on one channel")
	}
	if _, _, status := run(t, other, "true"); status != 0 {
		t.Errorf("the other connection: %d", status)
	}
}

func TestSessionsOfAConnectionAreCounted(t *testing.T) {
	n := startNode(t)
	n.decideBy(access(t, func(s *policy.RoleSpec) { s.Options.MaxSessions = 2 }))
	c := n.mustDial(tester, n.cluster.certify(t, alice(), newSigner(t)))
	a, _ := newSession(t, c), newSession(t, c)
	if _, err := c.NewSession(); err == nil || !strings.Contains(err.Error(), "too many sessions") {
		t.Errorf("a third one: %v", err)
	}
	if e := n.recorded(event.SessionRejected); !strings.Contains(e.Message, "too many") {
		t.Errorf("%+v", e)
	}
	a.Close()
	eventually(t, "there is room again", func() bool {
		s, err := c.NewSession()
		if err == nil {
			s.Close()
		}
		return err == nil
	})

	// A channel that we closed and the client did not keeps its place.
	raw := dialRaw(t, n.address)
	signer := n.cluster.certify(t, alice(), newSigner(t))
	raw.sign(tester, signer.PublicKey(), signer)
	for id := range uint32(2) {
		channel, ok := raw.openSession(id)
		if !ok || !raw.request(channel, "exec", gossh.Marshal(struct{ C string }{"true"})) {
			t.Fatal("no session")
		}
		for raw.receive()[0] != 97 { // CHANNEL_CLOSE, not answered
		}
	}
	if _, ok := raw.openSession(2); ok {
		t.Error("a channel that is half closed is not counted")
	}
}

func TestAFloodOfChannelsEndsThatConnectionOnly(t *testing.T) {
	n, other := enterNode(t)
	signer := n.cluster.certify(t, alice(), newSigner(t))
	c := dialRaw(t, n.address)
	c.sign(tester, signer.PublicKey(), signer)
	c.conn.(*net.TCPConn).SetReadBuffer(1)
	var ended error
	for id := uint32(0); ended == nil && id < 200_000; id++ { // and never reads an answer
		ended = c.trySend(channelOpen("direct-tcpip", id))
	}
	if ended == nil || os.IsTimeout(ended) {
		t.Errorf("the flood was ended by %v", ended)
	}
	if _, _, status := run(t, other, "true"); status != 0 {
		t.Errorf("the other connection: %d", status)
	}
}

func TestAFloodOfRequestsIsSlowedDown(t *testing.T) {
	n, _ := enterNode(t, func(c *serverConfig) { c.limits.requestBurst, c.limits.requestsPerSecond = 20, 50 })
	c := n.mustDial(tester, n.cluster.certify(t, alice(), newSigner(t)))
	start := time.Now()
	for range 60 {
		if _, _, err := c.SendRequest("x", true, nil); err != nil {
			t.Fatal(err)
		}
	}
	if took := time.Since(start); took < 500*time.Millisecond {
		t.Errorf("60 requests in %s", took)
	}
}

func TestAFaultInOneConnectionEndsNoOther(t *testing.T) {
	var faulty sync.Map
	n, other := enterNode(t, func(c *serverConfig) {
		signers, now := c.hostSigners, c.now
		c.hostSigners = func() []gossh.Signer {
			if _, bad := faulty.LoadAndDelete("handshake"); bad {
				panic("a fault in the handshake")
			}
			return signers()
		}
		c.now = func() time.Time {
			if _, bad := faulty.LoadAndDelete("channel"); bad {
				panic("a fault in a channel")
			}
			return now()
		}
	})
	signer := n.cluster.certify(t, alice(), newSigner(t))
	faulty.Store("handshake", true)
	if _, err := n.dial(tester, signer); err == nil {
		t.Error("the handshake did not fail")
	}
	victim := n.mustDial(tester, signer)
	s := newSession(t, victim)
	faulty.Store("channel", true)
	s.Setenv("LANG", "C")
	eventually(t, "the faulty connection is closed", func() bool { _, _, err := victim.SendRequest("x", true, nil); return err != nil })
	if _, _, status := run(t, other, "true"); status != 0 {
		t.Errorf("the other connection: %d", status)
	}
	if n := strings.Count(n.log.String(), "the connection is closed"); n != 2 {
		t.Errorf("%d faults are in the log", n)
	}
}

func TestStrangersAreCounted(t *testing.T) {
	n := startNode(t, func(c *serverConfig) {
		c.limits.unauthenticated, c.limits.unauthenticatedPerAddress = 8, 3
		c.limits.loginGrace = time.Second
	})
	signer := n.cluster.certify(t, alice(), newSigner(t))
	var in []*gossh.Client
	for range 5 { // who is admitted is not counted
		in = append(in, n.mustDial(tester, signer))
	}
	var waiting []net.Conn
	for range 3 {
		conn, err := net.Dial("tcp", n.address)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		waiting = append(waiting, conn)
	}
	eventually(t, "three wait", func() bool {
		n.guard.mu.Lock()
		defer n.guard.mu.Unlock()
		return n.guard.strangers == 3
	})
	if _, err := n.dial(tester, signer); err == nil {
		t.Error("a fourth from the same address was served")
	}
	// The grace ends them, even if they say something now and then.
	for _, conn := range waiting {
		conn.SetReadDeadline(time.Now().Add(10 * time.Second))
		if _, err := io.Copy(io.Discard, conn); err != nil {
			t.Errorf("not closed: %v", err)
		}
	}
	if _, err := n.dial(tester, signer); err != nil {
		t.Errorf("after they are gone: %v", err)
	}
	for _, c := range in {
		if _, _, status := run(t, c, "true"); status != 0 {
			t.Error("the grace ended somebody who was in")
		}
	}
}

func TestOneNetworkIsOneStranger(t *testing.T) {
	l := defaultLimits()
	l.unauthenticated, l.unauthenticatedPerAddress, l.connections = 4, 2, 5
	g := newGuard(l)
	enter := func(a string) *pass { return g.enter(netip.MustParseAddr(a)) }
	p := enter("2001:db8::1")
	if p == nil || enter("2001:db8::2") == nil || enter("2001:db8::3") != nil {
		t.Error("a /64 is not one")
	}
	if enter("2001:db8:0:1::1") == nil || enter("192.0.2.1") == nil || enter("192.0.2.2") != nil {
		t.Error("the sum of all is not kept")
	}
	p.admit()
	p.admit()
	if enter("192.0.2.3") == nil {
		t.Error("who was admitted is still a stranger")
	}
	p.leave()
	p.leave()
	if g.all != 4 || g.strangers != 4 {
		t.Errorf("all %d, strangers %d", g.all, g.strangers)
	}
	if n := network(netip.MustParseAddr("::ffff:192.0.2.1")); n.String() != "192.0.2.1/32" {
		t.Error(n)
	}
}

func TestGuessingEnds(t *testing.T) {
	n := startNode(t)
	other := &testCluster{user: newSigner(t)}
	signer := other.certify(t, alice(), newSigner(t))
	c := dialRaw(t, n.address)
	tries := 0
	for ; tries < 20; tries++ {
		if c.sign(tester, signer.PublicKey(), signer) == disconnect {
			break
		}
	}
	if tries >= defaultLimits().authTries {
		t.Errorf("%d tries", tries)
	}
	// What strangers are refused fills no disk.
	for range 60 {
		c := dialRaw(t, n.address)
		c.sign(tester, signer.PublicKey(), signer)
		c.conn.Close()
	}
	if got := len(n.records()); got > strangerRecords+1 {
		t.Errorf("%d records of strangers", got)
	}
}

func TestNothingRunsThatCannotBeRecorded(t *testing.T) {
	n, c := enterNode(t)
	marker := filepath.Join("/tmp", fmt.Sprintf("dt-marker-%d-%d", os.Getpid(), time.Now().UnixNano()))
	defer os.Remove(marker)
	n.spool.fill(10)
	s := newSession(t, c)
	var errs bytes.Buffer
	s.Stderr = &errs
	if err := s.Run("touch " + marker); err == nil {
		t.Error("it ran")
	}
	if _, err := os.Stat(marker); err == nil {
		t.Error("it did what it should not")
	}
	eventually(t, "the reason is told", func() bool { return strings.Contains(errs.String(), "audit spool is full") })
}

func TestTheRecordOfACommandIsThereBeforeItRuns(t *testing.T) {
	n, c := enterNode(t)
	s := newSession(t, c)
	// The command reads the spool itself (as root in these tests).
	if os.Geteuid() == 0 {
		if err := os.Chmod(filepath.Dir(n.spoolIn), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	out, err := s.Output("echo 'find me' && date")
	if err != nil {
		t.Fatal(err, out)
	}
	var kinds []event.Type
	for _, e := range n.records() {
		kinds = append(kinds, e.Type)
	}
	if len(kinds) < 2 || kinds[0] != event.SessionStart || kinds[1] != event.Exec {
		t.Errorf("%q", kinds)
	}
	if e := n.recorded(event.Exec); e.Command != "echo 'find me' && date" || e.SessionID != n.recorded(event.SessionStart).SessionID {
		t.Errorf("%+v", e)
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

func TestAStopLetsSessionsEndAndEndsTheRest(t *testing.T) {
	n, c := enterNode(t, func(c *serverConfig) { c.limits.shutdown = 400 * time.Millisecond })
	quick, slow := newSession(t, c), newSession(t, c)
	var errs syncBuffer
	slow.Stderr = &errs
	if err := slow.Start("sleep 1000"); err != nil {
		t.Fatal(err)
	}
	if err := quick.Start("sleep 0.2; exit 4"); err != nil {
		t.Fatal(err)
	}
	n.stop()
	var exit *gossh.ExitError
	if err := wait(t, quick); !errors.As(err, &exit) || exit.ExitStatus() != 4 {
		t.Errorf("the quick one: %v", err)
	}
	if err := wait(t, slow); err == nil {
		t.Error("the slow one ended well")
	}
	eventually(t, "the reason is told", func() bool { return strings.Contains(errs.String(), shuttingDown) })
	if _, err := net.DialTimeout("tcp", n.address, time.Second); err == nil {
		t.Error("still listening")
	}
}

func TestNothingIsLeftAfterManyLogins(t *testing.T) {
	n := startNode(t)
	signer := n.cluster.certify(t, alice(), newSigner(t))
	login := func() error {
		c, err := gossh.Dial("tcp", n.address, &gossh.ClientConfig{
			User: tester, Auth: []gossh.AuthMethod{gossh.PublicKeys(signer)}, HostKeyCallback: gossh.InsecureIgnoreHostKey(),
		})
		if err != nil {
			return err
		}
		defer c.Close()
		s, err := c.NewSession()
		if err != nil {
			return err
		}
		return s.Run("true")
	}
	if err := login(); err != nil {
		t.Fatal(err)
	}
	quietNow := func() (int, int) { return runtime.NumGoroutine(), files(t) }
	eventually(t, "the first is gone", func() bool { return n.empty() })
	g, f := quietNow()
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for range 25 {
				if err := login(); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	eventually(t, "goroutines and files are as before", func() bool {
		g2, f2 := quietNow()
		return g2 <= g && f2 <= f
	})
	if got := len(n.records()); got < 3*200 {
		t.Errorf("%d records", got)
	}
}

func (n *testNode) empty() bool {
	n.server.mu.Lock()
	defer n.server.mu.Unlock()
	return len(n.all) == 0
}

func files(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}
