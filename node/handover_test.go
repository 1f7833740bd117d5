package node

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	gossh "golang.org/x/crypto/ssh"
	"golang.org/x/sys/unix"

	"devicetrust/audit/event"
	"devicetrust/policy"
)

// handedOn names the folder of a node that is a process of its own, in its
// environment: what it hands over is of whole processes.
const handedOn = "DT_TEST_NODE"

// handedOnConfig is what such a process is told, in config.json.
type handedOnConfig struct {
	AuthServer, Pin, DataDir, Listen, Diag string
	ShutdownGrace                          time.Duration
}

// serveHandedOn is the process's main.
func serveHandedOn(dir string) int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	err := func() error {
		inheritance, err := Inherit()
		if err != nil {
			return err
		}
		text, err := os.ReadFile(filepath.Join(dir, "config.json"))
		if err != nil {
			return err
		}
		var c handedOnConfig
		if err := json.Unmarshal(text, &c); err != nil {
			return err
		}
		pin, err := ParsePin(c.Pin)
		if err != nil {
			return err
		}
		reload := make(chan os.Signal, 1)
		signal.Notify(reload, syscall.SIGHUP)
		return runFor(ctx, Config{
			AuthServer: c.AuthServer, Token: "good-token", CAPins: []Pin{pin}, DataDir: c.DataDir, Listen: c.Listen, DiagListen: c.Diag, Name: "server-1",
			Log: log, Now: time.Now, Inherited: inheritance, Reload: reload, Command: os.Args, ShutdownGrace: c.ShutdownGrace,
		}, accounts{passwd: filepath.Join(dir, "passwd"), group: filepath.Join(dir, "group"), shadow: filepath.Join(dir, "shadow")})
	}()
	if err != nil {
		log.Error("ended", "error", err)
		return 1
	}
	return 0
}

// handed is such a node, through all of its processes.
type handed struct {
	running
	dir    string
	config handedOnConfig
}

func (h *handed) configure() {
	h.t.Helper()
	text, err := json.Marshal(h.config)
	if err != nil {
		h.t.Fatal(err)
	}
	h.write("config.json", string(text))
}

func (h *handed) write(name, text string) {
	h.t.Helper()
	if err := os.WriteFile(filepath.Join(h.dir, name), []byte(text), 0o600); err != nil {
		h.t.Fatal(err)
	}
}

func newHanded(t *testing.T, p *plane) *handed {
	t.Helper()
	dir := t.TempDir()
	h := &handed{running: running{t: t, plane: p, log: &syncBuffer{}}, dir: dir, config: handedOnConfig{
		AuthServer: p.address, Pin: p.pin().String(), DataDir: filepath.Join(dir, "data"), Listen: "127.0.0.1:0",
	}}
	passwd, group := testPasswd()
	h.write("passwd", passwd)
	h.write("group", group)
	h.write("shadow", "")
	h.configure()
	return h
}

// start starts the first process; change may add to what it gets.
func (h *handed) start(change ...func(*exec.Cmd)) {
	h.t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), handedOn+"="+h.dir)
	for _, f := range change {
		f(cmd)
	}
	// A file, and not a pipe: nobody waits for its end, which comes with that of
	// the last process.
	log, err := os.Create(filepath.Join(h.dir, "log"))
	if err != nil {
		h.t.Fatal(err)
	}
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() {
		for _, pid := range append(h.serving(), cmd.Process.Pid) {
			_ = unix.Kill(pid, unix.SIGKILL)
			_, _ = unix.Wait4(pid, nil, 0, nil) // each is a child of ours
		}
		if h.t.Failed() {
			h.t.Log(h.said())
		}
	})
	eventually(h.t, "it serves", func() bool { return len(h.serving()) == 1 })
	h.address = regexp.MustCompile(`msg=serving addr=([^, ]+)`).FindStringSubmatch(h.said())[1]
}

func (h *handed) said() string {
	text, _ := os.ReadFile(filepath.Join(h.dir, "log"))
	return string(text)
}

// serving are the processes that have served, in their order.
func (h *handed) serving() []int {
	var pids []int
	for _, found := range regexp.MustCompile(`msg=serving .* pid=([0-9]+)`).FindAllStringSubmatch(h.said(), -1) {
		pid, _ := strconv.Atoi(found[1])
		pids = append(pids, pid)
	}
	return pids
}

func (h *handed) signal(sig syscall.Signal) {
	pids := h.serving()
	if err := unix.Kill(pids[len(pids)-1], sig); err != nil {
		h.t.Fatal(err)
	}
}

