// Package helper is this program once more, as what sessions come from
// (decision 0010): the nursery, which their processes are forked from, and the
// helper, which one of them becomes that stays this program.
//
// It imports little on purpose. Go initialises a package as soon as all that
// it imports is, and in the order of names; so a nursery or a helper is at
// work before the rest of the program is even initialised. That takes several
// times as long as all that a helper does, and makes what the nursery copies
// with each fork several times as large.
package helper

import (
	"encoding/binary"
	"errors"
	"io"
	"os"
	"strconv"
	"syscall"
)

// Name is what a helper is called by, as its only argument; nobody would type
// it.
const Name = "dtnoded: session"

// socket is the file on which a nursery and a helper are told what to do.
const socket = 3

// This returns only where there is work for the rest of the program, or none
// at all.
var started, was = serve(os.Args)

// Started is what has come of a nursery or a helper.
type Started struct {
	// Work is what the rest of this program is to do, as whom the helper was
	// told to become; NoWork is to exit with Status.
	Work   Work
	Status int
}

// Was tells whether this process was started as a nursery or a helper.
func Was() (Started, bool) { return started, was }

func serve(args []string) (started Started, is bool) {
	if len(args) != 1 {
		return Started{}, false
	}
	switch args[0] {
	case Nursery:
		return Started{Status: nurse()}, true
	case Name:
		return help(), true
	}
	return Started{}, false
}

// help makes this process the account's.
func help() Started {
	node := os.NewFile(socket, "node")
	r, err := readWhole(node)
	if errors.Is(err, io.EOF) {
		return Started{} // the node has ended, or wants no more
	}
	if err != nil || r.Work == NoWork {
		return Started{Status: tell(socket, Report{Understand, uint32(syscall.EBADMSG)})}
	}
	if fault := become(r); fault != (Report{}) {
		return Started{Status: tell(socket, fault)}
	}
	// What is told from here on is told by the end of the socket. By its file:
	// whose number is another's later is closed once more where it is collected.
	_ = node.Close()
	return Started{Work: r.Work}
}

func readWhole(from io.Reader) (Request, error) {
	var head [LengthSize]byte
	if _, err := io.ReadFull(from, head[:]); err != nil {
		return Request{}, err
	}
	body, err := readRequest(from, head[:])
	if err != nil {
		return Request{}, err
	}
	return parse(body)
}

// tell reports to the node. Where it is gone, nobody wants the session.
func tell(to int, r Report) int {
	_, _ = syscall.Write(to, r.marshal())
	return 255
}

// become takes the identity and goes home.
func become(r Request) Report {
	if err := takeIdentity(r); err != nil {
		return Report{Identity, number(err)}
	}
	// Only the account itself can tell whether it may go there (NFS, say).
	if err := syscall.Chdir(r.Home); err != nil {
		if r.Home != "" {
			tell(socket, Report{Home, number(err)})
		}
		if err := syscall.Chdir("/"); err != nil {
			return Report{Exec, number(err)}
		}
	}
	return Report{}
}

// These system calls take ids of 16 bits where a word has 32; dtnoded is not
// built there.
var _ [strconv.IntSize - 64]struct{}

// takeIdentity sets the ids of all threads: this program goes on. It is not
// dumpable from then on (prctl(2), PR_SET_DUMPABLE), so that the account's
// other processes cannot trace it.
func takeIdentity(r Request) error {
	switch r.As {
	case AsOurselves:
		return notRoot()
	case AsAccount:
	default:
		return syscall.EINVAL
	}
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

// notRoot is what AsOurselves asks for.
func notRoot() error {
	if syscall.Geteuid() == 0 {
		return syscall.EPERM
	}
	return nil
}

// readRequest reads one of which head is the beginning, the length at least.
func readRequest(from io.Reader, head []byte) (body []byte, err error) {
	size := int64(binary.BigEndian.Uint32(head))
	head = head[LengthSize:]
	switch {
	case size > maxRequest:
		return nil, syscall.EMSGSIZE
	case size < int64(len(head)):
		return nil, syscall.EBADMSG
	case size == int64(len(head)):
		return head, nil
	}
	body = make([]byte, size)
	_, err = io.ReadFull(from, body[copy(body, head):])
	return body, err
}

// number is for a report; what has none is "invalid argument".
func number(err error) uint32 {
	var no syscall.Errno
	if errors.As(err, &no) {
		return uint32(no)
	}
	return uint32(syscall.EINVAL)
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
