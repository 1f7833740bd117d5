package files

import (
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"
	"unicode"
)

// Tree is a file system: this machine's or a node's.
type Tree interface {
	// shown is the path as people name it.
	shown(path string) string
	join(dir, name string) string
	base(path string) string
	real(path string) (string, error)
	// glob gives the paths that a source names; itself where it names none.
	glob(pattern string) ([]string, error)
	// stat follows links.
	stat(path string) (fs.FileInfo, error)
	list(dir string) ([]string, error)
	open(path string) (file, error)
	// create opens a file to be written, empty; a new one gets at most mode.
	create(path string, mode fs.FileMode) (file, error)
	mkdir(path string) error
	chmod(path string, mode fs.FileMode) error
	chtimes(path string, t time.Time) error
}

// file is what *os.File and *sftp.File have in common.
type file interface {
	io.Reader
	io.WriterTo
	io.ReaderFrom
	io.Seeker
	io.Closer
	Stat() (fs.FileInfo, error)
	Chmod(fs.FileMode) error
	Truncate(int64) error
}

// Local is this machine.
type Local struct{}

var _, _ Tree = Local{}, (*Remote)(nil)

func (Local) shown(path string) string              { return path }
func (Local) join(dir, name string) string          { return filepath.Join(dir, name) }
func (Local) base(path string) string               { return filepath.Base(path) }
func (Local) glob(path string) ([]string, error)    { return []string{path}, nil } // the shell has done it
func (Local) stat(path string) (fs.FileInfo, error) { return os.Stat(path) }
func (Local) open(path string) (file, error)        { return opened(os.Open(path)) }
func (Local) mkdir(path string) error               { return os.Mkdir(path, 0o777) }

func (Local) real(path string) (string, error) {
	path, err := filepath.EvalSymlinks(path)
	if err != nil {
		return "", err
	}
	return filepath.Abs(path)
}

func (Local) list(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	names := make([]string, 0, len(entries))
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names, err
}

func (Local) create(path string, mode fs.FileMode) (file, error) {
	return opened(os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, mode))
}

func (Local) chmod(path string, mode fs.FileMode) error { return os.Chmod(path, mode) }

func (Local) chtimes(path string, t time.Time) error { return os.Chtimes(path, t, t) }

// opened keeps a nil *os.File from becoming a file.
func opened(f *os.File, err error) (file, error) {
	if err != nil {
		return nil, err
	}
	return f, nil
}

// isName tells whether a node's name of a file names one in the very folder,
// here and on nodes. What could move a terminal's cursor is not a name either.
func isName(name string) bool {
	return name != "" && name != "." && name != ".." && filepath.IsLocal(name) &&
		!strings.ContainsAny(name, "/\x00"+string(filepath.Separator)) &&
		!(runtime.GOOS == "windows" && strings.Contains(name, ":")) &&
		!strings.ContainsFunc(name, unicode.IsControl)
}
