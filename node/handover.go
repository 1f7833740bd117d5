package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// handoverVariable tells a successor that it is one, and of how many listening
// sockets. Its files are, from firstInherited on: the socket to its
// predecessor, the lock of the data directory, the sockets that listen.
const handoverVariable = "DTNODED_HANDOVER"

// What the two say to each other, a byte each.
const (
	handoverReady = 'R' // the successor: I could serve
	handoverGo    = 'G' // the predecessor: I do not any more
)

// predecessor is the dtnoded that we take over from.
type predecessor struct {
	conn *os.File
	lock *os.File
}

func (i *Inheritance) fromPredecessor(sockets string) error {
	own, err := inherited(firstInherited, "2")
	if err != nil {
		return err
	}
	i.predecessor = &predecessor{conn: own[0], lock: own[1]}
	i.sockets, err = inherited(firstInherited+len(own), sockets)
	return err
}

// relieve tells the predecessor that we could serve, and returns when it does
// not any more. Where it is gone, or goes on by itself, we must not.
func (p *predecessor) relieve() error {
	if p == nil {
		return nil
	}
	defer p.conn.Close()
	answer := make([]byte, 1)
	_, err := p.conn.Write([]byte{handoverReady})
	if err == nil {
		_, err = io.ReadFull(p.conn, answer)
	}
	if err != nil || answer[0] != handoverGo {
		return errors.New("the dtnoded before this one did not hand over")
	}
	return nil
}

// successor is the dtnoded that is to take over from us.
type successor struct {
	process *os.Process
	conn    *os.File
}

// startSuccessor starts this program as it is on the disk now, as this one was
// started, with the files of a successor.
func (n *node) startSuccessor() (*successor, error) {
	if len(n.config.Command) == 0 {
		return nil, errors.New("it is not known how this dtnoded was started")
	}
	if os.Getpid() == 1 {
		return nil, errors.New("all of a container ends with its first process; restart the container")
	}
	ends, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	ours, theirs := os.NewFile(uintptr(ends[0]), "successor"), os.NewFile(uintptr(ends[1]), "predecessor")
	defer theirs.Close()
	files := []*os.File{os.Stdin, os.Stdout, os.Stderr, theirs, n.lock}
	for _, l := range n.listeners {
		f, err := socketOf(l)
		if err != nil {
			ours.Close()
			return nil, err
		}
		defer f.Close()
		files = append(files, f)
	}
	env := append(os.Environ(), handoverVariable+"="+strconv.Itoa(len(n.listeners)))
	if to := n.config.Inherited.notify; to != "" {
		env = append(env, "NOTIFY_SOCKET="+string(to))
	}
	process, err := os.StartProcess(n.config.Command[0], n.config.Command, &os.ProcAttr{
		Env: env, Files: files,
		// A child of who started us: a service manager has to hear of its end,
		// also while we are there.
		Sys: &syscall.SysProcAttr{Cloneflags: unix.CLONE_PARENT},
	})
	if err != nil {
		ours.Close()
		return nil, err
	}
	return &successor{process: process, conn: ours}, nil
}

// await returns when the successor could serve.
func (s *successor) await(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { _ = s.conn.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	answer := make([]byte, 1)
	_, err := io.ReadFull(s.conn, answer)
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case err != nil || answer[0] != handoverReady:
		return errors.New("it ended; its log says why")
	}
	return nil
}

// discard ends a successor that is not to be.
func (s *successor) discard() {
	_ = s.process.Kill()
	_ = s.process.Release()
	s.conn.Close()
}

// handOver lets another dtnoded take our place, and tells whether one has. Where
// none does, we go on as before.
func (n *node) handOver(ctx, talk context.Context) bool {
	log, notify, now := n.config.Log, n.config.Inherited.notify, n.config.Now
	log.Info("a successor is started", "program", firstOf(n.config.Command))
	notify.tell(now(), "RELOADING=1")
	n.stopLeading()
	s, err := n.startSuccessor()
	if err == nil {
		wait, cancel := context.WithTimeoutCause(ctx, handoverTime, fmt.Errorf("it did not come to serve within %s", handoverTime))
		defer cancel()
		if err = s.await(wait); err != nil {
			s.discard()
		}
	}
	if err != nil {
		log.Error("there is no successor; this dtnoded goes on", "error", err)
		notify.tell(now(), "READY=1")
		n.lead(talk)
		return false
	}
	n.server.retire()
	if n.diag != nil { // its port is the successor's
		n.diag.Close()
	}
	pid := s.process.Pid
	notify.tell(now(), "MAINPID="+strconv.Itoa(pid))
	// Whether it heard that does not matter any more: without a word it ends,
	// and who started us starts another.
	_, _ = s.conn.Write([]byte{handoverGo})
	s.conn.Close()
	_ = s.process.Release()
	n.lock.Close()
	n.lock = nil
	log.Info("handed over; sessions go on here until they end", "pid", os.Getpid(), "successor", pid, "sessions", n.server.sessions(), "at_most", n.server.limits.drain)
	return true
}

func firstOf(words []string) string {
	if len(words) == 0 {
		return ""
	}
	return words[0]
}

// awaitHandOver hands over when it is asked to, until ctx ends; once it has,
// it keeps in touch with what the successor does.
func (n *node) awaitHandOver(ctx, talk context.Context) {
	for {
		select {
		case <-n.config.Reload:
			if n.handOver(ctx, talk) {
				n.keepReread(talk)
				return
			}
		case <-ctx.Done():
			return
		}
	}
}

// retire stops accepting; serve returns when the last connection has ended.
func (s *server) retire() {
	s.retiring.Do(func() { close(s.retired) })
}

// outlive waits for the last connection of a server that has handed over.
func (s *server) outlive(stop context.Context) {
	gone := make(chan struct{})
	go func() { s.work.Wait(); close(gone) }()
	most := time.NewTimer(s.limits.drain)
	defer most.Stop()
	select {
	case <-gone:
	case <-stop.Done():
	case <-most.C:
	}
}
