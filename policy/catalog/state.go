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
	roleDocs, preference, lockDocs, err := documents(tx, now)
	if err != nil {
		return nil, err
	}
	roles, err := c.roles.read(roleDocs, resource.PolicyRole)
	if err != nil {
		return nil, err
	}
	locks, err := c.locks.read(lockDocs, resource.PolicyLock)
	if err != nil {
		return nil, err
	}
	state, err := resource.JoinPolicy(roles, preference, locks)
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
	locks, err = c.locks.read(lockDocs, resource.PolicyLock)
	return roles, preference, locks, err
}

// alreadyRead has what documents say that were read last: reading them is slow,
// every call is decided by all of them, and one change is one among thousands.
// It goes by their text, so what is stored is what counts. The zero value has
// none.
type alreadyRead[T any] struct {
	mu sync.Mutex
	by map[string]T // by document; not changed once it is here
}

// read gives what each of docs says.
func (r *alreadyRead[T]) read(docs []object, parse func([]byte) (T, error)) ([]T, error) {
	r.mu.Lock()
	before := r.by
	r.mu.Unlock()
	by := make(map[string]T, len(docs))
	all := make([]T, 0, len(docs))
	for _, o := range docs {
		one, known := before[o.document]
		if !known {
			var err error
			if one, err = parse([]byte(o.document)); err != nil {
				return nil, fmt.Errorf("catalog: %s %q: %w", o.kind, o.name, err)
			}
		}
		by[o.document] = one
		all = append(all, one)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.by = by
	return all, nil
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
