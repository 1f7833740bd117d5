package node

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// layout of glibc's struct utmp and struct lastlog (bits/utmp.h) is the size of
// a time, 0 where it is not known: nothing is written then.
type layout int

// layoutOf a GOARCH: amd64 shares its files with 32-bit programs.
func layoutOf(arch string) layout {
	switch arch {
	case "amd64":
		return 4
	case "arm64":
		return 8
	}
	return 0
}

// Sizes of fields, on all systems.
const (
	utLineSize = 32
	utIDSize   = 4
	utUserSize = 32
	utHostSize = 256
	// utTypeSize is of the type and what comes up to the process's ID.
	utTypeSize = 4
)

func (l layout) utmpSize() int {
	if l == 8 {
		return 400
	}
	return 384
}

func (l layout) lastlogSize() int { return int(l) + utLineSize + utHostSize }

func (l layout) appendTime(b []byte, n int64) []byte {
	if l == 8 {
		return binary.NativeEndian.AppendUint64(b, uint64(n))
	}
	return binary.NativeEndian.AppendUint32(b, uint32(n))
}

// appendText fills a field; what does not fit is cut off. A field that is full
// has no zero at its end.
func appendText(b []byte, text string, size int) []byte {
	field := make([]byte, size)
	copy(field, text)
	return append(b, field...)
}

// utmpEntry is a login on a terminal (utmp(5)), or its end.
type utmpEntry struct {
	over bool
	pid  int
	line string // "pts/3"
	user string
	from netip.Addr
	time time.Time
}

// Types of an entry.
const (
	utUser = 7 // USER_PROCESS
	utDead = 8 // DEAD_PROCESS
)

func (l layout) utmp(e utmpEntry) []byte {
	typ, user, host := uint16(utUser), e.user, e.from.String()
	var addr [16]byte
	if e.from.Is4() {
		copy(addr[:], e.from.AsSlice())
	} else {
		addr = e.from.As16()
	}
	if e.over { // as sshd has it (loginrec.c): last(1) takes an entry without a user for an end
		typ, user, host, addr = utDead, "", "", [16]byte{}
	}
	b := make([]byte, 0, l.utmpSize())
	b = binary.NativeEndian.AppendUint16(b, typ)
	b = append(b, 0, 0)
	b = binary.NativeEndian.AppendUint32(b, uint32(e.pid))
	b = appendText(b, e.line, utLineSize)
	b = appendText(b, idOf(e.line), utIDSize)
	b = appendText(b, user, utUserSize)
	b = appendText(b, host, utHostSize)
	b = append(b, 0, 0, 0, 0) // ut_exit
	b = l.appendTime(b, 0)    // ut_session
	b = l.appendTime(b, e.time.Unix())
	b = l.appendTime(b, int64(e.time.Nanosecond()/1000))
	b = append(b, addr[:]...)
	return append(b, make([]byte, l.utmpSize()-len(b))...)
}

// idOf a line is what an entry is found by: its end, as sshd has it.
func idOf(line string) string { return line[max(0, len(line)-utIDSize):] }

// logins writes utmp and wtmp, one at a time: locks of files tell other
// programs, and not our own sessions, apart.
type logins struct {
	files loginFiles
	mu    sync.Mutex
}

// log notes a login or its end, where the files are.
func (l *logins) log(e utmpEntry) error {
	if l.files.layout == 0 {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return errors.Join(l.write(l.files.utmp, e, l.place), l.write(l.files.wtmp, e, l.end))
}

// write puts e where the file is to have it; below zero is nowhere.
func (l *logins) write(path string, e utmpEntry, where func(*os.File, utmpEntry) (int64, error)) (err error) {
	f, err := openRegular(path, os.O_RDWR)
	if err != nil {
		if absent(path, err) {
			err = nil
		}
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }() // and with it goes the lock
	if err := lock(f); err != nil {
		return err
	}
	at, err := where(f, e)
	if err != nil || at < 0 {
		return err
	}
	_, err = f.WriteAt(l.files.layout.utmp(e), at)
	return err
}

// lock waits a little for who writes the file as glibc does. It is a lock of
// the open file (fcntl(2), "Open file description locks"): a process's own
// would go with any other open file of that name. Not for long: whoever may
// read the file can hold it locked for ever.
func lock(f *os.File) (err error) {
	for range lockTries {
		err = unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &unix.Flock_t{Type: unix.F_WRLCK})
		if err == nil {
			return nil
		}
		time.Sleep(lockPause)
	}
	return fmt.Errorf("cannot lock %s: %w", f.Name(), err)
}

// end is after the last whole record: a full disk leaves parts of one.
func (l *logins) end(f *os.File, _ utmpEntry) (int64, error) {
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	size := int64(l.files.layout.utmpSize())
	return info.Size() / size * size, nil
}

// place is where the entry of e's terminal is, or the file's end; a login's end
// replaces that login and nothing else.
func (l *logins) place(f *os.File, e utmpEntry) (int64, error) {
	size := l.files.layout.utmpSize()
	all, err := io.ReadAll(io.LimitReader(f, maxUTMP))
	if err != nil {
		return 0, err
	}
	for at := 0; at+size <= len(all); at += size {
		if e.replaces(all[at : at+size]) {
			return int64(at), nil
		}
	}
	if e.over {
		return -1, nil
	}
	if len(all) == maxUTMP {
		return 0, fmt.Errorf("%s is larger than %d bytes", f.Name(), maxUTMP)
	}
	return l.end(f, e)
}

// replaces tells whether record is e's: the login that ends, or what has its ID
// (getutid(3)).
func (e utmpEntry) replaces(record []byte) bool {
	const initProcess, userAt = 5, utTypeSize + 4 + utLineSize
	typ := binary.NativeEndian.Uint16(record)
	if e.over {
		pid := binary.NativeEndian.Uint32(record[utTypeSize:])
		return typ == utUser && pid == uint32(e.pid) && textOf(record[utTypeSize+4:userAt]) == e.line
	}
	return typ >= initProcess && typ <= utDead && textOf(record[userAt:userAt+utIDSize]) == idOf(e.line)
}
