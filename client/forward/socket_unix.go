//go:build unix

package forward

import (
	"io/fs"
	"syscall"

	"golang.org/x/sys/unix"
)

// beforeBind gives the socket its mode before it has a name: Linux takes the
// file's from there, so that nobody connects meanwhile. Other systems take no
// notice, and the mode is set afterwards.
func beforeBind(mode fs.FileMode) func(string, string, syscall.RawConn) error {
	return func(_, _ string, c syscall.RawConn) error {
		return c.Control(func(fd uintptr) { _ = unix.Fchmod(int(fd), uint32(mode.Perm())) })
	}
}
