package filetransfer

import (
	"encoding/binary"
	"fmt"
	"os"
	"os/user"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// listing is how far a directory was read.
type listing struct {
	names  []string // read, and not told
	buffer []byte
}

// manyNames are in one answer, as in OpenSSH: with names of 255 bytes they
// are a quarter of a packet.
const manyNames = 100

func (s *server) opendir(id uint32, f *Fields) error {
	path := f.String()
	if f.Short {
		return errMalformed
	}
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	return s.give(id, &handle{fd: fd, dir: &listing{names: []string{".", ".."}, buffer: make([]byte, 32<<10)}})
}

func (s *server) readdir(id uint32, f *Fields) error {
	h, _, err := s.take(f)
	switch {
	case err != nil:
		return err
	case h.dir == nil:
		return unix.ENOTDIR
	}
	for {
		if err := h.dir.more(h.fd); err != nil {
			return err
		}
		told := h.dir.names[:min(manyNames, len(h.dir.names))]
		if len(told) == 0 {
			return codeError{statusEOF, ""}
		}
		h.dir.names = h.dir.names[len(told):]
		if s.list(id, h.fd, told) {
			return errAnswered
		}
	}
}

// list answers with what is there of told, unless that is nothing, which
// clients would take for the end.
func (s *server) list(id uint32, dir int, told []string) bool {
	var lines []byte
	count := uint32(0)
	for _, n := range told {
		var st unix.Stat_t
		if unix.Fstatat(dir, n, &st, unix.AT_SYMLINK_NOFOLLOW) != nil {
			continue // it is gone
		}
		lines = appendText(appendText(lines, n), s.longName(n, &st))
		lines = appendAttributes(lines, &st)
		count++
	}
	if count > 0 {
		s.packet(name, id, func(b []byte) []byte {
			return append(binary.BigEndian.AppendUint32(b, count), lines...)
		})
	}
	return count > 0
}

// more reads names until there are some or no more.
func (l *listing) more(fd int) error {
	for len(l.names) == 0 {
		n, err := uninterrupted(func() (int, error) { return unix.ReadDirent(fd, l.buffer) })
		if err != nil || n == 0 {
			return err
		}
		_, _, l.names = unix.ParseDirent(l.buffer[:n], -1, nil)
	}
	return nil
}

// longName is a line as of ls -l, for people; some clients show it.
func (s *server) longName(name string, st *unix.Stat_t) string {
	return fmt.Sprintf("%s %3d %-8s %-8s %8d %s %s", modeText(st.Mode), st.Nlink,
		s.users.of(st.Uid, userName), s.groups.of(st.Gid, groupName), st.Size,
		s.dayAndTime(time.Unix(st.Mtim.Sec, 0)), name)
}

// halfYear is as long as the time of day is told, rather than the year, as in
// OpenSSH (sftp-common.c, ls_file).
const halfYear = 365 * 24 * time.Hour / 2

func (s *server) dayAndTime(t time.Time) string {
	if age := s.now().Sub(t); age >= 0 && age < halfYear {
		return t.Format("Jan _2 15:04")
	}
	return t.Format("Jan _2  2006")
}

// modeText is as of ls -l.
func modeText(mode uint32) string {
	kinds := map[uint32]byte{
		unix.S_IFREG: '-', unix.S_IFDIR: 'd', unix.S_IFLNK: 'l', unix.S_IFCHR: 'c',
		unix.S_IFBLK: 'b', unix.S_IFIFO: 'p', unix.S_IFSOCK: 's',
	}
	text := []byte(os.FileMode(mode & 0o777).String())
	text[0] = '?'
	if kind, ok := kinds[mode&unix.S_IFMT]; ok {
		text[0] = kind
	}
	for _, bit := range []struct {
		mode     uint32
		at       int
		with, no byte
	}{{unix.S_ISUID, 3, 's', 'S'}, {unix.S_ISGID, 6, 's', 'S'}, {unix.S_ISVTX, 9, 't', 'T'}} {
		if mode&bit.mode != 0 {
			if text[bit.at] == 'x' {
				text[bit.at] = bit.with
			} else {
				text[bit.at] = bit.no
			}
		}
	}
	return string(text)
}

// names of users or groups by their numbers, as far as they were looked up:
// "" has none.
type names map[uint32]string

// maxNames that are kept: more owners than directories have, and no more than
// somebody can make us remember by asking.
const maxNames = 4096

func (n names) lookup(id uint32, find func(string) string) string {
	known, ok := n[id]
	if !ok {
		known = find(strconv.FormatUint(uint64(id), 10))
		if len(n) < maxNames {
			n[id] = known
		}
	}
	return known
}

// of is the name, or the number where there is none.
func (n names) of(id uint32, find func(string) string) string {
	if known := n.lookup(id, find); known != "" {
		return known
	}
	return strconv.FormatUint(uint64(id), 10)
}

func userName(id string) string {
	u, err := user.LookupId(id)
	if err != nil {
		return ""
	}
	return u.Username
}

func groupName(id string) string {
	g, err := user.LookupGroupId(id)
	if err != nil {
		return ""
	}
	return g.Name
}
