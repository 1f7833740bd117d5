package node

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	gossh "golang.org/x/crypto/ssh"

	"devicetrust/audit/event"
	"devicetrust/node/sshd"
	"devicetrust/policy"
)

// beside is a stock sshd that has joined p, and runs; its side-car is started and
// stopped by the test.
type beside struct {
	t       *testing.T
	plane   *plane
	config  SyncConfig
	address string
	plain   gossh.Signer // one that sshd takes without a certificate
	mu      sync.Mutex
	said    strings.Builder
	stop    func()
}

func (b *beside) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.said.Write(p)
}

func (b *beside) heard(text string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return strings.Contains(b.said.String(), text)
}

func startBeside(t *testing.T) *beside {
	t.Helper()
	p := startPlane(t)
	c := companion(t, p)
	dir := filepath.Dir(c.SSHD.Server.Config)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	check(t, err)
	b := &beside{t: t, plane: p, address: l.Addr().String(), plain: newSigner(t)}
	l.Close()
	_, port, err := net.SplitHostPort(b.address)
	check(t, err)
	keys := filepath.Join(dir, "keys")
	check(t, os.WriteFile(keys, gossh.MarshalAuthorizedKey(b.plain.PublicKey()), 0o644))
	// A shell below another (SHLVL) does not read what root has it do first.
	text := fmt.Sprintf("Include %[1]s/sshd_config.d/*.conf\nListenAddress 127.0.0.1:%[2]s\nHostKey %[1]s/ssh_host_ed25519_key\nPermitRootLogin yes\nUsePAM no\nPidFile none\nSetEnv SHLVL=2\n", dir, port)
	check(t, os.WriteFile(c.SSHD.Server.Config, []byte(text), 0o600))
	// In place of the helper: the certificate's logins are good.
	check(t, os.WriteFile(c.SSHD.Noded, []byte("#!/bin/sh\necho root\n"), 0o755))
	_, err = InstallSSHD(t.Context(), c)
	check(t, err)
	// Somebody lets plain keys in all the same.
	dropIn := sshd.DropIn(c.SSHD.Server.Config)
	ours, err := os.ReadFile(dropIn)
	check(t, err)
	check(t, os.WriteFile(dropIn, []byte("AuthorizedKeysFile "+keys+"\n"+string(ours)), 0o644))
	server := exec.Command(c.SSHD.Server.Program, "-D", "-e", "-f", c.SSHD.Server.Config)
	check(t, server.Start())
	t.Cleanup(func() {
		_ = server.Process.Signal(syscall.SIGKILL)
		_ = server.Wait() // how it ends was decided here
	})
	waitUntil(t, func() bool {
		conn, err := net.Dial("tcp", b.address)
		if err == nil {
			conn.Close()
		}
		return err == nil
	})
	b.config = SyncConfig{
		DataDir: c.DataDir, SSHDConfig: c.SSHD.Server.Config, AuthLog: filepath.Join(dir, "no.log"),
		Log: slog.New(slog.NewTextHandler(b, nil)), Now: time.Now,
	}
	return b
}

func waitUntil(t *testing.T, is func() bool) {
	t.Helper()
	for until := time.Now().Add(20 * time.Second); !is(); {
		if time.Now().After(until) {
			t.Fatal("not within 20 s")
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// start starts the side-car, which says so.
func (b *beside) start() {
	b.t.Helper()
	b.mu.Lock()
	b.said.Reset()
	b.mu.Unlock()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- SyncSSHD(ctx, b.config) }()
	b.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			b.t.Error(err)
		}
	})
	b.t.Cleanup(b.stop)
	waitUntil(b.t, func() bool { return b.heard("serving") })
}

// enters gives a connection whose shell has taken sshd's file away.
func (b *beside) enters(key gossh.Signer) *gossh.Client {
	b.t.Helper()
	c, err := gossh.Dial("tcp", b.address, &gossh.ClientConfig{
		User: "root", Auth: []gossh.AuthMethod{gossh.PublicKeys(key)}, HostKeyCallback: gossh.InsecureIgnoreHostKey(),
	})
	check(b.t, err)
	b.t.Cleanup(func() { c.Close() })
	session, err := c.NewSession()
	check(b.t, err)
	out, err := session.StdoutPipe()
	check(b.t, err)
	_, err = session.StdinPipe() // it ends with the connection
	check(b.t, err)
	check(b.t, session.Start("rm -f $SSH_USER_AUTH; echo in; exec env -i cat"))
	_, err = out.Read(make([]byte, 2))
	check(b.t, err)
	return c
}