// handOver has the newest process hand over.
func (h *handed) handOver() {
	h.t.Helper()
	before := len(h.serving())
	h.signal(syscall.SIGHUP)
	eventually(h.t, "another one serves", func() bool { return len(h.serving()) > before })
	eventually(h.t, "and the one before knows", func() bool { return strings.Count(h.said(), "msg=\"handed over;") == before })
}

func (h *handed) ended(pid int) {
	h.t.Helper()
	eventually(h.t, fmt.Sprintf("process %d ends", pid), func() bool {
		var status unix.WaitStatus
		got, err := unix.Wait4(pid, &status, unix.WNOHANG, nil)
		if err != nil || got == pid && status.ExitStatus() != 0 {
			h.t.Errorf("process %d: status %d, %v", pid, status.ExitStatus(), err) // ECHILD: it is not ours
		}
		return got == pid || err != nil
	})
}

// dialAs logs in as another person than running.dial does.
func (h *handed) dialAs(user string) (*gossh.Client, error) {
	id := alice()
	id.User, id.Logins = user, []string{tester}
	id.Traits = map[string][]string{"logins": id.Logins}
	return gossh.Dial("tcp", h.address, &gossh.ClientConfig{
		User: tester, Auth: []gossh.AuthMethod{gossh.PublicKeys(h.plane.ssh.certify(h.t, id, newSigner(h.t)))},
		HostKeyCallback: gossh.InsecureIgnoreHostKey(), Timeout: 10 * time.Second,
	})
}

// conversation is a session that answers.
type conversation struct {
	t       *testing.T
	session *gossh.Session
	in      io.Writer
	out     io.Reader
}

func converse(t *testing.T, c *gossh.Client) *conversation {
	t.Helper()
	s, err := c.NewSession()
	if err != nil {
		t.Fatal(err)
	}
	in, _ := s.StdinPipe()
	out, _ := s.StdoutPipe()
	if err := s.Start("cat"); err != nil {
		t.Fatal(err)
	}
	return &conversation{t, s, in, out}
}

func (c *conversation) say(word string) {
	c.t.Helper()
	if _, err := io.WriteString(c.in, word); err != nil {
		c.t.Fatal(err)
	}
	back := make([]byte, len(word))
	if _, err := io.ReadFull(c.out, back); err != nil || string(back) != word {
		c.t.Fatalf("%q, %v", back, err)
	}
}

func TestNoLoginFailsWhileProcessesTakeOverFromEachOther(t *testing.T) {
	p := startPlane(t)
	h := newHanded(t, p)
	h.start()
	bob, err := h.dialAs("bob")
	if err != nil {
		t.Fatal(err)
	}
	defer bob.Close()
	long := converse(t, bob)
	long.say("before")

	var people sync.WaitGroup
	var logins atomic.Int64
	enough := make(chan struct{})
	var certifying sync.Mutex // testCluster counts its serials
	for range 2 {
		people.Go(func() {
			for {
				select {
				case <-enough:
					return
				default:
				}
				certifying.Lock()
				id := alice()
				id.Logins = []string{tester}
				key := p.ssh.certify(t, id, newSigner(t))
				certifying.Unlock()
				c, err := gossh.Dial("tcp", h.address, &gossh.ClientConfig{
					User: tester, Auth: []gossh.AuthMethod{gossh.PublicKeys(key)},
					HostKeyCallback: gossh.InsecureIgnoreHostKey(), Timeout: 20 * time.Second,
				})
				if err != nil {
					t.Errorf("login %d: %v", logins.Load(), err)
					return
				}
				s, err := c.NewSession()
				if err != nil {
					t.Errorf("session %d: %v", logins.Load(), err)
					return
				}
				if out, err := s.Output("echo hello"); err != nil || string(out) != "hello\n" {
					t.Errorf("command %d: %q, %v", logins.Load(), out, err)
				}
				c.Close()
				logins.Add(1)
			}
		})
	}
	for i := range 4 {
		before := logins.Load()
		h.handOver()
		long.say("during " + strconv.Itoa(i))
		eventually(t, "people log in", func() bool { return t.Failed() || logins.Load() > before+2 })
	}
	close(enough)
	people.Wait()
	t.Logf("%d logins through 5 processes", logins.Load())
	pids := h.serving()
	for _, pid := range pids[1:4] {
		h.ended(pid) // nobody is left there
	}

	// The first process has a session yet; on its connection others begin, and
	// policy reaches it.
	if out, _, _ := run(t, bob, "echo again"); out != "again\n" {
		t.Errorf("a new session on the old connection: %q", out)
	}
	certifying.Lock()
	p.lock(policy.LockTarget{User: "bob"})
	certifying.Unlock()
	if err := long.session.Wait(); err == nil {
		t.Error("the lock did not end the session")
	}
	h.ended(pids[0])
	if c, err := h.dialAs("bob"); err == nil {
		c.Close()
		t.Error("who is locked gets in by the newest process")
	}
	// Each act is on record, once.
	want := int(logins.Load()) + 2
	count := func(typ event.Type) int {
		seen := map[string]bool{}
		p.mu.Lock()
		defer p.mu.Unlock()
		for _, e := range p.events {
			if e.Type == typ {
				seen[e.UID] = true
			}
		}
		return len(seen)
	}
	eventually(t, "all records arrive", func() bool { return count(event.SessionStart) == want && count(event.SessionEnd) == want })

	// What is left is one node like any other.
	h.signal(syscall.SIGTERM)
	h.ended(pids[4])
	if left, _ := filepath.Glob(filepath.Join(h.config.DataDir, "spool*", "*"+segmentSuffix)); len(left) > 0 {
		t.Errorf("left are %q", left)
	}
}

