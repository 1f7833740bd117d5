package node

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	gossh "golang.org/x/crypto/ssh"

	"devicetrust/audit/event"
	"devicetrust/identity"
	"devicetrust/policy"
)

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

func TestWhenTheClientGoesItsTerminalHangsUp(t *testing.T) {
	n, c := enterNode(t)
	s := newSession(t, c)
	var out syncBuffer
	s.Stdout = &out
	if err := s.RequestPty("xterm", 24, 80, gossh.TerminalModes{}); err != nil {
		t.Fatal(err)
	}
	if err := s.Start("trap '' HUP; sleep 1000 >/dev/null 2>&1 & echo $!; trap - HUP; echo $$; sleep 1000"); err != nil {
		t.Fatal(err)
	}
	all := pids(t, &out, 2)
	c.Close()
	eventually(t, "the shell is gone", func() bool { return gone(all[1]) })
	e := n.recorded(event.SessionEnd)
	if !e.Success || e.ExitStatus == nil || *e.ExitStatus != 128+1 {
		t.Errorf("%+v", e)
	}
	if gone(all[0]) {
		t.Error("what ignores that is gone too")
	}
}

func TestWhenTheClientGoesItsPipesAreClosed(t *testing.T) {
	_, c := enterNode(t)
	for _, command := range []string{"exec cat", "while echo x; do sleep 0.01; done"} {
		s := newSession(t, c)
		out, err := s.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.StdinPipe(); err != nil {
			t.Fatal(err)
		}
		if err := s.Start("echo $$; " + command); err != nil {
			t.Fatal(err)
		}
		var pid int
		if _, err := fmt.Fscan(out, &pid); err != nil {
			t.Fatal(err)
		}
		s.Close() // the channel; the connection goes on
		eventually(t, command+": it is gone", func() bool { return gone(pid) })
	}
}

func TestWhatIgnoresItsClientsEndGoesOn(t *testing.T) {
	n, c := enterNode(t)
	s := newSession(t, c)
	var out syncBuffer
	s.Stdout = &out
	if err := s.Start("trap '' HUP; sleep 1000 >/dev/null 2>&1 & echo $!; trap - HUP; echo $$; sleep 1000"); err != nil {
		t.Fatal(err)
	}
	all := pids(t, &out, 2)
	c.Close()
	e := n.recorded(event.SessionEnd) // which waits for the time that others would be killed after
	if !e.Success || e.ExitStatus != nil || !strings.HasSuffix(e.Message, "goes on") {
		t.Errorf("%+v", e)
	}
	n.stop() // and a stop does not wait for them
	for _, pid := range all {
		if gone(pid) {
			t.Errorf("process %d is gone", pid)
		}
		syscall.Kill(pid, syscall.SIGKILL)
		eventually(t, "it is waited for", func() bool { return syscall.Kill(pid, 0) != nil })
	}
}

