package forward

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"strconv"
	"syscall"
)

// Listening says how listeners here are made.
type Listening struct {
	// Everywhere: a port without an address is on every one (GatewayPorts).
	Everywhere bool
	// Unlink removes a socket that is in the way (StreamLocalBindUnlink).
	Unlink bool
	// Mode of UNIX sockets, where ModeSet; else 0600: only the person's own
	// programs connect.
	Mode    fs.FileMode
	ModeSet bool
}

func (o Listening) mode() fs.FileMode {
	if o.ModeSet {
		return o.Mode
	}
	return 0o600
}

// listen opens what at names: one listener, or for "localhost" one on each
// loopback.
func (o Listening) listen(ctx context.Context, at Address) ([]net.Listener, error) {
	if at.Path != "" {
		l, err := o.listenSocket(ctx, at.Path)
		if err != nil {
			return nil, err
		}
		return []net.Listener{l}, nil
	}
	host := at.Host
	if host == "" && o.Everywhere {
		host = "*"
	}
	switch host {
	case "", "localhost":
		return listenLoopback(ctx, at.Port)
	case "*":
		host = ""
	}
	l, err := listenPort(ctx, host, at.Port)
	return list(l), err
}

func list(l net.Listener) []net.Listener {
	if l == nil {
		return nil
	}
	return []net.Listener{l}
}

// listenLoopback wants both of them. One that the machine does not have is not
// missed; one that another program has is: it would get what is meant for us.
func listenLoopback(ctx context.Context, port uint16) ([]net.Listener, error) {
	four, err := listenPort(ctx, "127.0.0.1", port)
	if err != nil {
		return nil, err
	}
	six, err := listenPort(ctx, "::1", port)
	if errors.Is(err, syscall.EADDRINUSE) {
		four.Close()
		return nil, err
	}
	if err == nil {
		return []net.Listener{four, six}, nil
	}
	return list(four), nil // the machine has no such address
}

func listenPort(ctx context.Context, host string, port uint16) (net.Listener, error) {
	var c net.ListenConfig
	l, err := c.Listen(ctx, "tcp", net.JoinHostPort(host, strconv.Itoa(int(port))))
	if err != nil {
		return nil, fmt.Errorf("cannot listen at %s: %w", Address{Host: orEvery(host), Port: port}, innermost(err))
	}
	return l, nil
}

func orEvery(host string) string {
	if host == "" {
		return "*"
	}
	return host
}

// ownSocket is a UNIX socket's listener, which removes on closing what it has
// made, and nothing else that is at the path by then.
type ownSocket struct {
	*net.UnixListener
	path string
	made fs.FileInfo
}

func (o Listening) listenSocket(ctx context.Context, path string) (net.Listener, error) {
	if o.Unlink {
		if info, err := os.Lstat(path); err == nil && info.Mode().Type() == fs.ModeSocket {
			_ = os.Remove(path) // listening tells what is wrong
		}
	}
	c := net.ListenConfig{Control: beforeBind(o.mode())}
	l, err := c.Listen(ctx, "unix", path)
	if err != nil {
		return nil, fmt.Errorf("cannot listen at %s: %w", path, innermost(err))
	}
	s := &ownSocket{UnixListener: l.(*net.UnixListener), path: path}
	s.SetUnlinkOnClose(false)
	s.made, err = os.Lstat(path)
	if err == nil {
		err = os.Chmod(path, o.mode())
	}
	if err != nil {
		_ = s.Close() // why it is is told
		return nil, fmt.Errorf("cannot listen at %s: %w", path, innermost(err))
	}
	return s, nil
}

func (s *ownSocket) Close() error {
	if now, err := os.Lstat(s.path); err == nil && s.made != nil && os.SameFile(now, s.made) {
		_ = os.Remove(s.path) // whoever took the folder away has it
	}
	return s.UnixListener.Close()
}

// innermost is a network error's cause, without addresses.
func innermost(err error) error {
	if dns, ok := errors.AsType[*net.DNSError](err); ok {
		return errors.New(dns.Err)
	}
	if errno, ok := errors.AsType[syscall.Errno](err); ok {
		return errno
	}
	if ne, ok := errors.AsType[net.Error](err); ok && ne.Timeout() {
		return errors.New("no answer in time")
	}
	if inner, ok := errors.AsType[*net.OpError](err); ok {
		return inner.Err
	}
	return err
}
