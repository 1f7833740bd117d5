package ca

import (
	"errors"
	"fmt"
	"time"

	"devicetrust/policy"
	"devicetrust/store"
)

// userCertificate is a user's SSH certificate that can still be used.
type userCertificate struct {
	serial         uint64
	user, deviceID string
	revoked        bool
}

// RevokedForSSHD gives the serials for a revocation list of the SSH user
// authority, ascending, as of now: the SSH certificates of users that are
// revoked, and those whose user, on whose device (empty without one), is
// refused any at this moment.
//
// A server that reads the list unfolds it at each login, at a price for each
// range, and a user's SSH certificate is never alone: it has a serial for its
// X.509 twin after it, and others have expired. So a range goes on over all
// serials that no good certificate has. It begins and ends at one that is
// revoked, and of those below one that was recorded none is still to come:
// serials are taken in order, by one transaction after the other, and one that
// is rolled back gives its own to the next.
func RevokedForSSHD(tx *store.Tx, now time.Time, refused func(user, deviceID string) (bool, error)) ([]policy.Revocation, error) {
	if refused == nil {
		return nil, errors.New("ca: nothing says who is refused")
	}
	all, err := userCertificates(tx, now)
	if err != nil {
		return nil, fmt.Errorf("ca: user certificates: %w", err)
	}
	var out []policy.Revocation
	goesOn := false
	for _, c := range all {
		if !c.revoked {
			if c.revoked, err = refused(c.user, c.deviceID); err != nil {
				return nil, err
			}
		}
		switch {
		case !c.revoked:
		case goesOn:
			out[len(out)-1].Last = c.serial
		default:
			out = append(out, policy.Revocation{First: c.serial, Last: c.serial})
		}
		goesOn = c.revoked
	}
	return out, nil
}

// userCertificates are those that have not expired for longer than a late clock
// may hide, ascending.
func userCertificates(tx *store.Tx, now time.Time) ([]userCertificate, error) {
	rows, err := tx.Query(`SELECT serial, subject, device_id, revoked_at FROM certificates
		WHERE kind = $1 AND valid_before > $2 ORDER BY serial`, certUserSSH, store.Micros(now.Add(-expiryGrace)))
	if err != nil {
		return nil, err
	}
	defer rows.Close() //nolint:errcheck // rows.Err says what went wrong
	var out []userCertificate
	for rows.Next() {
		var c userCertificate
		var serial, revokedAt int64
		if err := rows.Scan(&serial, &c.user, &c.deviceID, &revokedAt); err != nil {
			return nil, err
		}
		c.serial, c.revoked = uint64(serial), revokedAt != 0
		out = append(out, c)
	}
	return out, rows.Err()
}
