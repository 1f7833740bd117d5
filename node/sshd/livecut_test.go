package sshd

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
)

func gone(pid int) bool {
	_, lives := proc("/proc").one(pid)
	return !lives
}

// cut ends the connection and tells how long that took.
func (s *stockSSHD) cut(w *Watch, c *Connection, words string) time.Duration {
	s.t.Helper()
	begun := time.Now()
	if left := w.Cut([]Condemned{c.Condemn(words)}); len(left) != 0 {
		s.t.Errorf("%d are left", len(left))
	}
	return time.Since(begun)
}

func TestWhoIsCutIsToldWhy(t *testing.T) {
	needRoot(t)
	s := startStock(t, newAccount(t), "ExposeAuthInfo yes")
	w := s.watch()
	const words = "lock targeting user alice: \x1b]0;x\x07on leave"
	serial, options := s.certify("alice", s.login)
	for name, one := range map[string]struct {
		args  []string
		heard func(*client) *lockedBuffer
	}{
		"on a terminal":    {[]string{"-tt", "echo READY=1; exec sleep 100"}, func(c *client) *lockedBuffer { return c.out }},
		"without one":      {[]string{"echo READY=1; exec sleep 100"}, func(c *client) *lockedBuffer { return c.err }},
		"behind a program": {[]string{"-tt", "echo READY=1; sleep 100 </dev/null >/dev/null 2>&1"}, func(c *client) *lockedBuffer { return c.out }},
	} {
		t.Run(name, func(t *testing.T) {
			c := s.connect(options, append([]string{s.login + "@127.0.0.1"}, one.args...)...)
			c.number("READY")
			found := s.look(w, 1, of("alice", serial))[0]
			took := s.cut(w, found, words)
			t.Logf("it took %s", took)
			eventually(t, "the client's end", c.ended)
			if got := one.heard(c).String(); !strings.Contains(got, "lock targeting user alice: ?]0;x?on leave\r") {
				t.Errorf("heard %q", got)
			}
		})
	}
}

func TestNothingOfAConnectionIsLeft(t *testing.T) {
	needRoot(t)
	s := startStock(t, newAccount(t), "ExposeAuthInfo yes")
	w := s.watch()
	at := s.login + "@127.0.0.1"
	for name, line := range map[string]string{
		"deaf to signals":      `trap '' HUP TERM INT; echo A=$$; while :; do sleep 1; done`,
		"nohup":                `nohup sleep 100 >/dev/null 2>&1 & echo A=$!; wait`,
		"a session of its own": `setsid sh -c 'echo A=$$; exec sleep 100' & wait`,
		"a job of a shell":     `set -m; (trap '' HUP; exec sleep 100) & echo A=$!; wait`,
		"one whose parent has gone, in the shell's session": `(sleep 100 & echo A=$!); exec sleep 100`,
		"stopped":                     `sh -c 'echo A=$$; kill -STOP $$' & wait`,
		"one that forks all the time": `sh -c 'echo A=$$; while :; do (sleep 0.01 &) ; done' & wait`,
	} {
		for _, options := range [][]string{{"-T"}, {"-tt"}} {
			t.Run(name+options[0], func(t *testing.T) {
				serial, key := s.certify("alice", s.login)
				c := s.connect(key, options[0], at, line)
				pid := c.number("A")
				found := s.look(w, 1, of("alice", serial))[0]
				s.cut(w, found, "over")
				eventually(t, "the client's end", c.ended)
				// What was killed may be on its way out.
				eventually(t, "nothing is left", func() bool {
					all, err := w.proc.all()
					if err != nil {
						t.Fatal(err)
					}
					for pid := range all {
						if uid, ok := w.proc.uid(pid); ok && uid == found.uid {
							return false
						}
					}
					return gone(pid) && gone(found.top.PID) && gone(found.worker.PID)
				})
			})
		}
	}
}

