package sshd

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"sync"

	"golang.org/x/sys/unix"
)

// Kept are files that are to stay as they were put. Whoever changes one, takes
// it away, or puts an older one in its place has it put right.
type Kept struct {
	// Dir has them; it is made again where it is gone.
	Dir Dir

	mu    sync.Mutex
	files map[string]*keptFile
}

type keptFile struct {
	paths  []string
	write  func() error
	stamps []stamp
}

// stamp changes with the file: its time of change (inode(7), ctime) cannot be
// set to what it was.
type stamp struct {
	dev, ino       uint64
	size           int64
	changed        unix.Timespec
	mode, uid, gid uint32
}

func stampsOf(paths []string) []stamp {
	all := make([]stamp, len(paths))
	for i, path := range paths {
		var s unix.Stat_t
		if unix.Lstat(path, &s) == nil {
			all[i] = stamp{s.Dev, s.Ino, s.Size, s.Ctim, s.Mode, s.Uid, s.Gid}
		}
	}
	return all
}

// Put writes what has the name, which are the files at paths, and keeps it so.
// Where that fails, it is tried again by Mend.
func (k *Kept) Put(name string, write func() error, paths ...string) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.files == nil {
		k.files = map[string]*keptFile{}
	}
	f := &keptFile{paths: paths, write: write}
	k.files[name] = f
	return f.put()
}

func (f *keptFile) put() error {
	f.stamps = nil
	if err := f.write(); err != nil {
		return err
	}
	f.stamps = stampsOf(f.paths)
	return nil
}

// Forget runs remove, and keeps the files no longer.
func (k *Kept) Forget(name string, remove func() error) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.files, name)
	return remove()
}

// Mend writes again what is not as it was put, and tells what that was; err,
// what could not be.
func (k *Kept) Mend() (mended []string, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	var errs []error
	for name, f := range k.files {
		if f.stamps != nil && slices.Equal(stampsOf(f.paths), f.stamps) {
			continue
		}
		if err := k.Dir.make(); err != nil {
			return nil, err
		}
		for _, path := range f.paths { // rename(2) does not take its place
			if info, err := os.Lstat(path); err == nil && info.IsDir() {
				errs = append(errs, os.RemoveAll(path))
			}
		}
		if err := f.put(); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", name, err))
			continue
		}
		mended = append(mended, name)
	}
	slices.Sort(mended)
	return mended, errors.Join(errs...)
}

// make makes the folder where there is none.
func (d Dir) make() error {
	err := os.Mkdir(string(d), 0o755)
	if err == nil || errors.Is(err, fs.ErrExist) {
		return nil
	}
	return err
}
