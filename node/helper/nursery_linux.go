package helper

import (
	"errors"
	"io"
	"os"
	"runtime"
	"strings"
	"syscall"
	"unsafe"
)

// Nursery is what the process is called by, as its only argument, that
// sessions are forked from (decision 0010). It holds nothing of the node's,
// and ends with its socket, over which it takes requests: each with the
// session's three files and the socket on which it is reported.
const Nursery = "dtnoded: sessions"

// nurse serves until the node has gone. A process that it forks is the node's
// child and not its own (clone(2), CLONE_PARENT), has a memory of its own, and
// so holds up nobody: not when it is stopped, not when a home hangs.
func nurse() (status int) {
	keepFiles()
	giveBackFiles()
	if err := syscall.SetNonblock(socket, true); err != nil {
		return 255
	}
	requests := &requests{conn: os.NewFile(socket, "node")}
	served := make(chan error)
	// Not on the main thread, which Go keeps to itself until all packages are
	// initialised: each request would wake one thread only to wake the other.
	go func() { served <- requests.serve() }()
	if err := <-served; !errors.Is(err, io.EOF) {
		return 255 // the stream is out of step; who waits sees the end of its socket
	}
	return 0
}

// requests come one after the other. They are waited for in Go's poller, and
// taken by system calls that Go does not know of (syscall.RawSyscall): one
// that it knows costs as much again, because it wakes the runtime's monitor.
type requests struct {
	conn    *os.File
	head    [4096]byte // most fit
	control [64]byte
}

func (q *requests) serve() error {
	raw, err := q.conn.SyscallConn()
	if err != nil {
		return err
	}
	for {
		var n, control uintptr
		var no syscall.Errno
		err := raw.Read(func(fd uintptr) bool {
			n, control, no = q.receive(fd)
			return no != syscall.EAGAIN && no != syscall.EINTR
		})
		switch {
		case err != nil:
			return err
		case no != 0:
			return no
		case n == 0:
			return io.EOF
		case n < LengthSize:
			return syscall.EBADMSG
		}
		files, err := parseFiles(q.control[:control])
		if err != nil {
			return err
		}
		body, err := readRequest(q.conn, q.head[:n])
		if err != nil {
			return err
		}
		if fault := bear(body, files); fault != (Report{}) {
			tell(files[3], fault)
		}
		for _, fd := range files {
			_, _, _ = syscall.RawSyscall(syscall.SYS_CLOSE, uintptr(fd), 0, 0)
		}
	}
}

// receive takes what is there of one request. It never takes more: what files
// came with ends a read (unix(7), SCM_RIGHTS), and all after it is asked for by
// its length.
func (q *requests) receive(fd uintptr) (n, control uintptr, no syscall.Errno) {
	part := syscall.Iovec{Base: &q.head[0]}
	part.SetLen(len(q.head))
	message := syscall.Msghdr{Iov: &part, Iovlen: 1, Control: &q.control[0]}
	message.SetControllen(len(q.control))
	n, _, no = syscall.RawSyscall(syscall.SYS_RECVMSG, fd, uintptr(unsafe.Pointer(&message)), syscall.MSG_CMSG_CLOEXEC)
	return n, uintptr(message.Controllen), no
}

// parseFiles takes the session's three and the socket for reports, no more and
// no less.
func parseFiles(control []byte) (files [4]int, err error) {
	messages, err := syscall.ParseSocketControlMessage(control)
	if err != nil || len(messages) != 1 {
		return files, syscall.EBADMSG
	}
	fds, err := syscall.ParseUnixRights(&messages[0])
	if err != nil || len(fds) != len(files) {
		return files, syscall.EBADMSG
	}
	return [4]int(fds), nil
}

// giveBackFiles undoes that Go raises the number of open files (package
// syscall, rlimit.go), so that what is forked has what the node was started
// with. An execve(2) that fails is what makes it do so.
func giveBackFiles() { _ = syscall.Exec("", nil, nil) }

