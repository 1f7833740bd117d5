// Package helper is what becomes a session's first process: this program once
// more, started in advance, which waits to be told whose session it is
// (decision 0006).
//
// It imports little on purpose. Go initialises a package as soon as all that
// it imports is, and in the order of names; so a helper is at work before the
// rest of the program is even initialised, which would take several times as
// long as all that a helper does.
package helper

import (
	"encoding/binary"
	"errors"
	"os"
	"runtime"
	"strconv"
	"syscall"
	"unsafe"
)

// Name is what a helper is called by, as its only argument; nobody would type
// it.
const Name = "dtnoded: session"

// socket is the file by which a helper is told what to become.
const socket = 3

// Where this process is a helper, this returns only if it has become none of
// another program.
var started, was = serve(os.Args)

// Started is what has come of a helper.
type Started struct {
	// Work is what the rest of this program is to do, as whom the helper was
	// told to become; NoWork is to exit with Status.
	Work   Work
	Status int
}

// Was tells whether this process was started as a helper.
func Was() (Started, bool) { return started, was }

func serve(args []string) (started Started, is bool) {
	if len(args) != 1 || args[0] != Name {
		return Started{}, false
	}
	// The signal mask is the thread's.
	runtime.LockOSThread()
	keepFiles()
	r, files, err := receive()
	if errors.Is(err, errNotNeeded) {
		return Started{}, true
	}
	if err != nil {
		return Started{Status: tell(Report{Understand, errno(err)})}, true
	}
	tell(Report{Step: Begun})
	if fault := become(r, files); fault != (Report{}) {
		return Started{Status: tell(fault)}, true
	}
	// What is told from here on is told by the end of the socket.
	_ = syscall.Close(socket)
	runtime.UnlockOSThread()
	return Started{Work: r.Work}, true
}

// tell reports to the node. Where it is gone, nobody wants the session.
func tell(r Report) int {
	_, _ = syscall.Write(socket, r.marshal())
	return 255
}

// become does not return unless it fails or, with the zero Report, there is
// work for the rest of this program.
func become(r Request, files [3]int) Report {
	for i, fd := range files {
		if err := syscall.Dup3(fd, i, 0); err != nil {
			return Report{Files, errno(err)}
		}
	}
	if r.Terminal {
		if _, _, no := syscall.RawSyscall(syscall.SYS_IOCTL, 0, syscall.TIOCSCTTY, 0); no != 0 {
			return Report{Terminal, no}
		}
	}
	if err := takeIdentity(r); err != nil {
		return Report{Identity, errno(err)}
	}
	// Only the account itself can tell whether it may go there (NFS, say).
	if err := syscall.Chdir(r.Home); err != nil {
		if r.Home != "" {
			tell(Report{Home, errno(err)})
		}
		if err := syscall.Chdir("/"); err != nil {
			return Report{Exec, errno(err)}
		}
	}
	if r.Work != NoWork {
		return Report{}
	}
	resetSignals()
	// It gives back the number of open files that Go has raised.
	return Report{Exec, errno(syscall.Exec(r.Program, r.Argv, r.Env))}
}

// These system calls take ids of 16 bits where a word has 32; dtnoded is not
// built there.
var _ [strconv.IntSize - 64]struct{}

// takeIdentity sets the ids of this thread, which is locked, and which the
// process has after execve(2); capabilities go with uid 0 (capabilities(7)).
// Package syscall would stop and wake all threads for each of the three.
func takeIdentity(r Request) error {
	switch r.As {
	case AsOurselves:
		if syscall.Geteuid() == 0 {
			return syscall.EPERM
		}
		return nil
	case AsAccount:
		if r.Work != NoWork {
			return takeIdentityWhole(r)
		}
		groups := unsafe.Pointer(unsafe.SliceData(r.Groups))
		if _, _, no := syscall.RawSyscall(syscall.SYS_SETGROUPS, uintptr(len(r.Groups)), uintptr(groups), 0); no != 0 {
			return no
		}
		if _, _, no := syscall.RawSyscall(syscall.SYS_SETRESGID, uintptr(r.GID), uintptr(r.GID), uintptr(r.GID)); no != 0 {
			return no
		}
		if _, _, no := syscall.RawSyscall(syscall.SYS_SETRESUID, uintptr(r.UID), uintptr(r.UID), uintptr(r.UID)); no != 0 {
			return no
		}
		return nil
	default:
		return syscall.EINVAL
	}
}

