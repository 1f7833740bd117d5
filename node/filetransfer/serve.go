package filetransfer

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Serve answers requests until in is at its end. Relative paths are below the
// working directory, and "~" is home. An error says what was wrong with the
// stream; what goes wrong with a file is only answered.
//
// It does one thing after the other, as OpenSSH's sftp-server: answers come in
// the order of the requests, and what waits for a disk would wait for it in any
// order.
func Serve(in io.Reader, out io.Writer, home string, now func() time.Time) error {
	s := &server{out: out, home: home, now: now, handles: map[uint32]*handle{}, users: names{}, groups: names{}}
	defer s.closeAll()
	return s.serve(in)
}

// server is one client's. Only Serve's goroutine uses it.
type server struct {
	out     io.Writer
	home    string
	now     func() time.Time
	begun   bool
	replies []byte // not yet sent
	handles map[uint32]*handle
	last    uint32 // handle given
	users   names
	groups  names
}

// Sizes of buffers. A packet fits the first; replies are sent when there are
// so many, or when there is no request left that could be answered at once.
const (
	inBuffer    = LengthSize + MaxPacket
	manyReplies = 128 << 10
)

func (s *server) serve(in io.Reader) error {
	buffer := make([]byte, inBuffer)
	have := 0
	for {
		n, err := in.Read(buffer[have:])
		have += n
		done, fault := s.answerAll(buffer[:have])
		if fault := errors.Join(fault, s.flush()); fault != nil {
			return fault
		}
		have = copy(buffer, buffer[done:have])
		switch {
		case errors.Is(err, io.EOF) && have > 0:
			return io.ErrUnexpectedEOF
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		}
	}
}

// answerAll answers the packets that b holds whole, and tells how much of it
// they are.
func (s *server) answerAll(b []byte) (done int, err error) {
	for len(b)-done >= LengthSize {
		size := binary.BigEndian.Uint32(b[done:])
		if size == 0 || size > MaxPacket {
			return done, fmt.Errorf("a packet of %d bytes, not 1 to %d", size, MaxPacket)
		}
		if len(b)-done-LengthSize < int(size) {
			return done, nil
		}
		packet := b[done+LengthSize:][:size]
		done += LengthSize + int(size)
		if err := s.handle(Kind(packet[0]), Fields{Rest: packet[1:]}); err != nil {
			return done, err
		}
		if len(s.replies) >= manyReplies {
			if err := s.flush(); err != nil {
				return done, err
			}
		}
	}
	return done, nil
}

func (s *server) flush() error {
	if len(s.replies) == 0 {
		return nil
	}
	_, err := s.out.Write(s.replies)
	s.replies = s.replies[:0]
	return err
}

func (s *server) handle(kind Kind, f Fields) error {
	number := f.Uint32() // the client's version, or the request's
	if f.Short || s.begun == (kind == Init) {
		return errors.New("a packet that does not begin as it has to")
	}
	if kind == Init {
		s.begun = true
		s.sayVersion()
		return nil
	}
	if err := s.answer(kind, number, &f); !errors.Is(err, errAnswered) {
		s.status(number, err)
	}
	return nil
}

// sayVersion is the answer to whatever version the client has, as OpenSSH's.
func (s *server) sayVersion() {
	s.packet(Version, 3, func(b []byte) []byte {
		for _, e := range []struct{ name, version string }{
			{"posix-rename@openssh.com", "1"},
			{"statvfs@openssh.com", "2"},
			{"fstatvfs@openssh.com", "2"},
			{"hardlink@openssh.com", "1"},
			{"fsync@openssh.com", "1"},
			{"lsetstat@openssh.com", "1"},
			{"limits@openssh.com", "1"},
			{"expand-path@openssh.com", "1"},
			{"copy-data", "1"},
			{"users-groups-by-id@openssh.com", "1"},
		} {
			b = appendText(appendText(b, e.name), e.version)
		}
		return b
	})
}