func TestAllSessionsOfAMasterEndWithItsConnection(t *testing.T) {
	needRoot(t)
	s := startStock(t, newAccount(t), "ExposeAuthInfo yes")
	w := s.watch()
	serial, key := s.certify("alice", s.login)
	at, control := s.login+"@127.0.0.1", "ControlPath="+filepath.Join(s.dir, "c")
	master := s.connect(key, "-M", "-o", control, "-tt", at, "echo A=$$; exec sleep 100")
	master.number("A")
	var clients []*client
	for _, args := range [][]string{{"-tt", at, "echo A=$$; exec sleep 100"}, {"-T", at, "echo A=$$; exec sleep 100"}} {
		clients = append(clients, s.connect(key, append([]string{"-S", filepath.Join(s.dir, "c")}, args...)...))
	}
	var pids []int
	for _, c := range clients {
		pids = append(pids, c.number("A"))
	}
	// Somebody else's goes on.
	other, otherKey := s.certify("bob", s.login)
	bob := s.connect(otherKey, at, "echo A=$$; exec cat")
	bob.number("A")
	for _, c := range s.look(w, 2, func(c *Connection) bool { return of("alice", serial)(c) != of("bob", other)(c) }) {
		if of("alice", serial)(c) {
			s.cut(w, c, "over")
		}
	}
	for _, c := range append(clients, master) {
		eventually(t, "a client's end", c.ended)
		if text := c.out.String() + c.err.String(); !strings.Contains(text, "over") {
			t.Errorf("a client was told %q", text)
		}
	}
	for _, pid := range pids {
		eventually(t, "a session's process is gone", func() bool { return gone(pid) })
	}
	fmt.Fprintln(bob.in, "still here")
	bob.says("still here")
}

func TestWhoTakesSSHDsFileAwayIsKnownAllTheSame(t *testing.T) {
	needRoot(t)
	s := startStock(t, newAccount(t), "ExposeAuthInfo yes")
	w := s.watch()
	other, _ := s.certify("alice", s.login)
	path := filepath.Join(s.dir, fmt.Sprintf("key-%d-cert.pub", other))
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	f := strings.Fields(string(text))
	for name, line := range map[string]string{
		"removed":                 `rm -f $SSH_USER_AUTH; echo A=$$; exec env -i sleep 100`,
		"another of theirs":       `echo publickey ` + f[0] + ` ` + f[1] + ` >$SSH_USER_AUTH; echo A=$$; exec sleep 100`,
		"a plain key in place":    `echo 'publickey ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIKBiV0hf4Yqz9nyHZq8kCwL9VxKcHf3R5P0v1Zs0o6bN' >$SSH_USER_AUTH; echo A=$$; exec env -i sleep 100`,
		"a link to somebody else": `rm -f $SSH_USER_AUTH; ln -s /etc/passwd $SSH_USER_AUTH; echo A=$$; exec sleep 100`,
		"a pipe":                  `rm -f $SSH_USER_AUTH; mkfifo $SSH_USER_AUTH; echo A=$$; exec sleep 100`,
		"garbage":                 `head -c 1000000 /dev/urandom >$SSH_USER_AUTH; echo A=$$; exec sleep 100`,
	} {
		t.Run(name, func(t *testing.T) {
			serial, key := s.certify("alice", s.login)
			c := s.connect(key, s.login+"@127.0.0.1", line)
			c.number("A") // before we look
			found := s.look(w, 1, of("alice", serial))[0]
			if len(found.Proofs) != 1 || found.Otherwise {
				t.Errorf("%+v", found)
			}
			s.cut(w, found, "over")
			eventually(t, "the client's end", c.ended)
		})
	}
}

// Without the kernel's word it is a matter of who is first, and nobody passes for
// somebody without a certificate.
func TestWithoutTheKernelAHiddenCertificateIsNotKnown(t *testing.T) {
	needRoot(t)
	s := startStock(t, newAccount(t), "ExposeAuthInfo yes")
	w := s.watch(blind)
	for name, line := range map[string]string{
		"removed":              `rm -f $SSH_USER_AUTH; echo A=$$; exec env -i sleep 100`,
		"a plain key in place": `echo 'publickey ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIKBiV0hf4Yqz9nyHZq8kCwL9VxKcHf3R5P0v1Zs0o6bN' >$SSH_USER_AUTH; echo A=$$; exec sleep 100`,
		"another's file":       `rm -f $SSH_USER_AUTH; echo A=$$; SSH_USER_AUTH=/etc/passwd exec sleep 100`,
	} {
		t.Run(name, func(t *testing.T) {
			_, key := s.certify("alice", s.login)
			c := s.connect(key, s.login+"@127.0.0.1", line)
			c.number("A")
			found := s.look(w, 1, func(c *Connection) bool { return len(c.Proofs) == 0 })[0]
			if found.Otherwise {
				t.Error("it passes for one without a certificate")
			}
			s.cut(w, found, "over")
			eventually(t, "the client's end", c.ended)
		})
	}
}

