package node

import (
	"context"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"devicetrust/node/helper"
)

// command is what a session runs.
type command struct {
	account account
	// become: as account, with its uid, gid and groups; else as ourselves,
	// who are not root.
	become   bool
	task     task
	env      []string
	terminal *terminal // nil: pipes
	// pam keeps the session, where it is on; from is the client's address.
	pam  pam
	from string
}

// process is a running command. It leads a session of its own (setsid(2)), so
// that all it starts can be found by it.
type process struct {
	*child

	// Our ends. With a terminal all three are its master.
	stdin          *os.File
	stdout, stderr *os.File
	// tty is the terminal's other end, nil with pipes. As long as it is open
	// here a process may let go of it and open it again: else its master would
	// be at its end.
	tty *os.File
	// logOut, nil without a terminal, comes before that is given free.
	logOut func()
	arrival
	// keeper: it is dtnoded-pam, and the command its child.
	keeper bool

	mu sync.Mutex
	// reaped: pid may be somebody else by now.
	reaped bool
	ending sync.Once
	// ended by us: swept is closed when what had to be killed was.
	forced bool
	swept  chan struct{}
	// left is closed when the client has gone and the process goes on.
	left chan struct{}
}

// start runs c, unless ctx ends before it runs. The process holds the other
// ends of the pipes when it returns.
func (c command) start(ctx context.Context, from *helpers) (*process, error) {
	p := &process{swept: make(chan struct{}), left: make(chan struct{})}
	theirs, err := p.connect(c.terminal)
	if err != nil {
		return nil, err
	}
	if c.task.kind == fileTransfer {
		widen(p.stdin)
		widen(p.stdout)
	}
	r := c.pam.open(c.request(), c.account.name, c.from, c.tty())
	p.keeper = r.As == helper.AsRoot
	p.child, p.arrival, err = from.begin(ctx, r, theirs)
	if c.terminal == nil {
		for _, f := range theirs {
			f.Close()
		}
	}
	if err != nil {
		p.close()
		return nil, err
	}
	return p, nil
}

// request puts c into the words of a helper.
func (c command) request() helper.Request {
	r := helper.Request{
		As: helper.AsOurselves, Home: c.account.home, Terminal: c.terminal != nil,
		Env: c.env,
	}
	if c.become {
		r.As, r.UID, r.GID, r.Groups = helper.AsAccount, c.account.uid, c.account.gid, c.account.groups
	}
	shell, name := c.account.shell, filepath.Base(c.account.shell)
	switch c.task.kind {
	case loginShell:
		r.Program, r.Argv = shell, []string{"-" + name} // (bash(1), INVOCATION)
	case shellCommand:
		r.Program, r.Argv = shell, []string{name, "-c", c.task.line}
	case fileTransfer:
		r.Work = helper.SFTP
	default: // the helper refuses it
	}
	return r
}

func (c command) tty() string {
	if c.terminal == nil {
		return ""
	}
	return c.terminal.name
}

// connect makes the pipes and gives the process's ends.
func (p *process) connect(t *terminal) (theirs [3]*os.File, err error) {
	if t != nil {
		p.stdin, p.stdout, p.tty = t.master, t.master, t.tty
		return [3]*os.File{t.tty, t.tty, t.tty}, nil
	}
	for i, ours := range []**os.File{&p.stdin, &p.stdout, &p.stderr} {
		r, w, err := os.Pipe()
		if err != nil {
			p.close()
			for _, f := range theirs[:i] {
				f.Close()
			}
			return theirs, err
		}
		if i == 0 {
			r, w = w, r
		}
		*ours, theirs[i] = r, w
	}
	return theirs, nil
}

// widen lets a pipe hold a packet of file transfer, or some packets of the
// channel: who writes waits less often for who reads. Where there may be no
// more such pipes it works as it is.
func widen(pipe *os.File) {
	raw, err := pipe.SyscallConn() // Fd would make it one that blocks
	if err != nil {
		return
	}
	_ = raw.Control(func(fd uintptr) { _, _ = unix.FcntlInt(fd, unix.F_SETPIPE_SZ, transferPipe) })
}

// wait returns when the process has ended and, where we ended it, nothing of
// it is left that had to go.
func (p *process) wait() (syscall.WaitStatus, error) {
	<-p.ended
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
	return p.reap()
}

// signal sends sig to the process's group, as sshd does (session.c,
// session_signal_req).
func (p *process) signal(sig unix.Signal) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.reaped:
	case sig == unix.SIGKILL:
		p.kill()
	default:
		_ = unix.Kill(-p.pid, sig)
	}
}

// leave closes our ends because the client is gone, as sshd does: a terminal
// hangs up by that (SIGHUP), and who reads or writes a pipe hears of it. What
// was started to outlive its client (nohup(1)) does. The process has a moment
// to end, so that its status is known.
func (p *process) leave(moment time.Duration) {
	p.ending.Do(func() {
		p.close()
		time.AfterFunc(moment, func() { close(p.left) })
	})
}

// close closes our ends.
func (p *process) close() {
	if p.logOut != nil {
		p.logOut()
	}
	for _, f := range []*os.File{p.stdin, p.stdout, p.stderr, p.tty} {
		if f != nil {
			f.Close()
		}
	}
}
