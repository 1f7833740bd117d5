package sshd

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Condemned is a connection that is to end.
type Condemned struct {
	served
	// words are for the person.
	words string
}

// Condemn says why the connection is to end.
func (c *Connection) Condemn(words string) Condemned { return Condemned{c.served, words} }

// Cut ends the connections and all that their sessions run, and gives those
// that it could not end. It takes no longer for many than for one:
//
//  1. What people run stops: it neither forks away nor does anything more.
//  2. They are told why, on their terminals; sshd has a moment to send it.
//  3. What they run is killed. It has no time for its own end, as that is a time
//     to get away in.
//  4. sshd ends, by itself where it does at once.
//
// What has left its session (a service manager, a daemon) is no part of it, as
// on our own node.
func (w *Watch) Cut(all []Condemned) (left []Condemned) {
	if len(all) == 0 {
		return nil
	}
	w.proc.eachRound(all, unix.SIGSTOP)
	for _, c := range all {
		if err := w.proc.say(c); err != nil {
			w.settings.Log.Debug("a person cannot be told why a connection is cut", "pid", c.top.PID, "error", err)
		}
	}
	time.Sleep(lastWords)
	w.proc.eachRound(all, unix.SIGKILL)
	for _, c := range all {
		_ = w.proc.signal(c.top, unix.SIGTERM) // which it hands on to the worker (monitor.c)
	}
	if w.proc.awaitEnd(all, sshdEnds) {
		return nil
	}
	for _, c := range all {
		_ = w.proc.signal(c.worker, unix.SIGKILL)
		_ = w.proc.signal(c.top, unix.SIGKILL)
	}
	w.proc.awaitEnd(all, killTakes)
	for _, c := range all {
		if w.proc.lives(c.top) || w.proc.lives(c.worker) {
			left = append(left, c)
		}
	}
	return left
}

// eachRound sends s to all that the connections' sessions run, again until
// nothing new is there: what was about to fork has done so.
func (p proc) eachRound(condemned []Condemned, s syscall.Signal) {
	had := map[Process]bool{}
	for range cutRounds {
		all, err := p.all()
		if err != nil {
			return
		}
		sent := false
		for _, who := range all.people(condemned) {
			if had[who] {
				continue
			}
			had[who], sent = true, true
			_ = p.signal(who, s) // it may have ended
		}
		if !sent {
			return
		}
	}
}

// people are the processes that run for those who are in: the descendants of
// sshd's own two, and what is in a session with one of them (setsid(2)).
func (all processes) people(condemned []Condemned) []Process {
	var found []Process
	sessions := map[int]bool{}
	taken := map[int]bool{}
	for _, c := range condemned {
		for _, one := range all.below(c.top) {
			taken[one.PID] = true
			if one.Process != c.top && one.Process != c.worker {
				found = append(found, one.Process)
				sessions[one.session] = true
			}
		}
	}
	for _, c := range condemned { // sshd's own
		delete(sessions, c.top.PID)
		delete(sessions, all[c.top.PID].session)
	}
	for pid, one := range all {
		if !taken[pid] && sessions[one.session] {
			found = append(found, one.Process)
		}
	}
	return found
}

// awaitEnd tells whether all have ended within so long.
func (p proc) awaitEnd(condemned []Condemned, most time.Duration) bool {
	for waited := time.Duration(0); ; waited += endStep {
		ended := true
		for _, c := range condemned {
			ended = ended && !p.lives(c.top) && !p.lives(c.worker)
		}
		if ended || waited >= most {
			return ended
		}
		time.Sleep(endStep)
	}
}

var terminalName = regexp.MustCompile(`^pts/[0-9]{1,8}$`)

// say writes the words to the terminals that sshd has for the person, and to the
// standard error of what it runs without one.
func (p proc) say(c Condemned) error {
	text := []byte("\r\n" + printable(c.words) + "\r\n")
	_, names, _ := strings.Cut(p.title(c.worker.PID), "@")
	var errs []error
	for name := range strings.SplitSeq(names, ",") {
		if terminalName.MatchString(name) {
			errs = append(errs, writeTerminal(filepath.Join("/dev", name), c.uid, text))
		}
	}
	return errors.Join(append(errs, p.sayToPipes(c, text))...)
}

// writeTerminal writes to a terminal of owner's. It waits for nobody.
func writeTerminal(path string, owner uint32, text []byte) error {
	fd, err := unix.Open(path, unix.O_WRONLY|unix.O_NOCTTY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	defer unix.Close(fd)
	var info unix.Stat_t
	if err := unix.Fstat(fd, &info); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	if _, err := unix.IoctlGetTermios(fd, unix.TCGETS); err != nil || info.Mode&unix.S_IFMT != unix.S_IFCHR || info.Uid != owner {
		return fmt.Errorf("%s is no terminal of user %d", path, owner)
	}
	if _, err := unix.Write(fd, text); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}

// sayToPipes writes to the pipes by which sshd hears the standard error of what
// it started.
func (p proc) sayToPipes(c Condemned, text []byte) error {
	heard := map[string]bool{}
	for fd := range maxWorkerFD {
		if link, err := os.Readlink(p.path(c.worker.PID, filepath.Join("fd", strconv.Itoa(fd)))); err == nil && strings.HasPrefix(link, "pipe:") {
			heard[link] = true
		}
	}
	all, err := p.all()
	if err != nil {
		return err
	}
	var errs []error
	for _, one := range all.children()[c.worker.PID] {
		path := p.path(one.PID, filepath.Join("fd", "2"))
		if link, err := os.Readlink(path); err != nil || !heard[link] {
			continue
		}
		errs = append(errs, writePipe(path, text))
	}
	return errors.Join(errs...)
}

func writePipe(path string, text []byte) error {
	fd, err := unix.Open(path, unix.O_WRONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	_, err = unix.Write(fd, text)
	return err
}