func TestWhereThereIsNoSuccessorTheNodeGoesOn(t *testing.T) {
	p := startPlane(t)
	h := newHanded(t, p)
	h.start()
	h.write("config.json", "{")
	for i := range 2 {
		h.signal(syscall.SIGHUP)
		eventually(t, "it says so", func() bool { return strings.Count(h.said(), "there is no successor; this dtnoded goes on") == i+1 })
	}
	if c, err := h.dial(nil); err != nil {
		t.Errorf("nobody gets in: %v", err)
	} else if out, _, _ := run(t, c, "echo hello"); out != "hello\n" {
		t.Errorf("%q", out)
	}
	// A lock that comes now is saved as ever.
	p.lock(policy.LockTarget{User: "mallory"})
	eventually(t, "the lock is saved", func() bool {
		text, _ := os.ReadFile(filepath.Join(h.config.DataDir, stateFile+".newest"))
		return string(text) == fmt.Sprintln(get(p, func() uint64 { return p.sequence }))
	})
	h.configure()
	h.handOver()
	if _, err := h.dial(nil); err != nil {
		t.Errorf("nobody gets in once it works: %v", err)
	}
}

func TestWhatAProcessCouldNotSendTheNewestSends(t *testing.T) {
	p := startPlane(t)
	h := newHanded(t, p)
	h.start()
	p.mu.Lock()
	p.refuseAll = true
	p.mu.Unlock()
	c, err := h.dial(nil)
	if err != nil {
		t.Fatal(err)
	}
	run(t, c, "echo hello")
	h.handOver()
	c.Close()
	first := h.serving()[0]
	h.ended(first)
	p.mu.Lock()
	p.refuseAll = false
	p.mu.Unlock()
	// It looks at once when it begins to lead, and each minute.
	h.handOver()
	eventually(t, "they arrive", func() bool { return get(p, func() int { return len(p.events) }) >= 3 })
}

func TestSystemdsSocketsAreServedOnAndItHearsHowWeAre(t *testing.T) {
	p := startPlane(t)
	h := newHanded(t, p)
	h.config.Listen = "192.0.2.1:1" // not to be tried
	h.configure()
	var sockets []*os.File
	for _, address := range []string{"127.0.0.1:0", "[::1]:0"} {
		l, err := net.Listen("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		f, err := l.(*net.TCPListener).File()
		if err != nil {
			t.Fatal(err)
		}
		l.Close()
		defer f.Close()
		sockets = append(sockets, f)
	}
	manager, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Net: "unixgram", Name: filepath.Join(h.dir, "notify")})
	if err != nil {
		t.Fatal(err)
	}
	defer manager.Close()
	hears := func(want string) {
		t.Helper()
		manager.SetReadDeadline(time.Now().Add(20 * time.Second))
		got := make([]byte, 256)
		n, err := manager.Read(got)
		if err != nil || !regexp.MustCompile("^"+want+"$").Match(got[:n]) {
			t.Fatalf("it hears %q, %v, and not %s", got[:n], err, want)
		}
	}
	h.start(func(c *exec.Cmd) {
		c.ExtraFiles = sockets
		c.Path, c.Args = "/bin/sh", []string{"sh", "-c", `LISTEN_PID=$$ exec "$0"`, os.Args[0]}
		c.Env = append(c.Env, "LISTEN_FDS=2", "LISTEN_FDNAMES=a:b", "NOTIFY_SOCKET="+manager.LocalAddr().String())
	})
	hears("READY=1")
	both := regexp.MustCompile(`msg=serving addr=([^, ]+),([^, ]+)`).FindStringSubmatch(h.said())
	if both == nil {
		t.Fatal("it does not serve on both")
	}
	for range 2 {
		for i, from := range []string{"127.0.0.1 ", "::1 "} {
			h.address = both[i+1]
			c, err := h.dial(nil)
			if err != nil {
				t.Fatal(err)
			}
			out, _, _ := run(t, c, "echo $SSH_CLIENT; env; ls /proc/self/fd")
			if !strings.HasPrefix(out, from) || strings.Contains(out, "LISTEN_") || strings.Contains(out, "NOTIFY_") || strings.Contains(out, handoverVariable) {
				t.Errorf("a session's environment is %s", out)
			}
			if _, files, _ := strings.Cut(out, "\n0\n1\n2\n"); strings.Count(files, "\n") != 1 { // ls's own
				t.Errorf("a session has the files %q", files)
			}
			c.Close()
		}
		if len(h.serving()) == 1 {
			h.handOver()
			hears("RELOADING=1")
			hears(fmt.Sprintf("MAINPID=%d", h.serving()[1]))
			hears("READY=1")
		}
	}
	h.ended(h.serving()[0])
	manager.SetReadDeadline(time.Now().Add(20 * time.Second))
	h.signal(syscall.SIGTERM)
	hears("STOPPING=1")
	h.ended(h.serving()[1])
}

