// Package catalog keeps what policy decides by: roles, the
// cluster_auth_preference and locks, in the table policy_objects.
package catalog

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"connectrpc.com/connect"

	"devicetrust/api"
	"devicetrust/audit"
	"devicetrust/audit/event"
	"devicetrust/policy"
	"devicetrust/resource"
	"devicetrust/store"
)

// Catalog is the policy of a cluster, as stored.
type Catalog struct {
	db  *store.DB
	log *audit.Log
	now func() time.Time
}

// Open returns the catalog kept in db. Init must have run once.
func Open(db *store.DB, log *audit.Log, now func() time.Time) *Catalog {
	return &Catalog{db: db, log: log, now: now}
}

// Init makes the presets and the preference that are missing; what is there,
// changed or not, stays.
func (c *Catalog) Init(ctx context.Context) error {
	return c.db.Write(ctx, func(tx *store.Tx) error {
		for _, r := range initial() {
			doc, err := json.Marshal(r)
			if err != nil {
				return fmt.Errorf("catalog: %w", err)
			}
			head := r.Head()
			made, err := tx.Exec(`INSERT INTO policy_objects (kind, name, document, revision) VALUES ($1, $2, $3, 1)
				ON CONFLICT (kind, name) DO NOTHING`, head.Kind, head.Metadata.Name, string(doc))
			if err != nil {
				return err
			}
			if made > 0 {
				tx.Changed()
			}
		}
		return nil
	})
}

func initial() []resource.Resource {
	out := []resource.Resource{defaultPreference()}
	for _, p := range policy.Presets() {
		r := &resource.Role{Header: resource.Header{Kind: resource.KindRole, Version: "v7"}, Spec: p.Spec}
		r.Metadata.Name, r.Metadata.Description = p.Name, p.Description
		out = append(out, r)
	}
	return out
}

func defaultPreference() *resource.Preference {
	p := &resource.Preference{Header: resource.Header{Kind: resource.KindPreference, Version: "v2"}}
	p.Metadata.Name = resource.PreferenceName
	p.Spec.Type, p.Spec.SecondFactor = "local", "off"
	p.Spec.DeviceTrust.Mode = policy.ModeOptional
	return p
}

// Get reads one; an expired lock is not found.
func (c *Catalog) Get(ctx context.Context, kind, name string) (resource.Resource, error) {
	if kind == resource.KindPreference && name == "" {
		name = resource.PreferenceName
	}
	var doc string
	var revision int64
	err := c.db.Read(ctx, func(tx *store.Tx) error {
		return tx.QueryRow(`SELECT document, revision FROM policy_objects
			WHERE kind = $1 AND name = $2 AND (expires_at = 0 OR expires_at > $3)`,
			kind, name, store.Micros(c.now())).Scan(&doc, &revision)
	})
	if errors.Is(err, sql.ErrNoRows) {
		return nil, notFound(kind, name)
	}
	if err != nil {
		return nil, err
	}
	return decode(kind, doc, revision)
}

// List reads all of a kind, by name.
func (c *Catalog) List(ctx context.Context, kind string) (out []resource.Resource, err error) {
	err = c.db.Read(ctx, func(tx *store.Tx) error {
		out, err = c.list(tx, kind, c.now())
		return err
	})
	return out, err
}

func (c *Catalog) list(tx *store.Tx, kind string, now time.Time) ([]resource.Resource, error) {
	rows, err := tx.Query(`SELECT document, revision FROM policy_objects
		WHERE kind = $1 AND (expires_at = 0 OR expires_at > $2) ORDER BY name`, kind, store.Micros(now))
	if err != nil {
		return nil, err
	}
	defer rows.Close() //nolint:errcheck // rows.Err tells
	var out []resource.Resource
	for rows.Next() {
		var doc string
		var revision int64
		if err := rows.Scan(&doc, &revision); err != nil {
			return nil, fmt.Errorf("catalog: %w", err)
		}
		r, err := decode(kind, doc, revision)
		if err != nil {
			return nil, err
		}
		out = append(out, r)
	}
	return out, rows.Err()
}

// Count tells how many there are of a kind.
func (c *Catalog) Count(tx *store.Tx, kind string) (n int64, err error) {
	err = tx.QueryRow(`SELECT count(*) FROM policy_objects WHERE kind = $1 AND (expires_at = 0 OR expires_at > $2)`,
		kind, store.Micros(c.now())).Scan(&n)
	if err != nil {
		return 0, fmt.Errorf("catalog: %w", err)
	}
	return n, nil
}

