package ca

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"errors"
	"fmt"
	"math"
	"time"

	"connectrpc.com/connect"

	"devicetrust/api"
	"devicetrust/policy"
	"devicetrust/store"
)

// Subject is whom certificates were issued to.
type Subject string

const (
	SubjectUser Subject = "user"
	SubjectNode Subject = "node"
)

// Kinds of certificates in the inventory.
const (
	certUserSSH = "user_ssh"
	certUserTLS = "user_tls"
	certNodeSSH = "node_ssh"
	certNodeTLS = "node_tls"
)

// holder is whose a pair of certificates is.
type holder struct {
	user     bool   // else a node
	subject  string // the user's name or the node's ID
	loginID  string // empty for nodes
	deviceID string // empty without a device
}

func (h holder) kinds() [2]string {
	if h.user {
		return [2]string{certUserSSH, certUserTLS}
	}
	return [2]string{certNodeSSH, certNodeTLS}
}

// nextSerials takes n serials and gives the first. The counter is one for
// all, and a transaction that is rolled back gives its serials back unused.
func nextSerials(tx *store.Tx, n int64) (uint64, error) {
	var last int64
	err := tx.QueryRow(`UPDATE certificate_serial SET last = last + $1 WHERE id = 1 RETURNING last`, n).Scan(&last)
	if err != nil {
		return 0, fmt.Errorf("ca: serials: %w", err)
	}
	return uint64(last-n) + 1, nil
}

func (c *CA) insert(tx *store.Tx, p prepared, serials []uint64) error {
	digests := [2][32]byte{sha256.Sum256(p.sshKey.Marshal()), sha256.Sum256(p.tlsDER)}
	kinds := p.holder.kinds()
	for i, serial := range serials {
		_, err := tx.Exec(`INSERT INTO certificates (serial, kind, subject, login_id, device_id, key_digest, issued_at, valid_before)
			VALUES ($1, $2, $3, $4, $5, $6, $7, $8)`,
			int64(serial), kinds[i], p.holder.subject, p.holder.loginID, p.holder.deviceID, digests[i][:],
			store.Micros(p.now), store.Micros(p.validBefore))
		if err != nil {
			return fmt.Errorf("ca: record certificate %d: %w", serial, err)
		}
	}
	return nil
}

// revoke marks what matches the condition on $3, and on $5 and further for
// more, and can still be used, or may have opened a session that goes on; nodes
// hear of it.
func (c *CA) revoke(tx *store.Tx, where string, value any, reason string, more ...any) (int64, error) {
	now := c.now()
	n, err := tx.Exec(`UPDATE certificates SET revoked_at = $1, revoked_reason = $2
		WHERE revoked_at = 0 AND valid_before > $4 AND `+where,
		append([]any{store.Micros(now), reason, value, store.Micros(now.Add(-remembered))}, more...)...)
	if err != nil {
		return 0, fmt.Errorf("ca: revoke: %w", err)
	}
	if n > 0 {
		tx.Changed()
	}
	return n, nil
}

var errRevokeNobody = errors.New("ca: revoke: no name given") // an empty one would match every node, or every login without a device

// RevokeLogin revokes what was issued to a login and tells how many.
func (c *CA) RevokeLogin(tx *store.Tx, loginID, reason string) (int64, error) {
	if loginID == "" {
		return 0, errRevokeNobody
	}
	return c.revoke(tx, "login_id = $3", loginID, reason)
}

// RevokeDevice revokes what carries a device and tells how many.
func (c *CA) RevokeDevice(tx *store.Tx, deviceID, reason string) (int64, error) {
	if deviceID == "" {
		return 0, errRevokeNobody
	}
	return c.revoke(tx, "device_id = $3", deviceID, reason)
}

// RevokeDeviceOf revokes what a user has that carries a device, and tells how
// many.
func (c *CA) RevokeDeviceOf(tx *store.Tx, deviceID, user, reason string) (int64, error) {
	if deviceID == "" || user == "" {
		return 0, errRevokeNobody
	}
	return c.revoke(tx, "device_id = $3 AND subject = $5 AND kind IN ('user_ssh', 'user_tls')", deviceID, reason, user)
}

// RevokeSubject revokes what was issued to a user (by name) or a node (by ID)
// and tells how many.
func (c *CA) RevokeSubject(tx *store.Tx, subject Subject, name, reason string) (int64, error) {
	if name == "" {
		return 0, errRevokeNobody
	}
	switch subject {
	case SubjectUser:
		return c.revoke(tx, "subject = $3 AND kind IN ('user_ssh', 'user_tls')", name, reason)
	case SubjectNode:
		return c.revoke(tx, "subject = $3 AND kind IN ('node_ssh', 'node_tls')", name, reason)
	}
	return 0, fmt.Errorf("ca: revoke: unknown subject %q", subject)
}

