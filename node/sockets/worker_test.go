package sockets

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// packets is a pair of sockets that keep messages apart.
func packets(t *testing.T) (node *net.UnixConn, worker *os.File) {
	t.Helper()
	ends, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	ours := os.NewFile(uintptr(ends[0]), "node")
	defer ours.Close()
	conn, err := net.FileConn(ours)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn.(*net.UnixConn), os.NewFile(uintptr(ends[1]), "worker")
}

// startWorker has both halves in this process.
func startWorker(t *testing.T) *Worker {
	t.Helper()
	mask := unix.Umask(0)
	unix.Umask(mask)
	conn, file := packets(t)
	served := make(chan int, 1)
	go func() { served <- Serve(file) }()
	w := NewWorker(conn, os.Getpid())
	ran := make(chan error, 1)
	go func() { ran <- w.Run() }()
	t.Cleanup(func() {
		w.Close()
		<-ran
		if status := <-served; status != 0 {
			t.Errorf("status %d", status)
		}
		unix.Umask(mask)
	})
	return w
}

// impostor is a worker that says what the test says.
func impostor(t *testing.T) (*Worker, *net.UnixConn, chan error) {
	t.Helper()
	conn, file := packets(t)
	defer file.Close()
	far, err := net.FileConn(file)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { far.Close() })
	w := NewWorker(conn, os.Getpid())
	ran := make(chan error, 1)
	go func() { ran <- w.Run() }()
	return w, far.(*net.UnixConn), ran
}

func say(t *testing.T, to *net.UnixConn, what string, files ...*os.File) {
	t.Helper()
	var rights []byte
	fds := make([]int, 0, len(files))
	for _, f := range files {
		fds = append(fds, int(f.Fd()))
	}
	if len(fds) > 0 {
		rights = unix.UnixRights(fds...)
	}
	if _, _, err := to.WriteMsgUnix([]byte(what), rights, nil); err != nil {
		t.Error(err)
	}
}

func open(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

func TestAConnectionIsHandedOver(t *testing.T) {
	w := startWorker(t)
	got := make(chan Conn, 1)
	l, err := w.Listen(t.Context(), Address{Host: "127.0.0.1"}, func(c Conn) { got <- c })
	if err != nil || l.Port == 0 {
		t.Fatalf("%+v, %v", l, err)
	}
	near, err := w.Dial(t.Context(), Address{Host: "localhost", Port: l.Port})
	if err != nil {
		t.Fatal(err)
	}
	far := <-got
	if _, err := near.Write([]byte("hello")); err != nil {
		t.Error(err)
	}
	_ = near.CloseWrite()
	if b, err := io.ReadAll(far); err != nil || string(b) != "hello" {
		t.Errorf("%q, %v", b, err)
	}
	far.Close()
	near.Close()
	l.Close()
	if _, err := w.Dial(t.Context(), Address{Host: "127.0.0.1", Port: l.Port}); err == nil || err.Error() != "connection refused" {
		t.Errorf("closed: %v", err)
	}
}

func TestADialThatIsGivenUpIsStopped(t *testing.T) {
	w := startWorker(t)
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := errors.Join(unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}), unix.Listen(fd, 0)); err != nil {
		t.Fatal(err)
	}
	at, err := unix.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	to := Address{Host: "127.0.0.1", Port: uint16(at.(*unix.SockaddrInet4).Port)}
	why := errors.New("nobody wants it")
	for range 5 { // the first ones fill its backlog
		ctx, cancel := context.WithTimeoutCause(t.Context(), 100*time.Millisecond, why)
		conn, dialed := w.Dial(ctx, to)
		if conn != nil {
			defer conn.Close()
		}
		cancel()
		err = dialed
	}
	if !errors.Is(err, why) {
		t.Errorf("%v", err)
	}
	deadline := time.Now().Add(10 * time.Second)
	for w.questions() > 0 {
		if time.Now().After(deadline) {
			t.Fatal("the worker goes on")
		}
		time.Sleep(time.Millisecond)
	}
}

func (w *Worker) questions() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.waiting)
}

func TestWhatAWorkerHasMadeIsRemovedWithIt(t *testing.T) {
	w := startWorker(t)
	path := filepath.Join(t.TempDir(), "socket")
	if _, err := w.Listen(t.Context(), Address{Path: path}, func(c Conn) { c.Close() }); err != nil {
		t.Fatal(err)
	}
	agent, err := w.Agent(t.Context(), func(c Conn) { c.Close() })
	if err != nil || !isAgentPath(agent.Path) {
		t.Fatalf("%+v, %v", agent, err)
	}
	w.Close()
	deadline := time.Now().Add(10 * time.Second)
	for exists(path) || exists(filepath.Dir(agent.Path)) {
		if time.Now().After(deadline) {
			t.Fatal("they are still there")
		}
		time.Sleep(time.Millisecond)
	}
	if _, err := w.Dial(t.Context(), Address{Host: "127.0.0.1", Port: 1}); !errors.Is(err, errGone) {
		t.Errorf("%v", err)
	}
}

