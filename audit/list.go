package audit

import (
	"context"
	"encoding/json"
	"fmt"
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
	Limit      int // 0 is 100; more than 10000 is 10000
}

// List returns the newest records that f chooses, oldest first. It refuses an
// unknown type (CodeInvalidArgument), which would find nothing.
func (l *Log) List(ctx context.Context, f Filter) ([]event.Event, error) {
	if f.Type != "" && !event.Known(f.Type) {
		return nil, api.Refuse(connect.CodeInvalidArgument, "unknown event type %.64q", f.Type)
	}
	query, args := f.query()
	var found []event.Event
	err := l.db.Read(ctx, func(tx *store.Tx) error {
		rows, err := tx.Query(query, args...)
		if err != nil {
			return err
		}
		defer rows.Close() //nolint:errcheck // Err is checked
		for rows.Next() {
			var record string
			if err := rows.Scan(&record); err != nil {
				return err
			}
			var e event.Event
			if err := json.Unmarshal([]byte(record), &e); err != nil {
				return fmt.Errorf("a record is not JSON any more, run dtctl audit verify: %w", err)
			}
			found = append(found, e)
		}
		return rows.Err()
	})
	if err != nil {
		return nil, fmt.Errorf("audit: %w", err)
	}
	slices.Reverse(found)
	return found, nil
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
	query := "SELECT record FROM audit_log"
	if len(where) > 0 {
		query += " WHERE " + strings.Join(where, " AND ")
	}
	limit := min(f.Limit, maxList)
	if limit <= 0 {
		limit = defaultList
	}
	return fmt.Sprintf("%s ORDER BY seq DESC LIMIT %d", query, limit), args
}