func TestASeenCertificateIsNotForgotten(t *testing.T) {
	needRoot(t)
	s := startStock(t, newAccount(t), "ExposeAuthInfo yes")
	w := s.watch(blind)
	serial, key := s.certify("alice", s.login)
	c := s.connect(key, s.login+"@127.0.0.1", "echo A=$$; read x; rm -f $SSH_USER_AUTH; echo B=1; exec env -i sleep 100")
	c.number("A")
	s.look(w, 1, of("alice", serial))
	fmt.Fprintln(c.in)
	c.number("B")
	s.look(w, 1, of("alice", serial))
}

// logLines puts what sshd itself says into a file as syslogd does.
func (s *stockSSHD) logLines(path string, pid int, at time.Time) {
	s.t.Helper()
	f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		s.t.Fatal(err)
	}
	defer f.Close()
	for line := range strings.Lines(s.log.String()) {
		if strings.HasPrefix(line, "Accepted ") {
			fmt.Fprintf(f, "%s host sshd[%d]: %s\n", at.Format(time.RFC3339Nano), pid, strings.TrimSpace(line))
		}
	}
}

func TestTheLogAloneTellsUserAndSerial(t *testing.T) {
	needRoot(t)
	account := newAccount(t)
	s := startStock(t, account) // and no ExposeAuthInfo
	path := s.write("auth.log", nil)
	w := s.watch(func(settings *Settings) { settings.AuthLog = path })
	serial, key := s.certify("alice", account)
	c := s.connect(key, account+"@127.0.0.1", "echo A=$$; exec sleep 100")
	c.number("A")
	nothing := func(c *Connection) bool { return len(c.Proofs) == 0 && !c.Otherwise }
	found := s.look(w, 1, nothing)[0]

	// What is not of this connection does not count: an older one's with the
	// same number, one that is for another login, another CA's.
	line := func(login, authority string, at time.Time, serial int) string {
		return fmt.Sprintf("%s host sshd[%d]: Accepted publickey for %s from 127.0.0.1 port 1 ssh2: ED25519-CERT SHA256:x ID mallory (serial %d) CA ED25519 %s\n",
			at.Format(time.RFC3339Nano), found.top.PID, login, serial, authority)
	}
	ours := ssh.FingerprintSHA256(s.authority.PublicKey())
	forged := line(account, ours, time.Now().Add(-time.Hour), 1000) + line("root", ours, time.Now(), 1001) + line(account, "SHA256:x", time.Now(), 1002)
	if err := os.WriteFile(path, []byte(forged), 0o600); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the lines are read", func() bool {
		s.look(w, 1, nothing)
		return len(w.lines) == 3
	})

	s.logLines(path, found.top.PID, time.Now())
	known := func(c *Connection) bool {
		return len(c.Proofs) == 1 && !c.Proofs[0].Whole && c.Proofs[0].Identity.User == "alice" && c.Proofs[0].Identity.Serial == serial
	}
	s.look(w, 1, known)

	// A forged line adds to it, and takes nothing away.
	f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	fmt.Fprint(f, line(account, ours, time.Now(), 1003))
	fmt.Fprintf(f, "%s host sshd[%d]: Accepted password for %s from 127.0.0.1 port 1 ssh2\n", time.Now().Format(time.RFC3339Nano), found.top.PID, account)
	both := s.look(w, 1, func(c *Connection) bool { return len(c.Proofs) == 2 })[0]
	if both.Proofs[0].Identity.Serial != serial || both.Proofs[1].Identity.Serial != 1003 || both.Otherwise {
		t.Errorf("%+v", both)
	}
}

