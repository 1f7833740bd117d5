package authd

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/user"
	"strconv"
	"sync"

	"golang.org/x/sys/unix"
)

type osUserKey struct{}

// listenSocket opens the admin socket: whoever may open it administers the
// cluster, so its mode is 0600 from the first moment.
func listenSocket(ctx context.Context, path string) (net.Listener, error) {
	// A socket that a killed process left behind is in the way; one that
	// answers belongs to a dtauthd that runs.
	if c, err := new(net.Dialer).DialContext(ctx, "unix", path); err == nil {
		return nil, errors.Join(fmt.Errorf("another dtauthd serves %s", path), c.Close())
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("authd: %w", err)
	}
	old := unix.Umask(0o177)
	l, err := new(net.ListenConfig).Listen(ctx, "unix", path)
	unix.Umask(old)
	if err != nil {
		return nil, fmt.Errorf("authd: %w", err)
	}
	return l, nil
}

// socketPeer notes who opened the admin socket, as the kernel tells.
func socketPeer(ctx context.Context, c net.Conn) context.Context {
	name := "unknown"
	if uc, ok := c.(*net.UnixConn); ok {
		if uid, err := peerUID(uc); err == nil {
			name = strconv.FormatUint(uint64(uid), 10)
			if u, err := user.LookupId(name); err == nil {
				name = u.Username
			}
		}
	}
	return context.WithValue(ctx, osUserKey{}, name)
}

func peerUID(c *net.UnixConn) (uint32, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return 0, err
	}
	var cred *unix.Ucred
	var credErr error
	if err := raw.Control(func(fd uintptr) {
		cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); err != nil {
		return 0, err
	}
	if credErr != nil {
		return 0, credErr
	}
	return cred.Uid, nil
}

// boundedListener refuses connections above a total and a number per place:
// before TLS nobody has said who they are.
type boundedListener struct {
	net.Listener
	shares
}

func newBoundedListener(l net.Listener) *boundedListener {
	return &boundedListener{Listener: l, shares: shares{
		total: maxConnections, place: maxConnectionsPerAddress, site: maxConnectionsPerSite,
	}}
}

func (l *boundedListener) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		from := place(c.RemoteAddr())
		if l.enter(from) {
			return &boundedConn{Conn: c, leave: sync.OnceFunc(func() { l.leave(from) })}, nil
		}
		_ = c.Close() // refused: there is nobody to tell
	}
}

func (l *boundedListener) enter(from netip.Prefix) bool { return l.take(from, 1) }
func (l *boundedListener) leave(from netip.Prefix)      { l.give(from, 1) }

type boundedConn struct {
	net.Conn
	leave func()
}

func (c *boundedConn) Close() error {
	c.leave()
	return c.Conn.Close()
}
