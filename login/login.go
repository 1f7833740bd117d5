// Package login answers "who is it?": users, their passwords and invites, the
// limits on guessing, and the logins that certificates are bound to.
package login

import (
	"context"
	"sync"
	"time"

	"devicetrust/audit"
	"devicetrust/audit/event"
	"devicetrust/resource"
	"devicetrust/store"
)

// Service holds the users. Its methods may be called from many goroutines, on
// several replicas of one store.
type Service struct {
	db     *store.DB
	log    *audit.Log
	now    func() time.Time
	hasher *hasher

	// CheckRoles, where not nil, is asked in each transaction that gives a
	// user roles whether there are such: the one that removes a role asks
	// whose it is, and between the two no time must pass. It is set before
	// the service is used.
	CheckRoles func(tx *store.Tx, roles []string) error

	mu     sync.Mutex // guards what follows
	pruned time.Time
	// guesses at invites within minute.
	minute  time.Time
	guesses int
}

// New returns the service on db; every act is recorded in log.
func New(db *store.DB, log *audit.Log, now func() time.Time) *Service {
	return &Service{db: db, log: log, now: now, hasher: newHasher(recommended)}
}

// checkRoles asks CheckRoles.
func (s *Service) checkRoles(tx *store.Tx, u resource.User) error {
	if s.CheckRoles == nil {
		return nil
	}
	return s.CheckRoles(tx, u.Spec.Roles)
}

// record writes the record of an administrator's act on a user, in the act's
// transaction.
func (s *Service) record(tx *store.Tx, t event.Type, actor string, u resource.User, reasons ...string) error {
	_, err := s.log.Record(tx, event.Event{
		Type: t, User: actor, Success: true,
		Kind: resource.KindUser, Name: u.Metadata.Name, Roles: u.Spec.Roles, Reasons: reasons,
	})
	return err
}

// countInviteGuess counts a guess at an invite and tells how many there were in
// this minute.
func (s *Service) countInviteGuess(now time.Time) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if minute := now.Truncate(time.Minute); !minute.Equal(s.minute) {
		s.minute, s.guesses = minute, 0
	}
	s.guesses++
	return s.guesses
}

// detached outlives a caller who leaves: what follows a guess is written
// whether or not somebody waits for the answer.
func detached(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), finishTimeout)
}

// prune removes what has expired, once in a while.
func (s *Service) prune(tx *store.Tx, now time.Time) error {
	s.mu.Lock()
	due := now.Sub(s.pruned) >= pruneEvery
	if due {
		s.pruned = now
	}
	s.mu.Unlock()
	if !due {
		return nil
	}
	for _, q := range []struct {
		sql    string
		before time.Time
	}{
		{`DELETE FROM attempts WHERE updated_at < $1 AND bucket NOT LIKE 'known:%'`, now.Add(-idle)},
		{`DELETE FROM attempts WHERE updated_at < $1`, now.Add(-knownLife)},
		// Kept for a while, so that the record can say whose had expired.
		{`DELETE FROM invites WHERE expires_at <= $1`, now.Add(-maxInviteLife)},
		{`DELETE FROM logins WHERE expires_at <= $1`, now},
	} {
		if _, err := tx.Exec(q.sql, store.Micros(q.before)); err != nil {
			return err
		}
	}
	return nil
}