// bear forks one process, or tells why there is none.
func bear(body []byte, files [4]int) Report {
	r, err := parse(body)
	if err != nil {
		return Report{Understand, uint32(syscall.EBADMSG)}
	}
	if (syscall.Geteuid() == 0) != (r.As != AsOurselves) {
		return Report{Identity, uint32(syscall.EPERM)}
	}
	n := newborn{report: uintptr(files[3]), terminal: r.Terminal, helper: r.Work != NoWork, goesOn: r.Work != NoWork || r.As == AsRoot}
	if n.goesOn {
		r.Home = "/"
	}
	n.files = [3]uintptr{uintptr(files[0]), uintptr(files[1]), uintptr(files[2])}
	if r.Work != NoWork {
		r.Program, r.Argv, r.Env = self, []string{Name}, []string{"GOGC=off", "GOMAXPROCS=1"}
	} else if r.As == AsAccount {
		n.become, n.uid, n.gid, n.groups = true, uintptr(r.UID), uintptr(r.GID), r.Groups
	}
	if err := n.load(r); err != nil {
		return Report{Understand, number(err)}
	}
	if no := n.fork(); no != 0 {
		return Report{Fork, uint32(no)}
	}
	runtime.KeepAlive(r)
	return Report{}
}

// self is this program.
const self = "/proc/self/exe"

// newborn is all that a process needs between its fork and its program. It is
// made before: in a copy of a Go program that has only one of its threads,
// nothing may be allocated, no stack may grow, and nobody may be waited for.
type newborn struct {
	files    [3]uintptr
	report   uintptr
	terminal bool
	// goesOn: what is executed is ours, takes the identity itself, and says
	// on the socket what comes of that.
	goesOn     bool
	helper     bool // and it is a helper
	become     bool
	uid, gid   uintptr
	groups     []uint32
	home, root *byte
	hush       *byte // nil: no greeting is due
	program    *byte
	argv, env  []*byte

	words     [reportSize]byte
	all, mask uint64 // signals
	// zero is a struct sigaction of the kernel's, and an empty mask.
	zero [64]byte
}

func (n *newborn) load(r Request) (err error) {
	texts := []struct {
		to   **byte
		text string
	}{{&n.home, r.Home}, {&n.root, "/"}, {&n.program, r.Program}}
	for _, t := range texts {
		if *t.to, err = syscall.BytePtrFromString(t.text); err != nil {
			return err
		}
	}
	if r.Home == "" {
		n.home = nil
	}
	if r.Terminal && !n.goesOn && strings.HasPrefix(r.Argv[0], "-") {
		if n.hush, err = syscall.BytePtrFromString(".hushlogin"); err != nil {
			return err
		}
	}
	if n.argv, err = syscall.SlicePtrFromStrings(r.Argv); err != nil {
		return err
	}
	n.env, err = syscall.SlicePtrFromStrings(r.Env)
	return err
}

const setMask = 2 // SIG_SETMASK

// fork returns in the nursery only. Signals are blocked around it: their
// handlers are Go's, and could not run in the copy.
//
//go:noinline
//go:nosplit
//go:norace
func (n *newborn) fork() syscall.Errno {
	n.all = ^uint64(0)
	_, _, _ = syscall.RawSyscall6(syscall.SYS_RT_SIGPROCMASK, setMask, uintptr(unsafe.Pointer(&n.all)), uintptr(unsafe.Pointer(&n.mask)), 8, 0, 0)
	pid, _, no := syscall.RawSyscall6(syscall.SYS_CLONE, syscall.CLONE_PARENT|uintptr(syscall.SIGCHLD), 0, 0, 0, 0, 0)
	if no == 0 && pid == 0 {
		n.live()
	}
	_, _, _ = syscall.RawSyscall6(syscall.SYS_RT_SIGPROCMASK, setMask, uintptr(unsafe.Pointer(&n.mask)), 0, 8, 0, 0)
	return no
}

// live is the new process's way to its program. It never returns.
//
//go:noinline
//go:nosplit
//go:norace
func (n *newborn) live() {
	var no syscall.Errno
	// A hung process is not to keep the nursery's end of its socket open.
	_, _, _ = syscall.RawSyscall(syscall.SYS_CLOSE, socket, 0, 0)
	// What the node was started to ignore (nohup(1), a shell's "&") or to
	// block, a session would too, and its Ctrl-C and its hanging up with it.
	for sig := uintptr(1); sig <= 64; sig++ {
		_, _, _ = syscall.RawSyscall6(syscall.SYS_RT_SIGACTION, sig, uintptr(unsafe.Pointer(&n.zero)), 0, 8, 0, 0)
	}
	_, _, _ = syscall.RawSyscall6(syscall.SYS_RT_SIGPROCMASK, setMask, uintptr(unsafe.Pointer(&n.zero)), 0, 8, 0, 0)
	_, _, _ = syscall.RawSyscall(syscall.SYS_SETSID, 0, 0, 0)
	pid, _, _ := syscall.RawSyscall(syscall.SYS_GETPID, 0, 0, 0)
	n.say(Begun, uint32(pid))
	for i := uintptr(0); i < 3; i++ {
		if _, _, no = syscall.RawSyscall(syscall.SYS_DUP3, n.files[i], i, 0); no != 0 {
			n.fail(Files, no)
		}
	}
	if n.terminal {
		if _, _, no = syscall.RawSyscall(syscall.SYS_IOCTL, 0, syscall.TIOCSCTTY, 0); no != 0 {
			n.fail(Terminal, no)
		}
	}
	if n.goesOn {
		n.goOn()
	}
	if n.become {
		n.takeIdentity()
	}
	n.enterHome()
	n.lookForHush()
	_, _, no = syscall.RawSyscall(syscall.SYS_EXECVE, uintptr(unsafe.Pointer(n.program)),
		uintptr(unsafe.Pointer(unsafe.SliceData(n.argv))), uintptr(unsafe.Pointer(unsafe.SliceData(n.env))))
	n.fail(Exec, no)
}

