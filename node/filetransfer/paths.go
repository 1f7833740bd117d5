package filetransfer

import (
	"encoding/binary"
	"errors"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// onPath does what a request with one path asks for.
func onPath(f *Fields, act func(string) error) error {
	path := f.String()
	if f.Short {
		return errMalformed
	}
	return act(path)
}

// onPaths does what a request with two paths asks for.
func onPaths(f *Fields, act func(from, to string) error) error {
	from, to := f.String(), f.String()
	if f.Short {
		return errMalformed
	}
	return act(from, to)
}

func mkdir(f *Fields) error {
	path, a := f.String(), f.Attributes()
	if f.Short {
		return errMalformed
	}
	mode := uint32(0o777)
	if a.Flags&AttrMode != 0 {
		mode = a.Mode & 0o777
	}
	return unix.Mkdir(path, mode)
}

// rename does not replace what is there (section 6.5); posix-rename does.
func rename(from, to string) error {
	err := unix.Renameat2(unix.AT_FDCWD, from, unix.AT_FDCWD, to, unix.RENAME_NOREPLACE)
	if !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOSYS) {
		return err
	}
	// A file system that cannot (NFS).
	var there unix.Stat_t
	if unix.Lstat(to, &there) == nil {
		return unix.EEXIST
	}
	return unix.Rename(from, to)
}

func (s *server) readlink(id uint32, f *Fields) error {
	path := f.String()
	if f.Short {
		return errMalformed
	}
	buffer := make([]byte, unix.PathMax)
	n, err := unix.Readlink(path, buffer)
	if err != nil {
		return err
	}
	return s.oneName(id, string(buffer[:n]))
}

func (s *server) realpath(id uint32, f *Fields) error {
	path := f.String()
	if f.Short {
		return errMalformed
	}
	real, err := realpath(path)
	if err != nil {
		return err
	}
	return s.oneName(id, real)
}

// realpath is an absolute path without symbolic links. As in OpenSSH
// (sftp-realpath.c), of the last name there may be nothing yet.
func realpath(path string) (string, error) {
	path, err := absolute(path)
	if err != nil {
		return "", err
	}
	real, err := filepath.EvalSymlinks(path)
	if !errors.Is(err, unix.ENOENT) {
		return real, err
	}
	dir, last := filepath.Split(strings.TrimRight(path, "/"))
	if last == "." || last == ".." {
		return "", err
	}
	if dir, err = filepath.EvalSymlinks(dir); err != nil {
		return "", err
	}
	return filepath.Join(dir, last), nil
}

// absolute leaves ".." to who knows what is a link.
func absolute(path string) (string, error) {
	if strings.HasPrefix(path, "/") {
		return path, nil
	}
	here, err := unix.Getwd()
	if err != nil {
		return "", err
	}
	return here + "/" + path, nil
}

// oneName answers with a name of which nothing else is said.
func (s *server) oneName(id uint32, path string) error {
	s.packet(name, id, func(b []byte) []byte {
		b = binary.BigEndian.AppendUint32(b, 1)
		b = appendText(appendText(b, path), path)
		return binary.BigEndian.AppendUint32(b, 0)
	})
	return errAnswered
}
