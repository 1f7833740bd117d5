//go:build unix

package agent

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"

	"connectrpc.com/connect"
	"golang.org/x/sys/unix"

	"devicetrust/api"
)

// maxPath of a socket in bytes: sun_path without the zero at its end, which is
// 108 on Linux and 104 on the BSDs and macOS.
const maxPath = 103

// SocketPath is where the agent of home listens unless told otherwise: in home,
// or where that path is too long for a socket, in runtimeDir (XDG_RUNTIME_DIR,
// may be empty) or else in a folder of the person's own under tempDir.
func SocketPath(home, runtimeDir, tempDir string) string {
	if path := filepath.Join(home, "agent.sock"); len(path) <= maxPath {
		return path
	}
	sum := sha256.Sum256([]byte(home))
	hash := hex.EncodeToString(sum[:8])
	if path := filepath.Join(runtimeDir, "dtsh-"+hash+".sock"); filepath.IsAbs(runtimeDir) && len(path) <= maxPath {
		return path
	}
	return filepath.Join(tempDir, "dtsh-"+strconv.Itoa(os.Geteuid())+"-"+hash, "agent.sock")
}

// Listen listens on a UNIX socket at path that only its owner may open, in a
// folder that is made where there is none. What an agent that has ended left
// there is replaced; where one runs, Listen returns ErrRunning. Closing the
// listener removes the socket if it is still that one.
func Listen(path string) (net.Listener, error) {
	if len(path) > maxPath {
		return nil, api.Refuse(connect.CodeInvalidArgument, "cannot listen on %q: the path of a socket has at most %d bytes", path, maxPath).
			WithHint("Name a shorter one with: dtsh agent --socket=PATH")
	}
	_, err := os.Lstat(filepath.Dir(path))
	made := errors.Is(err, fs.ErrNotExist)
	if err := checkFolder(filepath.Dir(path)); err != nil {
		return nil, noSocket(path, err)
	}
	held, err := hold(path + ".lock")
	if err != nil {
		return nil, noSocket(path, err)
	}
	l, err := listenHeld(path)
	if err != nil {
		_ = held.Close()
		return nil, noSocket(path, err)
	}
	l.held, l.made = held, made
	return l, nil
}

var errNoSocket = errors.New("there is something that is not a socket")

// noSocket puts what the system does not allow into words for a person, without
// the paths in it.
func noSocket(path string, err error) error {
	if _, told := errors.AsType[*api.Refusal](err); told {
		return err
	}
	if errno, ok := errors.AsType[syscall.Errno](err); ok {
		err = errno
	}
	return api.Refuse(connect.CodeFailedPrecondition, "cannot listen on %q: %v", path, err).
		WithHint("Name another place with: dtsh agent --socket=PATH")
}

// checkFolder refuses a folder where others could put another socket in the
// place of ours. Links to it are followed where they are in such a folder.
func checkFolder(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	info, err := os.Lstat(dir)
	if err == nil && info.Mode()&fs.ModeSymlink != 0 {
		if st, ok := info.Sys().(*syscall.Stat_t); !ok || int(st.Uid) != os.Geteuid() && st.Uid != 0 {
			return notOurs(dir)
		}
		info, err = os.Stat(dir)
	}
	if err != nil {
		return err
	}
	if st, ok := info.Sys().(*syscall.Stat_t); !ok || !info.IsDir() || int(st.Uid) != os.Geteuid() || info.Mode().Perm()&0o022 != 0 {
		return notOurs(dir)
	}
	return nil
}

func notOurs(dir string) error {
	return api.Refuse(connect.CodeFailedPrecondition, "cannot put the agent's socket into %q: the folder is not yours alone to write to", dir).
		WithHint("Run: chmod go-w %q, or name another place with: dtsh agent --socket=PATH", dir)
}

