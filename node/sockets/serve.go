package sockets

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// server is the worker's half.
type server struct {
	node *net.UnixConn

	mu sync.Mutex
	// begun is how to stop what a question began.
	begun map[uint32]func()
	ended bool
	work  sync.WaitGroup
}

// Serve opens sockets as whom this process runs, for the node at the other end
// of file, until that is closed. It gives the status to exit with.
func Serve(file *os.File) int {
	conn, err := net.FileConn(file)
	file.Close()
	if err != nil {
		return 1
	}
	node, ok := conn.(*net.UnixConn)
	if !ok {
		return 1
	}
	// Sockets are for their owner only, as sshd makes them
	// (StreamLocalBindMask, sshd_config(5)).
	unix.Umask(0o177)
	s := &server{node: node, begun: map[uint32]func(){}}
	defer s.end()
	buffer := make([]byte, maxMessage)
	for {
		packet, sent, err := receive(node, buffer)
		if errors.Is(err, io.EOF) {
			return 0
		}
		if err != nil {
			return 1
		}
		if sent != nil {
			sent.Close()
		}
		q, err := decode[question](packet)
		if err != nil {
			return 1
		}
		s.do(q)
	}
}

// end stops everything: sockets that were made in the file system are removed.
func (s *server) end() {
	s.mu.Lock()
	s.ended = true
	for _, stop := range s.begun {
		stop()
	}
	s.mu.Unlock()
	_ = s.node.Close()
	s.work.Wait()
}

func (s *server) do(q question) {
	if q.Do == stop {
		s.stop(q.ID)
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	if !s.keep(q.ID, cancel) {
		cancel()
		return
	}
	s.work.Go(func() {
		a, file, err := s.begin(ctx, q)
		if err != nil {
			a = answer{Is: failed, Why: reason(err)}
			s.stop(q.ID)
		}
		a.ID = q.ID
		s.send(a, file)
	})
}

func (s *server) stop(id uint32) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if stop := s.begun[id]; stop != nil {
		delete(s.begun, id)
		stop()
	}
}

// keep notes how to stop what id began; false where it has been stopped.
func (s *server) keep(id uint32, stop func()) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended {
		return false
	}
	s.begun[id] = stop
	return true
}

// replace is keep for what id has become, unless it was stopped meanwhile.
func (s *server) replace(id uint32, stop func()) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended || s.begun[id] == nil {
		return false
	}
	s.begun[id] = stop
	return true
}

// errStopped goes to nobody.
var errStopped = errors.New("it was stopped")

func (s *server) begin(ctx context.Context, q question) (answer, *os.File, error) {
	switch q.Do {
	case dial:
		file, err := s.dial(ctx, *q.At)
		s.stop(q.ID)
		return answer{Is: done}, file, err
	case listen:
		l, port, err := listenAt(ctx, *q.At)
		return s.serve(q.ID, answer{Is: done, Port: port}, l, nil, err)
	case agent:
		l, path, remove, err := listenAgent(ctx)
		return s.serve(q.ID, answer{Is: done, Path: path}, l, remove, err)
	case display:
		l, number, err := listenDisplay(ctx, *q.On)
		return s.serve(q.ID, answer{Is: done, Port: number}, l, nil, err)
	default:
		return answer{}, nil, fmt.Errorf("unknown verb %.16q", q.Do)
	}
}

// serve accepts from the listeners until they are stopped; remove comes after.
func (s *server) serve(id uint32, a answer, listeners []net.Listener, remove func(), err error) (answer, *os.File, error) {
	if err != nil {
		return answer{}, nil, err
	}
	stop := func() {
		for _, l := range listeners {
			l.Close()
		}
		if remove != nil {
			remove()
		}
	}
	if !s.replace(id, stop) {
		stop()
		return answer{}, nil, errStopped
	}
	for _, l := range listeners {
		s.work.Go(func() { s.accept(id, l) })
	}
	return a, nil, nil
}

func (s *server) dial(ctx context.Context, to Address) (*os.File, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, dialTimeout, fmt.Errorf("no answer within %s", dialTimeout))
	defer cancel()
	network, address := "tcp", net.JoinHostPort(to.Host, strconv.Itoa(int(to.Port)))
	if to.Path != "" {
		network, address = "unix", to.Path
	}
	var d net.Dialer
	d.SetMultipathTCP(false)
	conn, err := d.DialContext(ctx, network, address)
	if err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return nil, err
	}
	return s.fileOf(conn)
}

// fileOf gives what the node gets, and closes conn or goes on with it.
func (s *server) fileOf(conn net.Conn) (*os.File, error) {
	switch conn := conn.(type) {
	case *net.TCPConn:
		file, err := conn.File()
		_ = conn.Close()
		return file, err
	case *net.UnixConn:
		return relay(conn)
	default:
		conn.Close()
		return nil, fmt.Errorf("a connection that is a %T", conn)
	}
}

// send tells the node, and closes file. What the node does not hear is for
// nobody: it has gone.
func (s *server) send(a answer, file *os.File) {
	packet, err := encode(a)
	if err != nil {
		packet, err = encode(answer{ID: a.ID, Is: failed, Why: reason(err)})
	}
	var rights []byte
	if file != nil {
		defer file.Close()
		rights = unix.UnixRights(int(file.Fd()))
	}
	if err == nil {
		_, _, _ = s.node.WriteMsgUnix(packet, rights, nil)
	}
}

// reason is err in one line, without the names that package net adds.
func reason(err error) string {
	var dns *net.DNSError
	var op *net.OpError
	var call *os.SyscallError
	switch {
	case errors.As(err, &dns):
		err = errors.New(dns.Err)
	case errors.As(err, &call):
		err = call.Err
	case errors.As(err, &op):
		err = op.Err
	}
	text := strings.ToValidUTF8(err.Error(), "?")
	if len(text) > maxWhy {
		text = strings.ToValidUTF8(text[:maxWhy], "")
	}
	if text == "" {
		return "it failed"
	}
	return text
}
