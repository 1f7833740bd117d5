package sockets

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// receive waits for one packet, and the file that came with it, if any; io.EOF
// is the end. No file is left open where there is an error.
func receive(conn *net.UnixConn, buffer []byte) (packet []byte, file *os.File, err error) {
	// Room for one more than may come: what is too much is seen, and closed.
	control := make([]byte, unix.CmsgSpace(2*4))
	n, controlSize, flags, _, err := conn.ReadMsgUnix(buffer, control)
	files := parseFiles(control[:controlSize])
	defer func() {
		if err != nil {
			closeAll(files)
		}
	}()
	switch {
	case err != nil:
		return nil, nil, err
	case n == 0:
		return nil, nil, io.EOF
	case flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0 || len(files) > 1:
		return nil, nil, errors.New("a packet that is too large, or with too many files")
	case len(files) == 1:
		file = files[0]
	}
	return buffer[:n], file, nil
}

func parseFiles(control []byte) []*os.File {
	messages, err := unix.ParseSocketControlMessage(control)
	if err != nil {
		return nil
	}
	var files []*os.File
	for _, m := range messages {
		fds, err := unix.ParseUnixRights(&m)
		if err != nil {
			continue
		}
		for _, fd := range fds {
			files = append(files, os.NewFile(uintptr(fd), "socket"))
		}
	}
	return files
}

func closeAll(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}

// Conn is a connected socket: one of TCP or a UNIX one.
type Conn interface {
	net.Conn
	CloseWrite() error
}

var (
	_ Conn = (*net.TCPConn)(nil)
	_ Conn = (*net.UnixConn)(nil)
)

// connOf makes a connection of a file that the worker has sent, and closes it.
// It is of TCP, or one end of a pair that the worker has made: another UNIX
// socket could be one to a program that asks the kernel who writes to it
// (SO_PASSCRED, unix(7)), and we are root.
func connOf(file *os.File, worker int) (Conn, error) {
	defer file.Close()
	raw, err := file.SyscallConn()
	if err != nil {
		return nil, err
	}
	var bad error
	if err := raw.Control(func(fd uintptr) { bad = checkSocket(int(fd), worker) }); err != nil {
		return nil, err
	}
	if bad != nil {
		return nil, bad
	}
	conn, err := net.FileConn(file)
	if err != nil {
		return nil, err
	}
	stream, ok := conn.(Conn)
	if !ok {
		conn.Close()
		return nil, fmt.Errorf("a socket that is a %T", conn)
	}
	return stream, nil
}

func checkSocket(fd, worker int) error {
	option := func(name, want int) bool {
		got, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, name)
		return err == nil && got == want
	}
	if !option(unix.SO_TYPE, unix.SOCK_STREAM) || !option(unix.SO_ACCEPTCONN, 0) {
		return errors.New("a file that is no connected socket")
	}
	switch {
	case option(unix.SO_DOMAIN, unix.AF_INET), option(unix.SO_DOMAIN, unix.AF_INET6):
		if option(unix.SO_PROTOCOL, unix.IPPROTO_TCP) {
			return nil
		}
	case option(unix.SO_DOMAIN, unix.AF_UNIX):
		peer, err := unix.GetsockoptUcred(fd, unix.SOL_SOCKET, unix.SO_PEERCRED)
		if err == nil && int(peer.Pid) == worker && worker > 0 {
			return nil
		}
	}
	return errors.New("a socket of another kind")
}
