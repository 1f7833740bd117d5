package node

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	gossh "golang.org/x/crypto/ssh"

	"devicetrust/audit/event"
	"devicetrust/identity"
	"devicetrust/policy"
)

// signer makes an Ed25519 key.
func newSigner(t testing.TB) gossh.Signer {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	s, err := gossh.NewSignerFromKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// testCluster is the authorities that certify in tests.
type testCluster struct {
	user, host gossh.Signer
	serial     uint64
}

func newTestCluster(t testing.TB) *testCluster {
	return &testCluster{user: newSigner(t), host: newSigner(t)}
}

// alice is who most tests are about: two logins and no device.
func alice() identity.Identity {
	return identity.Identity{
		User: "alice", Roles: []string{"access"}, Logins: []string{tester, "root"},
		Traits:     map[string][]string{"logins": {tester, "root"}},
		Permit:     identity.Permit{PTY: true},
		ValidAfter: time.Now().Add(-time.Minute), ValidBefore: time.Now().Add(time.Hour),
	}
}

func onDevice(id identity.Identity) identity.Identity {
	id.Device = identity.Device{ID: "6a1d9b1c-7d0b-4b6b-8a0e-0c1f6a2d1e11", AssetTag: "C00AA0AAAA0A", CredentialID: "cafe"}
	return id
}

// certify signs id for key; change may spoil it before.
func (c *testCluster) certify(t testing.TB, id identity.Identity, key gossh.Signer, change ...func(*gossh.Certificate)) gossh.Signer {
	t.Helper()
	c.serial++
	if id.Serial == 0 {
		id.Serial = c.serial
	}
	cert, err := id.SSHCertificate(key.PublicKey())
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range change {
		f(cert)
	}
	if err := cert.SignCert(rand.Reader, c.user); err != nil {
		t.Fatal(err)
	}
	return withCertificate(t, cert, key)
}

func withCertificate(t testing.TB, cert *gossh.Certificate, key gossh.Signer) gossh.Signer {
	t.Helper()
	s, err := gossh.NewCertSigner(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// testNode is a server in this process.
type testNode struct {
	*server
	t       testing.TB
	cluster *testCluster
	address string
	spoolIn string
	log     *syncBuffer
	stop    context.CancelFunc
	done    chan error
}

// tester is an account of the tests: nobody's numbers and a real shell, where
// we are root; else ourselves.
const tester = "tester"

func testPasswd() (passwd, group string) {
	uid, gid := os.Geteuid(), os.Getegid()
	if uid == 0 {
		uid, gid = 65534, 65534
	}
	return fmt.Sprintf("root:x:0:0::/:/bin/sh\n%s:x:%d:%d::/:/bin/sh\nhomeless:x:%d:%d::/no/such/home:/bin/sh\n", tester, uid, gid, uid, gid),
		"tty:x:5:\nplugdev:x:46:tester\n"
}

// access allows all logins that users have, everywhere.
func access(t testing.TB, change ...func(*policy.RoleSpec)) *policy.State {
	t.Helper()
	spec := policy.RoleSpec{Allow: policy.RoleConditions{
		Logins:     []string{"{{internal.logins}}"},
		NodeLabels: map[string]policy.Values{"*": {"*"}},
	}}
	for _, f := range change {
		f(&spec)
	}
	role, err := policy.NewRole("access", spec)
	if err != nil {
		t.Fatal(err)
	}
	return &policy.State{Roles: map[string]policy.Role{"access": role}}
}

func requireDevice(s *policy.RoleSpec) { s.Options.DeviceTrustMode = policy.ModeRequired }

func startNode(t testing.TB, change ...func(*serverConfig)) *testNode {
	t.Helper()
	cluster := newTestCluster(t)
	passwd, group := testPasswd()
	spoolIn := filepath.Join(t.TempDir(), "spool")
	spool, err := openSpool(spoolIn, quiet())
	if err != nil {
		t.Fatal(err)
	}
	host := newSigner(t)
	cert := &gossh.Certificate{
		Key: host.PublicKey(), CertType: gossh.HostCert, KeyId: "n1", Serial: 1,
		ValidPrincipals: []string{"127.0.0.1"}, ValidBefore: gossh.CertTimeInfinity,
	}
	if err := cert.SignCert(rand.Reader, cluster.host); err != nil {
		t.Fatal(err)
	}
	signers := []gossh.Signer{withCertificate(t, cert, host), host}
	log := &syncBuffer{}
	config := serverConfig{
		log: slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug})),
		now: time.Now, limits: defaultLimits(), accounts: testAccounts(t, passwd, group, ""), uid: uint32(os.Geteuid()),
		cluster: "test", nodeID: "n1", name: "server",
		hostSigners: func() []gossh.Signer { return signers },
		states:      newHolder(), spool: spool, login: loginSettings{acceptEnv: defaultAcceptEnv()},
	}
	config.limits.hangup = 500 * time.Millisecond
	config.limits.policyHangup = 200 * time.Millisecond
	config.limits.shutdown = 200 * time.Millisecond
	for _, f := range change {
		f(&config)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	n := &testNode{
		server: newServer(context.Background(), config), t: t, cluster: cluster, address: listener.Addr().String(),
		spoolIn: spoolIn, log: log, stop: cancel, done: make(chan error, 1),
	}
	n.states.heard(config.now())
	n.decideBy(access(t))
	go func() { n.done <- n.serve(ctx, listener) }()
	t.Cleanup(func() {
		cancel()
		select {
		case err := <-n.done:
			if err != nil {
				t.Error(err)
			}
		case <-time.After(20 * time.Second):
			t.Error("the server does not stop")
		}
		spool.close()
		n.killLeft()
		if t.Failed() {
			t.Log("the node's log:", n.log.String())
		}
	})
	return n
}

// heardAt is a holder of a node that hears its control plane.
func heardAt(now time.Time) *holder {
	h := newHolder()
	h.heard(now)
	return h
}

// killLeft ends what sessions have left running, as they may: it is known by
// its environment.
func (n *testNode) killLeft() {
	_, port, _ := net.SplitHostPort(n.address)
	all, _ := filepath.Glob("/proc/[0-9]*/environ")
	for _, name := range all {
		environ, _ := os.ReadFile(name)
		for _, v := range strings.Split(string(environ), "\x00") {
			if !strings.HasPrefix(v, "SSH_CONNECTION=") || !strings.HasSuffix(v, " 127.0.0.1 "+port) {
				continue
			}
			if pid, err := strconv.Atoi(filepath.Base(filepath.Dir(name))); err == nil {
				syscall.Kill(pid, syscall.SIGKILL)
			}
		}
	}
}

// decideBy puts a policy in force.
func (n *testNode) decideBy(p *policy.State) {
	n.states.set(&state{authorities: []gossh.PublicKey{n.cluster.user.PublicKey()}, policy: p, labels: map[string]string{"env": "test"}})
}

type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// dial connects with a stock library; banner gets what the server says.
func (n *testNode) dial(login string, key gossh.Signer, banner ...*string) (*gossh.Client, error) {
	config := &gossh.ClientConfig{
		User: login, Auth: []gossh.AuthMethod{gossh.PublicKeys(key)},
		HostKeyCallback: gossh.InsecureIgnoreHostKey(), Timeout: 10 * time.Second,
	}
	if len(banner) > 0 {
		config.BannerCallback = func(text string) error { *banner[0] += text; return nil }
	}
	c, err := gossh.Dial("tcp", n.address, config)
	if err == nil {
		n.t.Cleanup(func() { c.Close() })
	}
	return c, err
}

func (n *testNode) mustDial(login string, key gossh.Signer) *gossh.Client {
	n.t.Helper()
	c, err := n.dial(login, key)
	if err != nil {
		n.t.Fatal(err)
	}
	return c
}

// run runs a command and gives what it printed and its status.
func run(t testing.TB, c *gossh.Client, command string) (stdout, stderr string, status int) {
	t.Helper()
	s, err := c.NewSession()
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	var out, errs bytes.Buffer
	s.Stdout, s.Stderr = &out, &errs
	err = s.Run(command)
	if exit, ok := errors.AsType[*gossh.ExitError](err); ok {
		return out.String(), errs.String(), exit.ExitStatus()
	}
	if err != nil {
		t.Fatalf("%s: %v; stderr %q", command, err, errs.String())
	}
	return out.String(), errs.String(), 0
}

// records are the audit records so far.
func (n *testNode) records() []event.Event {
	n.t.Helper()
	files, err := filepath.Glob(filepath.Join(n.spoolIn, "*"+segmentSuffix))
	if err != nil {
		n.t.Fatal(err)
	}
	var all []event.Event
	for _, f := range files {
		data, err := os.ReadFile(f)
		if err != nil {
			n.t.Fatal(err)
		}
		d := json.NewDecoder(bytes.NewReader(data))
		for {
			var e event.Event
			if err := d.Decode(&e); err == io.EOF {
				break
			} else if err != nil {
				n.t.Fatal(err)
			}
			all = append(all, e)
		}
	}
	return all
}

// recorded waits for a record of the type.
func (n *testNode) recorded(typ event.Type) event.Event {
	n.t.Helper()
	var found event.Event
	eventually(n.t, "a record "+string(typ), func() bool {
		for _, e := range n.records() {
			if e.Type == typ {
				found = e
				return true
			}
		}
		return false
	})
	return found
}

// eventually polls until what is so.
func eventually(t testing.TB, what string, is func() bool) {
	t.Helper()
	deadline := time.Now().Add(15 * time.Second)
	for !is() {
		if time.Now().After(deadline) {
			t.Fatalf("still not: %s", what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func TestACommandRunsAsTheLoginUser(t *testing.T) {
	n := startNode(t)
	c := n.mustDial(tester, n.cluster.certify(t, onDevice(alice()), newSigner(t)))
	out, errs, status := run(t, c, `id -u; id -G; pwd; echo "$0"; echo oops >&2; exit 7`)
	want := fmt.Sprintf("%d\n", os.Geteuid())
	if os.Geteuid() == 0 {
		want = "65534\n65534 46\n/\nsh\n"
	}
	if !strings.HasPrefix(out, want) || errs != "oops\n" || status != 7 {
		t.Errorf("stdout %q, stderr %q, status %d", out, errs, status)
	}
}

func TestACommandInheritsNothingElse(t *testing.T) {
	// As nohup, "&" and less friendly parents do.
	ignored := []os.Signal{syscall.SIGHUP, syscall.SIGTSTP, syscall.SIGUSR1}
	signal.Ignore(ignored...)
	// What other tests start has them again; Reset would leave SIGHUP ignored.
	defer signal.Notify(make(chan os.Signal, 1), ignored...)
	n := startNode(t)
	c := n.mustDial(tester, n.cluster.certify(t, alice(), newSigner(t)))
	// The fourth is ls's own, of the folder.
	if out, _, _ := run(t, c, "ls /proc/self/fd"); out != "0\n1\n2\n3\n" {
		t.Errorf("open files %q", out)
	}
	out, _, _ := run(t, c, "grep -E '^Sig(Blk|Ign)' /proc/self/status; umask")
	var blocks, ignores uint64
	if _, err := fmt.Sscanf(out, "SigBlk:\t%x\nSigIgn:\t%x\n", &blocks, &ignores); err != nil {
		t.Fatalf("%v in %q", err, out)
	}
	if blocks != 0 || ignores != 0 {
		t.Errorf("signals %q", out)
	}
	if os.Geteuid() == 0 {
		if out, _, _ := run(t, c, "grep -E '^(Uid|Gid|Cap(Prm|Eff|Inh|Amb))' /proc/self/status"); strings.Count(out, "65534\t65534\t65534\t65534") != 2 || strings.Count(out, "0000000000000000") != 4 {
			t.Errorf("rights %q", out)
		}
	}
}

func TestTheEnvironmentIsMadeFromNothing(t *testing.T) {
	t.Setenv("SECRET_OF_THE_DAEMON", "x")
	n := startNode(t)
	id := onDevice(alice())
	c := n.mustDial(tester, n.cluster.certify(t, id, newSigner(t)))
	s, err := c.NewSession()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Setenv("LANG", "C.UTF-8"); err != nil {
		t.Error(err)
	}
	for _, name := range []string{"LD_PRELOAD", "DT_USER", "PATH"} {
		if err := s.Setenv(name, "evil"); err == nil {
			t.Errorf("%s was taken", name)
		}
	}
	out, err := s.Output("env")
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, line := range strings.Split(strings.TrimSpace(string(out)), "\n") {
		name, value, _ := strings.Cut(line, "=")
		got[name] = value
	}
	_, port, _ := net.SplitHostPort(n.address)
	for name, want := range map[string]string{
		"USER": tester, "LOGNAME": tester, "HOME": "/", "SHELL": "/bin/sh", "PATH": userPath, "MAIL": "/var/mail/" + tester,
		"LANG": "C.UTF-8", "DT_USER": "alice", "DT_ROLES": "access",
		"DT_DEVICE_ID": "6a1d9b1c-7d0b-4b6b-8a0e-0c1f6a2d1e11", "DT_DEVICE_ASSET_TAG": "C00AA0AAAA0A",
		"DT_DEVICE_CREDENTIAL_ID": "cafe", "DT_SESSION_ID": n.recorded(event.SessionStart).SessionID,
		"DT_LOGIN_EXPIRES": id.ValidBefore.UTC().Format(time.RFC3339),
	} {
		if got[name] != want {
			t.Errorf("%s=%q, want %q", name, got[name], want)
		}
		delete(got, name)
	}
	if f := strings.Fields(got["SSH_CONNECTION"]); len(f) != 4 || f[0] != "127.0.0.1" || f[2] != "127.0.0.1" || f[3] != port {
		t.Errorf("SSH_CONNECTION=%q", got["SSH_CONNECTION"])
	}
	for _, name := range []string{"SSH_CONNECTION", "SSH_CLIENT", "PWD", "OLDPWD", "_", "SHLVL"} {
		delete(got, name)
	}
	if len(got) > 0 {
		t.Errorf("and also: %q", got)
	}
}
