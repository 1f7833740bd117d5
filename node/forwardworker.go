package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"devicetrust/node/helper"
	"devicetrust/node/sockets"
)

// getWorker gives the process that opens sockets as the account: the same for
// all of the connection, and another where it has ended.
func (f *forwards) getWorker(a *admission) (*sockets.Worker, error) {
	f.starting.Lock()
	defer f.starting.Unlock()
	if f.worker != nil {
		select {
		case <-f.worker.Done():
		default:
			return f.worker, nil
		}
	}
	w, err := f.startWorker(a.account)
	if err != nil {
		f.conn.server.log.Error("nothing is forwarded", "remote", f.conn.remote, "login", a.login, "error", err)
		return nil, err
	}
	f.worker = w
	return w, nil
}

func (f *forwards) startWorker(acc account) (*sockets.Worker, error) {
	srv := f.conn.server
	ctx, cancel := context.WithTimeoutCause(f.ctx, srv.limits.start, fmt.Errorf("what opens sockets did not begin within %s", srv.limits.start))
	defer cancel()
	ours, theirs, err := packetPair()
	if err != nil {
		return nil, err
	}
	defer theirs.Close()
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		_ = ours.Close()
		return nil, err
	}
	defer null.Close()
	request := helper.Request{As: helper.AsOurselves, Work: helper.Sockets}
	if srv.root {
		request.As, request.UID, request.GID, request.Groups = helper.AsAccount, acc.uid, acc.gid, acc.groups
	}
	c, _, err := srv.helpers.begin(ctx, request, [3]*os.File{theirs, null, os.Stderr})
	if err != nil {
		_ = ours.Close()
		return nil, err
	}
	w := sockets.NewWorker(ours, c.pid)
	srv.work.Go(func() { f.tend(w, c) })
	return w, nil
}

// packetPair is a pair of sockets that keep messages apart.
func packetPair() (*net.UnixConn, *os.File, error) {
	ends, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, err
	}
	ours, theirs := os.NewFile(uintptr(ends[0]), "sockets"), os.NewFile(uintptr(ends[1]), "node")
	defer ours.Close()
	conn, err := net.FileConn(ours)
	if err != nil {
		theirs.Close()
		return nil, nil, err
	}
	packets, ok := conn.(*net.UnixConn)
	if !ok {
		conn.Close()
		theirs.Close()
		return nil, nil, fmt.Errorf("the worker's socket is a %T", conn)
	}
	return packets, theirs, nil
}

// tend hears the worker until it ends or is not wanted any more. Then it goes
// by itself, unless its account has stopped it.
func (f *forwards) tend(w *sockets.Worker, c *child) {
	srv := f.conn.server
	unwanted := context.AfterFunc(f.ctx, w.Close)
	defer unwanted()
	srv.work.Go(func() {
		defer f.conn.recovered("sockets")
		if err := w.Run(); f.ctx.Err() == nil && !errors.Is(err, io.EOF) {
			srv.log.Error("what opened sockets as the account is ended", "remote", f.conn.remote, "error", err)
		}
	})
	<-w.Done()
	f.closeOf(w)
	moment := time.NewTimer(srv.limits.policyHangup)
	defer moment.Stop()
	select {
	case <-c.ended:
	case <-moment.C:
		_ = unix.Kill(c.pid, unix.SIGKILL)
		<-c.ended
	}
	_, _ = c.reap()
}
