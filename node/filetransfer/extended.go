package filetransfer

import (
	"encoding/binary"
	"os/user"
	"strings"

	"golang.org/x/sys/unix"
)

// extended answers what OpenSSH has added (PROTOCOL section 4).
func (s *server) extended(id uint32, f *Fields) error {
	switch f.String() {
	case Refuse:
		code, reason := f.Uint32(), f.String()
		return codeError{max(code, statusPermission), reason}
	case "posix-rename@openssh.com":
		return onPaths(f, unix.Rename)
	case "hardlink@openssh.com":
		return onPaths(f, unix.Link)
	case "lsetstat@openssh.com":
		return lsetstat(f)
	case "statvfs@openssh.com":
		path := f.String()
		if f.Short {
			return errMalformed
		}
		return s.statvfs(id, func(st *unix.Statfs_t) error { return unix.Statfs(path, st) })
	case "fstatvfs@openssh.com":
		h, _, err := s.take(f)
		if err != nil {
			return err
		}
		return s.statvfs(id, func(st *unix.Statfs_t) error { return unix.Fstatfs(h.fd, st) })
	case "fsync@openssh.com":
		h, _, err := s.take(f)
		if err != nil {
			return err
		}
		return unix.Fsync(h.fd)
	case "limits@openssh.com":
		return s.reply(id, MaxPacket, maxData, maxData, MaxHandles)
	case "expand-path@openssh.com":
		return s.expandPath(id, f)
	case "copy-data":
		return s.copyData(f)
	case "users-groups-by-id@openssh.com":
		return s.namesByID(id, f)
	default:
		return codeError{StatusUnsupported, ""}
	}
}

// reply answers with numbers.
func (s *server) reply(id uint32, numbers ...uint64) error {
	s.packet(extendedReply, id, func(b []byte) []byte {
		for _, n := range numbers {
			b = binary.BigEndian.AppendUint64(b, n)
		}
		return b
	})
	return errAnswered
}

// statvfs has the flags that PROTOCOL knows: 1 is read-only, 2 without setuid;
// Linux's are the same (statfs(2)).
func (s *server) statvfs(id uint32, ask func(*unix.Statfs_t) error) error {
	var st unix.Statfs_t
	if err := ask(&st); err != nil {
		return err
	}
	fsid := uint64(uint32(st.Fsid.Val[0])) | uint64(uint32(st.Fsid.Val[1]))<<32
	return s.reply(id, uint64(st.Bsize), uint64(st.Frsize), st.Blocks, st.Bfree, st.Bavail,
		st.Files, st.Ffree, st.Ffree, fsid, uint64(st.Flags)&(unix.ST_RDONLY|unix.ST_NOSUID), uint64(st.Namelen))
}

// expandPath makes a path with "~" or "~user" absolute; scp asks for it.
func (s *server) expandPath(id uint32, f *Fields) error {
	path := f.String()
	if f.Short {
		return errMalformed
	}
	if rest, ok := strings.CutPrefix(path, "~"); ok {
		who, below, _ := strings.Cut(rest, "/")
		home := s.home
		if who != "" {
			u, err := user.Lookup(who)
			if err != nil {
				return unix.ENOENT
			}
			home = u.HomeDir
		}
		path = strings.TrimRight(home, "/") + "/" + below
	}
	path, err := absolute(path)
	if err != nil {
		return err
	}
	return s.oneName(id, path)
}

// copyData copies between two files without the way to the client; 0 bytes
// are all up to the end.
func (s *server) copyData(f *Fields) error {
	from, _, err := s.take(f)
	offset, size := int64(f.Uint64()), f.Uint64()
	to, _, errTo := s.take(f)
	at := int64(f.Uint64())
	switch {
	case f.Short:
		return errMalformed
	case err != nil:
		return err
	case errTo != nil:
		return errTo
	case sameFile(from, to):
		return unix.EINVAL // it might read what it has just written, for ever
	}
	all := size == 0
	buffer := make([]byte, maxData)
	for all || size > 0 {
		part := buffer
		if !all {
			part = buffer[:min(size, maxData)]
		}
		n, err := uninterrupted(func() (int, error) { return unix.Pread(from.fd, part, offset) })
		if err != nil {
			return err
		}
		if n == 0 {
			break
		}
		if err := writeAll(to.fd, part[:n], at); err != nil {
			return err
		}
		offset, at, size = offset+int64(n), at+int64(n), size-uint64(n)
	}
	if !all && size > 0 {
		return codeError{statusEOF, ""} // it was shorter
	}
	return nil
}

// sameFile: also where it was opened twice, by whatever names.
func sameFile(a, b *handle) bool {
	var one, other unix.Stat_t
	return unix.Fstat(a.fd, &one) == nil && unix.Fstat(b.fd, &other) == nil && one.Dev == other.Dev && one.Ino == other.Ino
}

// namesByID answers with the names of users and groups; "" has none.
func (s *server) namesByID(id uint32, f *Fields) error {
	uids, gids := Fields{Rest: f.Bytes()}, Fields{Rest: f.Bytes()}
	if f.Short || len(uids.Rest)%4 != 0 || len(gids.Rest)%4 != 0 {
		return errMalformed
	}
	users, groups := s.users.list(uids, userName), s.groups.list(gids, groupName)
	if len(users)+len(groups) > maxData {
		return codeError{StatusFailure, "too many names"}
	}
	s.packet(extendedReply, id, func(b []byte) []byte { return appendText(appendText(b, users), groups) })
	return errAnswered
}

func (n names) list(ids Fields, find func(string) string) []byte {
	var b []byte
	for len(ids.Rest) > 0 && len(b) <= maxData {
		b = appendText(b, n.lookup(ids.Uint32(), find))
	}
	return b
}