// Create stores r, and refuses what exists (CodeAlreadyExists). A lock
// without a name gets one, which r then has.
func (c *Catalog) Create(ctx context.Context, actor string, r resource.Resource) error {
	doc, err := c.prepare(r, actor)
	if err != nil {
		return err
	}
	kind, name := r.Head().Kind, r.Head().Metadata.Name
	return c.db.Write(ctx, func(tx *store.Tx) error {
		if err := c.record(tx, events[kind].create, actor, r); err != nil {
			return err
		}
		made, err := tx.Exec(`INSERT INTO policy_objects (kind, name, document, revision, expires_at) VALUES ($1, $2, $3, 1, $4)
			ON CONFLICT (kind, name) DO NOTHING`, kind, name, doc, expires(r))
		if err == nil && made == 0 {
			err = api.Refuse(connect.CodeAlreadyExists, "%s %q already exists", kind, name).
				WithHint("replace it with: dtctl create -f")
		}
		tx.Changed()
		return err
	})
}

// Update replaces what exists. Where revision is not empty, only that one
// (CodeAborted); CodeNotFound where there is nothing to replace.
func (c *Catalog) Update(ctx context.Context, actor string, r resource.Resource, revision string) error {
	doc, err := c.prepare(r, actor)
	if err != nil {
		return err
	}
	kind, name := r.Head().Kind, r.Head().Metadata.Name
	return c.db.Write(ctx, func(tx *store.Tx) error {
		current, err := revisionOf(tx, kind, name)
		if err != nil {
			return err
		}
		if revision != "" && revision != current {
			return api.Refuse(connect.CodeAborted, "%s %q was changed by somebody else in the meantime", kind, name).
				WithHint("read it again and repeat your change")
		}
		if err := c.record(tx, events[kind].update, actor, r); err != nil {
			return err
		}
		tx.Changed()
		_, err = tx.Exec(`UPDATE policy_objects SET document = $3, revision = revision + 1, expires_at = $4
			WHERE kind = $1 AND name = $2`, kind, name, doc, expires(r))
		return err
	})
}

// Delete removes one; the preference goes back to its default. unused, where
// not nil, may refuse in the same transaction.
func (c *Catalog) Delete(ctx context.Context, actor, kind, name string, unused func(tx *store.Tx) error) error {
	if kind == resource.KindPreference {
		return c.Update(ctx, actor, defaultPreference(), "")
	}
	return c.db.Write(ctx, func(tx *store.Tx) error {
		if _, err := revisionOf(tx, kind, name); err != nil {
			return err
		}
		if unused != nil {
			if err := unused(tx); err != nil {
				return err
			}
		}
		_, err := c.log.Record(tx, event.Event{Type: events[kind].remove, Success: true, User: actor, Kind: kind, Name: name})
		if err != nil {
			return err
		}
		tx.Changed()
		_, err = tx.Exec(`DELETE FROM policy_objects WHERE kind = $1 AND name = $2`, kind, name)
		return err
	})
}

// Prune drops expired locks.
func (c *Catalog) Prune(ctx context.Context) error {
	return c.db.Write(ctx, func(tx *store.Tx) error {
		gone, err := tx.Exec(`DELETE FROM policy_objects WHERE expires_at > 0 AND expires_at <= $1`, store.Micros(c.now()))
		if gone > 0 {
			tx.Changed()
		}
		return err
	})
}

// events are what changes of a kind are recorded as.
var events = map[string]struct{ create, update, remove event.Type }{
	resource.KindRole:       {event.RoleCreate, event.RoleUpdate, event.RoleDelete},
	resource.KindLock:       {event.LockCreate, event.LockUpdate, event.LockDelete},
	resource.KindPreference: {event.PreferenceUpdate, event.PreferenceUpdate, event.PreferenceUpdate},
}

func (c *Catalog) record(tx *store.Tx, t event.Type, actor string, r resource.Resource) error {
	_, err := c.log.Record(tx, event.Event{
		Type: t, Success: true, User: actor, Kind: r.Head().Kind, Name: r.Head().Metadata.Name,
	})
	return err
}

func revisionOf(tx *store.Tx, kind, name string) (string, error) {
	var n int64
	err := tx.QueryRow(`SELECT revision FROM policy_objects WHERE kind = $1 AND name = $2`, kind, name).Scan(&n)
	if errors.Is(err, sql.ErrNoRows) {
		return "", notFound(kind, name)
	}
	if err != nil {
		return "", fmt.Errorf("catalog: %w", err)
	}
	return strconv.FormatInt(n, 10), nil
}

func notFound(kind, name string) error {
	return api.Refuse(connect.CodeNotFound, "%s %.128q not found", kind, name)
}

func expires(r resource.Resource) int64 {
	if l, ok := r.(*resource.Lock); ok {
		return store.Micros(l.Spec.Expires)
	}
	return 0
}
