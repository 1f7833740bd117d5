package node

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"devicetrust/node/helper"
)

// nursery is the process that sessions are forked from (decision 0010).
type nursery struct {
	*child
	mu   sync.Mutex // of what is written to conn
	conn *net.UnixConn

	end    sync.Mutex
	reaped bool // pid may be somebody else by now
}

// startNursery starts one. It waits for this program's own file and nothing
// else: no account has a say in it.
func startNursery() (*nursery, error) {
	ends, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	ours, theirs := os.NewFile(uintptr(ends[0]), "nursery"), os.NewFile(uintptr(ends[1]), "node")
	defer ours.Close()
	defer theirs.Close()
	conn, err := net.FileConn(ours)
	if err != nil {
		return nil, err
	}
	unixConn, ok := conn.(*net.UnixConn)
	if !ok {
		conn.Close()
		return nil, fmt.Errorf("the nursery's socket is a %T", conn)
	}
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		conn.Close()
		return nil, err
	}
	defer null.Close()
	c, err := startChild("/proc/self/exe", []string{helper.Nursery}, &os.ProcAttr{
		// It has little memory, because it is copied so often.
		Env:   []string{"GOGC=20", "GOMAXPROCS=1"},
		Files: []*os.File{null, null, os.Stderr, theirs},
		Sys:   &syscall.SysProcAttr{Setsid: true},
	})
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("cannot start what sessions come from: %w", cause(err))
	}
	return &nursery{child: c, conn: unixConn}, nil
}

// errNurseryGone: it had ended before it was asked, or while it was.
var errNurseryGone = errors.New("what sessions come from has ended")

// fork has the nursery make a process, and gives it with the socket on which
// it is reported. The caller's request is packet.
func (n *nursery) fork(ctx context.Context, r helper.Request, packet []byte, files [3]*os.File) (*child, *os.File, error) {
	ends, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, err
	}
	err = unix.SetNonblock(ends[0], true)
	conn := os.NewFile(uintptr(ends[0]), "start of a session")
	if err == nil {
		err = n.send(packet, files, ends[1])
	}
	unix.Close(ends[1])
	if err != nil {
		conn.Close()
		n.discard()
		return nil, nil, errNurseryGone
	}
	report, err := readReport(ctx, conn)
	switch {
	case errors.Is(err, errNotInTime):
		go n.collect(conn)
		return nil, nil, context.Cause(ctx)
	case err != nil:
		conn.Close()
		return nil, nil, errNurseryGone
	case report.Step != helper.Begun:
		conn.Close()
		return nil, nil, report.Err(r)
	}
	c, err := adopt(int(report.Number))
	if err != nil {
		conn.Close()
		return nil, nil, err
	}
	return c, conn, nil
}

func (n *nursery) send(packet []byte, files [3]*os.File, report int) error {
	fds := make([]int, 0, len(files)+1)
	for _, f := range files {
		// Not by SyscallConn: Fd also makes its end of a pipe one that blocks,
		// and commands expect that.
		fds = append(fds, int(f.Fd()))
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	late := time.AfterFunc(nurseryAnswers, func() { _ = n.conn.Close() })
	defer late.Stop()
	// The files go with the first bytes.
	sent, _, err := n.conn.WriteMsgUnix(packet, unix.UnixRights(append(fds, report)...), nil)
	if err != nil {
		return err
	}
	_, err = n.conn.Write(packet[sent:])
	return err
}

// collect ends a process that nobody wants any more, and whose number is still
// to come. A nursery that does not answer is ended: there will be another one.
func (n *nursery) collect(conn *os.File) {
	defer conn.Close()
	limit, cancel := context.WithTimeout(context.Background(), nurseryAnswers)
	defer cancel()
	report, err := readReport(limit, conn)
	if errors.Is(err, errNotInTime) {
		n.discard()
		report, err = readReport(context.Background(), conn)
	}
	if err != nil || report.Step != helper.Begun {
		return
	}
	if c, err := adopt(int(report.Number)); err == nil {
		c.discard()
	}
}

// discard ends the nursery; what it has forked goes on.
func (n *nursery) discard() {
	_ = n.conn.Close()
	n.end.Lock()
	defer n.end.Unlock()
	if !n.reaped {
		_ = unix.Kill(n.pid, unix.SIGKILL)
	}
}

// bury waits for its end.
func (n *nursery) bury() (syscall.WaitStatus, error) {
	<-n.ended
	_ = n.conn.Close()
	n.end.Lock()
	defer n.end.Unlock()
	n.reaped = true
	return n.reap()
}

// errNotInTime: ctx ended first.
var errNotInTime = errors.New("no report in time")

func readReport(ctx context.Context, conn *os.File) (helper.Report, error) {
	_ = conn.SetDeadline(time.Time{})
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	report, err := helper.ReadReport(conn)
	if err != nil && ctx.Err() != nil {
		err = errNotInTime
	}
	return report, err
}
