package node

import (
	"fmt"
	"sync"

	"devicetrust/audit/event"
)

// recordFor writes down what a's user is about to do. It may happen only where
// there is no error: where it was recorded, or, with audit: best_effort, where
// it could not be. The next record of the user then says how much is missing.
func (s *server) recordFor(a *admission, events ...event.Event) error {
	user := a.identity.User
	missing := s.unrecorded.take(user)
	if missing > 0 && len(events) > 0 {
		e := &events[0]
		e.Reasons = append(e.Reasons[:len(e.Reasons):len(e.Reasons)], notRecorded(missing))
	}
	err := s.record(events...)
	if err == nil {
		return nil
	}
	if !a.getLimits().BestEffortAudit {
		s.unrecorded.add(user, missing)
		return err
	}
	s.unrecorded.add(user, missing+len(events))
	s.metrics.unrecorded.Add(float64(len(events)))
	for _, e := range events {
		s.log.Error("not recorded, and done all the same (audit: best_effort)", "event", e.Type, "user", user,
			"sid", e.SessionID, "error", err)
	}
	return nil
}

// unrecorded counts by user what is missing in the record. The zero value
// counts nothing yet.
type unrecorded struct {
	mu sync.Mutex
	of map[string]int // at most maxUnrecorded
}

// take gives what is missing of user, and counts from nothing again.
func (u *unrecorded) take(user string) int {
	u.mu.Lock()
	defer u.mu.Unlock()
	n := u.of[user]
	delete(u.of, user)
	return n
}

// add counts n more.
func (u *unrecorded) add(user string, n int) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if _, known := u.of[user]; n == 0 || !known && len(u.of) >= maxUnrecorded {
		return
	}
	if u.of == nil {
		u.of = map[string]int{}
	}
	u.of[user] += n
}

// notRecorded is the line of a record that says so.
func notRecorded(n int) string {
	return fmt.Sprintf("%d records of this user before this one could not be written", n)
}
