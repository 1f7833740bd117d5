package sshd

import (
	"context"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// written is a file of sshd's, with the process that wrote it.
type written struct {
	by   Process
	uid  uint32 // whose file it is
	text []byte
}

// authWatch is told by the kernel of each file that sshd writes for a person,
// with the process that did: the person can neither write as sshd (which lets
// nobody trace it once it has changed its user), nor take the file away before
// it is read, for it comes open.
type authWatch struct {
	file *os.File
	proc proc
	told chan written
}

// newAuthWatch fails where the kernel lets us not watch (fanotify(7) wants
// CAP_SYS_ADMIN).
func newAuthWatch(p proc) (*authWatch, error) {
	fd, err := unix.FanotifyInit(unix.FAN_CLASS_NOTIF|unix.FAN_CLOEXEC|unix.FAN_NONBLOCK, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NONBLOCK)
	if err != nil {
		return nil, os.NewSyscallError("fanotify_init", err)
	}
	if err := unix.FanotifyMark(fd, unix.FAN_MARK_ADD|unix.FAN_MARK_ONLYDIR, unix.FAN_CLOSE_WRITE|unix.FAN_EVENT_ON_CHILD, unix.AT_FDCWD, authInfoDir); err != nil {
		unix.Close(fd)
		return nil, os.NewSyscallError("fanotify_mark", err)
	}
	return &authWatch{file: os.NewFile(uintptr(fd), "fanotify"), proc: p, told: make(chan written, 256)}, nil
}

// run tells of what is written until ctx ends. Files of everybody are in the
// folder: what has not the name of sshd's is not read.
func (w *authWatch) run(ctx context.Context, tell func()) {
	defer context.AfterFunc(ctx, func() { w.file.Close() })()
	buffer := make([]byte, 16<<10)
	for {
		n, err := w.file.Read(buffer)
		if err != nil {
			return
		}
		events := buffer[:n]
		for len(events) >= unix.FAN_EVENT_METADATA_LEN {
			size := int(binary.NativeEndian.Uint32(events))
			if size < unix.FAN_EVENT_METADATA_LEN || size > len(events) {
				break
			}
			// struct fanotify_event_metadata: mask at 8, fd at 16, pid at 20.
			fd, pid := int32(binary.NativeEndian.Uint32(events[16:])), int32(binary.NativeEndian.Uint32(events[20:]))
			if fd >= 0 {
				if one, err := w.read(int(fd), int(pid)); err == nil {
					select {
					case w.told <- one:
						tell()
					case <-ctx.Done():
						return
					}
				}
			}
			events = events[size:]
		}
	}
}

var errNotSSHD = errors.New("it is not a file of sshd's")

func (w *authWatch) read(fd, pid int) (written, error) {
	f := os.NewFile(uintptr(fd), strconv.Itoa(fd))
	defer f.Close()
	// It lies in the folder that is watched; how that is called depends on the
	// mounts that are seen here. The kernel adds " (deleted)" where it is.
	path, err := os.Readlink("/proc/self/fd/" + strconv.Itoa(fd))
	if err != nil || !strings.HasPrefix(filepath.Base(path), authInfoPrefix) {
		return written{}, errNotSSHD
	}
	by, ok := w.proc.one(pid)
	if !ok || !isSSHD(w.proc.program(pid)) {
		return written{}, errNotSSHD
	}
	var info unix.Stat_t
	if err := unix.Fstat(fd, &info); err != nil {
		return written{}, err
	}
	text, _, err := readOwned(f, info.Uid)
	return written{by: by.Process, uid: info.Uid, text: text}, err
}