func exists(path string) bool { _, err := os.Lstat(path); return err == nil }

// Each row is what a worker says after it was asked to dial (1) and to listen,
// at any port (2), at port 80 (3), and at a path (4); nothing but the last is
// believed.
func TestAWorkerThatSaysWhatItShouldNotIsEnded(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	listening, err := l.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	defer listening.Close()
	conn, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	tcp, err := conn.(*net.TCPConn).File()
	if err != nil {
		t.Fatal(err)
	}
	defer tcp.Close()
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	ends, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	datagrams := os.NewFile(uintptr(ends[0]), "")
	defer datagrams.Close()
	defer unix.Close(ends[1])
	const dialed = `{"id":1,"is":"done"}`
	for name, row := range map[string]struct {
		says  string
		files []*os.File
		good  bool
	}{
		"no JSON":                       {"hello", nil, false},
		"a message that is too long":    {`{"id":1,"is":"failed","why":"` + strings.Repeat("x", maxMessage) + `"}`, nil, false},
		"a long reason":                 {`{"id":1,"is":"failed","why":"` + strings.Repeat("x", maxWhy+1) + `"}`, nil, false},
		"an unknown field":              {`{"id":1,"is":"done","x":1}`, []*os.File{tcp}, false},
		"two messages":                  {dialed + dialed, []*os.File{tcp}, false},
		"an answer to nobody":           {`{"id":70,"is":"failed","why":"x"}`, nil, false},
		"a connection of no listener":   {`{"id":70,"is":"accepted"}`, []*os.File{tcp}, false},
		"a connection without a socket": {`{"id":2,"is":"accepted"}`, nil, false},
		"no socket":                     {dialed, nil, false},
		"two sockets":                   {dialed, []*os.File{tcp, tcp}, false},
		"many sockets":                  {dialed, []*os.File{tcp, tcp, tcp, tcp, tcp}, false},
		"a file":                        {dialed, []*os.File{null}, false},
		"a listener":                    {dialed, []*os.File{listening}, false},
		"datagrams":                     {dialed, []*os.File{datagrams}, false},
		"a failure with a socket":       {`{"id":1,"is":"failed","why":"x"}`, []*os.File{tcp}, false},
		"a listener with a socket":      {`{"id":2,"is":"done","port":1}`, []*os.File{tcp}, false},
		"an agent where none was asked": {`{"id":2,"is":"done","path":"/tmp/ssh-1/agent.1"}`, nil, false},
		"a listener without a port":     {`{"id":2,"is":"done"}`, nil, false},
		"a listener at another port":    {`{"id":3,"is":"done","port":81}`, nil, false},
		"a port where there is a path":  {`{"id":4,"is":"done","port":80}`, nil, false},
		"a connection":                  {dialed, []*os.File{tcp}, true},
	} {
		t.Run(name, func(t *testing.T) {
			w, worker, ran := impostor(t)
			answered := make(chan error, 1)
			go func() {
				c, err := w.Dial(t.Context(), Address{Host: "h", Port: 1})
				if c != nil {
					c.Close()
				}
				answered <- err
			}()
			buffer := make([]byte, maxMessage)
			if _, _, err := receive(worker, buffer); err != nil {
				t.Fatal(err)
			}
			for _, at := range []Address{{Host: "h"}, {Host: "h", Port: 80}, {Path: "/x"}} {
				go w.Listen(t.Context(), at, func(c Conn) { c.Close() })
				if _, _, err := receive(worker, buffer); err != nil {
					t.Fatal(err)
				}
			}
			say(t, worker, row.says, row.files...)
			if !row.good {
				if err := <-ran; err == nil || errors.Is(err, io.EOF) {
					t.Errorf("%v", err)
				}
			}
			if err := <-answered; (err == nil) != row.good {
				t.Errorf("%v", err)
			}
			w.Close()
			<-w.Done()
		})
	}
}

// Somebody else's UNIX socket is not taken: we would write to it as root.
func TestAUnixSocketThatTheWorkerHasNotMadeIsRefused(t *testing.T) {
	ends, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(ends[0])
	defer unix.Close(ends[1])
	for worker, want := range map[int]bool{os.Getpid(): true, os.Getpid() + 1: false, 0: false} {
		if err := checkSocket(ends[0], worker); (err == nil) != want {
			t.Errorf("worker %d: %v", worker, err)
		}
	}
}

func TestFilesOfWhatIsRefusedAreClosed(t *testing.T) {
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	before := open(t)
	for range 20 {
		_, worker, ran := impostor(t)
		say(t, worker, "hello", null, null)
		<-ran
		worker.Close()
	}
	if after := open(t); after > before+1 {
		t.Errorf("%d files, and %d before", after, before)
	}
}

