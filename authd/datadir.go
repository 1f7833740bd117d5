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
	if err := checkDataDir(path); err != nil {
		return nil, err
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

// checkDataDir refuses a directory in which somebody else may have put a key,
// a database or a socket of their own, or may replace ours: whom it belongs
// to, and who may write to it, can do that.
func checkDataDir(path string) error {
	var dir unix.Stat_t
	if err := unix.Stat(path, &dir); err != nil {
		return fmt.Errorf("the data directory %s: %w", path, err)
	}
	if ours := uint32(os.Geteuid()); dir.Uid != 0 && dir.Uid != ours {
		return fmt.Errorf("the data directory %s belongs to user %d, and neither to root nor to user %d, who runs this: chown it, and think of what is in it", path, dir.Uid, ours)
	}
	if dir.Mode&0o022 == 0 {
		return nil
	}
	if dir.Mode&unix.S_ISVTX == 0 {
		return fmt.Errorf("the data directory %s has mode %04o and others may write to it: chmod 700 it, and think of who has", path, dir.Mode&0o777)
	}
	// Nobody can replace what is ours in it, as in a file system just mounted.
	entries, err := os.ReadDir(path)
	if err != nil {
		return fmt.Errorf("the data directory: %w", err)
	}
	for _, e := range entries {
		var stat unix.Stat_t
		if err := unix.Lstat(filepath.Join(path, e.Name()), &stat); err != nil {
			return fmt.Errorf("the data directory: %s: %w", e.Name(), err)
		}
		if stat.Uid != uint32(os.Geteuid()) {
			return fmt.Errorf("the data directory %s can be written to by others, and %s in it is somebody else's", path, e.Name())
		}
	}
	return nil
}