// errAnswered: a request has its answer; any other error, nil too, is still to
// be told.
var errAnswered = errors.New("answered")

// errMalformed: a request lacks fields.
var errMalformed error = codeError{statusBadMessage, "malformed request"}

func (s *server) answer(kind Kind, id uint32, f *Fields) error {
	switch kind {
	case Open:
		return s.open(id, f)
	case Close:
		return s.close(f)
	case Read:
		return s.read(id, f)
	case Write:
		return s.write(f)
	case Lstat:
		return s.stat(id, f, unix.Lstat)
	case Stat:
		return s.stat(id, f, unix.Stat)
	case Fstat:
		return s.fstat(id, f)
	case Setstat:
		return setstat(f)
	case Fsetstat:
		return s.fsetstat(f)
	case Opendir:
		return s.opendir(id, f)
	case Readdir:
		return s.readdir(id, f)
	case Remove:
		return onPath(f, unix.Unlink)
	case Rmdir:
		return onPath(f, unix.Rmdir)
	case Mkdir:
		return mkdir(f)
	case Rename:
		return onPaths(f, rename)
	case Symlink:
		// OpenSSH's order: the target comes first, and not the link's path as in
		// the draft (PROTOCOL section 4.1). Clients know.
		return onPaths(f, unix.Symlink)
	case Readlink:
		return s.readlink(id, f)
	case Realpath:
		return s.realpath(id, f)
	case Extended:
		return s.extended(id, f)
	default:
		return codeError{StatusUnsupported, ""}
	}
}

// packet appends an answer, which rest completes.
func (s *server) packet(kind Kind, id uint32, rest func([]byte) []byte) {
	at := len(s.replies)
	b := append(s.replies, 0, 0, 0, 0, byte(kind))
	b = rest(binary.BigEndian.AppendUint32(b, id))
	binary.BigEndian.PutUint32(b[at:], uint32(len(b)-at-LengthSize))
	s.replies = b
}

// codeError is an error with a status of the protocol.
type codeError struct {
	code   uint32
	reason string // or "", and the status says it
}

func (e codeError) Error() string {
	if e.reason != "" {
		return e.reason
	}
	return statusTexts[e.code]
}

// Statuses (section 7).
const (
	statusOK         = 0
	statusEOF        = 1
	statusNoFile     = 2
	statusPermission = 3
	statusBadMessage = 5
)

var statusTexts = [...]string{
	statusOK: "Success", statusEOF: "End of file", statusNoFile: "No such file", statusPermission: "Permission denied",
	StatusFailure: "Failure", statusBadMessage: "Bad message", 6: "No connection", 7: "Connection lost",
	StatusUnsupported: "Operation unsupported",
}

func (s *server) status(id uint32, err error) {
	code, text := codeOf(err)
	s.packet(status, id, func(b []byte) []byte {
		b = binary.BigEndian.AppendUint32(b, code)
		return appendText(appendText(b, text), "")
	})
}

// codeOf is as in OpenSSH (sftp-server.c, errno_to_portable), which clients
// are used to; the text says more.
func codeOf(err error) (code uint32, text string) {
	if err == nil {
		return statusOK, statusTexts[statusOK]
	}
	if known, ok := errors.AsType[codeError](err); ok {
		return known.code, known.Error()
	}
	errno, ok := errors.AsType[syscall.Errno](err)
	if !ok {
		return StatusFailure, err.Error()
	}
	code = StatusFailure
	switch errno {
	case unix.ENOENT, unix.ENOTDIR, unix.EBADF, unix.ELOOP:
		code = statusNoFile
	case unix.EPERM, unix.EACCES, unix.EFAULT:
		code = statusPermission
	case unix.ENAMETOOLONG, unix.EINVAL:
		code = statusBadMessage
	case unix.ENOSYS:
		code = StatusUnsupported
	default:
	}
	return code, errno.Error()
}
