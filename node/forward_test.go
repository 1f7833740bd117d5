package node

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	gossh "golang.org/x/crypto/ssh"

	"devicetrust/audit/event"
	"devicetrust/identity"
	"devicetrust/node/helper"
	"devicetrust/policy"
)

// forwardsAll is a role that allows every kind.
func forwardsAll(s *policy.RoleSpec) {
	yes := true
	s.Options.PortForwarding, s.Options.ForwardAgent, s.Options.PermitX11Forwarding = &yes, &yes, &yes
}

// forwarder is alice with a certificate that permits every kind.
func forwarder() identity.Identity {
	id := onDevice(alice())
	id.Permit = identity.Permit{PTY: true, PortForwarding: true, AgentForwarding: true, X11Forwarding: true}
	return id
}

func enterToForward(t *testing.T, change ...func(*serverConfig)) (*testNode, *gossh.Client) {
	t.Helper()
	n := startNode(t, change...)
	n.decideBy(access(t, forwardsAll))
	return n, n.mustDial(tester, n.cluster.certify(t, forwarder(), newSigner(t)))
}

// testerUID is whom tester's processes run as.
func testerUID() int {
	if os.Geteuid() == 0 {
		return 65534
	}
	return os.Geteuid()
}

// testerDir is a folder that only the tester, and root, enters; a short path.
func testerDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "dt-forward-") //nolint:usetesting // short, and the tester's
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chown(dir, testerUID(), -1); err != nil {
		t.Fatal(err)
	}
	return dir
}

// serveEach gives each connection to serve, until the test ends.
func serveEach(t *testing.T, l net.Listener, serve func(net.Conn)) net.Listener {
	t.Helper()
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go serve(conn)
		}
	}()
	return l
}

func echo(conn net.Conn) {
	// By no pipe of splice(2), which Go keeps for the next one.
	_, _ = io.Copy(struct{ io.Writer }{conn}, struct{ io.Reader }{conn})
	conn.Close()
}

