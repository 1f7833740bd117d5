package node

import (
	"errors"
	"fmt"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// child is a process of ours that we have to wait for.
type child struct {
	pid int
	// exit becomes readable when the process has ended; nil where the kernel
	// has no such thing (pidfd_open(2), Linux 5.3).
	exit *os.File
	// ended is closed when the process is a zombie. Its pid is its own until
	// reap.
	ended chan struct{}
}

func startChild(program string, argv []string, attr *os.ProcAttr) (*child, error) {
	p, err := os.StartProcess(program, argv, attr)
	if err != nil {
		return nil, err
	}
	defer p.Release() //nolint:errcheck // it has no error
	return adopt(p.Pid)
}

// adopt takes charge of the child with that number; a process that is no child
// of ours is refused.
func adopt(pid int) (*child, error) {
	if pid <= 0 {
		return nil, fmt.Errorf("process %d is none", pid)
	}
	if err := unix.Waitid(unix.P_PID, pid, nil, unix.WEXITED|unix.WNOWAIT|unix.WNOHANG, nil); err != nil {
		return nil, fmt.Errorf("process %d is not ours: %w", pid, err)
	}
	pidfd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		pidfd = -1
	}
	c := &child{pid: pid, exit: pollablePidfd(pidfd), ended: make(chan struct{})}
	go func() {
		defer close(c.ended)
		c.waitExit()
	}()
	return c, nil
}

// pollablePidfd makes a file of a pidfd, so that waiting takes no thread.
func pollablePidfd(pidfd int) *os.File {
	if pidfd < 0 {
		return nil
	}
	if err := unix.SetNonblock(pidfd, true); err != nil {
		unix.Close(pidfd)
		return nil
	}
	return os.NewFile(uintptr(pidfd), "pidfd")
}

func (c *child) waitExit() {
	if c.exit != nil {
		if raw, err := c.exit.SyscallConn(); err == nil {
			err = raw.Read(func(fd uintptr) bool {
				n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
				return n > 0 && err == nil
			})
			if err == nil {
				return
			}
		}
	}
	for {
		err := unix.Waitid(unix.P_PID, c.pid, nil, unix.WEXITED|unix.WNOWAIT, nil)
		if !errors.Is(err, unix.EINTR) {
			return
		}
	}
}

// reap gives the pid free. It is called once, when the process has ended.
func (c *child) reap() (syscall.WaitStatus, error) {
	if c.exit != nil {
		c.exit.Close()
	}
	for {
		var status syscall.WaitStatus
		_, err := syscall.Wait4(c.pid, &status, 0, nil)
		if !errors.Is(err, unix.EINTR) {
			return status, err
		}
	}
}

// discard ends the process. What does not even hear SIGKILL (its home is on a
// server that is gone) is waited for by nobody else.
func (c *child) discard() {
	_ = unix.Kill(c.pid, unix.SIGKILL)
	go func() {
		<-c.ended
		_, _ = c.reap()
	}()
}

// cause is err without the names that package os adds.
func cause(err error) error {
	var errno syscall.Errno
	if errors.As(err, &errno) {
		return errno
	}
	return err
}
