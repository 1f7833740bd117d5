package sockets

import (
	"io"
	"net"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// relay gives the node one end of a pair, and carries bytes between the other
// and a UNIX socket. The node must not write to the socket itself: who reads
// there may ask the kernel who wrote (SO_PASSCRED, unix(7)), and would hear of
// root.
func relay(socket *net.UnixConn) (*os.File, error) {
	pair, node, err := newPair()
	if err != nil {
		_ = socket.Close()
		return nil, err
	}
	go func() {
		var both sync.WaitGroup
		both.Go(func() {
			_, _ = io.Copy(socket, pair)
			_ = socket.CloseWrite()
			_ = pair.CloseRead()
			awaitHangup(pair)
			_ = socket.Close() // the node wants no more of it
		})
		_, _ = io.Copy(pair, socket)
		_ = pair.CloseWrite()
		_ = socket.CloseRead()
		both.Wait()
		_ = pair.Close()
	}()
	return node, nil
}

func newPair() (*net.UnixConn, *os.File, error) {
	ends, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, err
	}
	ours, node := os.NewFile(uintptr(ends[0]), "worker"), os.NewFile(uintptr(ends[1]), "node")
	defer ours.Close()
	conn, err := net.FileConn(ours)
	if err != nil {
		node.Close()
		return nil, nil, err
	}
	pair, ok := conn.(*net.UnixConn)
	if !ok {
		conn.Close()
		node.Close()
		return nil, nil, unix.EINVAL
	}
	return pair, node, nil
}

// awaitHangup returns when the other end is closed, and not only to be written
// to; or this one is. It waits in the poller.
func awaitHangup(conn *net.UnixConn) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Read(func(fd uintptr) bool {
		poll := []unix.PollFd{{Fd: int32(fd)}}
		n, err := unix.Poll(poll, 0)
		return err != nil || n > 0 && poll[0].Revents&(unix.POLLHUP|unix.POLLERR|unix.POLLNVAL) != 0
	})
}