// takeIdentityWhole sets the ids of all threads: this program goes on. It is
// not dumpable from then on (prctl(2), PR_SET_DUMPABLE), so that the account's
// other processes cannot trace it.
func takeIdentityWhole(r Request) error {
	groups := make([]int, len(r.Groups))
	for i, g := range r.Groups {
		groups[i] = int(g)
	}
	if err := syscall.Setgroups(groups); err != nil {
		return err
	}
	if err := syscall.Setresgid(int(r.GID), int(r.GID), int(r.GID)); err != nil {
		return err
	}
	return syscall.Setresuid(int(r.UID), int(r.UID), int(r.UID))
}

// errNotNeeded: the node has ended, or has no use for this helper.
var errNotNeeded = errors.New("no session is wanted")

// receive waits for the request and the files that come with it.
func receive() (r Request, files [3]int, err error) {
	var length [LengthSize]byte
	control := make([]byte, syscall.CmsgSpace(4*len(files)))
	var n, controlSize, flags int
	for {
		n, controlSize, flags, _, err = syscall.Recvmsg(socket, length[:], control, syscall.MSG_CMSG_CLOEXEC)
		if !errors.Is(err, syscall.EINTR) {
			break
		}
	}
	switch {
	case err != nil:
		return r, files, err
	case n == 0:
		return r, files, errNotNeeded
	case n != len(length) || flags&syscall.MSG_CTRUNC != 0:
		return r, files, syscall.EBADMSG
	}
	messages, err := syscall.ParseSocketControlMessage(control[:controlSize])
	if err != nil || len(messages) != 1 {
		return r, files, syscall.EBADMSG
	}
	fds, err := syscall.ParseUnixRights(&messages[0])
	if err != nil || len(fds) != len(files) {
		return r, files, syscall.EBADMSG
	}
	size := binary.BigEndian.Uint32(length[:])
	if size > maxRequest {
		return r, files, syscall.EMSGSIZE
	}
	body := make([]byte, size)
	for got := 0; got < len(body); {
		n, err := syscall.Read(socket, body[got:])
		switch {
		case errors.Is(err, syscall.EINTR):
		case err != nil:
			return r, files, err
		case n == 0:
			return r, files, errNotNeeded
		default:
			got += n
		}
	}
	if r, err = parse(body); err != nil {
		return r, files, syscall.EBADMSG
	}
	return r, [3]int(fds), nil
}

// errno is for a report; what has no number is "invalid argument".
func errno(err error) syscall.Errno {
	var no syscall.Errno
	if errors.As(err, &no) {
		return no
	}
	return syscall.EINVAL
}

// keepFiles marks all open files so that the session does not get them. Go
// opens its own so; what the node was started with, by a shell or a
// supervisor, is not (sshd closes it: sshd.c, closefrom).
func keepFiles() {
	const (
		stderr            = 2
		sysCloseRange     = 436 // on all systems
		closeRangeCloexec = 1 << 2
	)
	if _, _, no := syscall.RawSyscall(sysCloseRange, stderr+1, 1<<32-1, closeRangeCloexec); no == 0 {
		return
	}
	// Before Linux 5.11.
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return
	}
	for _, e := range entries {
		if fd, err := strconv.Atoi(e.Name()); err == nil && fd > stderr {
			syscall.CloseOnExec(fd)
		}
	}
}

// resetSignals undoes what the node was started to ignore (nohup(1), a shell's
// "&") or to block: a session would too, and its Ctrl-C and its hanging up
// with it. os/signal does not reach all of them.
func resetSignals() {
	// A struct sigaction and a mask of the kernel's, all zero.
	var zero [64]byte
	for sig := uintptr(1); sig <= 64; sig++ {
		// SIGKILL and SIGSTOP cannot be set, and need not be.
		_, _, _ = syscall.RawSyscall6(syscall.SYS_RT_SIGACTION, sig, uintptr(unsafe.Pointer(&zero)), 0, 8, 0, 0)
	}
	const setMask = 2
	_, _, _ = syscall.RawSyscall6(syscall.SYS_RT_SIGPROCMASK, setMask, uintptr(unsafe.Pointer(&zero)), 0, 8, 0, 0)
}
