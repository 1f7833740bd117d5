package client

import (
	"errors"

	"golang.org/x/sys/unix"
)

// exchange puts the folder fresh in the place of dir in one step
// (renameat2(2)); what was in dir is then at fresh. File systems without it
// get several steps.
func exchange(fresh, dir string) error {
	err := unix.Renameat2(unix.AT_FDCWD, fresh, unix.AT_FDCWD, dir, unix.RENAME_EXCHANGE)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSYS) {
		return moveInto(fresh, dir)
	}
	return err
}
