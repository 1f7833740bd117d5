package node

import (
	"errors"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// drain reads what a command writes: a pipe to its end, however long somebody
// holds it after the command itself has ended; and, once finished, what is
// there. As with sshd a terminal is finished when the command has ended
// (channels.c, detach_close), and pipes never are.
type drain struct{ file *os.File }

// finish ends the reading when nothing is left to read.
func finish(drains []*drain) {
	for _, d := range drains {
		_ = d.file.SetReadDeadline(time.Unix(1, 0)) // long past: a Read that waits ends
	}
}

func (d *drain) Read(b []byte) (int, error) {
	n, err := d.file.Read(b)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return d.rest(b)
	}
	return n, err
}

// rest reads without waiting. A terminal gives all that was written to it
// before (n_tty_read flushes what is on its way).
func (d *drain) rest(b []byte) (n int, err error) {
	raw, err := d.file.SyscallConn()
	if err != nil {
		return 0, err
	}
	gone := raw.Control(func(fd uintptr) {
		for {
			if n, err = unix.Read(int(fd), b); !errors.Is(err, unix.EINTR) {
				return
			}
		}
	})
	switch {
	case gone != nil:
		return 0, gone
	case errors.Is(err, unix.EAGAIN), err == nil && n == 0:
		return 0, io.EOF
	case err != nil:
		return 0, err
	}
	return n, nil
}
