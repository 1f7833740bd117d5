package login

import (
	"database/sql"
	"errors"
	"fmt"
	"time"

	"connectrpc.com/connect"
	"github.com/google/uuid"

	"devicetrust/api"
	"devicetrust/audit/event"
	"devicetrust/resource"
	"devicetrust/store"
)

// Login is one time that somebody logged in, and what it is bound to: its
// certificates are for these two keys and no others.
type Login struct {
	ID         string // UUID
	User       string
	SSHKey     []byte // wire format, RFC 4253 section 6.6
	TLSKey     []byte // PKIX DER
	RemoteAddr string // address without port; empty where unknown
	// TTL is how long the person asked the certificates to live; 0: they did not
	// say. It is kept for renewals.
	TTL     time.Duration
	Created time.Time
	// Expires is when the last of its certificates does, or later.
	Expires  time.Time
	DeviceID string // of the device that proved itself in this login
}

// NewID is the ID of a login that is about to begin: its certificates are
// prepared under it before it is stored.
func NewID() string { return uuid.NewString() }

// Begin starts a login of v's user; User, Created and, where it is empty, ID
// are its to set. It refuses (CodeUnauthenticated) where what CheckPassword
// saw does not hold any more: the user is gone, or the password was replaced
// or voided.
func (s *Service) Begin(tx *store.Tx, v Verified, l Login) (Login, error) {
	if v.user == "" || v.hash == "" {
		return Login{}, errors.New("login: nobody was verified")
	}
	var n int
	if err := tx.QueryRow(`SELECT count(*) FROM passwords WHERE user_name = $1 AND hash = $2`, v.user, v.hash).Scan(&n); err != nil {
		return Login{}, fmt.Errorf("login: %w", err)
	}
	if n != 1 {
		return Login{}, errWrong()
	}
	now := s.now().Truncate(time.Microsecond).UTC()
	l.Expires = l.Expires.Truncate(time.Microsecond).UTC()
	if l.ID == "" {
		l.ID = NewID()
	}
	if uuid.Validate(l.ID) != nil {
		return Login{}, errors.New("login: the ID of a login is one of NewID's")
	}
	if len(l.SSHKey) == 0 || len(l.TLSKey) == 0 || !l.Expires.After(now) || l.TTL < 0 {
		return Login{}, errors.New("login: a login needs two keys and an end")
	}
	l.User, l.Created, l.DeviceID, l.TTL = v.user, now, "", l.TTL.Truncate(time.Microsecond)
	_, err := tx.Exec(`INSERT INTO logins (id, user_name, ssh_key, tls_key, remote_addr, created_at, expires_at, ttl)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8)`,
		l.ID, l.User, l.SSHKey, l.TLSKey, l.RemoteAddr, store.Micros(l.Created), store.Micros(l.Expires), l.TTL.Microseconds())
	if err != nil {
		return Login{}, err
	}
	_, err = s.log.Record(tx, event.Event{
		Type: event.UserLogin, User: l.User, Success: true, Kind: resource.KindUser, Name: l.User,
		RemoteAddr: l.RemoteAddr, LoginID: l.ID, ValidUntil: l.Expires,
	})
	return l, err
}

func errEnded() *api.Refusal {
	return api.Refuse(connect.CodeUnauthenticated, "this login has ended").WithHint("Log in again: dtsh login")
}

