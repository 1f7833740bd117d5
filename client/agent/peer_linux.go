package agent

import "golang.org/x/sys/unix"

// uidOf is the user at the other end of a UNIX socket (unix(7), SO_PEERCRED).
func uidOf(fd int) (int, error) {
	cred, err := unix.GetsockoptUcred(fd, unix.SOL_SOCKET, unix.SO_PEERCRED)
	if err != nil {
		return 0, err
	}
	return int(cred.Uid), nil
}
