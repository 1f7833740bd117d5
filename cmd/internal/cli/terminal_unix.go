//go:build unix

package cli

import (
	"context"
	"os"
	"os/signal"
	"sync"
	"time"

	"connectrpc.com/connect"
	"golang.org/x/sys/unix"

	"devicetrust/api"
)

// modes of a terminal, termios(3).
type modes unix.Termios

func readModes(fd int) (modes, error) {
	t, err := unix.IoctlGetTermios(fd, ioctlGetModes)
	if err != nil {
		return modes{}, err
	}
	return modes(*t), nil
}

func setModes(fd int, m modes) error {
	t := unix.Termios(m)
	return unix.IoctlSetTermios(fd, ioctlSetModes, &t)
}

// withoutEcho keeps lines and the keys that end, suspend or edit, also on a
// terminal that somebody left without them.
func (m modes) withoutEcho() modes {
	m.Lflag &^= unix.ECHO
	m.Lflag |= unix.ICANON | unix.ISIG
	m.Iflag |= unix.ICRNL
	return m
}

// watch gives the terminal back on signals that would end or suspend the
// process without echo, and asks again when it goes on. SIGINT and SIGTERM are
// Main's: they end ctx.
func (q question) watch(end context.CancelCauseFunc) (stop func()) {
	fatal, suspend, resumed := make(chan os.Signal, 1), make(chan os.Signal, 1), make(chan os.Signal, 1)
	signal.Notify(fatal, unix.SIGHUP, unix.SIGQUIT)
	signal.Notify(suspend, unix.SIGTSTP)
	signal.Notify(resumed, unix.SIGCONT)
	done := make(chan struct{})
	ask := func() {
		if err := q.ask(); err != nil {
			end(err)
		}
	}
	var watcher sync.WaitGroup
	watcher.Go(func() {
		for {
			select {
			case <-done:
				return
			case sig := <-fatal:
				end(api.Refuse(connect.CodeCanceled, "ended by signal: %v", sig))
			case <-suspend:
				q.restore()
				// Once caught, SIGTSTP stays with Go's runtime, which ignores it.
				// SIGTTOU suspends under the same conditions; SIGSTOP would also
				// where there is no shell to go on from.
				_ = unix.Kill(unix.Getpid(), unix.SIGTTOU)
				if awaitResumed(resumed, done) {
					ask()
				}
			case <-resumed: // after SIGSTOP, which nobody can catch
				ask()
			}
		}
	})
	return func() {
		for _, c := range []chan os.Signal{fatal, suspend, resumed} {
			signal.Stop(c)
		}
		close(done)
		watcher.Wait() // or it would turn echo off again
	}
}

// awaitResumed returns when the process was suspended and goes on, or has run
// for suspendTimeout all the same; false where done comes first. It counts, for
// the clock runs on while the process does not.
func awaitResumed(resumed <-chan os.Signal, done <-chan struct{}) bool {
	const ticks = 20
	tick := time.NewTicker(suspendTimeout / ticks)
	defer tick.Stop()
	for range ticks {
		select {
		case <-resumed:
			return true
		case <-done:
			return false
		case <-tick.C:
		}
	}
	return true
}