func TestAnAccountLeavesABoundedNumberBehind(t *testing.T) {
	n, c := enterNode(t, func(c *serverConfig) { c.limits.abandoned, c.limits.hangup = 2, 50*time.Millisecond })
	var left []int
	for range 4 {
		s := newSession(t, c)
		var out syncBuffer
		s.Stdout = &out
		if err := s.Start("trap '' HUP PIPE; echo $$; exec sleep 1000"); err != nil {
			t.Fatal(err)
		}
		left = append(left, pids(t, &out, 1)...)
		s.Close()
		eventually(t, "the session's end", func() bool {
			ends := 0
			for _, e := range n.records() {
				if e.Type == event.SessionEnd {
					ends++
				}
			}
			return ends == len(left)
		})
		if len(left) == 3 { // the third is killed, and the second makes room
			eventually(t, "the third's end", func() bool { return gone(left[2]) })
			syscall.Kill(left[1], syscall.SIGKILL)
			eventually(t, "the second is waited for", func() bool { return syscall.Kill(left[1], 0) != nil })
			eventually(t, "the count", func() bool {
				n.abandoned.mu.Lock()
				defer n.abandoned.mu.Unlock()
				for _, count := range n.abandoned.of {
					return count == 1
				}
				return false
			})
		}
	}
	for i, want := range []bool{false, true, true, false} {
		if gone(left[i]) != want {
			t.Errorf("process %d of %d: gone %v", i, len(left), !want)
		}
		if !want {
			syscall.Kill(left[i], syscall.SIGKILL)
		}
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

func TestWhatAnEndedCommandLeftBehindIsEndedWithItsSession(t *testing.T) {
	for name, end := range map[string]func(*testNode){
		"by policy": func(n *testNode) { n.decideBy(access(n.t, requireDevice)) },
		"by a stop": func(n *testNode) { n.stop() },
	} {
		t.Run(name, func(t *testing.T) {
			n, c := enterNode(t)
			s := newSession(t, c)
			var out syncBuffer
			s.Stdout = &out
			if err := s.Start(`(trap '' HUP PIPE; while sleep 0.05; do echo x; done) 2>/dev/null & echo $!; echo $$`); err != nil {
				t.Fatal(err)
			}
			all := pids(t, &out, 2)
			eventually(t, "the command has ended", func() bool { return gone(all[1]) })
			end(n)
			eventually(t, "what it left behind has too", func() bool { return gone(all[0]) })
			eventually(t, "nobody is left", n.empty)
			if e := n.recorded(event.SessionEnd); e.ExitStatus == nil || *e.ExitStatus != 0 || e.Message == "" {
				t.Errorf("%+v", e)
			}
		})
	}
}

func TestWhoLeftTheSessionDoesNotHoldItsEnd(t *testing.T) {
	n, c := enterNode(t)
	s := newSession(t, c)
	var out syncBuffer
	s.Stdout = &out
	if err := s.Start(`setsid sleep 1000 & echo $$; wait`); err != nil {
		t.Fatal(err)
	}
	pids(t, &out, 1)
	n.decideBy(access(t, requireDevice))
	n.recorded(event.SessionEnd)
	eventually(t, "nobody is left", n.empty)
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
			p.Revoked = policy.RevokedOnly(serial, "")
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

// clockwork is a clock that tests set by hand.
type clockwork struct{ nanos atomic.Int64 }

func stopped() *clockwork {
	c := &clockwork{}
	c.nanos.Store(time.Now().UnixNano())
	return c
}

func (c *clockwork) now() time.Time          { return time.Unix(0, c.nanos.Load()) }
func (c *clockwork) forward(d time.Duration) { c.nanos.Add(int64(d)) }

// enterAt enters a node that goes by a stopped clock, with a certificate that
// lives for another hour.
func enterAt(t *testing.T, role ...func(*policy.RoleSpec)) (*testNode, *gossh.Client, *clockwork) {
	t.Helper()
	clock := stopped()
	n := startNode(t, func(c *serverConfig) { c.now = clock.now })
	n.decideBy(access(t, role...))
	id := alice()
	id.ValidBefore = clock.now().Add(time.Hour)
	return n, n.mustDial(tester, n.cluster.certify(t, id, newSigner(t))), clock
}

func disconnectExpired(s *policy.RoleSpec) {
	yes := true
	s.Options.DisconnectExpiredCert = &yes
}

func idleFor(d time.Duration) func(*policy.RoleSpec) {
	return func(s *policy.RoleSpec) { s.Options.ClientIdleTimeout = policy.Duration(d) }
}

func TestTheCertificatesEndEndsTheSessionWherePolicySaysSo(t *testing.T) {
	// The idle time only lets the node look at its clock, which a test moves.
	n, c, clock := enterAt(t, disconnectExpired, idleFor(2*time.Hour))
	s := newSession(t, c)
	if err := s.Start("sleep 1000"); err != nil {
		t.Fatal(err)
	}
	clock.forward(time.Hour - 100*time.Millisecond)
	n.decideBy(access(t, disconnectExpired, idleFor(3*time.Hour)))
	clock.forward(time.Second)
	if err := wait(t, s); err == nil {
		t.Error("it ended by itself")
	}
	if e := n.recorded(event.SessionEnd); !strings.Contains(e.Message, "expired") {
		t.Errorf("%+v", e)
	}
}

// Whatever policy says: revocations are not told of for longer.
func TestASessionOutlivesItsCertificateByAWeekAtMost(t *testing.T) {
	n, c, clock := enterAt(t)
	s := newSession(t, c)
	if err := s.Start("sleep 1000"); err != nil {
		t.Fatal(err)
	}
	clock.forward(time.Hour + identity.OutliveMost - time.Second)
	n.decideBy(access(t, idleFor(1000*time.Hour))) // it looks at its clock
	if _, _, err := c.SendRequest("keepalive@openssh.com", true, nil); err != nil {
		t.Errorf("before: %v", err)
	}
	clock.forward(time.Second)
	n.decideBy(access(t, idleFor(1001*time.Hour)))
	closed(t, c)
	if e := n.recorded(event.SessionEnd); !strings.Contains(e.Message, "expired a week ago") {
		t.Errorf("%+v", e)
	}
}

func TestAnIdleSessionIsEndedWherePolicySaysSo(t *testing.T) {
	const idle = 200 * time.Millisecond
	n, c, clock := enterAt(t, idleFor(idle))
	s := newSession(t, c)
	in, _ := s.StdinPipe()
	if err := s.Start("cat >/dev/null"); err != nil {
		t.Fatal(err)
	}
	for range 5 { // longer than the time, never idle for all of it
		clock.forward(idle * 3 / 4)
		if _, err := io.WriteString(in, "x"); err != nil {
			t.Fatalf("ended while somebody typed: %v", err)
		}
		eventually(t, "the typing counts", func() bool { return n.lastInput() == clock.now().UnixNano() })
	}
	clock.forward(idle)
	if err := wait(t, s); err == nil {
		t.Error("it ended by itself")
	}
	if e := n.recorded(event.SessionEnd); !strings.Contains(e.Message, "idle") {
		t.Errorf("%+v", e)
	}
}

// lastInput is when the only one who is in last did something.
func (n *testNode) lastInput() int64 {
	n.server.mu.Lock()
	defer n.server.mu.Unlock()
	for c := range n.live {
		return c.lastInput.Load()
	}
	return 0
}

func TestAnExpiredCertificateOpensNoFurtherSession(t *testing.T) {
	n, c, clock := enterAt(t)
	before := newSession(t, c)
	in, _ := before.StdinPipe()
	if err := before.Start("read x; exit 5"); err != nil {
		t.Fatal(err)
	}
	clock.forward(time.Hour)
	_, err := c.NewSession()
	var no *gossh.OpenChannelError
	if !errors.As(err, &no) || no.Reason != gossh.Prohibited || no.Message != expiredReason {
		t.Errorf("%v", err)
	}
	if e := n.recorded(event.SessionRejected); e.Message != expiredReason || e.User != "alice" || e.Login != tester {
		t.Errorf("%+v", e)
	}
	// What was begun before goes on, as policy does not say otherwise.
	io.WriteString(in, "x\n")
	var exit *gossh.ExitError
	if err := wait(t, before); !errors.As(err, &exit) || exit.ExitStatus() != 5 {
		t.Errorf("the one before: %v", err)
	}
}

func TestNewLimitsOfARoleReachWhoIsIn(t *testing.T) {
	n, c, _ := enterAt(t)
	newSession(t, c)
	n.decideBy(access(t, func(s *policy.RoleSpec) { s.Options.MaxSessions = 1 }))
	if _, err := c.NewSession(); err == nil || !strings.Contains(err.Error(), "too many sessions") {
		t.Errorf("a second session: %v", err)
	}
	n.decideBy(access(t))
	newSession(t, c)

	for reason, tt := range map[string]struct {
		role func(*policy.RoleSpec)
		on   time.Duration
	}{
		"expired": {disconnectExpired, 2 * time.Hour},
		"idle":    {idleFor(time.Minute), 2 * time.Minute},
	} {
		n, c, clock := enterAt(t)
		s := newSession(t, c)
		if err := s.Start("sleep 1000"); err != nil {
			t.Fatal(err)
		}
		clock.forward(tt.on)
		n.decideBy(access(t, tt.role))
		if err := wait(t, s); err == nil {
			t.Errorf("%s: it ended by itself", reason)
		}
		if e := n.recorded(event.SessionEnd); !strings.Contains(e.Message, reason) {
			t.Errorf("%s: %+v", reason, e)
		}
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

func TestAStopLetsSessionsEndAndEndsTheRest(t *testing.T) {
	n, c := enterNode(t, func(c *serverConfig) { c.limits.shutdown = 4 * time.Second })
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
	if left := offspring(t); len(left) != 1 {
		t.Errorf("processes %v and not only the nursery", left)
	}
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
