// Package catalog keeps what policy decides by: roles, the
// cluster_auth_preference and locks, in the table policy_objects. Whatever it
// changes is in the audit record by the same transaction, and followers of
// the store hear of it.
package catalog

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strconv"
	"time"

	"connectrpc.com/connect"

	"devicetrust/api"
	"devicetrust/audit"
	"devicetrust/policy"
	"devicetrust/resource"
	"devicetrust/store"
)

// Catalog is the policy of a cluster, as stored. Its methods may be called
// from many goroutines, and by several processes on one store.
type Catalog struct {
	db    *store.DB
	log   *audit.Log
	now   func() time.Time
	roles alreadyRead[policy.Role]
	locks alreadyRead[policy.Lock]
}

// Open returns the catalog kept in db. Init must have run once on db.
func Open(db *store.DB, log *audit.Log, now func() time.Time) *Catalog {
	return &Catalog{db: db, log: log, now: now}
}

// Init makes the preset roles and the preference where they are missing: at
// the first start, or when somebody removed them. What is there stays as it
// is, changed or not.
func (c *Catalog) Init(ctx context.Context) error {
	return c.db.Write(ctx, func(tx *store.Tx) error {
		initial := []resource.Resource{defaultPreference()}
		for _, p := range policy.Presets() {
			role := &resource.Role{Header: resource.NewHeader(resource.KindRole, p.Name), Spec: p.Spec}
			role.Metadata.Description = p.Description
			initial = append(initial, role)
		}
		for _, r := range initial {
			_, err := c.current(tx, r.Head().Kind, r.Head().Metadata.Name)
			if isNotFound(err) {
				err = c.create(tx, nobody, r)
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
}

// nobody acts when the program itself does.
const nobody = ""

// defaultPreference names its mode, so that people see which one it is.
func defaultPreference() *resource.Preference {
	p := &resource.Preference{Header: resource.NewHeader(resource.KindPreference, resource.PreferenceName)}
	p.Spec.Type, p.Spec.SecondFactor = "local", "off"
	p.Spec.DeviceTrust.Mode = policy.ModeOptional
	return p
}

// Get reads one; CodeNotFound where there is none. An expired lock is none.
// The preference is found by the empty name too.
func (c *Catalog) Get(ctx context.Context, kind, name string) (r resource.Resource, err error) {
	err = c.db.Read(ctx, func(tx *store.Tx) error {
		r, err = c.current(tx, kind, name)
		return err
	})
	return r, err
}

// List reads all of a kind, by name, but for expired locks.
func (c *Catalog) List(ctx context.Context, kind string) (all []resource.Resource, err error) {
	err = c.db.Read(ctx, func(tx *store.Tx) error {
		return c.each(tx, kind, func(o object) error {
			r, err := o.resource()
			all = append(all, r)
			return err
		})
	})
	return all, err
}

// Count tells how many of a kind List would give.
func (c *Catalog) Count(tx *store.Tx, kind string) (n int64, err error) {
	err = tx.QueryRow(`SELECT count(*) FROM policy_objects WHERE kind = $1 AND (expires_at = 0 OR expires_at > $2)`,
		kind, store.Micros(c.now())).Scan(&n)
	if err != nil {
		return 0, fmt.Errorf("catalog: %w", err)
	}
	return n, nil
}

// Prune drops expired locks. Nobody needs to hear of it: they had no effect.
func (c *Catalog) Prune(ctx context.Context) error { return c.db.Write(ctx, c.prune) }

func (c *Catalog) prune(tx *store.Tx) error {
	_, err := tx.Exec(`DELETE FROM policy_objects WHERE expires_at > 0 AND expires_at <= $1`, store.Micros(c.now()))
	return err
}

// object is a row.
type object struct {
	kind, name, document string
	revision             int64
}

// resource is o as people see it.
func (o object) resource() (resource.Resource, error) {
	r, err := resource.ParseJSON([]byte(o.document))
	if err != nil {
		return nil, fmt.Errorf("catalog: a stored %s: %w", o.kind, err)
	}
	if got := r.Head().Kind; got != o.kind {
		return nil, fmt.Errorf("catalog: a %s is stored as a %s", got, o.kind)
	}
	r.Head().Metadata.Revision = strconv.FormatInt(o.revision, 10)
	return r, nil
}

// each gives all rows of a kind, or of every kind where that is empty, that
// have not expired.
func (c *Catalog) each(tx *store.Tx, kind string, visit func(object) error) error {
	return eachAt(tx, kind, c.now(), visit)
}

func eachAt(tx *store.Tx, kind string, now time.Time, visit func(object) error) error {
	rows, err := tx.Query(`SELECT kind, name, document, revision FROM policy_objects
		WHERE (kind = $1 OR $1 = '') AND (expires_at = 0 OR expires_at > $2) ORDER BY kind, name`, kind, store.Micros(now))
	if err != nil {
		return err
	}
	defer rows.Close() //nolint:errcheck // Err tells
	for rows.Next() {
		var o object
		if err := rows.Scan(&o.kind, &o.name, &o.document, &o.revision); err != nil {
			return fmt.Errorf("catalog: %w", err)
		}
		if err := visit(o); err != nil {
			return err
		}
	}
	if err := rows.Err(); err != nil {
		return fmt.Errorf("catalog: %w", err)
	}
	return nil
}

// current reads one that has not expired; CodeNotFound where there is none.
func (c *Catalog) current(tx *store.Tx, kind, name string) (resource.Resource, error) {
	if kind == resource.KindPreference && name == "" {
		name = resource.PreferenceName
	}
	o := object{kind: kind}
	err := tx.QueryRow(`SELECT document, revision FROM policy_objects
		WHERE kind = $1 AND name = $2 AND (expires_at = 0 OR expires_at > $3)`,
		kind, name, store.Micros(c.now())).Scan(&o.document, &o.revision)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, api.Refuse(connect.CodeNotFound, "%s %.128q not found", kind, name).
			WithHint("dtctl get %s shows those that there are", kind)
	}
	if err != nil {
		return nil, fmt.Errorf("catalog: %w", err)
	}
	return o.resource()
}

func isNotFound(err error) bool {
	var r *api.Refusal
	return errors.As(err, &r) && r.Code == connect.CodeNotFound
}