func tcpListener(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// sumOf answers with the digest of all that it is sent, once that has ended.
func sumOf(conn net.Conn) {
	sum := sha256.New()
	_, _ = io.Copy(sum, conn)
	fmt.Fprintf(conn, "%x", sum.Sum(nil))
	conn.Close()
}

// talk sends all of what, ends that direction, and gives the answer.
func talk(t testing.TB, conn net.Conn, what []byte) []byte {
	t.Helper()
	defer conn.Close()
	go func() {
		_, _ = conn.Write(what)
		_ = conn.(interface{ CloseWrite() error }).CloseWrite()
	}()
	got, err := io.ReadAll(conn)
	if err != nil {
		t.Error(err)
	}
	return got
}

func randomBytes(n int) ([]byte, string) {
	b := make([]byte, n)
	_, _ = rand.Read(b)
	sum := sha256.Sum256(b)
	return b, hex.EncodeToString(sum[:])
}

func mustDialTo(t testing.TB, c *gossh.Client, network, address string) net.Conn {
	t.Helper()
	conn, err := c.Dial(network, address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

func TestAConnectionIsForwardedAndEachDirectionEndsByItself(t *testing.T) {
	n, c := enterToForward(t)
	what, sum := randomBytes(8 << 20)
	tcp := serveEach(t, tcpListener(t), sumOf).Addr()
	path := filepath.Join(testerDir(t), "socket")
	unix, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(path, testerUID(), -1); err != nil {
		t.Fatal(err)
	}
	serveEach(t, unix, sumOf)
	for network, address := range map[string]string{"tcp": tcp.String(), "unix": path} {
		// The client has ended when the answer is made.
		if got := talk(t, mustDialTo(t, c, network, address), what); string(got) != sum {
			t.Errorf("%s: %q, want %q", network, got, sum)
		}
	}
	// The server has ended long before the client has.
	first := make(chan string, 1)
	half := serveEach(t, tcpListener(t), func(conn net.Conn) {
		_, _ = conn.Write(what)
		_ = conn.(*net.TCPConn).CloseWrite()
		sum := sha256.New()
		_, _ = io.Copy(sum, conn)
		first <- hex.EncodeToString(sum.Sum(nil))
	}).Addr()
	conn := mustDialTo(t, c, "tcp", half.String())
	got, err := io.ReadAll(conn)
	if err != nil || !bytes.Equal(got, what) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	if _, err := conn.Write(what); err != nil {
		t.Error(err)
	}
	conn.Close()
	if got := <-first; got != sum {
		t.Errorf("what came after the server's end, and before the client's close: %q, want %q", got, sum)
	}
	var at []string
	for _, e := range n.records() {
		if e.Type != event.Port {
			continue
		}
		at = append(at, e.Addr)
		if !e.Success || e.Action != connectAction || e.User != "alice" || e.Login != tester || e.TrustedDevice == nil || e.SessionID == "" || e.RemoteAddr == "" {
			t.Errorf("%+v", e)
		}
	}
	slices.Sort(at)
	want := []string{tcp.String(), path, half.String()}
	slices.Sort(want)
	if !slices.Equal(at, want) {
		t.Errorf("recorded %q, want %q", at, want)
	}
}

func TestAPortIsForwardedToTheClient(t *testing.T) {
	n, c := enterToForward(t)
	l, err := c.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	serveEach(t, l, sumOf)
	what, sum := randomBytes(1 << 20)
	conn, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	from := conn.LocalAddr().String()
	if got := talk(t, conn, what); string(got) != sum {
		t.Errorf("%q, want %q", got, sum)
	}
	var got []event.Event
	for _, e := range n.records() {
		if e.Type == event.Port {
			got = append(got, e)
		}
	}
	// What was asked for, what came of it, and who came.
	if len(got) != 3 || got[0].Action != listenAction || got[0].Addr != "127.0.0.1:0" || got[1].Action != listenAction || got[1].Addr != l.Addr().String() ||
		got[2].Action != acceptAction || got[2].Addr != from || got[2].Name != l.Addr().String() {
		t.Errorf("%+v", got)
	}
	if uid := socketUID(t, l.Addr()); uid != testerUID() {
		t.Errorf("the listener belongs to %d", uid)
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	eventually(t, "nobody listens", func() bool { _, err := net.Dial("tcp", l.Addr().String()); return err != nil })
}

func TestASocketIsForwardedToTheClient(t *testing.T) {
	_, c := enterToForward(t)
	path := filepath.Join(testerDir(t), "socket")
	l, err := c.ListenUnix(path)
	if err != nil {
		t.Fatal(err)
	}
	serveEach(t, l, sumOf)
	info, err := os.Stat(path)
	if err != nil || info.Mode() != os.ModeSocket|0o600 || int(info.Sys().(*syscall.Stat_t).Uid) != testerUID() {
		t.Errorf("%v, %v", info, err)
	}
	what, sum := randomBytes(1 << 20)
	for range 3 {
		conn, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		if got := talk(t, conn, what); string(got) != sum {
			t.Errorf("%q, want %q", got, sum)
		}
	}
	// What is there is left alone.
	if _, err := c.ListenUnix(path); err == nil {
		t.Error("listens where somebody listens")
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	eventually(t, "the socket is gone", func() bool { _, err := os.Stat(path); return err != nil })
}

// socketUID is whose a TCP socket is that listens at, or is connected from, at.
func socketUID(t *testing.T, at net.Addr) int {
	t.Helper()
	table, err := os.ReadFile("/proc/net/tcp")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(table)) {
		f := strings.Fields(line)
		if len(f) < 8 || f[1] != fmt.Sprintf("0100007F:%04X", at.(*net.TCPAddr).Port) {
			continue
		}
		var uid int
		fmt.Sscan(f[7], &uid)
		return uid
	}
	t.Fatalf("no socket at %s", at)
	return 0
}

func TestSocketsAreTheAccounts(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can tell itself from an account")
	}
	n, c := enterToForward(t)
	from := make(chan net.Addr, 1)
	// A connection that is over is nobody's.
	l := serveEach(t, tcpListener(t), func(conn net.Conn) { from <- conn.RemoteAddr(); echo(conn) })
	conn := mustDialTo(t, c, "tcp", l.Addr().String())
	if uid := socketUID(t, <-from); uid != testerUID() {
		t.Errorf("the connection belongs to %d", uid)
	}
	conn.Close()

	// A socket that is root's, by way of a link that the account made.
	secret := t.TempDir()
	path := filepath.Join(secret, "socket")
	unix, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	serveEach(t, unix, echo)
	link := filepath.Join(testerDir(t), "link")
	if err := os.Symlink(secret, link); err != nil {
		t.Fatal(err)
	}
	for _, p := range []string{path, filepath.Join(link, "socket")} {
		if _, err := c.Dial("unix", p); err == nil || !strings.Contains(err.Error(), "permission denied") {
			t.Errorf("%s: %v", p, err)
		}
		if _, err := c.ListenUnix(p + "2"); err == nil {
			t.Errorf("listens at %s2", p)
		}
	}
	if _, err := c.Listen("tcp", "127.0.0.1:99"); err == nil {
		t.Error("listens at a port of root's")
	}
	root := n.mustDial("root", n.cluster.certify(t, forwarder(), newSigner(t)))
	if l, err := root.Listen("tcp", "127.0.0.1:99"); err != nil {
		t.Errorf("root does not: %v", err)
	} else {
		l.Close()
	}
}

// A program may ask the kernel who writes to its UNIX socket.
func TestAUnixSocketHearsOfTheAccountOnly(t *testing.T) {
	_, c := enterToForward(t)
	path := filepath.Join(testerDir(t), "socket")
	unix, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(path, testerUID(), -1); err != nil {
		t.Fatal(err)
	}
	heard := make(chan uint32, 1)
	serveEach(t, unix, func(conn net.Conn) { heard <- writerOf(conn.(*net.UnixConn)) })
	conn := mustDialTo(t, c, "unix", path)
	if _, err := conn.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if uid := <-heard; int(uid) != testerUID() {
		t.Errorf("uid %d wrote", uid)
	}
}

func writerOf(conn *net.UnixConn) uint32 {
	defer conn.Close()
	const nobodySaid = 1<<32 - 1
	raw, err := conn.SyscallConn()
	if err != nil {
		return nobodySaid
	}
	_ = raw.Control(func(fd uintptr) { _ = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_PASSCRED, 1) })
	control := make([]byte, 128)
	_, n, _, _, err := conn.ReadMsgUnix(make([]byte, 1), control)
	if err != nil {
		return nobodySaid
	}
	messages, _ := syscall.ParseSocketControlMessage(control[:n])
	for _, m := range messages {
		if cred, err := syscall.ParseUnixCredentials(&m); err == nil {
			return cred.Uid
		}
	}
	return nobodySaid
}

func TestAHundredConnectionsAtOnce(t *testing.T) {
	n, c := enterToForward(t)
	l := serveEach(t, tcpListener(t), sumOf)
	what, sum := randomBytes(200 << 10)
	var all sync.WaitGroup
	for range 100 {
		all.Go(func() {
			conn, err := c.Dial("tcp", l.Addr().String())
			if err != nil {
				t.Error(err)
				return
			}
			if got := talk(t, conn, what); string(got) != sum {
				t.Errorf("%q", got)
			}
		})
	}
	all.Wait()
	eventually(t, "all are released", func() bool { return n.forwarded() == 0 })
}

// forwarded is how many connections are forwarded.
func (n *testNode) forwarded() (open int) {
	for _, c := range n.connections() {
		c.forwards.mu.Lock()
		open += len(c.forwards.open)
		c.forwards.mu.Unlock()
	}
	return open
}

func (n *testNode) connections() []*connection {
	n.server.mu.Lock()
	defer n.server.mu.Unlock()
	all := make([]*connection, 0, len(n.all))
	for c := range n.all {
		all = append(all, c)
	}
	return all
}

func TestNobodyCancelsAnothersListener(t *testing.T) {
	n, c := enterToForward(t)
	l, err := c.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	serveEach(t, l, echo)
	other := n.mustDial(tester, n.cluster.certify(t, forwarder(), newSigner(t)))
	cancel := gossh.Marshal(struct {
		Host string
		Port uint32
	}{"127.0.0.1", uint32(l.Addr().(*net.TCPAddr).Port)})
	if ok, _, err := other.SendRequest("cancel-tcpip-forward", true, cancel); ok || err != nil {
		t.Errorf("another's: %v, %v", ok, err)
	}
	conn, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	if got := talk(t, conn, []byte("hello")); string(got) != "hello" {
		t.Errorf("%q", got)
	}
	for _, want := range []bool{true, false} {
		if ok, _, err := c.SendRequest("cancel-tcpip-forward", true, cancel); ok != want || err != nil {
			t.Errorf("one's own: %v, %v", ok, err)
		}
	}
}

func TestWhatIsForwardedAsksRolesAndTheCertificate(t *testing.T) {
	l := serveEach(t, tcpListener(t), echo)
	for name, row := range map[string]struct {
		role    []func(*policy.RoleSpec)
		id      identity.Identity
		refused string
	}{
		"neither":              {nil, onDevice(alice()), "the certificate does not permit port forwarding. Log in again"},
		"only a role":          {[]func(*policy.RoleSpec){forwardsAll}, onDevice(alice()), "the certificate does not permit port forwarding"},
		"only the certificate": {nil, forwarder(), `has port_forwarding. Ask`},
		"both":                 {[]func(*policy.RoleSpec){forwardsAll}, forwarder(), ""},
	} {
		t.Run(name, func(t *testing.T) {
			n := startNode(t)
			n.decideBy(access(t, row.role...))
			c := n.mustDial(tester, n.cluster.certify(t, row.id, newSigner(t)))
			conn, err := c.Dial("tcp", l.Addr().String())
			if row.refused == "" {
				if err != nil {
					t.Fatal(err)
				}
				if got := talk(t, conn, []byte("hello")); string(got) != "hello" {
					t.Errorf("%q", got)
				}
				return
			}
			var no *gossh.OpenChannelError
			if !errors.As(err, &no) || no.Reason != gossh.Prohibited || !strings.Contains(no.Message, row.refused) {
				t.Errorf("%v", err)
			}
			if e := n.recorded(event.Port); e.Success || e.Action != connectAction || e.Addr != l.Addr().String() || e.TrustedDevice == nil || e.Message == "" {
				t.Errorf("%+v", e)
			}
			if _, err := c.Listen("tcp", "127.0.0.1:0"); err == nil {
				t.Error("listens")
			}
			if _, err := c.Dial("unix", "/run/socket"); err == nil || !strings.Contains(err.Error(), row.refused) {
				t.Errorf("a UNIX socket: %v", err)
			}
			s := newSession(t, c)
			for kind, payload := range map[string][]byte{"auth-agent-req@openssh.com": nil, "x11-req": goodX11()} {
				if ok, err := s.SendRequest(kind, true, payload); ok || err != nil {
					t.Errorf("%s: %v, %v", kind, ok, err)
				}
			}
			if n := n.workers(); n != 0 {
				t.Errorf("%d workers for nothing", n)
			}
		})
	}
}

// workers is how many processes open sockets for this node.
func (n *testNode) workers() (running int) {
	for _, c := range n.connections() {
		c.forwards.starting.Lock()
		if w := c.forwards.worker; w != nil {
			select {
			case <-w.Done():
			default:
				running++
			}
		}
		c.forwards.starting.Unlock()
	}
	return running
}

func goodX11() []byte {
	return gossh.Marshal(struct {
		Single           bool
		Protocol, Cookie string
		Screen           uint32
	}{false, "MIT-MAGIC-COOKIE-1", strings.Repeat("0f", 16), 0})
}

func TestWhatCannotBeRecordedIsNotForwarded(t *testing.T) {
	n, c := enterToForward(t)
	called := make(chan struct{}, 1)
	l := serveEach(t, tcpListener(t), func(conn net.Conn) { called <- struct{}{}; conn.Close() })
	n.spool.fill(10)
	if _, err := c.Dial("tcp", l.Addr().String()); err == nil || !strings.Contains(err.Error(), "audit spool is full") {
		t.Errorf("%v", err)
	}
	if _, err := c.Listen("tcp", "127.0.0.1:0"); err == nil {
		t.Error("listens")
	}
	select {
	case <-called:
		t.Error("it was connected")
	default:
	}
}

func TestAnExpiredCertificateForwardsNothingMore(t *testing.T) {
	clock := stopped()
	n := startNode(t, func(c *serverConfig) { c.now = clock.now })
	n.decideBy(access(t, forwardsAll))
	id := forwarder()
	id.ValidBefore = clock.now().Add(time.Minute)
	c := n.mustDial(tester, n.cluster.certify(t, id, newSigner(t)))
	target := serveEach(t, tcpListener(t), echo).Addr().String()
	open := mustDialTo(t, c, "tcp", target)
	l, err := c.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	serveEach(t, l, echo)
	clock.forward(2 * time.Minute)
	if _, err := c.Dial("tcp", target); err == nil || !strings.Contains(err.Error(), "certificate has expired") {
		t.Errorf("%v", err)
	}
	if conn, err := net.Dial("tcp", l.Addr().String()); err == nil {
		conn.SetDeadline(time.Now().Add(10 * time.Second))
		if got, err := io.ReadAll(conn); err != nil || len(got) > 0 {
			t.Errorf("accepted: %q, %v", got, err)
		}
	}
	// What is open goes on, as the session would.
	if got := talk(t, open, []byte("hello")); string(got) != "hello" {
		t.Errorf("%q", got)
	}
}

func TestWhatPolicyNoLongerAllowsIsEndedAtOnce(t *testing.T) {
	n, c := enterToForward(t)
	address := serveEach(t, tcpListener(t), echo).Addr().String()
	conn := mustDialTo(t, c, "tcp", address)
	l, err := c.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	s := newSession(t, c)
	var screen syncBuffer
	s.Stdout, s.Stderr = &screen, &screen
	if err := s.RequestPty("xterm", 24, 80, gossh.TerminalModes{}); err != nil {
		t.Fatal(err)
	}
	if err := s.Start("exec sleep 1000"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it runs", func() bool { return n.sessions() == 1 })
	begin := time.Now()
	n.decideBy(access(t)) // sessions, and no forwarding
	if _, err := io.ReadAll(conn); err != nil {
		t.Error(err)
	}
	eventually(t, "nobody listens", func() bool { _, err := net.Dial("tcp", l.Addr().String()); return err != nil })
	if took := time.Since(begin); took > time.Second {
		t.Errorf("took %s", took)
	}
	if _, _, status := run(t, c, "true"); status != 0 {
		t.Errorf("a session: %d", status)
	}
	// The person is told, and the record.
	reason := `no role of user "alice" has port_forwarding`
	what := []string{"connect " + address, "listen " + l.Addr().String()}
	eventually(t, "the person is told", func() bool {
		return strings.Contains(screen.String(), "what is forwarded is ended: "+reason)
	})
	e := n.endedForward()
	slices.Sort(e.Reasons)
	if e.Success || e.Message != reason || e.User != "alice" || e.Addr != "" || !slices.Equal(e.Reasons, what) {
		t.Errorf("recorded %+v, want %q", e, what)
	}
}

// endedForward waits for the record of what was forwarded and is ended.
func (n *testNode) endedForward() (found event.Event) {
	n.t.Helper()
	eventually(n.t, "it is recorded", func() bool {
		for _, e := range n.records() {
			if e.Type == event.Port && e.Action == "end" {
				found = e
				return true
			}
		}
		return false
	})
	return found
}

func TestTheRecordSaysWhatWasForwardedWhenSomebodyIsCut(t *testing.T) {
	n, c := enterToForward(t)
	address := serveEach(t, tcpListener(t), echo).Addr().String()
	for range 3 {
		conn := mustDialTo(t, c, "tcp", address)
		if _, err := conn.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
	}
	policy := access(t, forwardsAll)
	policy.Locks = lockedOut
	n.decideBy(policy)
	closed(t, c)
	e := n.endedForward()
	if want := []string{"connect " + address + " (3)"}; e.Success || e.Message != lockedReason || e.Addr != address || !slices.Equal(e.Reasons, want) {
		t.Errorf("recorded %+v, want %q", e, want)
	}
	if e.SessionID == "" || e.TrustedDevice == nil || e.Login != tester {
		t.Errorf("recorded %+v", e)
	}
}

// A record of what is forwarded waits for room in the spool, and no lock for it.
func TestARecordThatWaitsHoldsUpNoLock(t *testing.T) {
	n, c := enterToForward(t)
	conn := mustDialTo(t, c, "tcp", serveEach(t, tcpListener(t), echo).Addr().String())
	if _, err := conn.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	n.spool.waits = 0
	if _, err := n.spool.fillWith(t, transferred("alice", "")); !errors.Is(err, errSpoolShare) {
		t.Fatal(err)
	}
	for n.spool.append(transferred("alice", "")) == nil { // to the last byte
	}
	n.spool.mu.Lock()
	n.spool.waits, n.spool.stalled = time.Hour, false
	n.spool.mu.Unlock()
	policy := access(t, forwardsAll)
	policy.Locks = lockedOut
	put := make(chan struct{})
	go func() { n.decideBy(policy); close(put) }()
	select {
	case <-put:
		closed(t, c)
	case <-time.After(15 * time.Second):
		t.Error("the lock is not in force")
	}
}

var lockedOut = []policy.Lock{{Name: "l", Target: policy.LockTarget{User: "alice"}, Message: "away"}}

const lockedReason = `lock targeting user "alice" is in force: away`

func TestWhoIsCutLosesListenersWithinASecond(t *testing.T) {
	// However long the session has to read why.
	n, c := enterToForward(t, func(c *serverConfig) { c.limits.lastWords = 5 * time.Second })
	l, err := c.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	// A session that is told first, and a worker that does not hear.
	s := newSession(t, c)
	if err := s.Start("sleep 1000"); err != nil {
		t.Fatal(err)
	}
	pid := n.workerPID(t)
	syscall.Kill(pid, syscall.SIGSTOP)
	begin := time.Now()
	n.decideBy(access(t, requireDevice, func(s *policy.RoleSpec) { s.Allow.Logins = []string{"root"} }))
	eventually(t, "the worker is gone", func() bool { return errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) })
	if took := time.Since(begin); took > time.Second {
		t.Errorf("took %s", took)
	}
	if _, err := net.Dial("tcp", l.Addr().String()); err == nil {
		t.Error("somebody listens")
	}
}

// workerPID is the process of the only worker.
func (n *testNode) workerPID(t *testing.T) int {
	t.Helper()
	all, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", os.Getpid()))
	for _, name := range all {
		children, _ := os.ReadFile(name)
		for _, child := range strings.Fields(string(children)) {
			name, _ := os.ReadFile("/proc/" + child + "/cmdline")
			// A spare helper has no input; the worker has closed its own.
			input, _ := os.Readlink("/proc/" + child + "/fd/0")
			if pid, err := strconv.Atoi(child); err == nil && strings.TrimRight(string(name), "\x00") == helper.Name && input != os.DevNull {
				return pid
			}
		}
	}
	t.Fatal("no worker")
	return 0
}

func TestAFloodOfForwardsIsBounded(t *testing.T) {
	n, c := enterToForward(t, func(c *serverConfig) { c.limits.forwards, c.limits.forwardListeners = 8, 3 })
	l := serveEach(t, tcpListener(t), echo)
	open := make([]net.Conn, 0, 8)
	for range 8 {
		open = append(open, mustDialTo(t, c, "tcp", l.Addr().String()))
	}
	var no *gossh.OpenChannelError
	if _, err := c.Dial("tcp", l.Addr().String()); !errors.As(err, &no) || no.Reason != gossh.ResourceShortage {
		t.Errorf("the ninth: %v", err)
	}
	open[0].Close()
	eventually(t, "there is room again", func() bool { _, err := c.Dial("tcp", l.Addr().String()); return err == nil })
	for i := range 4 {
		if _, err := c.Listen("tcp", "127.0.0.1:0"); (err == nil) != (i < 3) {
			t.Errorf("listener %d: %v", i, err)
		}
	}
	if got := n.forwarded(); got != 8 {
		t.Errorf("%d are counted", got)
	}
}

func TestAnAccountsForwardsAreBoundedInAllOfItsConnections(t *testing.T) {
	n, c := enterToForward(t, func(c *serverConfig) { c.limits.forwardsOfAccount = 3 })
	other := n.mustDial(tester, n.cluster.certify(t, forwarder(), newSigner(t)))
	at := serveEach(t, tcpListener(t), echo).Addr().String()
	first := mustDialTo(t, c, "tcp", at)
	mustDialTo(t, c, "tcp", at)
	mustDialTo(t, other, "tcp", at)
	var no *gossh.OpenChannelError
	if _, err := other.Dial("tcp", at); !errors.As(err, &no) || no.Reason != gossh.ResourceShortage {
		t.Errorf("the fourth: %v", err)
	}
	first.Close()
	eventually(t, "there is room again", func() bool { _, err := other.Dial("tcp", at); return err == nil })
}

func TestAListenersVisitorsAreBounded(t *testing.T) {
	_, c := enterToForward(t, func(c *serverConfig) { c.limits.acceptBurst, c.limits.acceptsPerSecond = 2, 0.001 })
	l, err := c.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	serveEach(t, l, echo)
	for i := range 3 {
		conn, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		got := ""
		if _, err := conn.Write([]byte("hello")); err == nil {
			_ = conn.(*net.TCPConn).CloseWrite()
			b, _ := io.ReadAll(conn)
			got = string(b)
		}
		conn.Close()
		if (got == "hello") != (i < 2) {
			t.Errorf("visitor %d: %q", i, got)
		}
	}
}

func TestSlowDialsHoldUpNothing(t *testing.T) {
	n, c := enterToForward(t)
	// Its backlog is full: nobody is answered.
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer syscall.Close(fd)
	if err := errors.Join(syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}), syscall.Listen(fd, 0)); err != nil {
		t.Fatal(err)
	}
	at, _ := syscall.Getsockname(fd)
	address := fmt.Sprintf("127.0.0.1:%d", at.(*syscall.SockaddrInet4).Port)
	for range 100 { // more than may be pending otherwise
		go c.Dial("tcp", address)
	}
	eventually(t, "most wait", func() bool { return n.forwarded() > 90 })
	if _, _, status := run(t, c, "true"); status != 0 {
		t.Errorf("a session: %d", status)
	}
	conn := mustDialTo(t, c, "tcp", serveEach(t, tcpListener(t), echo).Addr().String())
	if got := talk(t, conn, []byte("hello")); string(got) != "hello" {
		t.Errorf("%q", got)
	}
	c.Close()
	eventually(t, "all are released", n.empty)
}