func (b *beside) certified(user string) gossh.Signer {
	id := alice()
	id.User, id.Logins, id.Traits = user, []string{"root"}, map[string][]string{"logins": {"root"}}
	return b.plane.ssh.certify(b.t, id, newSigner(b.t))
}

func over(c *gossh.Client) <-chan error {
	done := make(chan error, 1)
	go func() { done <- c.Wait() }()
	return done
}

// recorded waits for n records of the type about user.
func (b *beside) recorded(kind event.Type, user string, n int) []event.Event {
	b.t.Helper()
	var found []event.Event
	waitUntil(b.t, func() bool {
		all := get(b.plane, func() []event.Event { return slices.Clone(b.plane.events) })
		found = slices.DeleteFunc(all, func(e event.Event) bool { return e.Type != kind || e.User != user })
		return len(found) >= n
	})
	if len(found) != n {
		b.t.Fatalf("%d records of %s of %q, want %d", len(found), kind, user, n)
	}
	return found
}

func (b *beside) kept(n int) bool {
	all, err := loadSessions(b.config.DataDir, b.config.SSHDConfig)
	return err == nil && len(all) == n && !slices.ContainsFunc(all, func(p pastSession) bool { return !p.Otherwise && !p.Recorded })
}

func TestARestartForgetsNobodyWhoIsIn(t *testing.T) {
	b := startBeside(t)
	b.start()
	shell, leaver, plain := b.enters(b.certified("alice")), b.enters(b.certified("bob")), b.enters(b.plain)
	began := b.recorded(event.SessionStart, "alice", 1)[0]
	left := b.recorded(event.SessionStart, "bob", 1)[0]
	waitUntil(t, func() bool { return b.kept(3) })
	if info, err := os.Stat(filepath.Join(b.config.DataDir, connectionsFile)); err != nil || info.Mode() != 0o600 {
		t.Errorf("%v %v", info, err)
	}
	b.stop()
	leaver.Close()
	waitUntil(t, func() bool { return b.hasEnded(left.SessionID) })

	b.start()
	end := b.recorded(event.SessionEnd, "bob", 1)[0]
	if end.SessionID != left.SessionID || !end.Success || end.Message != overMeanwhile || end.RemoteAddr != left.RemoteAddr {
		t.Errorf("%+v", end)
	}
	waitUntil(t, func() bool { return b.kept(2) && b.heard("somebody came in without a certificate") })
	ended := over(shell)
	b.plane.lock(policy.LockTarget{User: "alice"})
	select {
	case <-ended:
	case <-time.After(10 * time.Second):
		t.Fatal("she is in")
	}
	end = b.recorded(event.SessionEnd, "alice", 1)[0]
	if end.SessionID != began.SessionID || end.Success || !strings.Contains(end.Message, "lock targeting user") {
		t.Errorf("%+v", end)
	}
	if starts := b.recorded(event.SessionStart, "alice", 1); starts[0].SessionID != began.SessionID {
		t.Errorf("%+v", starts)
	}
	if _, _, err := plain.SendRequest("keepalive@openssh.com", true, nil); err != nil {
		t.Error(err)
	}
}

// hasEnded tells whether the process of a kept connection has.
func (b *beside) hasEnded(id string) bool {
	b.t.Helper()
	all, err := loadSessions(b.config.DataDir, b.config.SSHDConfig)
	check(b.t, err)
	for _, p := range all {
		if p.ID == id {
			_, err := os.Stat(fmt.Sprintf("/proc/%d", p.PID))
			return os.IsNotExist(err)
		}
	}
	b.t.Fatalf("%s is not kept", id)
	return false
}

func TestWithoutItsMemoryTheSideCarCutsOnlyWhoIsUnknown(t *testing.T) {
	b := startBeside(t)
	b.start()
	hidden := b.enters(b.certified("alice"))
	b.recorded(event.SessionStart, "alice", 1)
	b.stop()
	path := filepath.Join(b.config.DataDir, connectionsFile)
	check(t, os.WriteFile(path, []byte(`{"version":2}`), 0o600))
	b.start()
	waitUntil(t, func() bool { return b.heard("cannot be read") && b.heard("version 2") })
	select {
	case <-over(hidden):
	case <-time.After(20 * time.Second):
		t.Fatal("nobody knows who it is, and it stays")
	}
	waitUntil(t, func() bool { return b.heard(olderThanSync) })
}

