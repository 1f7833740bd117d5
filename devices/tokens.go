package devices

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"database/sql"
	"encoding/base64"
	"errors"
	"fmt"
	"time"

	"connectrpc.com/connect"

	"devicetrust/api"
	"devicetrust/audit/event"
	"devicetrust/resource"
	"devicetrust/store"
)

// Token enrolls one device, once.
type Token struct {
	// Token is the secret; it is shown once and kept as its digest.
	Token    string
	AssetTag string
	DeviceID string
	Expires  time.Time
}

// CreateToken gives a token for a device and voids the one before. A ttl of 0
// is an hour; more than a week is refused.
func (i *Inventory) CreateToken(ctx context.Context, actor string, ref Ref, ttl time.Duration) (token Token, err error) {
	err = i.db.Write(ctx, func(tx *store.Tx) error {
		d, err := i.Get(tx, ref)
		if err != nil {
			return err
		}
		token, err = i.issueToken(tx, actor, d, ttl)
		return err
	})
	return token, err
}

func (i *Inventory) issueToken(tx *store.Tx, actor string, d resource.Device, ttl time.Duration) (Token, error) {
	if err := notFrozen(d); err != nil {
		return Token{}, err
	}
	if ttl == 0 {
		ttl = defaultTokenTTL
	}
	if ttl < time.Second || ttl > maxTokenTTL {
		return Token{}, api.Refuse(connect.CodeInvalidArgument, "an enrollment token cannot live for %v: want between 1s and %v", ttl, maxTokenTTL)
	}
	return i.keepToken(tx, actor, d, ttl, "")
}

// issueAutoToken gives a token that only autoUser can use, and only for as
// long as auto-enrollment would enroll the device.
func (i *Inventory) issueAutoToken(tx *store.Tx, autoUser string, d resource.Device) (Token, error) {
	return i.keepToken(tx, autoUser, d, autoTokenTTL, autoUser)
}

// tokenWaits tells whether somebody else than a login of user is to use a
// token for the device.
func (i *Inventory) tokenWaits(tx *store.Tx, deviceID, user string) (bool, error) {
	var n int
	err := tx.QueryRow(`SELECT COUNT(*) FROM device_tokens WHERE device_id = $1 AND auto_user <> $2 AND expires_at > $3`,
		deviceID, user, store.Micros(i.now())).Scan(&n)
	if err != nil {
		return true, fmt.Errorf("devices: %w", err)
	}
	return n > 0, nil
}

func (i *Inventory) keepToken(tx *store.Tx, actor string, d resource.Device, ttl time.Duration, autoUser string) (Token, error) {
	secret := make([]byte, tokenBytes)
	rand.Read(secret) // it never fails
	t := Token{
		Token:    base64.RawURLEncoding.EncodeToString(secret),
		AssetTag: d.Spec.AssetTag, DeviceID: d.Metadata.Name, Expires: i.instant().Add(ttl),
	}
	if _, err := tx.Exec(`DELETE FROM device_tokens WHERE device_id = $1`, t.DeviceID); err != nil {
		return Token{}, fmt.Errorf("devices: %w", err)
	}
	_, err := tx.Exec(`INSERT INTO device_tokens (hash, device_id, expires_at, auto_user) VALUES ($1, $2, $3, $4)`,
		tokenHash(t.Token), t.DeviceID, store.Micros(t.Expires), autoUser)
	if err != nil {
		return Token{}, fmt.Errorf("devices: %w", err)
	}
	created := event.Event{Type: event.DeviceTokenCreate, User: actor, Success: true, Device: described(d), ValidUntil: t.Expires}
	if autoUser != "" {
		created.Message = "auto-enrollment"
	}
	_, err = i.log.Record(tx, created)
	return t, err
}

// tokenHash is what a token is found by. The tokens are random, so their
// digests say nothing of them, and the time that a search takes says nothing
// of the tokens.
func tokenHash(token string) []byte {
	digest := sha256.Sum256([]byte(token))
	return digest[:]
}

// spendToken takes the token out of the store, for good, before anything else
// is looked at, and gives the device that it is for. The record of it, good or
// not, stands in the same transaction. auto tells that it is one of
// auto-enrollment.
func (i *Inventory) spendToken(ctx context.Context, user, remoteAddr, token string) (device resource.Device, auto bool, err error) {
	var refused *api.Refusal
	err = i.db.Write(ctx, func(tx *store.Tx) error {
		var autoUser string
		if device, autoUser, refused, err = i.takeToken(tx, token); err != nil {
			return err
		}
		if auto = autoUser != ""; auto && autoUser != user && refused == nil {
			refused = api.Refuse(connect.CodePermissionDenied, "the enrollment token is of another login's auto-enrollment")
		}
		spent := event.Event{Type: event.DeviceTokenSpent, User: user, RemoteAddr: remoteAddr, Success: refused == nil}
		if device.Metadata.Name != "" {
			spent.Device = described(device)
		}
		if refused != nil {
			spent.Message = refused.Message
		}
		_, err := i.log.Record(tx, spent)
		return err
	})
	if err != nil {
		return resource.Device{}, false, err
	}
	if refused != nil {
		return resource.Device{}, false, refused.WithHint("Ask an administrator for a new token: dtctl devices enroll --asset-tag=TAG")
	}
	return device, auto, nil
}

// takeToken deletes the token. refused says why it is good for nothing; the
// device is known where it had only expired. autoUser is empty for a token
// that somebody was given.
func (i *Inventory) takeToken(tx *store.Tx, token string) (d resource.Device, autoUser string, refused *api.Refusal, err error) {
	if token == "" || len(token) > maxToken {
		return d, "", api.Refuse(connect.CodeInvalidArgument, "this is not an enrollment token"), nil
	}
	var id string
	var expires int64
	err = tx.QueryRow(`SELECT device_id, expires_at, auto_user FROM device_tokens WHERE hash = $1`, tokenHash(token)).Scan(&id, &expires, &autoUser)
	if errors.Is(err, sql.ErrNoRows) {
		return d, "", api.Refuse(connect.CodePermissionDenied, "the enrollment token is not valid: it was never given, was used, or was replaced by a newer one"), nil
	}
	if err != nil {
		return d, "", nil, fmt.Errorf("devices: %w", err)
	}
	if _, err := tx.Exec(`DELETE FROM device_tokens WHERE device_id = $1`, id); err != nil {
		return d, "", nil, fmt.Errorf("devices: %w", err)
	}
	if d, err = i.Get(tx, Ref{ID: id}); err != nil {
		return d, "", nil, err
	}
	if until := store.Time(expires); !i.now().Before(until) {
		return d, autoUser, api.Refuse(connect.CodePermissionDenied, "the enrollment token expired at %s", until.Format(time.RFC3339)), nil
	}
	return d, autoUser, nil, nil
}
