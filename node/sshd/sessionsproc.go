package sshd

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Process is one process, for as long as the machine runs: its number is
// another's some time after it has ended, its number and its start are not.
type Process struct {
	PID int
	// Start is in clock ticks since the machine started (proc_pid_stat(5)).
	Start uint64
}

// process is what the machine tells of one.
type process struct {
	Process
	name    string // comm, which the process itself may choose
	parent  int
	session int // of setsid(2)
}

// processes are those that live, by their number.
type processes map[int]process

// proc is where the machine tells of its processes: "/proc".
type proc string

// all reads what lives now.
func (p proc) all() (processes, error) {
	entries, err := os.ReadDir(string(p))
	if err != nil {
		return nil, err
	}
	living := processes{}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		if one, ok := p.one(pid); ok {
			living[pid] = one
		}
	}
	return living, nil
}

// one tells of the process with that number; false where it has ended.
func (p proc) one(pid int) (process, bool) {
	stat, err := os.ReadFile(p.path(pid, "stat"))
	if err != nil {
		return process{}, false
	}
	return parseStat(pid, stat)
}

func (p proc) path(pid int, name string) string {
	return filepath.Join(string(p), strconv.Itoa(pid), name)
}

// parseStat reads proc_pid_stat(5). The name, in parentheses, may hold
// anything, blanks and parentheses too. A zombie has ended.
func parseStat(pid int, stat []byte) (process, bool) {
	from, to := bytes.IndexByte(stat, '('), bytes.LastIndexByte(stat, ')')
	if from < 0 || to < from {
		return process{}, false
	}
	f := bytes.Fields(stat[to+1:])
	const state, parent, session, threads, start = 0, 1, 3, 17, 19 // counted from the state
	if len(f) <= start {
		return process{}, false
	}
	if s := f[state][0]; s == 'X' || s == 'Z' && string(f[threads]) <= "1" {
		return process{}, false
	}
	one := process{Process: Process{PID: pid}, name: string(stat[from+1 : to])}
	var err1, err2, err3 error
	one.parent, err1 = strconv.Atoi(string(f[parent]))
	one.session, err2 = strconv.Atoi(string(f[session]))
	one.Start, err3 = strconv.ParseUint(string(f[start]), 10, 64)
	return one, err1 == nil && err2 == nil && err3 == nil
}

// lives tells whether it is the same process still.
func (p proc) lives(who Process) bool {
	one, ok := p.one(who.PID)
	return ok && one.Process == who
}

// uid is whom the process runs as: real, effective, saved are the same one;
// false where they are not, or it has ended.
func (p proc) uid(pid int) (uint32, bool) {
	text, err := procFile(p.path(pid, "status"), maxProcFile)
	if err != nil {
		return 0, false
	}
	for line := range strings.Lines(string(text)) {
		rest, ok := strings.CutPrefix(line, "Uid:")
		if !ok {
			continue
		}
		f := strings.Fields(rest)
		if len(f) < 3 || f[0] != f[1] || f[1] != f[2] {
			return 0, false
		}
		n, err := strconv.ParseUint(f[0], 10, 32)
		return uint32(n), err == nil
	}
	return 0, false
}

// program is the file that runs; one that was replaced since (by an upgrade)
// is what it was.
func (p proc) program(pid int) string {
	path, err := os.Readlink(p.path(pid, "exe"))
	if err != nil {
		return ""
	}
	return strings.TrimSuffix(path, " (deleted)")
}

// title is what ps(1) shows: the arguments, or what the process put in their
// place.
func (p proc) title(pid int) string {
	text, err := procFile(p.path(pid, "cmdline"), maxProcFile)
	if err != nil {
		return ""
	}
	return string(bytes.TrimRight(bytes.ReplaceAll(text, []byte{0}, []byte{' '}), " "))
}

// variable is what an environment variable was when the process began its
// program. Who runs the program may have chosen it.
func (p proc) variable(pid int, name string) string {
	text, err := procFile(p.path(pid, "environ"), maxProcFile)
	if err != nil {
		return ""
	}
	for v := range bytes.SplitSeq(text, []byte{0}) {
		if value, ok := bytes.CutPrefix(v, []byte(name+"=")); ok {
			return string(value)
		}
	}
	return ""
}

// bootClock turns ticks since the machine's start into times.
type bootClock struct{ booted time.Time }

// ticks of proc_pid_stat(5) in a second: USER_HZ, which is 100 on every
// architecture that Go knows (linux/include/asm-generic/param.h).
const ticks = 100

func newBootClock(now time.Time) (bootClock, error) {
	var since unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &since); err != nil {
		return bootClock{}, err
	}
	return bootClock{now.Add(-time.Duration(since.Nano()))}, nil
}

func (c bootClock) began(p Process) time.Time {
	return c.booted.Add(time.Duration(min(p.Start, 1<<40)) * (time.Second / ticks))
}

// descends tells whether p is who, or a descendant of it.
func (all processes) descends(pid int, who Process) bool {
	for range maxDepth {
		one, ok := all[pid]
		if !ok {
			return false
		}
		if one.Process == who {
			return true
		}
		pid = one.parent
	}
	return false
}

// children by their parent.
func (all processes) children() map[int][]process {
	of := map[int][]process{}
	for _, p := range all {
		of[p.parent] = append(of[p.parent], p)
	}
	return of
}

// below are who and all of its descendants.
func (all processes) below(who Process) []process {
	first, ok := all[who.PID]
	if !ok || first.Process != who {
		return nil
	}
	of := all.children()
	found := []process{first}
	for i := 0; i < len(found); i++ { // each has one parent: it ends
		found = append(found, of[found[i].PID]...)
		if len(found) > len(all) {
			break // the machine's list was not of one moment
		}
	}
	return found
}

// signal reaches who and nobody that has its number after it.
func (p proc) signal(who Process, s os.Signal) error {
	handle, err := os.FindProcess(who.PID) // by pidfd, where the kernel has them
	if err != nil {
		return err
	}
	defer handle.Release() //nolint:errcheck // it has no error
	if !p.lives(who) {
		return os.ErrProcessDone
	}
	return handle.Signal(s)
}

// procFile gives the first so many bytes of a file of /proc.
func procFile(path string, most int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, most))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return data, nil
}