func TestNothingIsLeftOfAConnectionThatForwarded(t *testing.T) {
	n, first := enterToForward(t)
	first.Close()
	eventually(t, "it is gone", n.empty)
	target := serveEach(t, tcpListener(t), echo).Addr().String()
	once := func() {
		c := n.mustDial(tester, n.cluster.certify(t, forwarder(), newSigner(t)))
		defer c.Close()
		mustDialTo(t, c, "tcp", target)
		l, err := c.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		if conn, err := net.Dial("tcp", l.Addr().String()); err != nil {
			t.Error(err)
		} else {
			defer conn.Close()
		}
		pid := n.workerPID(t)
		c.Close()
		eventually(t, "the worker is gone", func() bool { return errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) })
	}
	once()
	eventually(t, "it is gone", n.empty)
	running, open := runtime.NumGoroutine(), files(t)
	for range 5 {
		once()
	}
	eventually(t, "goroutines and files are as before", func() bool {
		return n.empty() && runtime.NumGoroutine() <= running && files(t) <= open
	})
}

func TestAMalformedForwardHarmsNobody(t *testing.T) {
	n, c := enterToForward(t)
	for _, payload := range []string{"", "\x00", "\xff\xff\xff\xfcx", "\x00\x00\x00\x01h\x00\x01\x00\x00"} {
		for _, kind := range []string{"direct-tcpip", "direct-streamlocal@openssh.com"} {
			var no *gossh.OpenChannelError
			if _, _, err := c.OpenChannel(kind, []byte(payload)); !errors.As(err, &no) {
				t.Errorf("%s %q: %v", kind, payload, err)
			}
		}
		for _, kind := range []string{"tcpip-forward", "streamlocal-forward@openssh.com", "cancel-tcpip-forward", "cancel-streamlocal-forward@openssh.com"} {
			if ok, _, err := c.SendRequest(kind, true, []byte(payload)); ok || err != nil {
				t.Errorf("%s %q: %v, %v", kind, payload, ok, err)
			}
		}
	}
	s := newSession(t, c)
	for _, kind := range []string{"x11-req", "auth-agent-req@openssh.com"} {
		if ok, err := s.SendRequest(kind, true, []byte("\x00")); ok || err != nil {
			t.Errorf("%s: %v, %v", kind, ok, err)
		}
	}
	// A client opens none of what a server opens.
	for _, kind := range []string{"forwarded-tcpip", "forwarded-streamlocal@openssh.com", "auth-agent@openssh.com", "x11"} {
		if _, _, err := c.OpenChannel(kind, nil); err == nil {
			t.Errorf("%s was opened", kind)
		}
	}
	if out, err := s.Output("echo still here"); err != nil || string(out) != "still here\n" {
		t.Errorf("%q, %v", out, err)
	}
	if n := n.workers(); n != 0 {
		t.Errorf("%d workers for nothing", n)
	}
}

