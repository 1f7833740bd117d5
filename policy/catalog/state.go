package catalog

import (
	"fmt"
	"sync"
	"time"

	"devicetrust/policy"
	"devicetrust/resource"
	"devicetrust/store"
)

// State is the policy in force at now, as tx sees it. Revoked is empty: the
// CA knows it. A State comes only without an error; nil denies.
func (c *Catalog) State(tx *store.Tx, now time.Time) (*policy.State, error) {
	roles, preference, locks, err := documents(tx, now)
	if err != nil {
		return nil, err
	}
	state, err := resource.PolicyState(texts(roles), preference, texts(locks))
	if err != nil {
		return nil, fmt.Errorf("catalog: %w", err)
	}
	return state, nil
}

// Preference is that of State, without the price of reading roles and locks:
// for what anybody may ask.
func (c *Catalog) Preference(tx *store.Tx) (policy.Preference, error) {
	r, err := c.current(tx, resource.KindPreference, resource.PreferenceName)
	if isNotFound(err) {
		// Not the caller's doing, who named nothing.
		return policy.Preference{}, fmt.Errorf("catalog: the %s is missing", resource.KindPreference)
	}
	if err != nil {
		return policy.Preference{}, err
	}
	p, ok := r.(*resource.Preference)
	if !ok {
		return policy.Preference{}, fmt.Errorf("catalog: a %T is stored as the %s", r, resource.KindPreference)
	}
	return p.Spec.Preference, nil
}

// Content is the same as it is told to servers: roles and the preference as
// JSON, and every lock that has not expired.
func (c *Catalog) Content(tx *store.Tx) (roles map[string][]byte, preference []byte, locks []policy.Lock, err error) {
	roles = map[string][]byte{}
	docs, preference, lockDocs, err := documents(tx, c.now())
	if err != nil {
		return nil, nil, nil, err
	}
	for _, o := range docs {
		roles[o.name] = []byte(o.document)
	}
	locks, err = c.locks.read(lockDocs)
	return roles, preference, locks, err
}

// readLocks has the locks that were read last: reading them is slow, and one
// change is one lock among thousands. The zero value has none.
type readLocks struct {
	mu sync.Mutex
	by map[string]policy.Lock // by document
}

func (r *readLocks) read(docs []object) ([]policy.Lock, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	by := make(map[string]policy.Lock, len(docs))
	locks := make([]policy.Lock, 0, len(docs))
	for _, o := range docs {
		lock, known := r.by[o.document]
		if !known {
			var err error
			if lock, err = resource.PolicyLock([]byte(o.document)); err != nil {
				return nil, fmt.Errorf("catalog: lock %q: %w", o.name, err)
			}
		}
		by[o.document] = lock
		locks = append(locks, lock)
	}
	r.by = by
	return locks, nil
}

func documents(tx *store.Tx, now time.Time) (roles []object, preference []byte, locks []object, err error) {
	err = eachAt(tx, "", now, func(o object) error {
		switch o.kind {
		case resource.KindRole:
			roles = append(roles, o)
		case resource.KindPreference:
			preference = []byte(o.document)
		case resource.KindLock:
			locks = append(locks, o)
		default:
			return fmt.Errorf("catalog: a %q is stored, which is not policy", o.kind)
		}
		return nil
	})
	return roles, preference, locks, err
}

func texts(objects []object) [][]byte {
	all := make([][]byte, 0, len(objects))
	for _, o := range objects {
		all = append(all, []byte(o.document))
	}
	return all
}
