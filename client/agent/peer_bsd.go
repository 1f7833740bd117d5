//go:build darwin || freebsd

package agent

import "golang.org/x/sys/unix"

// uidOf is the user at the other end of a UNIX socket (unix(4), LOCAL_PEERCRED).
func uidOf(fd int) (int, error) {
	cred, err := unix.GetsockoptXucred(fd, unix.SOL_LOCAL, unix.LOCAL_PEERCRED)
	if err != nil {
		return 0, err
	}
	return int(cred.Uid), nil
}