// What the log does not tell of a connection held by the state of then.
func TestWhatIsKnownByTheLogHoldsWhereTheStateIsTheSame(t *testing.T) {
	c, _, _ := aside(t)
	c.config.DataDir = t.TempDir()
	var err error
	c.watch, err = sshd.Open(t.Context(), sshd.Settings{
		Config: c.config.SSHDConfig, AuthLog: filepath.Join(c.config.DataDir, "none"), Log: quiet(), Now: c.config.Now,
		Authorities: func() []gossh.PublicKey { return c.states.get().authorities },
	})
	check(t, err)
	user := newSigner(t)
	decide := func(sequence uint64, change func(*policy.RoleSpec)) *state {
		spec := policy.RoleSpec{Allow: policy.RoleConditions{Logins: []string{tester}, NodeLabels: map[string]policy.Values{"*": {"*"}}}}
		change(&spec)
		st, err := readState(saying(t, user, sequence, spec).state(t), &state{}, quiet())
		check(t, err)
		c.states.set(st)
		return st
	}
	same := func(*policy.RoleSpec) {}
	mark := stateMark(decide(1, same))
	const id = "00112233445566778899aabbccddeeff"
	for name, row := range map[string]struct {
		mark   string
		change func(*policy.RoleSpec)
		holds  bool
	}{
		"the same, later": {mark, same, true},
		"another role":    {mark, func(r *policy.RoleSpec) { r.Allow.Logins = []string{"root"} }, false},
		"it is not known": {"", same, false},
		"another state":   {"x", same, false},
	} {
		text := fmt.Sprintf(`{"version":1,"sshd_config":%q,"connections":[{"id":%q,"boot":"b","pid":1,"start":1,"login":%q,"remote":"","seen":"2026-05-01T12:00:00Z","recorded":true,"state":%q}]}`,
			c.config.SSHDConfig, id, tester, row.mark)
		check(t, os.WriteFile(filepath.Join(c.config.DataDir, connectionsFile), []byte(text), 0o600))
		now := decide(2, row.change)
		c.recall()
		s := c.sessions[id]
		if s == nil || !s.recorded || (s.since == now.policy) != row.holds || !row.holds && s.since != nil {
			t.Errorf("%s: %+v", name, s)
		}
		delete(c.sessions, id)
	}
}

// Its end is in the record already, with the reason.
func TestWhoWasBeingCutIsCutAfterARestart(t *testing.T) {
	b := startBeside(t)
	b.start()
	shell := b.enters(b.certified("alice"))
	b.recorded(event.SessionStart, "alice", 1)
	waitUntil(t, func() bool { return b.kept(1) })
	b.stop()
	path := filepath.Join(b.config.DataDir, connectionsFile)
	text, err := os.ReadFile(path)
	check(t, err)
	check(t, os.WriteFile(path, []byte(strings.Replace(string(text), `"recorded":true`, `"recorded":true,"cut":"on leave"`, 1)), 0o600))
	b.start()
	select {
	case <-over(shell):
	case <-time.After(10 * time.Second):
		t.Fatal("she is in")
	}
	waitUntil(t, func() bool { return b.kept(0) })
	bob := b.enters(b.certified("bob"))
	b.recorded(event.SessionStart, "bob", 1)
	bob.Close()
	b.recorded(event.SessionEnd, "bob", 1) // records come in their order
	b.recorded(event.SessionEnd, "alice", 0)
}

func TestOnlyAFileOfThisSSHDIsRecalled(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, connectionsFile)
	good := `{"version":1,"sshd_config":"/c","connections":[]}`
	check(t, os.WriteFile(path, []byte(good+"\n"), 0o600))
	if all, err := loadSessions(dir, "/c"); err != nil || len(all) != 0 {
		t.Fatal(all, err)
	}
	for name, text := range map[string]string{
		"empty": "", "cut off": good[:len(good)-1], "more": good + "{}", "a number": "1", "null": "null", "no version": `{}`,
		"another version": strings.Replace(good, "1", "2", 1), "another's": strings.Replace(good, "/c", "/d", 1),
		"a field more": strings.Replace(good, "{", `{"x":1,`, 1), "huge": good + strings.Repeat(" ", maxConnectionsFile),
		"an address that is none": strings.Replace(good, "[]", `[{"remote":"x"}]`, 1),
	} {
		check(t, os.WriteFile(path, []byte(text), 0o600))
		if all, err := loadSessions(dir, "/c"); err == nil {
			t.Errorf("%s: %v", name, all)
		}
	}
	check(t, os.Remove(path))
	check(t, syscall.Mkfifo(path, 0o600))
	if _, err := loadSessions(dir, "/c"); err == nil {
		t.Error("a pipe")
	}
}
