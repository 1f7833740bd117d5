package audit

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"connectrpc.com/connect"

	"devicetrust/api"
	"devicetrust/audit/event"
	"devicetrust/store"
)

// Filter chooses records; a field at its zero value does not restrict.
type Filter struct {
	Type event.Type
	// User is who acted, or whom a failed login claimed to be.
	User       string
	Since      time.Time // records of this time and later
	FailedOnly bool
	// Before is the number of a record; those from it on are left out.
	Before uint64
	Limit  int // of a page; 0, and more than maxPage, is maxPage
}

// List returns a page of the newest records that f chooses, oldest first, and
// where there may be older ones the Before to ask for them with; else 0. It
// refuses an unknown type (CodeInvalidArgument), which would find nothing.
func (l *Log) List(ctx context.Context, f Filter) (found []event.Event, before uint64, err error) {
	if f.Type != "" && !event.Known(f.Type) {
		return nil, 0, api.Refuse(connect.CodeInvalidArgument, "unknown event type %.64q", f.Type)
	}
	if f.Limit <= 0 || f.Limit > maxPage {
		f.Limit = maxPage
	}
	query, args := f.query()
	size := 0
	err = l.db.Read(ctx, func(tx *store.Tx) error {
		rows, err := tx.Query(query, args...)
		if err != nil {
			return err
		}
		defer rows.Close() //nolint:errcheck // Err is checked
		for rows.Next() {
			var seq int64
			var record string
			if err := rows.Scan(&seq, &record); err != nil {
				return err
			}
			var e event.Event
			if err := json.Unmarshal([]byte(record), &e); err != nil {
				return fmt.Errorf("a record is not JSON any more, run dtctl audit verify: %w", err)
			}
			found = append(found, e)
			if size += len(record); len(found) == f.Limit || size >= maxPageSize {
				before = uint64(seq)
				return nil
			}
		}
		return rows.Err()
	})
	if err != nil {
		return nil, 0, fmt.Errorf("audit: %w", err)
	}
	slices.Reverse(found)
	return found, before, nil
}

func (f Filter) query() (string, []any) {
	var where []string
	var args []any
	add := func(condition string, arg any) {
		args = append(args, arg)
		where = append(where, fmt.Sprintf("%s $%d", condition, len(args)))
	}
	if f.Type != "" {
		add("event =", string(f.Type))
	}
	if f.User != "" {
		add("user_name =", clip(f.User, cuts[0].short))
	}
	if !f.Since.IsZero() {
		add("time >=", store.Micros(f.Since))
	}
	if f.FailedOnly {
		add("success =", false)
	}
	if f.Before != 0 {
		add("seq <", int64(min(f.Before, math.MaxInt64)))
	}
	query := "SELECT seq, record FROM audit_log"
	if len(where) > 0 {
		query += " WHERE " + strings.Join(where, " AND ")
	}
	return fmt.Sprintf("%s ORDER BY seq DESC LIMIT %d", query, f.Limit), args
}
