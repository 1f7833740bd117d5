package node

import (
	"bytes"
	"encoding/json"
	"errors"
	"time"

	"devicetrust/audit/event"
)

// part is which part of the spool a record may fill. The zero value is all of
// it.
type part int

const (
	// essential: of what a session is, and what it runs.
	essential part = iota
	// lesser: what one session does by the thousand.
	lesser
	// rejection: of those who were not let in.
	rejection
)

func partOf(t event.Type) part {
	switch t {
	case event.SCP, event.SFTP, event.Port, event.X11, event.AgentForward:
		return lesser
	case event.SessionRejected:
		return rejection
	default:
		return essential
	}
}

// patient tells whether nothing but the record itself waits for it to be on the
// disk: see patience.
func patient(t event.Type) bool { return t == event.SessionEnd || partOf(t) == lesser }

// use is how many bytes belong to a part that has a bound.
type use struct {
	refused int64
	lesser  map[string]int64 // by user
}

// add counts n bytes.
func (u *use) add(p part, user string, n int64) {
	switch p {
	case rejection:
		u.refused += n
	case lesser:
		if u.lesser == nil {
			u.lesser = map[string]int64{}
		}
		u.lesser[user] += n
	default: // all may be filled
	}
}

// join counts what other does.
func (u *use) join(other use) {
	u.refused += other.refused
	for user, n := range other.lesser {
		u.add(lesser, user, n)
	}
}

// addLine counts a line as it is on the disk.
func (u *use) addLine(line []byte) {
	rest, _ := bytes.CutPrefix(line, []byte(`{"event":"`))
	name, _, _ := bytes.Cut(rest, []byte(`"`))
	p := partOf(event.Type(name))
	var who struct {
		User string `json:"user"`
	}
	if p == lesser {
		_ = json.Unmarshal(line, &who) // where it fails it is nobody's
	}
	u.add(p, who.User, int64(len(line)))
}

var (
	errSpoolFull   = errors.New("the audit spool is full: the control plane does not take this node's records, or not as fast as they come")
	errSpoolShare  = errors.New("the audit spool holds as many records of files and forwards as it may, of one user or of all: the control plane does not take them as fast as they come")
	errSpoolClosed = errors.New("the node is stopping")
)

// offerAgain offers p until there is room in its part: who copies files faster
// than the control plane takes their records is slowed down, not refused. Where
// it takes nothing one waits for nothing, and those after it do not.
func (s *spool) offerAgain(p pending) error {
	var late <-chan time.Time
	for {
		freed, stalled := s.progress()
		err := s.offer(p)
		if !errors.Is(err, errSpoolShare) || stalled {
			return err
		}
		if late == nil {
			late = time.After(s.waits)
		}
		select {
		case <-freed:
		case <-late:
			s.mu.Lock()
			s.stalled = true
			s.mu.Unlock()
			return err
		case <-s.stop:
			return errSpoolClosed
		}
	}
}

func (s *spool) progress() (freed <-chan struct{}, stalled bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.freed, s.stalled
}

// progressLocked needs s.mu: the control plane has taken something.
func (s *spool) progressLocked() {
	close(s.freed)
	s.freed, s.stalled = make(chan struct{}), false
}

// room is what may still be written.
type room struct {
	all, refused, lesser int64
}

func (s *spool) room() room {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := room{maxSpool, maxRejections, maxLesser}
	for _, seg := range s.segments {
		r.all -= seg.size
		r.refused -= seg.refused
		for _, n := range seg.lesser {
			r.lesser -= n
		}
	}
	return r
}

// usedBy is how many bytes of lesser records the user has in the spool.
func (s *spool) usedBy(user string) (n int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, seg := range s.segments {
		n += seg.lesser[user]
	}
	return n
}

// admit tells why p may not be written after what taken says, or counts it
// there.
func (s *spool) admit(p pending, r *room, taken *use) error {
	n := int64(len(p.lines))
	switch {
	case n > r.all, p.part == rejection && n > r.refused:
		return errSpoolFull
	case p.part == lesser && (n > r.lesser || s.usedBy(p.user)+taken.lesser[p.user]+n > maxUserShare):
		return errSpoolShare
	}
	r.all -= n
	switch p.part {
	case rejection:
		r.refused -= n
	case lesser:
		r.lesser -= n
	default: // all may be filled
	}
	taken.add(p.part, p.user, n)
	return nil
}
