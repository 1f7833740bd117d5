package node

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"

	"connectrpc.com/connect"
	"golang.org/x/sys/unix"

	"devicetrust/api"
)

// firstInherited is the first file that a process is started with besides its
// standard ones (SD_LISTEN_FDS_START of sd_listen_fds(3)).
const firstInherited = 3

// Inheritance is what a process was started with besides its command line: by
// systemd, or by the dtnoded before it (decision 0012). The zero value is
// nothing.
type Inheritance struct {
	sockets     []*os.File // that listen
	notify      notifier
	predecessor *predecessor
}

// Inherit takes what this process was started with, once, and leaves nothing
// of it for those that it starts.
func Inherit() (Inheritance, error) {
	var i Inheritance
	i.notify = notifier(take("NOTIFY_SOCKET"))
	pid, count := take("LISTEN_PID"), take("LISTEN_FDS")
	take("LISTEN_FDNAMES")
	if handed := take(handoverVariable); handed != "" {
		return i, i.fromPredecessor(handed)
	}
	if pid != strconv.Itoa(os.Getpid()) { // somebody else's
		return i, nil
	}
	files, err := inherited(firstInherited, count)
	i.sockets = files
	return i, err
}

// take gives a variable of the environment and removes it.
func take(name string) string {
	value := os.Getenv(name)
	_ = os.Unsetenv(name) // fails for names that are none
	return value
}

// maxInherited sockets: one for each address of a large machine.
const maxInherited = 64

// inherited are so many files from first on, and no child's.
func inherited(first int, count string) ([]*os.File, error) {
	n, err := strconv.Atoi(count)
	if err != nil || n < 1 || n > maxInherited {
		return nil, fmt.Errorf("%.16q is no number of inherited sockets from 1 to %d", count, maxInherited)
	}
	files := make([]*os.File, 0, n)
	for fd := first; fd < first+n; fd++ {
		if _, err := unix.FcntlInt(uintptr(fd), unix.F_SETFD, unix.FD_CLOEXEC); err != nil {
			return nil, fmt.Errorf("inherited file %d: %w", fd, err)
		}
		files = append(files, os.NewFile(uintptr(fd), "inherited socket"))
	}
	return files, nil
}

// listen gives what to serve on: the sockets that we were started with or,
// where there is none, one on Listen.
func (c Config) listen(ctx context.Context) (all []net.Listener, err error) {
	if len(c.Inherited.sockets) == 0 {
		l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", c.Listen)
		if err != nil {
			return nil, api.Refuse(connect.CodeUnavailable, "cannot listen on %s: %v", c.Listen, root(err)).
				WithHint("Choose another address with --listen.")
		}
		return []net.Listener{l}, nil
	}
	for _, f := range c.Inherited.sockets {
		l, err := listenerOf(f)
		if err != nil {
			closeAll(all)
			return nil, api.Refuse(connect.CodeInvalidArgument, "an inherited socket cannot be served on: %v", err).
				WithHint("In the socket unit, ListenStream= wants an address or a port, and Accept= is no.")
		}
		all = append(all, l)
	}
	return all, nil
}

// listenerOf makes a listener of a socket, which it closes.
func listenerOf(f *os.File) (net.Listener, error) {
	defer f.Close()
	// One that is connected already would fail at each accept, for ever.
	if listens, err := unix.GetsockoptInt(int(f.Fd()), unix.SOL_SOCKET, unix.SO_ACCEPTCONN); err != nil || listens != 1 {
		return nil, fmt.Errorf("file %d does not listen", f.Fd())
	}
	l, err := net.FileListener(f)
	if err != nil {
		return nil, err
	}
	if _, ok := l.(*net.TCPListener); !ok {
		l.Close()
		return nil, fmt.Errorf("%s is not TCP", l.Addr())
	}
	return l, nil
}

// socketOf gives a listener's socket once more. Not by its method File: what
// that gives makes the socket one that blocks, for all who have it, and Accept
// would not hear of Close.
func socketOf(l net.Listener) (*os.File, error) {
	tcp, ok := l.(*net.TCPListener)
	if !ok {
		return nil, fmt.Errorf("a %T is no socket", l)
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return nil, err
	}
	var f *os.File
	gone := raw.Control(func(fd uintptr) {
		var twin int
		if twin, err = unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, firstInherited); err == nil {
			f = os.NewFile(uintptr(twin), "socket")
		}
	})
	return f, errors.Join(gone, err)
}

func closeAll(listeners []net.Listener) {
	for _, l := range listeners {
		l.Close()
	}
}
