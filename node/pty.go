package node

import (
	"fmt"
	"os"
	"strings"

	"github.com/creack/pty"
	"golang.org/x/sys/unix"
)

// terminal is a pseudo-terminal: we hold the master, the session's processes
// the other end.
type terminal struct {
	master, tty *os.File
	name        string // "/dev/pts/3"
}

// owner is to whom a terminal is given.
type owner struct {
	uid, gid uint32
	mode     os.FileMode
}

// openTerminal makes a terminal of the size and modes asked for. to is nil
// where everything belongs to us anyway.
func openTerminal(req ptyRequest, to *owner) (*terminal, error) {
	blocking, tty, err := pty.Open()
	if err != nil {
		return nil, fmt.Errorf("no terminal: %w", err)
	}
	master, err := pollable(blocking)
	if err != nil {
		tty.Close()
		return nil, fmt.Errorf("no terminal: %w", err)
	}
	t := &terminal{master: master, tty: tty, name: tty.Name()}
	if err := t.give(to); err != nil {
		t.close()
		return nil, fmt.Errorf("no terminal: %w", err)
	}
	// Sizes and modes are wishes: a terminal without them is still one.
	_ = t.resize(req.size)
	_ = applyModes(int(tty.Fd()), req.modes)
	return t, nil
}

// pollable gives f as a file whose reads end when it is closed; pty.Open
// leaves it without (it calls Fd). It closes f.
func pollable(f *os.File) (*os.File, error) {
	defer f.Close()
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		unix.Close(fd)
		return nil, err
	}
	return os.NewFile(uintptr(fd), f.Name()), nil
}

func (t *terminal) give(to *owner) error {
	if to == nil {
		return nil
	}
	if err := t.tty.Chown(int(to.uid), int(to.gid)); err != nil {
		return err
	}
	return t.tty.Chmod(to.mode)
}

// ttyOwner is who a terminal of acc belongs to: with group tty, whose
// programs (wall(1), write(1)) may write to it, as sshd has it (sshpty.c,
// pty_setowner).
func (a accounts) ttyOwner(acc account) *owner {
	o := &owner{uid: acc.uid, gid: acc.gid, mode: 0o600}
	line, err := findLine(a.group, "tty")
	if err != nil || line == "" {
		return o
	}
	if f := strings.Split(line, ":"); len(f) >= 3 {
		if gid, err := parseID(f[2]); err == nil {
			o.gid, o.mode = gid, 0o620
		}
	}
	return o
}

func (t *terminal) resize(s windowSize) error {
	raw, err := t.master.SyscallConn()
	if err != nil {
		return err
	}
	var ioctl error
	err = raw.Control(func(fd uintptr) {
		ioctl = unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ,
			&unix.Winsize{Row: s.rows, Col: s.columns, Xpixel: s.width, Ypixel: s.height})
	})
	if err != nil {
		return err
	}
	return ioctl
}

// close closes our ends; the terminal hangs up.
func (t *terminal) close() {
	t.tty.Close()
	t.master.Close()
}
