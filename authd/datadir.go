package authd

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// takeDataDir makes the data directory where it is missing and holds it for
// this process, until the file that it returns is closed. Two dtauthd in one
// directory would each write the store, and neither would tell its nodes of
// what the other one revoked.
func takeDataDir(path string) (*os.File, error) {
	if err := os.MkdirAll(path, 0o700); err != nil {
		return nil, fmt.Errorf("the data directory cannot be made: %w", err)
	}
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("the data directory: %w", err)
	}
	// Whoever may write there can put a key or a socket of their own there.
	if mode := info.Mode().Perm(); mode&0o002 != 0 {
		return nil, fmt.Errorf("the data directory %s has mode %04o and everybody may write to it: chmod 700 it, and think of who has", path, mode)
	}
	f, err := os.OpenFile(filepath.Join(path, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("the data directory: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		if errors.Is(err, unix.EWOULDBLOCK) {
			err = fmt.Errorf("another dtauthd uses the data directory %s", path)
		}
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}
