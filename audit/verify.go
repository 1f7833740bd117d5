package audit

import (
	"context"
	"crypto/hmac"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"

	"devicetrust/audit/event"
	"devicetrust/store"
)

// Verification is what Verify found.
type Verification struct {
	// Intact: every record from the first to the one that the head names is
	// there, in its place and as it was written. Only then is Problem empty.
	Intact bool
	// Records is how many were found good, up to the problem if there is one.
	Records uint64
	Problem string
}

// Verify reads the whole log, one record at a time, and tells whether one was
// removed, changed, moved or added, and which. It cannot see that the newest
// records are missing where an old copy of the whole log was put back, unless
// this process, or the anchor (UseAnchor), saw them.
func (l *Log) Verify(ctx context.Context) (Verification, error) {
	// Before the snapshot is taken, so that what was seen is in it.
	seen, err := l.seen.now()
	if err != nil {
		return Verification{}, fmt.Errorf("audit: the anchor cannot be written: %w", err)
	}
	w := walk{chain: l.chain, seen: seen}
	err = l.db.Read(ctx, w.all)
	var b broken
	if errors.As(err, &b) {
		return Verification{Records: w.at.seq, Problem: string(b)}, nil
	}
	if err != nil {
		return Verification{}, fmt.Errorf("audit: verify: %w", err)
	}
	return Verification{Intact: true, Records: w.at.seq}, nil
}

// walk goes along the chain; its errors of type broken are findings.
type walk struct {
	chain chain
	seen  mark
	at    mark // the last record found good
	odd   *row // the next one, where its hash does not hold
}

// row is a record as it stands in the table.
type row struct {
	seq, time            int64
	uid, event, userName string
	success              bool
	record, hash         []byte
}

func (w *walk) all(tx *store.Tx) error {
	if err := w.rows(tx); err != nil {
		return err
	}
	if w.odd != nil {
		return w.explain(tx, *w.odd)
	}
	return w.head(tx)
}

// head compares the head with the last record.
func (w *walk) head(tx *store.Tx) error {
	var seq int64
	var seal []byte
	err := tx.QueryRow(`SELECT seq, hash FROM audit_head WHERE id = 1`).Scan(&seq, &seal)
	switch want := w.chain.seal(w.at); {
	case errors.Is(err, sql.ErrNoRows) && w.at.seq == 0:
		// Nothing was ever recorded.
	case errors.Is(err, sql.ErrNoRows):
		return brokenf("the head was removed")
	case err != nil:
		return err
	case seq > int64(w.at.seq):
		return brokenf("%s removed from the end", span(w.at.seq+1, uint64(seq)))
	case seq < int64(w.at.seq) || !hmac.Equal(want[:], seal):
		return brokenf("the head was changed: it names record %d, and the log ends with record %d", seq, w.at.seq)
	}
	if w.at.seq < w.seen.seq {
		return brokenf("an older log was put back: it ends with record %d, and record %d was seen", w.at.seq, w.seen.seq)
	}
	return nil
}

func (w *walk) rows(tx *store.Tx) error {
	rows, err := tx.Query(`SELECT seq, uid, time, event, user_name, success, substr(record, 1, $1), hash
		FROM audit_log ORDER BY seq`, maxRecord+1) // no record of ours is longer
	if err != nil {
		return err
	}
	defer rows.Close() //nolint:errcheck // Err is checked
	for w.odd == nil && rows.Next() {
		var r row
		if err := rows.Scan(&r.seq, &r.uid, &r.time, &r.event, &r.userName, &r.success, &r.record, &r.hash); err != nil {
			// A value of a type that we never store: SQLite keeps any.
			return brokenf("record %d was changed: a column cannot be read: %v", w.at.seq+1, err)
		}
		if err := w.step(r); err != nil {
			return err
		}
	}
	return rows.Err()
}

// step takes the next row, or says what is wrong with it.
func (w *walk) step(r row) error {
	next := w.chain.next(w.at, r.record)
	switch {
	case r.seq < int64(next.seq): // they come in order and start at 1
		return brokenf("a record numbered %d was added", r.seq)
	case r.seq > int64(next.seq):
		return brokenf("%s removed", span(next.seq, uint64(r.seq)-1))
	case !hmac.Equal(next.hash[:], r.hash):
		w.odd = &r
		return nil
	}
	if err := r.columns(); err != nil {
		return err
	}
	if next.seq == w.seen.seq && next.hash != w.seen.hash {
		return brokenf("record %d is not the one that was seen", next.seq)
	}
	w.at = next
	return nil
}

// columns compares what is searched with what is hashed.
func (r row) columns() error {
	var e event.Event
	if err := json.Unmarshal(r.record, &e); err != nil {
		return brokenf("record %d is not JSON: %v", r.seq, err)
	}
	for _, c := range []struct {
		name string
		same bool
	}{
		{"uid", r.uid == e.UID},
		{"time", r.time == store.Micros(e.Time)},
		{"event", r.event == string(e.Type)},
		{"user_name", r.userName == about(e)},
		{"success", r.success == e.Success},
	} {
		if !c.same {
			return brokenf("record %d was changed: its column %s is not what the record says", r.seq, c.name)
		}
	}
	return nil
}

// explain tells a record that was moved from one that was changed: it looks
// for the place at which r's own hash holds. The record before that place may
// be the one it was exchanged with, whose hash then stands in that place.
func (w *walk) explain(tx *store.Tx, r row) error {
	rows, err := tx.Query(`SELECT seq, hash FROM audit_log ORDER BY seq`)
	if err != nil {
		return err
	}
	defer rows.Close() //nolint:errcheck // Err is checked
	var before [32]byte
	for rows.Next() {
		var seq int64
		var hash []byte
		if err := rows.Scan(&seq, &hash); err != nil {
			break // it too was changed; r is reported
		}
		var here [32]byte
		copy(here[:], hash)
		for _, h := range [][32]byte{before, here} {
			was := w.chain.next(mark{seq: uint64(seq) - 1, hash: h}, r.record)
			if !hmac.Equal(was.hash[:], r.hash) {
				continue
			}
			if seq < r.seq { // that place was found good
				return brokenf("record %d was added: it is a copy of record %d", r.seq, seq)
			}
			return brokenf("the records were reordered: number %d was written as number %d", r.seq, seq)
		}
		before = here
	}
	if err := rows.Err(); err != nil {
		return err
	}
	return brokenf("record %d was changed or added", r.seq)
}

func span(from, to uint64) string {
	if from == to {
		return fmt.Sprintf("record %d was", from)
	}
	return fmt.Sprintf("records %d to %d were", from, to)
}
