//go:build unix && !linux

package cli

import "golang.org/x/sys/unix"

const (
	ioctlGetModes = unix.TIOCGETA
	ioctlSetModes = unix.TIOCSETA
)
