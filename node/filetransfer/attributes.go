package filetransfer

import (
	"encoding/binary"

	"golang.org/x/sys/unix"
)

func (s *server) stat(id uint32, f *Fields, stat func(string, *unix.Stat_t) error) error {
	path := f.String()
	if f.Short {
		return errMalformed
	}
	var st unix.Stat_t
	if err := stat(path, &st); err != nil {
		return err
	}
	return s.attributes(id, &st)
}

func (s *server) fstat(id uint32, f *Fields) error {
	h, _, err := s.take(f)
	if err != nil {
		return err
	}
	var st unix.Stat_t
	if err := unix.Fstat(h.fd, &st); err != nil {
		return err
	}
	return s.attributes(id, &st)
}

func (s *server) attributes(id uint32, st *unix.Stat_t) error {
	s.packet(attrs, id, func(b []byte) []byte { return appendAttributes(b, st) })
	return errAnswered
}

func appendAttributes(b []byte, st *unix.Stat_t) []byte {
	b = binary.BigEndian.AppendUint32(b, AttrSize|AttrOwner|AttrMode|AttrTimes)
	b = binary.BigEndian.AppendUint64(b, uint64(st.Size))
	for _, n := range []uint32{st.Uid, st.Gid, st.Mode, uint32(st.Atim.Sec), uint32(st.Mtim.Sec)} {
		b = binary.BigEndian.AppendUint32(b, n)
	}
	return b
}

// setters change what is said of one file.
type setters struct {
	size  func(int64) error
	mode  func(uint32) error
	times func([]unix.Timespec) error
	owner func(uid, gid int) error
}

// set does all that a says, and tells what of it failed first; the order is
// OpenSSH's (sftp-server.c, process_setstat).
func (to setters) set(a Attributes) error {
	var first error
	step := func(flag uint32, err func() error) {
		if a.Flags&flag == 0 {
			return
		}
		if err := err(); err != nil && first == nil {
			first = err
		}
	}
	step(AttrSize, func() error { return to.size(int64(a.Size)) })
	step(AttrMode, func() error { return to.mode(a.Mode & 0o7777) })
	step(AttrTimes, func() error {
		return to.times([]unix.Timespec{{Sec: int64(a.Atime)}, {Sec: int64(a.Mtime)}})
	})
	step(AttrOwner, func() error { return to.owner(int(a.UID), int(a.GID)) })
	return first
}

func setstat(f *Fields) error {
	path, a := f.String(), f.Attributes()
	if f.Short {
		return errMalformed
	}
	return setters{
		size:  func(n int64) error { return unix.Truncate(path, n) },
		mode:  func(mode uint32) error { return unix.Chmod(path, mode) },
		times: func(t []unix.Timespec) error { return unix.UtimesNanoAt(unix.AT_FDCWD, path, t, 0) },
		owner: func(uid, gid int) error { return unix.Chown(path, uid, gid) },
	}.set(a)
}

// lsetstat is setstat of a link itself, where it is one.
func lsetstat(f *Fields) error {
	path, a := f.String(), f.Attributes()
	if f.Short {
		return errMalformed
	}
	return setters{
		size: func(int64) error { return unix.EINVAL },
		mode: func(mode uint32) error { return unix.Fchmodat(unix.AT_FDCWD, path, mode, unix.AT_SYMLINK_NOFOLLOW) },
		times: func(t []unix.Timespec) error {
			return unix.UtimesNanoAt(unix.AT_FDCWD, path, t, unix.AT_SYMLINK_NOFOLLOW)
		},
		owner: func(uid, gid int) error { return unix.Lchown(path, uid, gid) },
	}.set(a)
}

func (s *server) fsetstat(f *Fields) error {
	h, _, err := s.take(f)
	a := f.Attributes()
	switch {
	case f.Short:
		return errMalformed
	case err != nil:
		return err
	}
	return setters{
		size: func(n int64) error { return unix.Ftruncate(h.fd, n) },
		mode: func(mode uint32) error { return unix.Fchmod(h.fd, mode) },
		// With seconds there are as many here as in futimens(3), which package
		// unix does not have.
		times: func(t []unix.Timespec) error {
			return unix.Futimes(h.fd, []unix.Timeval{{Sec: t[0].Sec}, {Sec: t[1].Sec}})
		},
		owner: func(uid, gid int) error { return unix.Fchown(h.fd, uid, gid) },
	}.set(a)
}
