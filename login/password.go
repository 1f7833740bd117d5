package login

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"connectrpc.com/connect"

	"devicetrust/api"
	"devicetrust/audit/event"
	"devicetrust/identity"
	"devicetrust/resource"
	"devicetrust/store"
)

// Verified is a user whose password was right a moment ago; only
// CheckPassword makes one. Begin turns it into a login.
type Verified struct {
	user string
	hash string // as stored then: if it is gone, so is what was proved
}

// User is the user's name; empty for the zero value, which is nobody.
func (v Verified) User() string { return v.user }

// errWrong is all that a person hears; the record has the reason.
func errWrong() *api.Refusal {
	return api.Refuse(connect.CodeUnauthenticated, "the user name or the password is wrong").
		WithHint("An administrator gives a new password with: dtctl users reset NAME")
}

// CheckPassword proves who somebody is. Whether the user does not exist, has
// expired, has no password or has another, the refusal (CodeUnauthenticated)
// and the work done are the same, and the record has the reason. After too
// many failures it refuses with how long to wait, and with too many logins at
// once for a moment (both CodeResourceExhausted).
func (s *Service) CheckPassword(ctx context.Context, user string, password Secret, addr netip.Addr) (Verified, error) {
	g, err := s.guess(ctx, user, event.Event{
		Type: event.UserLogin, User: user, Kind: resource.KindUser, Name: user, RemoteAddr: text(addr),
	}, addr)
	if err != nil {
		return Verified{}, err
	}
	right, err := s.try(ctx, g, password)
	if err != nil {
		return Verified{}, err
	}
	if !right {
		return Verified{}, errWrong()
	}
	return s.proved(ctx, g, password)
}

// ChangePassword replaces a password by who knows the old one; an invite that
// is still out is void. It refuses like CheckPassword, and a new password
// that is too short, too long or the old one (CodeInvalidArgument). inTx, where
// not nil, runs in the same transaction: to end the user's other logins.
func (s *Service) ChangePassword(ctx context.Context, user string, old, replacement Secret, addr netip.Addr, inTx func(tx *store.Tx) error) error {
	if err := checkNew(replacement); err != nil {
		return err
	}
	if old == replacement {
		return api.Refuse(connect.CodeInvalidArgument, "the new password is the old one")
	}
	rec := event.Event{
		Type: event.UserPasswordChange, User: user, Kind: resource.KindUser, Name: user, RemoteAddr: text(addr),
	}
	g, err := s.guess(ctx, user, rec, addr)
	if err != nil {
		return err
	}
	right, err := s.try(ctx, g, old)
	if err != nil {
		return err
	}
	if !right {
		return api.Refuse(connect.CodeUnauthenticated, "the old password is wrong")
	}
	hash, err := s.hasher.create(ctx, replacement)
	if err != nil {
		return errors.Join(err, s.takeBack(ctx, g))
	}
	rec.Success = true
	return s.db.Write(ctx, func(tx *store.Tx) error {
		if err := s.replaceHash(tx, g, hash, s.now()); err != nil {
			return err
		}
		if _, err := tx.Exec(`DELETE FROM invites WHERE user_name = $1`, user); err != nil {
			return err
		}
		if err := g.attempt.succeeded(tx, s.now()); err != nil {
			return err
		}
		if _, err := s.log.Record(tx, rec); err != nil {
			return err
		}
		return also(tx, inTx)
	})
}

// guess is a counted attempt at a user's password.
type guess struct {
	user    string
	attempt attempt
	record  event.Event // of the failure, but for its reason
	stored  string      // hash; empty where nothing can match
	changed time.Time   // when stored was made
	reason  string      // why nothing can match
}

// guess counts an attempt and reads what it will be compared with, in one
// transaction. A refusal for the rate is recorded there.
func (s *Service) guess(ctx context.Context, user string, rec event.Event, addr netip.Addr) (guess, error) {
	g := guess{user: user, record: rec}
	if identity.CheckUser(user) == nil {
		g.attempt = newAttempt(user, addr)
	} else {
		g.attempt = newAttempt("", addr)
	}
	var wait time.Duration
	err := s.db.Write(ctx, func(tx *store.Tx) (err error) {
		now := s.now()
		if err := s.prune(tx, now); err != nil {
			return err
		}
		var first bool
		if wait, first, err = g.attempt.count(tx, now); err != nil {
			return err
		}
		if wait > 0 {
			return s.recordWait(tx, rec, wait, first)
		}
		return g.read(tx, now)
	})
	if err != nil {
		return guess{}, fmt.Errorf("login: %w", err)
	}
	if wait > 0 {
		return guess{}, tooMany(wait)
	}
	return g, nil
}

