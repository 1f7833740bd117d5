package node

import (
	"errors"
	"fmt"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// child is a process that we started and have to wait for.
type child struct {
	pid int
	os  *os.Process
	// exit becomes readable when the process has ended; nil where the kernel
	// has no such thing (pidfd_open(2), Linux 5.3).
	exit *os.File
	// ended is closed when the process is a zombie. Its pid is its own until
	// reap.
	ended chan struct{}
}

func startChild(program string, argv []string, attr *os.ProcAttr) (*child, error) {
	pidfd := -1
	attr.Sys.PidFD = &pidfd
	proc, err := os.StartProcess(program, argv, attr)
	if err != nil {
		return nil, err
	}
	c := &child{pid: proc.Pid, os: proc, exit: pollablePidfd(pidfd), ended: make(chan struct{})}
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
	state, err := c.os.Wait()
	if c.exit != nil {
		c.exit.Close()
	}
	if err != nil {
		return 0, err
	}
	status, ok := state.Sys().(syscall.WaitStatus)
	if !ok {
		return 0, fmt.Errorf("unknown exit state %v", state)
	}
	return status, nil
}

// cause is err without the names that package os adds.
func cause(err error) error {
	var errno syscall.Errno
	if errors.As(err, &errno) {
		return errno
	}
	return err
}