// goOn has what is executed go on with the socket. Helpers start no program
// that becomes somebody else; shells, with PAM too, need sudo(8).
//
//go:noinline
//go:nosplit
//go:norace
func (n *newborn) goOn() {
	const setNoNewPrivs = 38 // prctl(2), PR_SET_NO_NEW_PRIVS
	var no syscall.Errno
	if _, _, no = syscall.RawSyscall(syscall.SYS_DUP3, n.report, socket, 0); no != 0 {
		n.fail(Files, no)
	}
	if !n.helper {
		return
	}
	if _, _, no = syscall.RawSyscall6(syscall.SYS_PRCTL, setNoNewPrivs, 1, 0, 0, 0, 0); no != 0 {
		n.fail(Identity, no)
	}
}

// takeIdentity sets the ids; capabilities go with uid 0 (capabilities(7)).
//
//go:noinline
//go:nosplit
//go:norace
func (n *newborn) takeIdentity() {
	var no syscall.Errno
	groups := uintptr(unsafe.Pointer(unsafe.SliceData(n.groups)))
	if _, _, no = syscall.RawSyscall(syscall.SYS_SETGROUPS, uintptr(len(n.groups)), groups, 0); no != 0 {
		n.fail(Identity, no)
	}
	if _, _, no = syscall.RawSyscall(syscall.SYS_SETRESGID, n.gid, n.gid, n.gid); no != 0 {
		n.fail(Identity, no)
	}
	if _, _, no = syscall.RawSyscall(syscall.SYS_SETRESUID, n.uid, n.uid, n.uid); no != 0 {
		n.fail(Identity, no)
	}
}

// enterHome: only the account itself can tell whether it may go there (NFS,
// say).
//
//go:noinline
//go:nosplit
//go:norace
func (n *newborn) enterHome() {
	var no syscall.Errno
	if n.home != nil {
		if _, _, no = syscall.RawSyscall(syscall.SYS_CHDIR, uintptr(unsafe.Pointer(n.home)), 0, 0); no == 0 {
			return
		}
		n.say(Home, uint32(no))
	}
	if _, _, no = syscall.RawSyscall(syscall.SYS_CHDIR, uintptr(unsafe.Pointer(n.root)), 0, 0); no != 0 {
		n.fail(Exec, no)
	}
}

// lookForHush: the file is looked for, not opened, since it may be a FIFO.
//
//go:noinline
//go:nosplit
//go:norace
func (n *newborn) lookForHush() {
	if n.hush == nil {
		return
	}
	if _, _, no := syscall.RawSyscall6(syscall.SYS_FACCESSAT, here, uintptr(unsafe.Pointer(n.hush)), 0, 0, 0, 0); no == 0 {
		n.say(Hush, 0)
	}
}

const here = ^uintptr(99) // AT_FDCWD

// say reports to the node. Where that has gone, SIGPIPE ends the process.
//
//go:noinline
//go:nosplit
//go:norace
func (n *newborn) say(step Step, number uint32) {
	n.words[0] = byte(step)
	n.words[1], n.words[2], n.words[3], n.words[4] = byte(number>>24), byte(number>>16), byte(number>>8), byte(number)
	_, _, _ = syscall.RawSyscall(syscall.SYS_WRITE, n.report, uintptr(unsafe.Pointer(&n.words)), reportSize)
}

//go:noinline
//go:nosplit
//go:norace
func (n *newborn) fail(step Step, no syscall.Errno) {
	n.say(step, uint32(no))
	for {
		_, _, _ = syscall.RawSyscall(syscall.SYS_EXIT_GROUP, 255, 0, 0)
	}
}