func TestWhatIsForwardedWithASessionEndsWithIt(t *testing.T) {
	n, c := enterToForward(t)
	s := newSession(t, c)
	for want := range 2 { // once, and no more
		if ok, err := s.SendRequest("auth-agent-req@openssh.com", true, nil); ok != (want == 0) || err != nil {
			t.Errorf("%v, %v", ok, err)
		}
	}
	if s, err := c.NewSession(); err != nil {
		t.Fatal(err)
	} else if out, err := s.Output("echo no $SSH_AUTH_SOCK"); err != nil || string(out) != "no\n" {
		t.Errorf("another session: %q, %v", out, err)
	}
	out, err := s.Output("echo $SSH_AUTH_SOCK; test -S $SSH_AUTH_SOCK")
	socket := strings.TrimSpace(string(out))
	if err != nil || !strings.HasPrefix(socket, "/tmp/ssh-") {
		t.Errorf("%q, %v", out, err)
	}
	eventually(t, "it is removed", func() bool { _, err := os.Stat(filepath.Dir(socket)); return err != nil })
	n.noListeners()
}

// noListeners waits until none is known any more.
func (n *testNode) noListeners() {
	n.t.Helper()
	for _, c := range n.connections() {
		eventually(n.t, "it is forgotten", func() bool {
			c.forwards.mu.Lock()
			defer c.forwards.mu.Unlock()
			return c.forwards.listening == 0 && len(c.forwards.listeners) == 0 && len(c.forwards.asked) == 0
		})
	}
}