func TestWhatTheKernelSawIsNotForgedInTheLog(t *testing.T) {
	needRoot(t)
	s := startStock(t, newAccount(t), "ExposeAuthInfo yes")
	path := s.write("auth.log", nil)
	w := s.watch(func(settings *Settings) { settings.AuthLog = path })
	serial, key := s.certify("alice", s.login)
	c := s.connect(key, s.login+"@127.0.0.1", "echo A=$$; exec sleep 100")
	c.number("A")
	found := s.look(w, 1, of("alice", serial))[0]
	s.logLines(path, found.top.PID, time.Now())
	if err := os.WriteFile(path, fmt.Appendf(nil, "%s host sshd[%d]: Accepted publickey for %s from 127.0.0.1 port 1 ssh2: ED25519-CERT SHA256:x ID mallory (serial 9) CA ED25519 %s\n",
		time.Now().Format(time.RFC3339Nano), found.top.PID, s.login, ssh.FingerprintSHA256(s.authority.PublicKey())), 0o600); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it is read", func() bool {
		found = s.look(w, 1, of("alice", serial))[0]
		return len(w.lines) > 0
	})
	if len(found.Proofs) != 1 {
		t.Errorf("%+v", found.Proofs)
	}
}

func TestTheJournalAloneTells(t *testing.T) {
	needRoot(t)
	s := startStock(t, newAccount(t))
	w := s.watch()
	serial, key := s.certify("alice", s.login)
	c := s.connect(key, s.login+"@127.0.0.1", "echo A=$$; exec sleep 100")
	c.number("A")
	found := s.look(w, 1, func(c *Connection) bool { return len(c.Proofs) == 0 })[0]
	lines := s.write("journal", fmt.Appendf(nil, `{"_PID":"%d","_UID":"0","__REALTIME_TIMESTAMP":"%d","MESSAGE":"Accepted publickey for %s from 127.0.0.1 port 1 ssh2: ED25519-CERT SHA256:x ID alice (serial %d) CA ED25519 %s"}`+"\n",
		found.top.PID, time.Now().UnixMicro(), s.login, serial, ssh.FingerprintSHA256(s.authority.PublicKey())))
	program := s.write("journalctl", []byte("#!/bin/sh\ncat "+lines+"\nexec sleep 100\n"))
	if err := os.Chmod(program, 0o700); err != nil {
		t.Fatal(err)
	}
	go w.followLog(t.Context(), logSource{journalctl: program})
	s.look(w, 1, func(c *Connection) bool { return len(c.Proofs) == 1 && c.Proofs[0].Identity.Serial == serial })
}

func TestAPlainKeyIsNoneOfOurs(t *testing.T) {
	needRoot(t)
	s := startStock(t, newAccount(t), "ExposeAuthInfo yes", "AuthorizedKeysFile /tmp/dt-sshd-keys-"+strconv.Itoa(os.Getpid()))
	keys := "/tmp/dt-sshd-keys-" + strconv.Itoa(os.Getpid())
	t.Cleanup(func() { os.Remove(keys) })
	key, private := newKeyFile(t)
	if err := os.WriteFile(keys, ssh.MarshalAuthorizedKey(key.PublicKey()), 0o644); err != nil {
		t.Fatal(err)
	}
	w := s.watch()
	c := s.connect(s.options("-i", s.write("plain", private)), s.login+"@127.0.0.1", "echo A=$$; exec sleep 100")
	c.number("A")
	s.look(w, 1, func(c *Connection) bool { return len(c.Proofs) == 0 && c.Otherwise })
}

