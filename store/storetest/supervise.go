//go:build linux

package storetest

import (
	"bufio"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
	"time"
)

// startTimeout is generous: a busy machine with two cores runs initdb in
// about two seconds.
const startTimeout = 60 * time.Second

//go:embed supervise.sh
var superviseScript string

// supervise starts a private PostgreSQL under a shell that ends it, and
// removes its folder, as soon as this process is gone, however it went: the
// shell waits for the end of file on a pipe whose other end only we hold.
// It returns the folder, which holds the server's socket, and our end of the
// pipe, to be kept for as long as the server is wanted.
func supervise() (dir string, hold io.Closer, err error) {
	bin, err := binaries()
	if err != nil {
		return "", nil, err
	}
	cred, err := unprivileged()
	if err != nil {
		return "", nil, err
	}
	if dir, err = makeDir(cred); err != nil {
		return "", nil, err
	}
	cmd := exec.Command("/bin/sh", "-c", superviseScript, "storetest-postgres", dir, bin) //nolint:noctx // it outlives every test
	cmd.Dir = "/"
	cmd.Env = []string{"PATH=/usr/bin:/bin", "LC_ALL=C", "TZ=UTC"}
	// A session of its own: an interrupt from the terminal must reach the
	// shell as the end of this process, not as the end of the shell.
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: cred, Setsid: true}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return "", nil, errors.Join(err, os.RemoveAll(dir))
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return "", nil, errors.Join(err, os.RemoveAll(dir))
	}
	if err := cmd.Start(); err != nil {
		return "", nil, errors.Join(err, os.RemoveAll(dir))
	}
	if line, err := bufio.NewReader(stdout).ReadString('\n'); err != nil || line != "ready\n" {
		log := readLog(dir)
		return "", nil, errors.Join(fmt.Errorf("initdb failed:\n%s", log), stdin.Close(), cmd.Wait())
	}
	return dir, stdin, nil
}

// binaries finds the newest installed server. Debian keeps initdb and
// postgres out of PATH, in a folder for each major version.
func binaries() (string, error) {
	found, err := filepath.Glob("/usr/lib/postgresql/*/bin/initdb")
	if err != nil {
		return "", err
	}
	best, newest := "", -1
	for _, f := range found {
		bin := filepath.Dir(f)
		version, err := strconv.Atoi(filepath.Base(filepath.Dir(bin)))
		if err == nil && version > newest {
			best, newest = bin, version
		}
	}
	if best == "" {
		return "", errors.New("PostgreSQL is needed and not installed: apt-get install postgresql")
	}
	return best, nil
}

// unprivileged says as whom the server runs: PostgreSQL refuses to be root.
// It is nil, meaning ourselves, where we are not root.
func unprivileged() (*syscall.Credential, error) {
	if os.Geteuid() != 0 {
		return nil, nil
	}
	var errs error
	for _, name := range []string{"postgres", "nobody"} {
		u, err := user.Lookup(name)
		if err != nil {
			errs = errors.Join(errs, err)
			continue
		}
		uid, uidErr := strconv.ParseUint(u.Uid, 10, 32)
		gid, gidErr := strconv.ParseUint(u.Gid, 10, 32)
		if err := errors.Join(uidErr, gidErr); err != nil {
			return nil, err
		}
		return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, nil
	}
	return nil, fmt.Errorf("no unprivileged user for PostgreSQL: %w", errs)
}

// makeDir makes the server's folder, for its user alone. Its path must be
// short: a UNIX socket's has at most 107 bytes (unix(7)).
func makeDir(cred *syscall.Credential) (string, error) {
	dir, err := os.MkdirTemp(baseDir(cred), "dt-pg-")
	if err != nil || cred == nil {
		return dir, err
	}
	return dir, os.Chown(dir, int(cred.Uid), int(cred.Gid))
}

// memoryDir is the file system in memory that Linux has; creating a database
// there takes a tenth of the time, and this server keeps nothing anyway.
const memoryDir = "/dev/shm"

// baseDir is memoryDir where that has room, which a container's often has
// not, and where the server's user may remove what is theirs. Else it is the folder for temporary files, which for root may be
// closed to the server's user, while /tmp is not.
func baseDir(cred *syscall.Credential) string {
	const room = 1 << 30 // the cluster 40 MiB, its log 256 MiB, 8 MiB for each open store
	var fs syscall.Statfs_t
	info, err := os.Stat(memoryDir)
	everybodys := err == nil && info.Mode()&os.ModeSticky != 0 && info.Mode().Perm()&0o002 != 0
	if everybodys && syscall.Statfs(memoryDir, &fs) == nil && fs.Bavail*uint64(fs.Bsize) >= room {
		return memoryDir
	}
	if cred != nil {
		return "/tmp"
	}
	return os.TempDir()
}

func readLog(dir string) string {
	b, err := os.ReadFile(filepath.Join(dir, "log"))
	if err != nil {
		return err.Error()
	}
	return string(b)
}