func TestAnXauthThatFailsIsSaid(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("the tester's home is not to be written to, and is our own's")
	}
	_, c := enterToForward(t) // the tester's home is /
	s := newSession(t, c)
	var errs bytes.Buffer
	s.Stderr = &errs
	if ok, err := s.SendRequest("x11-req", true, goodX11()); ok || err != nil {
		t.Errorf("%v, %v", ok, err)
	}
	if out, err := s.Output("echo $DISPLAY"); err != nil || string(out) != "\n" {
		t.Errorf("%q, %v", out, err)
	}
	if !strings.Contains(errs.String(), "X11 forwarding: xauth does not take the display") {
		t.Errorf("%q", errs.String())
	}
}

func TestAWorkerThatItsAccountKillsIsReplaced(t *testing.T) {
	n, c := enterToForward(t)
	l, err := c.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	syscall.Kill(n.workerPID(t), syscall.SIGKILL)
	eventually(t, "nobody listens", func() bool { _, err := net.Dial("tcp", l.Addr().String()); return err != nil })
	n.noListeners()
	target := serveEach(t, tcpListener(t), echo).Addr().String()
	eventually(t, "there is another", func() bool { conn, err := c.Dial("tcp", target); return err == nil && conn.Close() == nil })
}

func TestADisplayForOneConnectionTakesOne(t *testing.T) {
	home := testerDir(t)
	_, c := enterToForward(t, func(c *serverConfig) {
		passwd, group := testPasswd()
		c.accounts = testAccounts(t, strings.Replace(passwd, "::/:/bin/sh\nhomeless", "::"+home+":/bin/sh\nhomeless", 1), group, "")
	})
	opened := c.HandleChannelOpen("x11")
	s := newSession(t, c)
	if ok, err := s.SendRequest("x11-req", true, append([]byte{1}, goodX11()[1:]...)); !ok || err != nil {
		t.Fatalf("%v, %v", ok, err)
	}
	stdin, err := s.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := s.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Start("echo $DISPLAY; cat"); err != nil {
		t.Fatal(err)
	}
	defer stdin.Close()
	var number int
	if _, err := fmt.Fscanf(stdout, "localhost:%d.0\n", &number); err != nil {
		t.Fatal(err)
	}
	at := fmt.Sprintf("127.0.0.1:%d", 6000+number)
	conn, err := net.Dial("tcp", at)
	if err != nil {
		t.Fatal(err)
	}
	channel, requests, err := (<-opened).Accept()
	if err != nil {
		t.Fatal(err)
	}
	go gossh.DiscardRequests(requests)
	go echo(channelConn{channel})
	eventually(t, "nobody listens", func() bool { _, err := net.Dial("tcp", at); return err != nil })
	if got := talk(t, conn, []byte("hello")); string(got) != "hello" {
		t.Errorf("%q", got)
	}
}

// channelConn is a channel for what wants a connection.
type channelConn struct{ gossh.Channel }

func (channelConn) LocalAddr() net.Addr              { return nil }
func (channelConn) RemoteAddr() net.Addr             { return nil }
func (channelConn) SetDeadline(time.Time) error      { return nil }
func (channelConn) SetReadDeadline(time.Time) error  { return nil }
func (channelConn) SetWriteDeadline(time.Time) error { return nil }
