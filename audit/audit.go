// Package audit is the append-only record of every act: one row each, written
// in the act's own transaction, so that what cannot be recorded does not
// happen. Each record's hash covers the one before it under a key that is not
// in the database, so that a missing or changed one shows (Verify).
package audit

import (
	"bytes"
	"context"
	"fmt"
	"regexp"
	"time"

	"connectrpc.com/connect"
	"github.com/google/uuid"

	"devicetrust/api"
	"devicetrust/audit/event"
	"devicetrust/store"
)

// Log is the audit log of a cluster. Its methods may be called from many
// goroutines, and by several processes on one store.
type Log struct {
	db      *store.DB
	cluster string
	chain   chain
	now     func() time.Time
	seen    witness
}

// Open returns the log kept in db. The key is the chain's and stays the same
// for the life of the cluster; it must not be kept in db.
func Open(db *store.DB, cluster string, key [32]byte, now func() time.Time) *Log {
	c := chain{key: key}
	return &Log{db: db, cluster: cluster, chain: c, now: now, seen: witness{chain: c}}
}

// Caller is who calls, as far as every record of the call says it.
type Caller struct {
	RemoteAddr string
	// Device is the one that the caller's session was authenticated with; nil
	// where there is none.
	Device *event.Device
}

type callerKey struct{}

// WithCaller gives a context under which every record says who called.
func WithCaller(ctx context.Context, c Caller) context.Context {
	return context.WithValue(ctx, callerKey{}, c)
}

// Record appends e inside tx, so that the act in the same transaction happens
// only with its record. It fills in UID, Time, Cluster and Code, and what the
// context says of the caller, cuts what is too long, and returns the event as
// it is stored. A type that the catalogue does not have is an error.
func (l *Log) Record(tx *store.Tx, e event.Event) (event.Event, error) {
	e, err := l.complete(tx, e)
	if err != nil {
		return event.Event{}, err
	}
	stored, err := l.append(tx, e)
	if err != nil {
		return event.Event{}, err
	}
	return stored[0], nil
}

// RecordAll is Record for the many events of one act, all or none of them. It
// asks the store a few times, and not for each.
func (l *Log) RecordAll(tx *store.Tx, events []event.Event) error {
	all := make([]event.Event, len(events))
	for i, e := range events {
		var err error
		if all[i], err = l.complete(tx, e); err != nil {
			return err
		}
	}
	_, err := l.append(tx, all...)
	return err
}

// complete fills in what the log knows better than who records.
func (l *Log) complete(tx *store.Tx, e event.Event) (event.Event, error) {
	// One after another in the index too: the log only grows.
	id, err := uuid.NewV7()
	if err != nil {
		return event.Event{}, fmt.Errorf("audit: %w", err)
	}
	e.UID, e.Time, e.Cluster = id.String(), l.now(), l.cluster
	if !event.Known(e.Type) {
		return event.Event{}, fmt.Errorf("audit: unknown event type %q", e.Type)
	}
	e.Code = event.CodeOf(e.Type, e.Success)
	if c, ok := tx.Context().Value(callerKey{}).(Caller); ok {
		if e.RemoteAddr == "" {
			e.RemoteAddr = c.RemoteAddr
		}
		e.TrustedDevice = c.Device
	}
	return e, nil
}

// RecordAlone is Record in a transaction of its own: for failures and
// refusals, which have none. It goes on where ctx is cancelled, or whoever
// asks could leave before the record is written.
func (l *Log) RecordAlone(ctx context.Context, e event.Event) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), aloneTimeout)
	defer cancel()
	return l.db.Write(ctx, func(tx *store.Tx) error {
		_, err := l.Record(tx, e)
		return err
	})
}

var uidPattern = regexp.MustCompile(`^[0-9A-Za-z-]+$`)

// RecordForeign appends a node's event as it is, with its UID and Time. One
// that is already stored under that UID is not stored twice, so a node may
// send again what it does not know to have arrived. An event that a node may
// not report, or that is not whole, is refused (CodeInvalidArgument). The
// caller sees to it that NodeID is the node's own.
func (l *Log) RecordForeign(tx *store.Tx, e event.Event) error {
	if err := l.checkForeign(e); err != nil {
		return err
	}
	var stored int
	if err := tx.QueryRow(`SELECT count(*) FROM audit_log WHERE uid = $1`, e.UID).Scan(&stored); err != nil {
		return fmt.Errorf("audit: %w", err)
	}
	if stored > 0 {
		return nil
	}
	e.Cluster, e.Code = l.cluster, event.CodeOf(e.Type, e.Success)
	_, err := l.append(tx, e)
	return err
}

func (l *Log) checkForeign(e event.Event) error {
	refuse := func(format string, args ...any) error {
		return api.Refuse(connect.CodeInvalidArgument, format, args...)
	}
	switch {
	case !event.Known(e.Type) || !event.FromNode(e.Type):
		return refuse("event type %.64q is not one that a node reports", e.Type)
	case e.Code != "" && e.Code != event.CodeOf(e.Type, e.Success):
		return refuse("event %q has code %.16q, want %q", e.Type, e.Code, event.CodeOf(e.Type, e.Success))
	case e.Cluster != "" && e.Cluster != l.cluster:
		return refuse("the event is of cluster %.64q, and this is %q", e.Cluster, l.cluster)
	case len(e.UID) > maxUID || !uidPattern.MatchString(e.UID):
		return refuse("the event's uid %.64q is not one", e.UID)
	case e.Time.UTC().Year() < 1970 || e.Time.UTC().Year() > 9999 || e.ValidUntil.UTC().Year() > 9999:
		return refuse("the event has no time, or an impossible one") // RFC 3339 has four digits
	}
	return nil
}

// append writes events as the next records of the chain.
func (l *Log) append(tx *store.Tx, events ...event.Event) ([]event.Event, error) {
	if len(events) == 0 {
		return nil, nil
	}
	m, err := l.chain.head(tx)
	if err != nil {
		return nil, err
	}
	if err := l.seen.notBefore(m); err != nil {
		return nil, err
	}
	rows := make([][]any, len(events))
	for i, e := range events {
		e, text, err := fit(e)
		if err != nil {
			return nil, err
		}
		m = l.chain.next(m, text)
		rows[i] = []any{int64(m.seq), e.UID, store.Micros(e.Time), string(e.Type), about(e), e.Success, string(text), bytes.Clone(m.hash[:])}
		events[i] = e
	}
	err = tx.InsertAll(`audit_log (seq, uid, time, event, user_name, success, record, hash)`, rows, ``)
	if err != nil {
		return nil, fmt.Errorf("audit: append up to record %d: %w", m.seq, err)
	}
	if err := l.chain.setHead(tx, m); err != nil {
		return nil, fmt.Errorf("audit: %w", err)
	}
	tx.AfterCommit(func() { l.seen.saw(m) })
	return events, nil
}

// about is the user that a record is found under: who acted, or, where nobody
// was authenticated, the user whom somebody claimed to be.
func about(e event.Event) string {
	if e.User == "" && e.Kind == "user" {
		return e.Name
	}
	return e.User
}
