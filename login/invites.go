package login

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"database/sql"
	"encoding/base64"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"connectrpc.com/connect"

	"devicetrust/api"
	"devicetrust/audit/event"
	"devicetrust/resource"
	"devicetrust/store"
)

// Invite lets whoever holds its token set the user's password, once.
type Invite struct {
	User    string
	Token   Secret // 32 random bytes, base64url; stored as its SHA-256
	Expires time.Time
}

// Invite makes an invite for a user who exists (CodeNotFound) and voids the
// one before. ttl 0 is one hour; it may not be more than a week
// (CodeInvalidArgument).
func (s *Service) Invite(ctx context.Context, actor, user string, ttl time.Duration) (Invite, error) {
	var made Invite
	err := s.db.Write(ctx, func(tx *store.Tx) (err error) {
		if _, _, err := read(tx, user); err != nil {
			return err
		}
		made, err = s.invite(tx, actor, user, ttl)
		return err
	})
	return made, err
}

// Reset voids a user's password and invite, ends the user's logins and makes
// a new invite. inTx, where not nil, runs in the same transaction: to revoke
// the certificates of those logins.
func (s *Service) Reset(ctx context.Context, actor, user string, ttl time.Duration, inTx func(tx *store.Tx) error) (Invite, error) {
	var made Invite
	err := s.db.Write(ctx, func(tx *store.Tx) error {
		u, _, err := read(tx, user)
		if err != nil {
			return err
		}
		for _, q := range []string{
			`DELETE FROM passwords WHERE user_name = $1`,
			`DELETE FROM logins WHERE user_name = $1`,
		} {
			if _, err := tx.Exec(q, user); err != nil {
				return err
			}
		}
		tx.Changed()
		if err := s.record(tx, event.UserReset, actor, u); err != nil {
			return err
		}
		if err := also(tx, inTx); err != nil {
			return err
		}
		made, err = s.invite(tx, actor, user, ttl)
		return err
	})
	return made, err
}

func (s *Service) invite(tx *store.Tx, actor, user string, ttl time.Duration) (Invite, error) {
	if ttl == 0 {
		ttl = defaultInviteLife
	}
	if ttl < 0 || ttl > maxInviteLife {
		return Invite{}, api.Refuse(connect.CodeInvalidArgument, "an invite lives at most %s, not %s", maxInviteLife, ttl)
	}
	var random [32]byte
	rand.Read(random[:]) // never fails (crypto/rand)
	made := Invite{
		User:    user,
		Token:   NewSecret(base64.RawURLEncoding.EncodeToString(random[:])),
		Expires: s.now().Add(ttl).UTC(),
	}
	_, err := tx.Exec(`INSERT INTO invites (token_hash, user_name, expires_at) VALUES ($1, $2, $3)
		ON CONFLICT (user_name) DO UPDATE SET token_hash = excluded.token_hash, expires_at = excluded.expires_at`,
		tokenHash(made.Token), user, store.Micros(made.Expires))
	if err != nil {
		return Invite{}, err
	}
	_, err = s.log.Record(tx, event.Event{
		Type: event.InviteCreate, User: actor, Success: true,
		Kind: resource.KindUser, Name: user, ValidUntil: made.Expires,
	})
	return made, err
}

func tokenHash(token Secret) []byte {
	sum := sha256.Sum256([]byte(token.text))
	return sum[:]
}

// errInvite is all that a person hears; the record has the reason.
func errInvite() *api.Refusal {
	return api.Refuse(connect.CodeUnauthenticated, "this invite is not valid: it was used, replaced, or has expired").
		WithHint("Ask an administrator for a new one: dtctl users reset")
}

// AcceptInvite spends an invite and sets the password; it returns whose. A
// password out of bounds is refused (CodeInvalidArgument) and does not spend
// the invite; an invite that is unknown, spent or expired is refused
// (CodeUnauthenticated). Of several at once with one token, one succeeds.
func (s *Service) AcceptInvite(ctx context.Context, token, password Secret, addr netip.Addr) (user string, err error) {
	if err := checkNew(password); err != nil {
		return "", err
	}
	rec := event.Event{Type: event.UserPasswordChange, Kind: resource.KindUser, RemoteAddr: text(addr)}
	// Counted for the address, for each guess costs a record.
	g, err := s.guess(ctx, "", rec, addr)
	if err != nil {
		return "", err
	}
	// A look ahead, which decides nothing: hashing is for those who hold one.
	var n int
	err = s.db.Read(ctx, func(tx *store.Tx) error {
		return tx.QueryRow(`SELECT count(*) FROM invites WHERE token_hash = $1`, tokenHash(token)).Scan(&n)
	})
	if err != nil {
		return "", fmt.Errorf("login: %w", err)
	}
	if n == 0 || len(token.text) != inviteTokenLen {
		if err := s.recordUnknownInvite(ctx, rec); err != nil {
			return "", err
		}
		return "", errInvite()
	}
	hash, err := s.hasher.create(ctx, password)
	if err != nil {
		return "", errors.Join(err, s.takeBack(ctx, g))
	}
	return s.spend(ctx, g, token, hash)
}

// recordUnknownInvite records a guess, unless there were too many: anybody may
// make them.
func (s *Service) recordUnknownInvite(ctx context.Context, rec event.Event) error {
	rec.Message = unknownInvite
	switch n := s.countInviteGuess(s.now()); {
	case n > maxInviteRecords:
		return nil
	case n == maxInviteRecords:
		rec.Message += "; others within this minute are refused without a record"
	}
	return s.log.RecordAlone(ctx, rec)
}

const unknownInvite = "the invite is unknown, spent or replaced"

// spend removes the invite before it looks at it, and commits that even where
// it then refuses.
func (s *Service) spend(ctx context.Context, g guess, token Secret, hash string) (string, error) {
	rec := g.record
	var refused error
	err := s.db.Write(ctx, func(tx *store.Tx) error {
		var expires int64
		err := tx.QueryRow(`DELETE FROM invites WHERE token_hash = $1 RETURNING user_name, expires_at`, tokenHash(token)).
			Scan(&rec.Name, &expires)
		switch {
		case errors.Is(err, sql.ErrNoRows):
			rec.Message, refused = unknownInvite, errInvite()
		case err != nil:
			return err
		case !s.now().Before(store.Time(expires)):
			rec.Message, refused = "the invite has expired", errInvite()
		default:
			rec.User, rec.Success = rec.Name, true
			if err := s.setPassword(tx, rec.Name, hash); err != nil {
				return err
			}
			if err := g.attempt.takeBack(tx); err != nil {
				return err
			}
		}
		_, err = s.log.Record(tx, rec)
		return err
	})
	if err == nil {
		err = refused
	}
	if err != nil {
		return "", err
	}
	return rec.Name, nil
}

func (s *Service) setPassword(tx *store.Tx, user, hash string) error {
	_, err := tx.Exec(`INSERT INTO passwords (user_name, hash, changed_at) VALUES ($1, $2, $3)
		ON CONFLICT (user_name) DO UPDATE SET hash = excluded.hash, changed_at = excluded.changed_at`,
		user, hash, store.Micros(s.now()))
	return err
}
