package sshd

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"devicetrust/identity"
)

// stockSSHD is a real one, with an authority of its own.
type stockSSHD struct {
	t         *testing.T
	dir       string
	config    string
	port      string
	authority ssh.Signer
	login     string // an account of the test's
	log       *lockedBuffer
	process   *exec.Cmd
	serial    uint64
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for !is() {
		if time.Now().After(deadline) {
			t.Fatalf("not within 20 s: %s", what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func newKeyFile(t *testing.T) (ssh.Signer, []byte) {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.NewSignerFromKey(key)
	if err != nil {
		t.Fatal(err)
	}
	block, err := ssh.MarshalPrivateKey(key, "")
	if err != nil {
		t.Fatal(err)
	}
	return signer, pem.EncodeToMemory(block)
}

func (s *stockSSHD) write(name string, data []byte) string {
	s.t.Helper()
	path := filepath.Join(s.dir, name)
	if err := os.WriteFile(path, data, 0o600); err != nil {
		s.t.Fatal(err)
	}
	return path
}

// newAccount makes one that is removed with the test.
func newAccount(t *testing.T) string {
	t.Helper()
	name := "dt-sshd-" + strconv.Itoa(os.Getpid())
	change := func(program string, args ...string) {
		eventually(t, program, func() bool {
			out, err := exec.Command(program, args...).CombinedOutput()
			if err != nil && !strings.Contains(string(out), "cannot lock") && !strings.Contains(string(out), "currently used") {
				t.Fatalf("%s: %v: %s", program, err, out)
			}
			return err == nil
		})
	}
	change("useradd", "--system", "--user-group", "--no-create-home", "--password", "*", "--home-dir", "/", "--shell", "/bin/sh", name)
	t.Cleanup(func() {
		if who, err := user.Lookup(name); err == nil {
			endAll(t, who.Uid)
			uid, err := strconv.ParseUint(who.Uid, 10, 32)
			must(t, err)
			for _, path := range authInfos(uint32(uid)) { // sshd leaves some where it is ended
				os.Remove(path)
			}
		}
		change("userdel", name)
	})
	return name
}

// endAll ends what the tests have left of an account.
func endAll(t *testing.T, uid string) {
	t.Helper()
	all, err := proc("/proc").all()
	if err != nil {
		t.Fatal(err)
	}
	for pid, one := range all {
		if of, ok := proc("/proc").uid(pid); ok && strconv.Itoa(int(of)) == uid {
			_ = proc("/proc").signal(one.Process, syscall.SIGKILL)
		}
	}
}

// startStock starts an sshd that lets in who has a certificate of its authority.
func startStock(t *testing.T, login string, lines ...string) *stockSSHD {
	t.Helper()
	if err := os.MkdirAll("/run/sshd", 0o755); err != nil {
		t.Fatal(err)
	}
	s := &stockSSHD{t: t, dir: t.TempDir(), login: login, log: &lockedBuffer{}}
	s.authority, _ = newKeyFile(t)
	_, host := newKeyFile(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_, s.port, _ = net.SplitHostPort(l.Addr().String())
	l.Close()
	s.config = s.write("sshd_config", fmt.Appendf(nil, "%s\nListenAddress 127.0.0.1:%s\nHostKey %s\nPidFile none\nTrustedUserCAKeys %s\nUsePAM no\nStrictModes no\nPermitRootLogin yes\nLogLevel VERBOSE\n",
		strings.Join(lines, "\n"), s.port, s.write("host", host), s.write("ca.pub", ssh.MarshalAuthorizedKey(s.authority.PublicKey()))))
	t.Cleanup(s.end)
	s.start("/usr/sbin/sshd", "-D", "-e", "-f", s.config)
	s.listens(1)
	return s
}

func (s *stockSSHD) start(program string, args ...string) io.WriteCloser {
	s.t.Helper()
	s.process = exec.Command(program, args...)
	s.process.Stderr = s.log
	in, err := s.process.StdinPipe()
	if err == nil {
		err = s.process.Start()
	}
	if err != nil {
		s.t.Fatalf("needs OpenSSH's server (Debian package openssh-server): %v", err)
	}
	return in
}

// listens waits until it has begun to for the nth time.
func (s *stockSSHD) listens(n int) {
	s.t.Helper()
	eventually(s.t, "sshd listens", func() bool { return strings.Count(s.log.String(), "Server listening") >= n })
}

func (s *stockSSHD) end() {
	_ = s.process.Process.Kill()
	_ = s.process.Wait()
}

// certify gives the options of a client with a new certificate for the person.
func (s *stockSSHD) certify(who string, logins ...string) (serial uint64, options []string) {
	s.t.Helper()
	s.serial++
	key, private := newKeyFile(s.t)
	now := time.Now()
	cert, err := identity.Identity{
		User: who, Logins: logins, Roles: []string{"access"}, Serial: s.serial, PrivateKeyPolicy: "none",
		Permit:     identity.Permit{PTY: true, PortForwarding: true},
		ValidAfter: now.Add(-time.Minute), ValidBefore: now.Add(time.Hour),
	}.SSHCertificate(key.PublicKey())
	if err == nil {
		err = cert.SignCert(rand.Reader, s.authority)
	}
	if err != nil {
		s.t.Fatal(err)
	}
	name := fmt.Sprintf("key-%d", s.serial)
	path := s.write(name, private)
	s.write(name+"-cert.pub", ssh.MarshalAuthorizedKey(cert))
	return s.serial, s.options("-i", path, "-o", "CertificateFile="+path+"-cert.pub")
}

func (s *stockSSHD) options(more ...string) []string {
	return append([]string{"-F", "none", "-p", s.port, "-o", "BatchMode=yes", "-o", "IdentitiesOnly=yes", "-o", "StrictHostKeyChecking=no",
		"-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR"}, more...)
}

// client is an ssh on its way.
type client struct {
	t        *testing.T
	in       io.WriteCloser
	out, err *lockedBuffer
	done     chan struct{}
}

func (s *stockSSHD) connect(options []string, args ...string) *client {
	s.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	cmd := exec.CommandContext(ctx, "ssh", append(slices.Clone(options), args...)...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=/nonexistent", "TERM=xterm"}
	c := &client{t: s.t, out: &lockedBuffer{}, err: &lockedBuffer{}, done: make(chan struct{})}
	cmd.Stdout, cmd.Stderr = c.out, c.err
	cmd.WaitDelay = time.Second
	var err error
	if c.in, err = cmd.StdinPipe(); err != nil {
		s.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		s.t.Fatalf("needs OpenSSH's client (Debian package openssh-client): %v", err)
	}
	go func() {
		defer close(c.done)
		_ = cmd.Wait() // how it ends is seen by what it says
	}()
	s.t.Cleanup(func() { cancel(); <-c.done })
	return c
}

// says waits until the client's output has text.
func (c *client) says(text string) {
	c.t.Helper()
	eventually(c.t, fmt.Sprintf("%q", text), func() bool {
		select {
		case <-c.done:
			if !strings.Contains(c.out.String(), text) {
				c.t.Fatalf("ssh ended: %s%s", c.out, c.err)
			}
		default:
		}
		return strings.Contains(c.out.String(), text)
	})
}

func (c *client) ended() bool {
	select {
	case <-c.done:
		return true
	default:
		return false
	}
}

// number waits for NAME=number in the output.
func (c *client) number(name string) int {
	c.t.Helper()
	n := 0
	eventually(c.t, name, func() bool {
		for line := range strings.Lines(c.out.String()) {
			if digits, ok := strings.CutPrefix(strings.TrimSpace(line), name+"="); ok {
				n, _ = strconv.Atoi(digits)
			}
		}
		return n != 0
	})
	return n
}

func (s *stockSSHD) watch(change ...func(*Settings)) *Watch {
	s.t.Helper()
	settings := Settings{
		Config: s.config, AuthLog: filepath.Join(s.dir, "none"), Now: time.Now,
		Authorities: func() []ssh.PublicKey { return []ssh.PublicKey{s.authority.PublicKey()} },
		Log:         slog.New(slog.NewTextHandler(s.t.Output(), nil)),
	}
	for _, c := range change {
		c(&settings)
	}
	w, err := Open(s.t.Context(), settings)
	if err != nil {
		s.t.Fatal(err)
	}
	return w
}

func blind(s *Settings) { s.blind = true }

// look waits until there are so many connections, and each is as wanted.
func (s *stockSSHD) look(w *Watch, n int, is func(*Connection) bool) []*Connection {
	s.t.Helper()
	var live []*Connection
	eventually(s.t, "the connections", func() bool {
		all, listening, err := w.Look()
		if err != nil || !listening {
			s.t.Fatal(listening, err)
		}
		live = slices.DeleteFunc(slices.Clone(all), func(c *Connection) bool { return c.Orphan })
		return len(live) == n && !slices.ContainsFunc(live, func(c *Connection) bool { return !is(c) })
	})
	return live
}

// of tells whether it is the person's certificate that the connection has, all
// of it.
func of(who string, serial uint64) func(*Connection) bool {
	return func(c *Connection) bool {
		return slices.ContainsFunc(c.Proofs, func(p Proof) bool {
			return p.Whole && p.Identity.User == who && p.Identity.Serial == serial && len(p.Identity.Roles) == 1
		})
	}
}

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("a stock sshd changes the user as root only")
	}
}

// How the certificate of a connection is known: by what the kernel tells, and by
// what lies on the machine.
var ways = map[string][]func(*Settings){"told by the kernel": nil, "looked for": {blind}}

func TestEachConnectionsCertificateIsKnown(t *testing.T) {
	needRoot(t)
	account := newAccount(t)
	for name, how := range ways {
		t.Run(name, func(t *testing.T) {
			s := startStock(t, account, "ExposeAuthInfo yes")
			for _, login := range []string{account, "root"} {
				w := s.watch(how...)
				for _, args := range [][]string{{"-tt", "exec sleep 100"}, {"exec sleep 100"}, {"-N"}, {"-tt", "exec env -i sleep 100"}} {
					if strings.Contains(args[len(args)-1], "env -i") && len(how) > 0 {
						continue // it may be known a moment later by the file alone
					}
					serial, options := s.certify("alice", login)
					c := s.connect(options, append([]string{login + "@127.0.0.1"}, args...)...)
					found := s.look(w, 1, of("alice", serial))[0]
					if found.Login != login || found.Remote.Addr() != netip.MustParseAddr("127.0.0.1") || found.Remote.Port() == 0 || found.ID == "" || len(found.Proofs) != 1 {
						t.Errorf("%q: %+v", args, found)
					}
					if again := s.look(w, 1, of("alice", serial))[0]; again != found {
						t.Error("it is another one at the next look")
					}
					if left := w.Cut([]Condemned{found.Condemn("over")}); len(left) != 0 {
						t.Errorf("%q: %d are left", args, len(left))
					}
					eventually(t, "the client's end", c.ended)
					s.look(w, 0, nil)
				}
			}
		})
	}
}