// A worker may be stopped by its account.
func TestAWorkerThatTakesNothingHoldsUpNothing(t *testing.T) {
	w, _, _ := impostor(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	var err error
	for range maxWaiting + 1 {
		_, err = w.Dial(ctx, Address{Host: strings.Repeat("h", maxHost), Port: 1})
	}
	if !errors.Is(err, errGone) {
		t.Errorf("%v", err)
	}
}

func TestARelayEndsWhenTheNodeLetsGo(t *testing.T) {
	path := filepath.Join(t.TempDir(), "socket")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	w := startWorker(t)
	node, err := w.Dial(t.Context(), Address{Path: path})
	if err != nil {
		t.Fatal(err)
	}
	far, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer far.Close()
	_ = node.CloseWrite()
	if b, err := io.ReadAll(far); err != nil || len(b) > 0 {
		t.Errorf("%q, %v", b, err)
	}
	// The other direction is still there, and then is not.
	if _, err := far.Write([]byte("x")); err != nil {
		t.Error(err)
	}
	if _, err := io.ReadFull(node, make([]byte, 1)); err != nil {
		t.Error(err)
	}
	// And who says nothing hears of it too.
	node.Close()
	far.SetReadDeadline(time.Now().Add(10 * time.Second))
	awaitHangup(far.(*net.UnixConn))
	if _, err := far.Write([]byte("x")); !errors.Is(err, unix.EPIPE) {
		t.Errorf("it goes on: %v", err)
	}
}

func TestPathsAndHostsAreChecked(t *testing.T) {
	for path, want := range map[string]bool{
		"/run/x": true, "/": true, "": false, "x": false, "@x": false, "\x00x": false, "/a\x00b": false, "/\xff": false,
		"/" + strings.Repeat("x", maxSocketPath-1): true, "/" + strings.Repeat("x", maxSocketPath): false,
	} {
		if err := CheckPath(path); (err == nil) != want {
			t.Errorf("%.20q: %v", path, err)
		}
	}
	for host, want := range map[string]bool{
		"": true, "localhost": true, "::1": true, "fe80::1%eth0": true, "*": true, "a b": false, "a\n": false, "ü": false, "a/b": false,
		strings.Repeat("x", maxHost+1): false,
	} {
		if err := CheckHost(host); (err == nil) != want {
			t.Errorf("%.20q: %v", host, err)
		}
	}
}

func TestADisplaySaysNothingElseToXauth(t *testing.T) {
	good := Display{Protocol: "MIT-MAGIC-COOKIE-1", Cookie: "0f0f"}
	if err := good.Check(); err != nil {
		t.Error(err)
	}
	for _, bad := range []Display{
		{}, {Protocol: "X", Cookie: ""}, {Protocol: "X", Cookie: "0g"}, {Protocol: "X", Cookie: "0"}, {Protocol: "X Y", Cookie: "0f"},
		{Protocol: "X\nadd", Cookie: "0f"}, {Protocol: "X", Cookie: "0f\nadd"}, {Protocol: "x", Cookie: "0f"},
		{Protocol: "X", Cookie: strings.Repeat("0f", maxCookie)}, {Protocol: strings.Repeat("X", maxProtocol+1), Cookie: "0f"},
		{Protocol: "X", Cookie: "0f", Screen: maxScreen + 1},
	} {
		if err := bad.Check(); err == nil {
			t.Errorf("%+v was taken", bad)
		}
	}
}

// FuzzMessages: whatever a packet is, it is an error or within the bounds, and
// what is taken is written as it would be again.
func FuzzMessages(f *testing.F) {
	for _, q := range []message{
		question{ID: 1, Do: dial, At: &Address{Host: "h", Port: 1}}, question{ID: 1, Do: listen, At: &Address{Path: "/x"}},
		question{ID: 1, Do: display, On: &Display{Protocol: "X", Cookie: "0f"}}, question{ID: 1, Do: stop},
		answer{ID: 1, Is: done, Port: 10}, answer{ID: 1, Is: failed, Why: "x"}, answer{ID: 1, Is: done, Path: "/tmp/ssh-1/agent.1"},
	} {
		b, err := encode(q)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Add([]byte(`{"id":1,"is":"done","path":"/tmp/ssh-1/../agent.1"}`))
	f.Fuzz(func(t *testing.T, packet []byte) {
		if q, err := decode[question](packet); err == nil {
			again(t, q)
		}
		if a, err := decode[answer](packet); err == nil {
			again(t, a)
			if strings.Contains(a.Path, "..") || len(a.Why) > maxWhy || len(a.Path) > maxSocketPath {
				t.Errorf("%+v", a)
			}
		}
	})
}

func again[M message](t *testing.T, m M) {
	t.Helper()
	first, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	if len(first) > maxMessage {
		return
	}
	same, err := decode[M](first)
	if err != nil {
		t.Fatalf("%s: %v", first, err)
	}
	second, _ := json.Marshal(same)
	if string(first) != string(second) {
		t.Errorf("%s became %s", first, second)
	}
}