// hold takes the lock of a socket, which ends with the process: of two agents
// that start at once, one must not remove the other's socket as left over.
func hold(path string) (*os.File, error) {
	for {
		f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
		if err != nil {
			return nil, err
		}
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		// Whoever had it before removes the file; the lock on that is no lock.
		if err == nil && isAt(f, path) {
			return f, nil
		}
		_ = f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, ErrRunning
		}
		if err != nil {
			return nil, err
		}
	}
}

func isAt(f *os.File, path string) bool {
	have, err := f.Stat()
	if err != nil {
		return false
	}
	now, err := os.Lstat(path)
	return err == nil && os.SameFile(have, now)
}

func listenHeld(path string) (*socket, error) {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return nil, err
	case info.Mode().Type() != fs.ModeSocket:
		return nil, errNoSocket
	default:
		// Another program's agent does not take our lock.
		if Running(context.Background(), path) {
			return nil, ErrRunning
		}
		if err := os.Remove(path); err != nil {
			return nil, err
		}
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, err
	}
	l.SetUnlinkOnClose(false)
	s := &socket{UnixListener: l, path: path}
	// Until here whoever may enter the folder could connect; Accept asks who it is.
	err = os.Chmod(path, 0o600)
	if err == nil {
		s.info, err = os.Lstat(path)
	}
	if err != nil {
		_ = l.Close()
		return nil, err
	}
	return s, nil
}

// socket accepts connections of its owner and of root.
type socket struct {
	*net.UnixListener
	path string
	info fs.FileInfo // nil where somebody else made the socket
	held *os.File
	made bool // the folder, by us

	closed sync.Once
	err    error // of closing
}

// Inherited is the listener on a socket that was opened by whoever started the
// process, as systemd does, and is theirs to remove.
func Inherited(f *os.File) (net.Listener, error) {
	l, err := net.FileListener(f)
	if err != nil {
		return nil, fmt.Errorf("the socket that was handed over: %w", err)
	}
	ul, ok := l.(*net.UnixListener)
	if !ok {
		_ = l.Close()
		return nil, errors.New("the socket that was handed over is not a UNIX socket")
	}
	ul.SetUnlinkOnClose(false)
	return &socket{UnixListener: ul}, nil
}

func (s *socket) Accept() (net.Conn, error) {
	for {
		c, err := s.AcceptUnix()
		if err != nil {
			return nil, err
		}
		if ownedByUs(c) {
			return c, nil
		}
		_ = c.Close()
	}
}

// Close may be called more than once; each returns when all is gone.
func (s *socket) Close() error {
	s.closed.Do(func() {
		s.err = s.UnixListener.Close()
		if s.info != nil {
			if now, err := os.Lstat(s.path); err == nil && os.SameFile(now, s.info) {
				_ = os.Remove(s.path)
			}
		}
		if s.held != nil {
			if isAt(s.held, s.path+".lock") {
				_ = os.Remove(s.path + ".lock")
			}
			_ = s.held.Close()
		}
		if s.made {
			_ = os.Remove(filepath.Dir(s.path)) // where it is empty
		}
	})
	return s.err
}

// Dial connects to the agent at path.
func Dial(ctx context.Context, path string) (net.Conn, error) {
	var d net.Dialer
	return d.DialContext(ctx, "unix", path)
}

// ownedByUs tells whether our own account, or root, is at the other end; of a
// listener it is who listened.
func ownedByUs(c net.Conn) bool {
	uc, ok := c.(*net.UnixConn)
	if !ok {
		return false
	}
	uid, err := peerUID(uc)
	return err == nil && (uid == os.Geteuid() || uid == 0)
}

// peerUID is the user at the other end.
func peerUID(c *net.UnixConn) (uid int, err error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return 0, err
	}
	var unknown error
	if err := raw.Control(func(fd uintptr) { uid, unknown = uidOf(int(fd)) }); err != nil {
		return 0, err
	}
	return uid, unknown
}

// CheckPlace makes the folder of the socket at path where there is none, and
// refuses one where others could put a socket of theirs.
func CheckPlace(path string) error {
	if err := checkFolder(filepath.Dir(path)); err != nil {
		return noSocket(path, err)
	}
	return nil
}
