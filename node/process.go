package node

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// command is what a session runs.
type command struct {
	account account
	// become: as account, with its uid, gid and groups; else as ourselves,
	// who are not root.
	become bool
	// line goes to the account's shell with -c; nil is a login shell.
	line     *string
	env      []string
	terminal *terminal // nil: pipes
}

// process is a running command. It leads a session of its own (setsid(2)), so
// that all it starts can be found by it.
type process struct {
	pid int
	os  *os.Process
	// exit becomes readable when the process has ended; nil where the kernel
	// has no such thing (pidfd_open(2), Linux 5.3).
	exit *os.File

	// Our ends. With a terminal all three are its master.
	stdin          *os.File
	stdout, stderr *os.File
	// warning is for the person: what is not as it should be.
	warning string

	mu sync.Mutex
	// reaped: pid may be somebody else by now.
	reaped bool
	ending sync.Once
	// ended by us: swept is closed when what had to be killed was.
	forced bool
	swept  chan struct{}
}

// start runs c. The process holds the other ends of the pipes when it returns.
func (c command) start() (*process, error) {
	p := &process{swept: make(chan struct{})}
	theirs, err := p.connect(c.terminal)
	if err != nil {
		return nil, err
	}
	pidfd := -1
	attr := &os.ProcAttr{
		Dir: c.account.home, Env: c.env, Files: theirs,
		Sys: &syscall.SysProcAttr{Setsid: true, Setctty: c.terminal != nil, PidFD: &pidfd},
	}
	if c.become {
		attr.Sys.Credential = &syscall.Credential{Uid: c.account.uid, Gid: c.account.gid, Groups: c.account.groups}
	}
	p.os, err = c.exec(p, attr)
	for _, f := range theirs[:len(theirs)-repeated(c.terminal)] {
		f.Close()
	}
	if err != nil {
		p.close()
		return nil, err
	}
	p.pid = p.os.Pid
	p.watch(pidfd)
	return p, nil
}

// repeated: a terminal is three times the same file.
func repeated(t *terminal) int {
	if t != nil {
		return 2
	}
	return 0
}

// exec starts the shell in the account's home. Where that cannot be entered,
// which only the account itself can tell (NFS, say), it is "/", as with sshd.
func (c command) exec(p *process, attr *os.ProcAttr) (*os.Process, error) {
	argv := []string{filepath.Base(c.account.shell)}
	if c.line != nil {
		argv = append(argv, "-c", *c.line)
	} else {
		argv[0] = "-" + argv[0] // a login shell (bash(1), INVOCATION)
	}
	if attr.Dir != "" {
		proc, err := os.StartProcess(c.account.shell, argv, attr)
		if err == nil {
			return proc, nil
		}
		// Not wrapped: it names the shell where the folder is at fault.
		p.warning = fmt.Sprintf("Could not chdir to home directory %s: %v", attr.Dir, cause(err))
	}
	attr.Dir = "/"
	proc, err := os.StartProcess(c.account.shell, argv, attr)
	if err != nil {
		return nil, fmt.Errorf("cannot run %s: %w", c.account.shell, cause(err))
	}
	return proc, nil
}

func cause(err error) error {
	var errno syscall.Errno
	if errors.As(err, &errno) {
		return errno
	}
	return err
}

// connect makes the pipes and gives the process's ends.
func (p *process) connect(t *terminal) ([]*os.File, error) {
	if t != nil {
		p.stdin, p.stdout = t.master, t.master
		return []*os.File{t.tty, t.tty, t.tty}, nil
	}
	var theirs []*os.File
	for i, ours := range []**os.File{&p.stdin, &p.stdout, &p.stderr} {
		r, w, err := os.Pipe()
		if err != nil {
			p.close()
			for _, f := range theirs {
				f.Close()
			}
			return nil, err
		}
		if i == 0 {
			r, w = w, r
		}
		*ours = r
		theirs = append(theirs, w)
	}
	return theirs, nil
}

// watch makes p.exit of a pidfd, so that waiting takes no thread.
func (p *process) watch(pidfd int) {
	if pidfd < 0 {
		return
	}
	if err := unix.SetNonblock(pidfd, true); err != nil {
		unix.Close(pidfd)
		return
	}
	p.exit = os.NewFile(uintptr(pidfd), "pidfd")
}

// wait returns when the process has ended and, where we ended it, nothing of
// it is left that had to go.
func (p *process) wait() (syscall.WaitStatus, error) {
	p.waitExit()
	// It is a zombie now, and its pid still its own.
	p.mu.Lock()
	forced := p.forced
	p.reaped = !forced
	p.mu.Unlock()
	if forced {
		<-p.swept
		p.mu.Lock()
		p.reaped = true
		p.mu.Unlock()
	}
	state, err := p.os.Wait()
	if p.exit != nil {
		p.exit.Close()
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

func (p *process) waitExit() {
	if p.exit != nil {
		if raw, err := p.exit.SyscallConn(); err == nil {
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
		err := unix.Waitid(unix.P_PID, p.pid, nil, unix.WEXITED|unix.WNOWAIT, nil)
		if !errors.Is(err, unix.EINTR) {
			return
		}
	}
}

// signal sends sig to the process's group, as sshd does (session.c,
// session_signal_req).
func (p *process) signal(sig unix.Signal) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.reaped {
		_ = unix.Kill(-p.pid, sig)
	}
}

// close closes our ends.
func (p *process) close() {
	for _, f := range []*os.File{p.stdin, p.stdout, p.stderr} {
		if f != nil {
			f.Close()
		}
	}
}
