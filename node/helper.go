package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"runtime"
	"runtime/debug"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"devicetrust/node/helper"
)

// spare is a helper (decision 0006): a process of this program that becomes
// the first of one session, or is thrown away.
type spare struct {
	*child
	conn *net.UnixConn
}

// RunHelper does the work of a process that a node has started, and gives the
// status to exit with; it is false in any other process. A program that runs
// nodes asks before all else. (A helper that becomes a shell or a command does
// so before its main function.)
func RunHelper() (status int, was bool) {
	h, was := helper.Was()
	if !was || h.Work == helper.NoWork {
		return h.Status, was
	}
	// A helper is started for a short life on one processor.
	debug.SetGCPercent(100)
	runtime.GOMAXPROCS(runtime.NumCPU())
	switch h.Work {
	case helper.SFTP:
		return transferFiles(), true
	default: // not yet
		return 1, true
	}
}

// startHelper starts one. It waits for this program's own file and nothing
// else: no account has a say in it yet.
func startHelper() (*spare, error) {
	ends, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	ours, theirs := os.NewFile(uintptr(ends[0]), "helper"), os.NewFile(uintptr(ends[1]), "node")
	defer ours.Close()
	defer theirs.Close()
	conn, err := net.FileConn(ours)
	if err != nil {
		return nil, err
	}
	unixConn, ok := conn.(*net.UnixConn)
	if !ok {
		conn.Close()
		return nil, fmt.Errorf("the helper's socket is a %T", conn)
	}
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		conn.Close()
		return nil, err
	}
	defer null.Close()
	c, err := startChild("/proc/self/exe", []string{helper.Name}, &os.ProcAttr{
		// It lives for a moment, and does one thing.
		Env:   []string{"GOGC=off", "GOMAXPROCS=1"},
		Files: []*os.File{null, null, os.Stderr, theirs},
		Sys:   &syscall.SysProcAttr{Setsid: true},
	})
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("cannot start a session's helper: %w", cause(err))
	}
	return &spare{child: c, conn: unixConn}, nil
}

// errHelperGone: the helper had ended before it began.
var errHelperGone = errors.New("the session's helper has ended")

// become makes the helper what r, and packet, say, with files as its standard
// ones. It returns when that runs, with what the person should know; or when
// ctx ends. Where it fails the helper is gone, or will be.
func (h *spare) become(ctx context.Context, r helper.Request, packet []byte, files [3]*os.File) (warning string, err error) {
	defer h.conn.Close() //nolint:errcheck // nothing is written any more
	defer func() {
		if err != nil {
			h.discard()
		}
	}()
	stop := context.AfterFunc(ctx, func() { _ = h.conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	if err := h.send(packet, files); err != nil {
		if ctx.Err() != nil {
			return "", context.Cause(ctx)
		}
		return "", errHelperGone
	}
	begun := false
	for {
		report, err := helper.ReadReport(h.conn)
		switch {
		case errors.Is(err, io.EOF) && begun:
			return warning, nil // the socket closed with its exec
		case ctx.Err() != nil:
			return "", context.Cause(ctx)
		case err != nil:
			return "", errHelperGone
		case report.Step == helper.Begun && !begun:
			begun = true
		case report.Step == helper.Home:
			warning = fmt.Sprintf("Could not chdir to home directory %s: %v", r.Home, report.Errno)
		default:
			return "", report.Err(r)
		}
	}
}

func (h *spare) send(packet []byte, files [3]*os.File) error {
	fds := make([]int, 0, len(files))
	for _, f := range files {
		// Not by SyscallConn: Fd also makes its end of a pipe one that blocks,
		// and commands expect that.
		fds = append(fds, int(f.Fd()))
	}
	// The files go with the length, which is never written in part.
	if _, _, err := h.conn.WriteMsgUnix(packet[:helper.LengthSize], unix.UnixRights(fds...), nil); err != nil {
		return err
	}
	_, err := h.conn.Write(packet[helper.LengthSize:])
	return err
}

// discard ends the helper. What does not even hear SIGKILL (its home is on a
// server that is gone) is waited for by nobody else.
func (h *spare) discard() {
	_ = h.conn.Close()
	_ = unix.Kill(h.pid, unix.SIGKILL)
	go func() {
		<-h.ended
		_, _ = h.reap()
	}()
}

// helpers keeps some started in advance: to start this program takes about as
// long as all the rest of a login.
type helpers struct {
	log  *slog.Logger
	work sync.WaitGroup

	mu      sync.Mutex
	spares  []*spare
	filling bool
	closed  bool
}

// begin makes a session's first process of a helper, and has another one
// started for the next.
func (hs *helpers) begin(ctx context.Context, r helper.Request, files [3]*os.File) (*child, string, error) {
	packet, err := r.Marshal()
	if err != nil {
		return nil, "", err
	}
	defer hs.refill()
	for {
		h, spare, err := hs.take()
		if err != nil {
			return nil, "", err
		}
		warning, err := h.become(ctx, r, packet, files)
		if errors.Is(err, errHelperGone) && spare {
			continue // it may have died at any time since it was started
		}
		if err != nil {
			return nil, "", err
		}
		return h.child, warning, nil
	}
}

func (hs *helpers) take() (h *spare, spare bool, err error) {
	hs.mu.Lock()
	if hs.closed {
		hs.mu.Unlock()
		return nil, false, errors.New(shuttingDown)
	}
	if len(hs.spares) > 0 { // the oldest: it has had the time to start
		h, hs.spares = hs.spares[0], hs.spares[1:]
	}
	hs.mu.Unlock()
	if h != nil {
		return h, true, nil
	}
	h, err = startHelper()
	return h, false, err
}

// refill starts what is missing, and does not wait for it.
func (hs *helpers) refill() {
	hs.mu.Lock()
	defer hs.mu.Unlock()
	if hs.closed || hs.filling {
		return
	}
	hs.filling = true
	hs.work.Go(func() {
		for hs.missing() {
			h, err := startHelper()
			if err != nil { // sessions try for themselves, and say so
				hs.log.Warn("no spare helper", "error", err)
			}
			hs.put(h)
		}
	})
}

// missing ends the filling where there is nothing to do.
func (hs *helpers) missing() bool {
	hs.mu.Lock()
	defer hs.mu.Unlock()
	hs.filling = hs.filling && !hs.closed && len(hs.spares) < spareHelpers
	return hs.filling
}

func (hs *helpers) put(h *spare) {
	hs.mu.Lock()
	defer hs.mu.Unlock()
	if h == nil {
		hs.filling = false
		return
	}
	hs.spares = append(hs.spares, h)
}

// close ends the spares; sessions go on.
func (hs *helpers) close() {
	hs.mu.Lock()
	hs.closed = true
	hs.mu.Unlock()
	hs.work.Wait()
	for _, h := range hs.spares {
		h.discard()
		<-h.ended
	}
}
