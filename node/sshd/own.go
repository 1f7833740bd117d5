package sshd

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
)

// plainPath is what may stand in sshd's configuration as it is: no space, no
// quote, and no % that sshd would put something else for.
var plainPath = regexp.MustCompile(`^(/[A-Za-z0-9_+=@,.:-]+)+$`)

func checkPlain(path string) error {
	if !plainPath.MatchString(path) || filepath.Clean(path) != path {
		return fmt.Errorf("%.200q is no absolute path of letters, digits and _+=@,.:-", path)
	}
	return nil
}

// checkSafe refuses a path of which somebody other than root could change a
// part. It is sshd's safe_path (misc.c), which looks at where the path leads,
// and looks at every link on the way as well.
func checkSafe(path string) error {
	at := path
	for range maxLinks {
		next, err := walk(at)
		if err != nil {
			return err
		}
		if next == "" {
			return nil
		}
		at = next
	}
	return fmt.Errorf("%s leads through more than %d links", path, maxLinks)
}

// walk looks at each part of a path down to the first link, and gives the path
// with that resolved; "" where there was none.
func walk(path string) (next string, err error) {
	done := "/"
	parts := strings.Split(strings.Trim(path, "/"), "/")
	for i, part := range append([]string{""}, parts...) {
		done = filepath.Join(done, part)
		info, err := os.Lstat(done)
		if err != nil {
			return "", err
		}
		if err := checkRoots(done, info); err != nil {
			return "", err
		}
		if info.Mode()&fs.ModeSymlink == 0 {
			continue
		}
		target, err := os.Readlink(done)
		if err != nil {
			return "", err
		}
		if !filepath.IsAbs(target) {
			target = filepath.Join(filepath.Dir(done), target)
		}
		return filepath.Join(append([]string{target}, parts[i:]...)...), nil
	}
	return "", nil
}

// checkRoots refuses what is not root's alone to change.
func checkRoots(path string, info fs.FileInfo) error {
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return fmt.Errorf("it is not known whom %s belongs to", path)
	}
	if stat.Uid != 0 {
		return fmt.Errorf("%s belongs to uid %d and not to root", path, stat.Uid)
	}
	if mode := info.Mode(); mode&fs.ModeSymlink == 0 && mode.Perm()&0o022 != 0 {
		return fmt.Errorf("others than root may write to %s (mode %04o)", path, mode.Perm())
	}
	return nil
}

// checkMade tells whether there is a file (or, with dir, a folder) at path that
// we may have made; what else is there, as a link, is refused.
func checkMade(path string, dir bool) (there bool, err error) {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if info.IsDir() != dir || !dir && !info.Mode().IsRegular() {
		return true, fmt.Errorf("%s is not what dtnoded makes there but %s", path, info.Mode())
	}
	return true, checkRoots(path, info)
}

// checkOpen refuses a program that the helper's account could not run, or a
// file that it could not read: wants is the permission bit of others.
func checkOpen(path string, wants fs.FileMode) error {
	resolved, err := filepath.EvalSymlinks(path)
	if err != nil {
		return err
	}
	info, err := os.Stat(resolved)
	if err != nil {
		return err
	}
	if info.Mode().Perm()&wants != wants {
		return fmt.Errorf("not everybody may use %s (mode %04o)", resolved, info.Mode().Perm())
	}
	for dir := filepath.Dir(resolved); ; dir = filepath.Dir(dir) {
		if info, err = os.Stat(dir); err != nil {
			return err
		}
		if info.Mode().Perm()&0o001 == 0 {
			return fmt.Errorf("not everybody may go through %s (mode %04o)", dir, info.Mode().Perm())
		}
		if dir == "/" {
			return nil
		}
	}
}
