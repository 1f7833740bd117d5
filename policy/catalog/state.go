package catalog

import (
	"fmt"
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
	state, err := resource.PolicyState(roles, preference, locks)
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

// Documents are the same as JSON, for nodes: every role, the preference,
// every lock that has not expired; in the order of their names.
func (c *Catalog) Documents(tx *store.Tx) (roles [][]byte, preference []byte, locks [][]byte, err error) {
	return documents(tx, c.now())
}

func documents(tx *store.Tx, now time.Time) (roles [][]byte, preference []byte, locks [][]byte, err error) {
	err = eachAt(tx, "", now, func(o object) error {
		switch doc := []byte(o.document); o.kind {
		case resource.KindRole:
			roles = append(roles, doc)
		case resource.KindPreference:
			preference = doc
		case resource.KindLock:
			locks = append(locks, doc)
		default:
			return fmt.Errorf("catalog: a %q is stored, which is not policy", o.kind)
		}
		return nil
	})
	return roles, preference, locks, err
}
