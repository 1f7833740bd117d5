package catalog

import (
	"context"
	"fmt"
	"slices"

	"connectrpc.com/connect"
	"github.com/google/uuid"

	"devicetrust/api"
	"devicetrust/audit/event"
	"devicetrust/resource"
	"devicetrust/store"
)

// Create stores r as actor's act. A lock without a name gets one, which r has
// afterwards. It refuses what exists (CodeAlreadyExists), what does not hold
// (CodeInvalidArgument) and what would be too many (CodeFailedPrecondition).
func (c *Catalog) Create(ctx context.Context, actor string, r resource.Resource) error {
	if err := c.complete(actor, r); err != nil {
		return err
	}
	return c.db.Write(ctx, func(tx *store.Tx) error {
		// An expired lock is not there to anybody, so its name is free.
		if err := c.prune(tx); err != nil {
			return err
		}
		kind, name := r.Head().Kind, r.Head().Metadata.Name
		switch _, err := c.current(tx, kind, name); {
		case err == nil:
			return api.Refuse(connect.CodeAlreadyExists, "%s %q already exists", kind, name).
				WithHint("Replace it: dtctl create -f")
		case !isNotFound(err):
			return err
		}
		if err := c.checkRoom(tx, kind); err != nil {
			return err
		}
		return c.create(tx, actor, r)
	})
}

func (c *Catalog) create(tx *store.Tx, actor string, r resource.Resource) error {
	if err := c.record(tx, eventsOf(r.Head().Kind).create, actor, r.Head(), lockOf(r)...); err != nil {
		return err
	}
	revision, document, err := c.write(tx, r)
	if err != nil {
		return err
	}
	_, err = tx.Exec(`INSERT INTO policy_objects (kind, name, document, revision, expires_at) VALUES ($1, $2, $3, $4, $5)`,
		r.Head().Kind, r.Head().Metadata.Name, document, revision, expires(r))
	if err != nil {
		return err
	}
	return checkSize(tx)
}

// Update replaces what has r's kind and name. Where revision, or else the one
// in r, is not empty, it replaces only that one (CodeAborted). CodeNotFound
// where there is nothing to replace, otherwise as Create.
func (c *Catalog) Update(ctx context.Context, actor string, r resource.Resource, revision string) error {
	if err := c.complete(actor, r); err != nil {
		return err
	}
	if revision == "" {
		revision = r.Head().Metadata.Revision
	}
	return c.db.Write(ctx, func(tx *store.Tx) error {
		kind, name := r.Head().Kind, r.Head().Metadata.Name
		old, err := c.current(tx, kind, name)
		if err != nil {
			return err
		}
		if revision != "" && revision != old.Head().Metadata.Revision {
			return api.Refuse(connect.CodeAborted, "%s %q was changed by someone else", kind, name).
				WithHint("Read it again and repeat the change: dtctl edit %s/%s", kind, name)
		}
		keepOrigin(r, old)
		return c.update(tx, actor, r, old)
	})
}

func (c *Catalog) update(tx *store.Tx, actor string, r, old resource.Resource) error {
	if err := c.record(tx, eventsOf(r.Head().Kind).update, actor, r.Head(), append(changesOf(r, old), lockOf(r)...)...); err != nil {
		return err
	}
	revision, document, err := c.write(tx, r)
	if err != nil {
		return err
	}
	_, err = tx.Exec(`UPDATE policy_objects SET document = $3, revision = $4, expires_at = $5 WHERE kind = $1 AND name = $2`,
		r.Head().Kind, r.Head().Metadata.Name, document, revision, expires(r))
	if err != nil {
		return err
	}
	return checkSize(tx)
}

// Delete removes one; CodeNotFound where there is none. The preference goes
// back to its default instead. inTx, where not nil, runs in the same
// transaction before anything is changed, and may refuse.
func (c *Catalog) Delete(ctx context.Context, actor, kind, name string, inTx func(tx *store.Tx) error) error {
	return c.db.Write(ctx, func(tx *store.Tx) error {
		old, err := c.current(tx, kind, name)
		if err != nil {
			return err
		}
		if inTx != nil {
			if err := inTx(tx); err != nil {
				return err
			}
		}
		if kind == resource.KindPreference {
			return c.update(tx, actor, defaultPreference(), old)
		}
		if err := c.record(tx, eventsOf(kind).remove, actor, old.Head(), lockOf(old)...); err != nil {
			return err
		}
		tx.Changed()
		_, err = tx.Exec(`DELETE FROM policy_objects WHERE kind = $1 AND name = $2`, kind, old.Head().Metadata.Name)
		return err
	})
}

// complete fills in what is the server's to say, and refuses what nobody
// could decide by.
func (c *Catalog) complete(actor string, r resource.Resource) error {
	head := r.Head()
	if l, ok := r.(*resource.Lock); ok {
		if head.Metadata.Name == "" {
			id, err := uuid.NewRandom()
			if err != nil {
				return fmt.Errorf("catalog: %w", err)
			}
			head.Metadata.Name = id.String()
		}
		l.Spec.CreatedAt, l.Spec.CreatedBy = c.now().UTC(), actor
		if !l.Spec.Expires.IsZero() && !l.Spec.Expires.After(c.now()) {
			return api.Refuse(connect.CodeInvalidArgument, "lock %q: spec.expires: %s is over", head.Metadata.Name, l.Spec.Expires.UTC().Format("2006-01-02T15:04:05Z"))
		}
	}
	if err := resource.Check(r); err != nil {
		return api.Refuse(connect.CodeInvalidArgument, "%s %.128q: %v", head.Kind, head.Metadata.Name, err)
	}
	return nil
}

