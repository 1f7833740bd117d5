// Package durable writes files that survive a crash.
package durable

import (
	"errors"
	"os"
	"path/filepath"
)

// File says how a file is made.
type File struct {
	// Mode is its permissions; 0 is 0600.
	Mode os.FileMode
	// Group is its group, where GroupSet; else that of the process.
	Group    int
	GroupSet bool
}

// Write replaces path by data, for its owner only, so that a crash leaves the
// old or the new content.
func Write(path string, data []byte) error { return File{}.Write(path, data) }

// Write is the same for who f says: temporary file, fsync, rename, fsync of the
// folder.
func (f File) Write(path string, data []byte) (err error) {
	dir := filepath.Dir(path)
	t, err := os.CreateTemp(dir, "."+filepath.Base(path)+".*") // 0600
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			os.Remove(t.Name())
		}
	}()
	_, err = t.Write(data)
	if err == nil && f.GroupSet {
		err = t.Chown(-1, f.Group)
	}
	if err == nil && f.Mode != 0 {
		err = t.Chmod(f.Mode)
	}
	if err := errors.Join(err, t.Sync(), t.Close()); err != nil {
		return err
	}
	if err := os.Rename(t.Name(), path); err != nil {
		return err
	}
	return SyncDir(dir)
}

// SyncDir makes the names in dir survive a loss of power.
func SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
