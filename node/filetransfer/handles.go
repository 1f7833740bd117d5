package filetransfer

import (
	"encoding/binary"
	"errors"

	"golang.org/x/sys/unix"
)

// MaxHandles that a client may have open at once; sftp-server has as many, by
// Linux's usual bound of open files.
const MaxHandles = 1024

// maxData of a Read or a Write: what is left of a packet, as in OpenSSH
// (sftp-server.c, SFTP_MAX_READ_LENGTH).
const maxData = MaxPacket - 1024

// handle is an open file or directory.
type handle struct {
	fd  int
	dir *listing // of a directory
}

func (s *server) closeAll() {
	for _, h := range s.handles {
		unix.Close(h.fd)
	}
}

// give answers with a handle for fd.
func (s *server) give(id uint32, h *handle) error {
	if len(s.handles) >= MaxHandles {
		unix.Close(h.fd)
		return unix.EMFILE
	}
	s.last++
	s.handles[s.last] = h
	s.packet(Handle, id, func(b []byte) []byte {
		return appendText(b, binary.BigEndian.AppendUint32(nil, s.last))
	})
	return errAnswered
}

// take reads a handle and gives what it is of.
func (s *server) take(f *Fields) (*handle, uint32, error) {
	b := f.Bytes()
	if len(b) != 4 {
		return nil, 0, unix.EBADF
	}
	number := binary.BigEndian.Uint32(b)
	h := s.handles[number]
	if h == nil {
		return nil, 0, unix.EBADF
	}
	return h, number, nil
}

// openFlags are those of open(2). It never waits for the other end of a FIFO,
// which would hold up all else that the client asks for, and a terminal does
// not become this process's.
func openFlags(flags uint32) int {
	out := unix.O_RDONLY | unix.O_NONBLOCK | unix.O_NOCTTY | unix.O_CLOEXEC
	switch flags & (OpenRead | OpenWrite) {
	case OpenRead | OpenWrite:
		out |= unix.O_RDWR
	case OpenWrite:
		out |= unix.O_WRONLY
	default:
	}
	for _, f := range []struct{ theirs, ours int }{
		{OpenAppend, unix.O_APPEND}, {OpenCreate, unix.O_CREAT}, {OpenTruncate, unix.O_TRUNC}, {OpenNew, unix.O_EXCL},
	} {
		if flags&uint32(f.theirs) != 0 {
			out |= f.ours
		}
	}
	return out
}

func (s *server) open(id uint32, f *Fields) error {
	path, flags, a := f.String(), f.Uint32(), f.Attributes()
	if f.Short {
		return errMalformed
	}
	mode := uint32(0o666)
	if a.Flags&AttrMode != 0 {
		mode = a.Mode & 0o7777
	}
	fd, err := uninterrupted(func() (int, error) { return unix.Open(path, openFlags(flags), mode) })
	if err != nil {
		return err
	}
	return s.give(id, &handle{fd: fd})
}

func (s *server) close(f *Fields) error {
	h, number, err := s.take(f)
	if err != nil {
		return err
	}
	delete(s.handles, number)
	return unix.Close(h.fd) // a file on another machine may fail here
}

func (s *server) read(id uint32, f *Fields) error {
	h, _, err := s.take(f)
	offset, size := f.Uint64(), f.Uint32()
	switch {
	case f.Short:
		return errMalformed
	case err != nil:
		return err
	}
	size = min(size, maxData)
	// Straight into the answer, which is then known to be one.
	const header = LengthSize + 1 + 4 + 4
	at := len(s.replies)
	need := at + header + int(size)
	if cap(s.replies) < need {
		s.replies = append(make([]byte, 0, max(need, manyReplies+header+maxData)), s.replies...)
	}
	n, err := uninterrupted(func() (int, error) {
		return unix.Pread(h.fd, s.replies[at+header:need], int64(offset))
	})
	switch {
	case err != nil:
		return err
	case n == 0 && size > 0:
		return codeError{statusEOF, ""}
	}
	s.replies = s.replies[:at+header+n]
	b := s.replies[at:]
	binary.BigEndian.PutUint32(b, uint32(len(b)-LengthSize))
	b[4] = byte(data)
	binary.BigEndian.PutUint32(b[5:], id)
	binary.BigEndian.PutUint32(b[9:], uint32(n))
	return errAnswered
}

// write appends where the file was opened so, whatever the offset (pwrite(2),
// BUGS), as in OpenSSH.
func (s *server) write(f *Fields) error {
	h, _, err := s.take(f)
	offset, data := f.Uint64(), f.Bytes()
	switch {
	case f.Short:
		return errMalformed
	case err != nil:
		return err
	}
	return writeAll(h.fd, data, int64(offset))
}

func writeAll(fd int, data []byte, offset int64) error {
	for len(data) > 0 {
		n, err := uninterrupted(func() (int, error) { return unix.Pwrite(fd, data, offset) })
		if err != nil {
			return err
		}
		data, offset = data[n:], offset+int64(n)
	}
	return nil
}

// uninterrupted repeats what a signal of Go's own has cut short.
func uninterrupted(call func() (int, error)) (int, error) {
	for {
		n, err := call()
		if !errors.Is(err, unix.EINTR) {
			return n, err
		}
	}
}
