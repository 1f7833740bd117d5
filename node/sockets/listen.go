package sockets

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// listenAt gives the listeners of an address, and their port.
func listenAt(ctx context.Context, at Address) ([]net.Listener, uint16, error) {
	if at.Path != "" {
		// What is there already is left alone, and in the way
		// (StreamLocalBindUnlink no, sshd_config(5)).
		l, err := config().Listen(ctx, "unix", at.Path)
		return []net.Listener{l}, 0, err
	}
	hosts := []bind{{"tcp", at.Host}}
	switch at.Host {
	case "localhost":
		hosts = loopback()
	case "":
		hosts = []bind{{"tcp4", "0.0.0.0"}, {"tcp6", "::"}}
	}
	var all []net.Listener
	var port uint16
	var err error
	for range samePort {
		all, port, err = listenOn(ctx, hosts, at.Port)
		// A free port that is not free on all of the addresses.
		if at.Port != 0 || !errors.Is(err, unix.EADDRINUSE) {
			break
		}
	}
	return all, port, err
}

// bind is one address of this machine.
type bind struct{ network, host string }

func loopback() []bind { return []bind{{"tcp4", "127.0.0.1"}, {"tcp6", "::1"}} }

// config: without multipath TCP, a protocol of its own, a socket is what the
// account's other programs and the machine's firewall know.
func config() *net.ListenConfig {
	var c net.ListenConfig
	c.SetMultipathTCP(false)
	return &c
}

// listenOn listens at the same port on each of the hosts; families that the
// machine does not have are left out. Somebody else's listener on one of them
// would get what is meant for this one: it is all or none.
func listenOn(ctx context.Context, hosts []bind, port uint16) (all []net.Listener, _ uint16, err error) {
	var missing error
	for _, h := range hosts {
		l, err := config().Listen(ctx, h.network, net.JoinHostPort(h.host, strconv.Itoa(int(port))))
		if err != nil && len(hosts) > 1 && (errors.Is(err, unix.EAFNOSUPPORT) || errors.Is(err, unix.EADDRNOTAVAIL)) {
			missing = err
			continue
		}
		if err != nil {
			for _, l := range all {
				l.Close()
			}
			return nil, 0, err
		}
		all = append(all, l)
		if tcp, ok := l.Addr().(*net.TCPAddr); ok {
			port = uint16(tcp.Port)
		}
	}
	if len(all) == 0 {
		return nil, 0, missing
	}
	return all, port, nil
}

// listenAgent makes a socket in a folder that only the account enters; remove
// removes both.
func listenAgent(ctx context.Context) (l []net.Listener, path string, remove func(), err error) {
	dir, err := os.MkdirTemp("/tmp", "ssh-")
	if err != nil {
		return nil, "", nil, err
	}
	remove = func() { _ = os.RemoveAll(dir) }
	// The umask is for sockets.
	err = os.Chmod(dir, 0o700)
	path = filepath.Join(dir, agentName+strconv.Itoa(os.Getpid()))
	if err == nil {
		l, _, err = listenAt(ctx, Address{Path: path})
	}
	if err != nil {
		remove()
		return nil, "", nil, err
	}
	return l, path, remove, nil
}

// accept hands over each connection until the listener is closed.
func (s *server) accept(id uint32, l net.Listener) {
	for {
		conn, err := l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			time.Sleep(acceptPause)
			continue
		}
		file, err := s.fileOf(conn)
		if err != nil {
			continue
		}
		s.send(answer{ID: id, Is: accepted}, file)
	}
}