// Of another sshd's connections, and of its own listening process, none is
// touched.
func TestAnotherSSHDsConnectionsAreNotLookedAt(t *testing.T) {
	needRoot(t)
	account := newAccount(t)
	s, other := startStock(t, account, "ExposeAuthInfo yes"), startStock(t, account, "ExposeAuthInfo yes")
	w := s.watch()
	_, key := other.certify("alice", account)
	c := other.connect(key, account+"@127.0.0.1", "echo A=$$; exec sleep 100")
	c.number("A")
	theirs := other.look(other.watch(), 1, func(*Connection) bool { return true })[0]
	looks := func() {
		t.Helper()
		all, _, err := w.Look()
		if err != nil {
			t.Fatal(err)
		}
		for _, one := range all {
			if one.top == theirs.top {
				t.Errorf("%s is taken for one of this sshd's", one)
			}
		}
	}
	looks()
	// Restarted, it leaves its connections to nobody.
	if err := other.process.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the other sshd has ended", func() bool { return gone(other.process.Process.Pid) })
	looks()
	if c.ended() {
		t.Error("the connection has ended")
	}
}

// A container's sshd reads another file by the same path.
func TestTheSSHDOfAContainerIsNotLookedAt(t *testing.T) {
	needRoot(t)
	account := newAccount(t)
	s := startStock(t, account, "ExposeAuthInfo yes")
	s.end()
	s.start("unshare", "--pid", "--fork", "--kill-child", "/usr/sbin/sshd", "-D", "-e", "-f", s.config)
	s.listens(2)
	w := s.watch()
	_, key := s.certify("alice", account)
	c := s.connect(key, account+"@127.0.0.1", "echo in; exec sleep 100")
	c.says("in")
	if live, listening, err := w.Look(); err != nil || listening || len(live) != 0 {
		t.Errorf("%d connections, listening %v, %v", len(live), listening, err)
	}
}

// Anybody may call a program sshd, and then run another in its place: what a
// process ran at the last look is not what it runs.
func TestWhatAProcessRunsIsAskedEachTime(t *testing.T) {
	needRoot(t)
	s := startStock(t, "root")
	wrapper := s.write("sshd", []byte("#!/bin/sh\nread go\nexec /usr/sbin/sshd -D -e -f "+s.config+"\n"))
	must(t, os.Chmod(wrapper, 0o700))
	w := s.watch()
	s.end()
	in := s.start(wrapper)
	eventually(t, "the one that is no sshd", func() bool { _, listening, err := w.Look(); return err == nil && !listening })
	_, err := in.Write([]byte("go\n"))
	must(t, err)
	eventually(t, "sshd in its place", func() bool { _, listening, err := w.Look(); return err == nil && listening })
}

// systemctl restart ssh ends the process that listens and no connection.
func TestAConnectionIsKnownAfterItsSSHDHasEnded(t *testing.T) {
	needRoot(t)
	s := startStock(t, newAccount(t), "ExposeAuthInfo yes")
	w := s.watch()
	serial, key := s.certify("alice", s.login)
	c := s.connect(key, s.login+"@127.0.0.1", "echo A=$$; exec sleep 100")
	c.number("A")
	before := s.look(w, 1, of("alice", serial))[0]
	if err := s.process.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	eventually(t, "sshd has ended", func() bool { return gone(s.process.Process.Pid) })
	all, listening, err := w.Look()
	if err != nil || listening {
		t.Fatal(listening, err)
	}
	found := false
	for _, c := range all {
		found = found || c == before && !c.Orphan
	}
	if !found {
		t.Error("it is not known any more")
	}
	s.cut(w, before, "over")
	eventually(t, "the client's end", c.ended)
}

// The side-car may see somebody before it has heard of the cluster.
func TestACertificateCountsOnceItsAuthorityIsKnown(t *testing.T) {
	needRoot(t)
	s := startStock(t, newAccount(t), "ExposeAuthInfo yes")
	known := false
	w := s.watch(func(settings *Settings) {
		ours := settings.Authorities
		settings.Authorities = func() []ssh.PublicKey {
			if known {
				return ours()
			}
			return nil
		}
	})
	serial, key := s.certify("alice", s.login)
	c := s.connect(key, s.login+"@127.0.0.1", "rm -f $SSH_USER_AUTH; echo A=$$; exec env -i sleep 100")
	c.number("A")
	s.look(w, 1, func(c *Connection) bool { return len(c.Proofs) == 0 && len(c.sightings) == 1 })
	known = true
	s.look(w, 1, of("alice", serial))
}
