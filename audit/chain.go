package audit

import (
	"crypto/hmac"
	"crypto/sha256"
	"database/sql"
	"encoding/binary"
	"errors"
	"fmt"

	"devicetrust/store"
)

// mark is a place in the chain: a record's number and its hash. The zero
// value is the place before the first record.
type mark struct {
	seq  uint64
	hash [sha256.Size]byte
}

// chain computes the hashes; without its key nobody can make a record, or a
// head, that Verify takes for ours.
type chain struct{ key [32]byte }

// next is the place of a record after at:
// HMAC-SHA256(key, hash of the record before || its number || its bytes).
func (c chain) next(at mark, record []byte) mark {
	m := mark{seq: at.seq + 1}
	m.hash = c.sum(at.hash[:], number(m.seq), record)
	return m
}

// seal is what the head holds in place of the last record's hash: that hash
// stands in the log, so whoever can write to the database could copy an
// earlier one into the head and remove what follows it. No record's input is
// as short as this one (an event has more than 100 bytes of JSON), so a seal
// is never a record's hash.
func (c chain) seal(m mark) [sha256.Size]byte {
	return c.sum([]byte("dt/v1 audit head"), number(m.seq), m.hash[:])
}

func (c chain) sum(parts ...[]byte) [sha256.Size]byte {
	h := hmac.New(sha256.New, c.key[:])
	for _, p := range parts {
		h.Write(p)
	}
	return [sha256.Size]byte(h.Sum(nil))
}

func number(seq uint64) []byte { return binary.BigEndian.AppendUint64(nil, seq) }

// head reads where the chain ends. It is an error where the head and the last
// record do not belong together: going on from there would lend our hashes to
// what somebody else left.
func (c chain) head(tx *store.Tx) (mark, error) {
	var seq int64
	var seal, hash []byte
	err := tx.QueryRow(`SELECT h.seq, h.hash, l.hash
		FROM audit_head h LEFT JOIN audit_log l ON l.seq = h.seq WHERE h.id = 1`).Scan(&seq, &seal, &hash)
	if errors.Is(err, sql.ErrNoRows) {
		return mark{}, noRecords(tx)
	}
	if err != nil {
		return mark{}, fmt.Errorf("audit: %w", err)
	}
	if hash == nil {
		return mark{}, brokenf("record %d, the last, was removed", seq)
	}
	if len(hash) != sha256.Size {
		return mark{}, brokenf("record %d, the last, was changed", seq)
	}
	m := mark{seq: uint64(seq), hash: [sha256.Size]byte(hash)}
	if want := c.seal(m); !hmac.Equal(want[:], seal) {
		return mark{}, brokenf("the head was changed, or record %d, or the key is another one", seq)
	}
	return m, nil
}

func noRecords(tx *store.Tx) error {
	var n int64
	if err := tx.QueryRow(`SELECT count(*) FROM audit_log`).Scan(&n); err != nil {
		return fmt.Errorf("audit: %w", err)
	}
	if n > 0 {
		return brokenf("the head was removed")
	}
	return nil
}

// broken is what is wrong with the chain; Verify reports it as its finding,
// everything else fails with it.
type broken string

func brokenf(format string, args ...any) broken { return broken(fmt.Sprintf(format, args...)) }

func (b broken) Error() string {
	return "audit: the log was tampered with and nothing more is recorded: " + string(b)
}

func (c chain) setHead(tx *store.Tx, m mark) error {
	seal := c.seal(m)
	_, err := tx.Exec(`INSERT INTO audit_head (id, seq, hash) VALUES (1, $1, $2)
		ON CONFLICT (id) DO UPDATE SET seq = excluded.seq, hash = excluded.hash`, int64(m.seq), seal[:])
	return err
}