// Revoked gives what is revoked and may have opened a session that goes on,
// ascending. Serials of one reason that follow each other are one.
func Revoked(tx *store.Tx, now time.Time) ([]policy.Revocation, error) {
	rows, err := tx.Query(`SELECT serial, revoked_reason FROM certificates WHERE revoked_at <> 0 AND valid_before > $1 ORDER BY serial`,
		store.Micros(now.Add(-remembered)))
	if err != nil {
		return nil, fmt.Errorf("ca: revoked: %w", err)
	}
	defer rows.Close() //nolint:errcheck // rows.Err says what went wrong
	var out []policy.Revocation
	for rows.Next() {
		var serial int64
		var reason string
		if err := rows.Scan(&serial, &reason); err != nil {
			return nil, fmt.Errorf("ca: revoked: %w", err)
		}
		at := uint64(serial)
		if n := len(out); n > 0 && out[n-1].Last+1 == at && out[n-1].Reason == reason {
			out[n-1].Last = at
			continue
		}
		out = append(out, policy.Revocation{First: at, Last: at, Reason: reason})
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("ca: revoked: %w", err)
	}
	return out, nil
}

// IsRevoked tells whether a certificate must not be accepted: it was revoked,
// or this cluster knows of none with that serial.
func (c *CA) IsRevoked(tx *store.Tx, serial uint64) (bool, error) {
	if serial == 0 || serial > math.MaxInt64 {
		return true, nil
	}
	var revokedAt int64
	switch err := tx.QueryRow(`SELECT revoked_at FROM certificates WHERE serial = $1`, int64(serial)).Scan(&revokedAt); {
	case errors.Is(err, sql.ErrNoRows):
		return true, nil
	case err != nil:
		return true, fmt.Errorf("ca: serial %d: %w", serial, err)
	}
	return revokedAt != 0, nil
}

// RevocationOf gives the revocation of a certificate; is: it is revoked, known:
// the cluster has a record of it at all. One of which it has none is refused by
// the API (IsRevoked), and servers cannot know.
func RevocationOf(tx *store.Tx, serial uint64) (r policy.Revocation, is, known bool, err error) {
	if serial == 0 || serial > math.MaxInt64 {
		return r, false, false, nil
	}
	var revokedAt int64
	err = tx.QueryRow(`SELECT revoked_at, revoked_reason FROM certificates WHERE serial = $1`, int64(serial)).Scan(&revokedAt, &r.Reason)
	if errors.Is(err, sql.ErrNoRows) {
		return r, false, false, nil
	}
	if err != nil {
		return r, false, false, fmt.Errorf("ca: serial %d: %w", serial, err)
	}
	r.First, r.Last = serial, serial
	return r, revokedAt != 0, true, nil
}

// LoginOf gives the login that a user's certificate belongs to. Where it is
// revoked, unknown or no user's, that is a refusal (CodeUnauthenticated).
func (c *CA) LoginOf(tx *store.Tx, serial uint64) (string, error) {
	revoked, err := c.IsRevoked(tx, serial)
	if err != nil {
		return "", err
	}
	stale := api.Refuse(connect.CodeUnauthenticated, "the certificate is not valid any more").WithHint("Log in again: dtsh login")
	if revoked {
		return "", stale
	}
	loginID, err := LoginBehind(tx, serial)
	if err == nil && loginID == "" {
		err = stale
	}
	return loginID, err
}

// LoginBehind gives the login that a certificate was issued to, whether or not
// it is revoked since; "" where it is no user's, or not known.
func LoginBehind(tx *store.Tx, serial uint64) (loginID string, err error) {
	if serial > math.MaxInt64 {
		return "", nil
	}
	err = tx.QueryRow(`SELECT login_id FROM certificates WHERE serial = $1`, int64(serial)).Scan(&loginID)
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return "", fmt.Errorf("ca: serial %d: %w", serial, err)
	}
	return loginID, nil
}

// Prune forgets certificates that expired longer ago than sessions go on. Their
// issuing stays in the audit record.
func (c *CA) Prune(ctx context.Context) error {
	return c.db.Write(ctx, func(tx *store.Tx) error {
		_, err := tx.Exec(`DELETE FROM certificates WHERE valid_before <= $1`, store.Micros(c.now().Add(-remembered)))
		return err
	})
}