func TestOnlyAListeningTCPSocketIsServedOn(t *testing.T) {
	unixListener, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	defer unixListener.Close()
	tcpListener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer tcpListener.Close()
	conn, err := net.Dial("tcp", tcpListener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	for name, from := range map[string]interface{ File() (*os.File, error) }{
		"a UNIX socket": unixListener.(*net.UnixListener), "a connection": conn.(*net.TCPConn),
	} {
		f, err := from.File()
		if err != nil {
			t.Fatal(err)
		}
		c := Config{Inherited: Inheritance{sockets: []*os.File{f}}}
		if l, err := c.listen(t.Context()); err == nil {
			closeAll(l)
			t.Errorf("%s is served on", name)
		}
	}
}

func TestAListenerIsHandedOverWithoutMakingItBlock(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f, err := socketOf(l)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	// As os.StartProcess does, and as the successor does.
	flags, err := unix.FcntlInt(f.Fd(), unix.F_GETFL, 0)
	if err != nil || flags&unix.O_NONBLOCK == 0 {
		t.Errorf("it blocks: %#x, %v", flags, err)
	}
	got, err := listenerOf(f)
	if err != nil {
		t.Fatal(err)
	}
	defer got.Close()
	accepted := make(chan struct{})
	go func() {
		defer close(accepted)
		l.Accept()
	}()
	l.Close()
	select {
	case <-accepted:
	case <-time.After(10 * time.Second):
		t.Error("Accept does not hear of Close")
	}
}

func TestWhatIsInheritedIsNotPassedOn(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	fd, err := unix.Dup(int(r.Fd())) // without close-on-exec
	if err != nil {
		t.Fatal(err)
	}
	files, err := inherited(fd, "1")
	if err != nil {
		t.Fatal(err)
	}
	defer files[0].Close()
	if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err != nil || flags&unix.FD_CLOEXEC == 0 {
		t.Errorf("whatever is started gets it: %#x, %v", flags, err)
	}
}

func TestSocketsOfAnotherProcessAreNotTaken(t *testing.T) {
	t.Setenv("LISTEN_PID", "1")
	t.Setenv("LISTEN_FDS", "1")
	got, err := Inherit()
	if err != nil || len(got.sockets) > 0 {
		t.Errorf("%v, %v", got.sockets, err)
	}
	if os.Getenv("LISTEN_FDS") != "" {
		t.Error("it is left for others")
	}
	for _, count := range []string{"", "0", "-1", "65", "x"} {
		t.Setenv("LISTEN_PID", strconv.Itoa(os.Getpid()))
		t.Setenv("LISTEN_FDS", count)
		if _, err := Inherit(); err == nil {
			t.Errorf("%q sockets are taken", count)
		}
	}
}

func TestOneAddressServesIPv4AndIPv6(t *testing.T) {
	p := startPlane(t)
	config, log := configFor(t, p)
	config.Listen = "[::]:0"
	r := start(t, p, config, log)
	_, port, err := net.SplitHostPort(r.address)
	if err != nil {
		t.Fatal(err)
	}
	for host, want := range map[string]string{"127.0.0.1": "127.0.0.1 N 127.0.0.1 " + port, "::1": "::1 N ::1 " + port} {
		r.address = net.JoinHostPort(host, port)
		c, err := r.dial(nil)
		if err != nil {
			t.Fatal(err)
		}
		out, _, _ := run(t, c, "echo $SSH_CONNECTION")
		if got := regexp.MustCompile(` [0-9]+ `).ReplaceAllString(strings.TrimSpace(out), " N "); got != want {
			t.Errorf("SSH_CONNECTION is %q and not %q", got, want)
		}
	}
}