// keepOrigin: who made a lock is not changed by changing it.
func keepOrigin(r, old resource.Resource) {
	changed, isLock := r.(*resource.Lock)
	made, wasLock := old.(*resource.Lock)
	if isLock && wasLock {
		changed.Spec.CreatedAt, changed.Spec.CreatedBy = made.Spec.CreatedAt, made.Spec.CreatedBy
	}
}

// write gives r as it is stored, and marks tx as a change. The revision is
// that of the whole store, so that none comes back when a name does.
func (c *Catalog) write(tx *store.Tx, r resource.Resource) (revision int64, document string, err error) {
	tx.Changed()
	sequence, err := tx.Sequence()
	if err != nil {
		return 0, "", err
	}
	head := r.Head()
	stored := head.Metadata.Revision
	head.Metadata.Revision = ""
	doc, err := resource.MarshalJSON(r)
	head.Metadata.Revision = stored
	if err != nil {
		return 0, "", err
	}
	limit := maxDocument
	if head.Kind == resource.KindPreference {
		limit = maxPreference
	}
	if len(doc) > limit {
		return 0, "", api.Refuse(connect.CodeInvalidArgument, "%s %q takes %d bytes, more than %d", head.Kind, head.Metadata.Name, len(doc), limit)
	}
	return int64(sequence) + 1, string(doc), nil
}

func (c *Catalog) checkRoom(tx *store.Tx, kind string) error {
	most := map[string]int64{resource.KindRole: maxRoles, resource.KindLock: maxLocks, resource.KindPreference: 1}[kind]
	n, err := c.Count(tx, kind)
	if err != nil {
		return err
	}
	if n >= most {
		return api.Refuse(connect.CodeFailedPrecondition, "there are %d of kind %s already, and there can be no more", n, kind)
	}
	return nil
}

// checkSize refuses what was just written where all of it is too much.
func checkSize(tx *store.Tx) error {
	var size int64
	if err := tx.QueryRow(`SELECT sum(octet_length(document)) FROM policy_objects`).Scan(&size); err != nil {
		return fmt.Errorf("catalog: %w", err)
	}
	if size > maxAll {
		return api.Refuse(connect.CodeFailedPrecondition, "all roles and locks together would take %d bytes, and can have no more than %d", size, maxAll)
	}
	return nil
}

func expires(r resource.Resource) int64 {
	if l, ok := r.(*resource.Lock); ok {
		return store.Micros(l.Spec.Expires)
	}
	return 0
}

type eventTypes struct{ create, update, remove event.Type }

// eventsOf a kind that is not policy are empty, which cannot be recorded: so
// nothing of it can be stored.
func eventsOf(kind string) eventTypes {
	switch kind {
	case resource.KindRole:
		return eventTypes{event.RoleCreate, event.RoleUpdate, event.RoleDelete}
	case resource.KindLock:
		return eventTypes{event.LockCreate, event.LockUpdate, event.LockDelete}
	case resource.KindPreference:
		return eventTypes{event.PreferenceUpdate, event.PreferenceUpdate, event.PreferenceUpdate}
	default:
		return eventTypes{}
	}
}

// changesOf are what an investigator asks first of a change of the preference:
// was it turned down?
func changesOf(r, old resource.Resource) (changes []string) {
	now, isPreference := r.(*resource.Preference)
	was, wasPreference := old.(*resource.Preference)
	if !isPreference || !wasPreference {
		return nil
	}
	a, b := was.Spec, now.Spec
	for _, field := range []struct {
		name     string
		old, new any
	}{
		{"mode", a.DeviceTrust.Mode, b.DeviceTrust.Mode},
		{"auto_enroll", a.DeviceTrust.AutoEnroll, b.DeviceTrust.AutoEnroll},
		{"ekcert_allowed_cas", len(a.DeviceTrust.EKCertAllowedCAs), len(b.DeviceTrust.EKCertAllowedCAs)},
		{"locking_mode", orDefault(a.LockingMode), orDefault(b.LockingMode)},
		{"staleness_limit", orDefault(a.StalenessLimit), orDefault(b.StalenessLimit)},
	} {
		if field.old != field.new {
			changes = append(changes, fmt.Sprintf("%s: %v → %v", field.name, field.old, field.new))
		}
	}
	if cas, others := a.DeviceTrust.EKCertAllowedCAs, b.DeviceTrust.EKCertAllowedCAs; len(cas) == len(others) && !slices.Equal(cas, others) {
		changes = append(changes, "ekcert_allowed_cas: others, as many")
	}
	return changes
}

// lockOf says whom a lock keeps out, why and until when: its name tells nothing,
// and once it is deleted the record is all that is left of it.
func lockOf(r resource.Resource) []string {
	l, ok := r.(*resource.Lock)
	if !ok {
		return nil
	}
	said := []string{"target: " + l.Spec.Target.String()}
	if l.Spec.Message != "" {
		said = append(said, "message: "+l.Spec.Message)
	}
	if !l.Spec.Expires.IsZero() {
		said = append(said, "expires: "+l.Spec.Expires.UTC().Format("2006-01-02T15:04:05Z"))
	}
	return said
}

// orDefault is v in a change.
func orDefault[V comparable](v V) any {
	var unset V
	if v == unset {
		return "the default"
	}
	return v
}

func (c *Catalog) record(tx *store.Tx, t event.Type, actor string, head *resource.Header, reasons ...string) error {
	_, err := c.log.Record(tx, event.Event{Type: t, Success: true, User: actor, Kind: head.Kind, Name: head.Metadata.Name, Reasons: reasons})
	return err
}