func (s *Service) recordWait(tx *store.Tx, rec event.Event, wait time.Duration, first bool) error {
	if !first {
		return nil
	}
	rec.Message = fmt.Sprintf("too many failed attempts; others within the next %s are refused without a record",
		wait.Round(time.Millisecond))
	_, err := s.log.Record(tx, rec)
	return err
}

func (g *guess) read(tx *store.Tx, now time.Time) error {
	if g.attempt.known == "" { // not a name that PostgreSQL must take
		g.reason = "unknown user"
		return nil
	}
	var document string
	var stored sql.NullString
	var changed sql.NullInt64
	err := tx.QueryRow(`SELECT u.document, p.hash, p.changed_at
		FROM users u LEFT JOIN passwords p ON p.user_name = u.name WHERE u.name = $1`, g.user).
		Scan(&document, &stored, &changed)
	if errors.Is(err, sql.ErrNoRows) {
		g.reason = "unknown user"
		return nil
	}
	if err != nil {
		return err
	}
	var u resource.User
	if err := json.Unmarshal([]byte(document), &u); err != nil {
		return err
	}
	switch {
	case expired(u, now):
		g.reason = "the user has expired"
	case !stored.Valid:
		g.reason = "no password is set"
	default:
		g.stored, g.changed = stored.String, store.Time(changed.Int64)
	}
	return nil
}

// try compares, and records a failure.
func (s *Service) try(ctx context.Context, g guess, password Secret) (bool, error) {
	right, err := s.hasher.matches(ctx, g.stored, password)
	if err != nil { // nothing was compared, so nothing was guessed
		return false, errors.Join(err, s.takeBack(ctx, g))
	}
	if right {
		return true, nil
	}
	rec := g.record
	if rec.Message = g.reason; rec.Message == "" {
		rec.Message = "wrong password"
	}
	return false, s.log.RecordAlone(ctx, rec)
}

func (s *Service) takeBack(ctx context.Context, g guess) error {
	ctx, cancel := detached(ctx)
	defer cancel()
	return s.db.Write(ctx, g.attempt.takeBack)
}

// proved takes the attempt back and, where the hash was made with older
// parameters, replaces it: only now the password is at hand.
func (s *Service) proved(ctx context.Context, g guess, password Secret) (Verified, error) {
	v := Verified{user: g.user, hash: g.stored}
	if s.hasher.outdated(g.stored) {
		// Where that cannot be done now, too many waiting say, the next
		// login does it.
		if hash, err := s.hasher.create(ctx, password); err == nil {
			v.hash = hash
		}
	}
	ctx, cancel := detached(ctx)
	defer cancel()
	err := s.db.Write(ctx, func(tx *store.Tx) error {
		if v.hash != g.stored {
			if err := s.replaceHash(tx, g, v.hash, g.changed); err != nil {
				return err
			}
		}
		return g.attempt.succeeded(tx, s.now())
	})
	if err != nil {
		return Verified{}, fmt.Errorf("login: %w", err)
	}
	return v, nil
}

// replaceHash refuses (CodeAborted) where the password is not the compared
// one any more.
func (s *Service) replaceHash(tx *store.Tx, g guess, hash string, changed time.Time) error {
	n, err := tx.Exec(`UPDATE passwords SET hash = $1, changed_at = $2 WHERE user_name = $3 AND hash = $4`,
		hash, store.Micros(changed), g.user, g.stored)
	if err == nil && n == 0 {
		err = api.Refuse(connect.CodeAborted, "the password was changed at the same moment").WithHint("Try again")
	}
	return err
}

func expired(u resource.User, now time.Time) bool {
	past := func(t time.Time) bool { return !t.IsZero() && !now.Before(t) }
	return past(u.Spec.Expires) || past(u.Metadata.Expires)
}

// text is addr as it is recorded; empty where there is none.
func text(addr netip.Addr) string {
	if !addr.IsValid() {
		return ""
	}
	return addr.Unmap().String()
}