// Find returns a login that stands, or refuses (CodeUnauthenticated): it has
// ended or expired, or its user is gone or has expired.
func (s *Service) Find(tx *store.Tx, id string) (Login, error) {
	if uuid.Validate(id) != nil {
		return Login{}, errEnded()
	}
	l := Login{ID: id}
	var document string
	var created, expires, ttl int64
	err := tx.QueryRow(`SELECT l.user_name, l.ssh_key, l.tls_key, l.remote_addr, l.created_at, l.expires_at, l.ttl, l.device_id, u.document
		FROM logins l JOIN users u ON u.name = l.user_name WHERE l.id = $1`, id).
		Scan(&l.User, &l.SSHKey, &l.TLSKey, &l.RemoteAddr, &created, &expires, &ttl, &l.DeviceID, &document)
	if errors.Is(err, sql.ErrNoRows) {
		return Login{}, errEnded()
	}
	if err != nil {
		return Login{}, fmt.Errorf("login: %w", err)
	}
	l.Created, l.Expires, l.TTL = store.Time(created), store.Time(expires), time.Duration(ttl)*time.Microsecond
	u, err := decode(document, 0)
	if err != nil {
		return Login{}, err
	}
	if now := s.now(); !now.Before(l.Expires) || expired(u, now) {
		return Login{}, errEnded()
	}
	return l, nil
}

// End ends a login that stands (CodeUnauthenticated where it does not) and
// records it; the caller revokes its certificates in the same transaction.
func (s *Service) End(tx *store.Tx, id string) error {
	l, err := s.Find(tx, id)
	if err != nil {
		return err
	}
	if _, err := tx.Exec(`DELETE FROM logins WHERE id = $1`, id); err != nil {
		return err
	}
	_, err = s.log.Record(tx, event.Event{
		Type: event.UserLogout, User: l.User, Success: true, Kind: resource.KindUser, Name: l.User, LoginID: id,
	})
	return err
}

// EndOthers ends all logins of l's user but l itself, and records how many
// and why. It gives their IDs: the caller revokes their certificates in the
// same transaction.
func (s *Service) EndOthers(tx *store.Tx, l Login, why string) (ids []string, err error) {
	rows, err := tx.Query(`DELETE FROM logins WHERE user_name = $1 AND id <> $2 RETURNING id`, l.User, l.ID)
	if err != nil {
		return nil, err
	}
	defer rows.Close() //nolint:errcheck // Err is checked
	for rows.Next() {
		var id string
		if err := rows.Scan(&id); err != nil {
			return nil, fmt.Errorf("login: %w", err)
		}
		ids = append(ids, id)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("login: %w", err)
	}
	if len(ids) == 0 {
		return nil, nil
	}
	_, err = s.log.Record(tx, event.Event{
		Type: event.UserLogout, User: l.User, Success: true, Kind: resource.KindUser, Name: l.User,
		Message: fmt.Sprintf("all others, %d: %s", len(ids), why),
	})
	return ids, err
}

// MarkDevice notes the device that proved itself in a login that stands
// (CodeUnauthenticated where it does not).
func (s *Service) MarkDevice(tx *store.Tx, id, deviceID string) error {
	if _, err := s.Find(tx, id); err != nil {
		return err
	}
	_, err := tx.Exec(`UPDATE logins SET device_id = $1 WHERE id = $2`, deviceID, id)
	return err
}

// Extend lets a login that stands (CodeUnauthenticated where it does not) live
// until then. It never shortens it: certificates that outlive their login would
// be found by nobody who ends what the person has.
func (s *Service) Extend(tx *store.Tx, id string, until time.Time) error {
	if _, err := s.Find(tx, id); err != nil {
		return err
	}
	_, err := tx.Exec(`UPDATE logins SET expires_at = $1 WHERE id = $2 AND expires_at < $1`, store.Micros(until), id)
	return err
}

// ReplaceKeys gives a login that stands (CodeUnauthenticated where it does not)
// other keys: its certificates are for these from now on. SSH wire format and
// PKIX DER.
func (s *Service) ReplaceKeys(tx *store.Tx, id string, sshKey, tlsKey []byte) error {
	if len(sshKey) == 0 || len(tlsKey) == 0 {
		return errors.New("login: a login needs two keys")
	}
	if _, err := s.Find(tx, id); err != nil {
		return err
	}
	_, err := tx.Exec(`UPDATE logins SET ssh_key = $1, tls_key = $2 WHERE id = $3`, sshKey, tlsKey, id)
	return err
}
