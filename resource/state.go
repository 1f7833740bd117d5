package resource

import (
	"errors"
	"fmt"

	"devicetrust/policy"
)

// PolicyState makes the policy in force of documents as MarshalJSON writes
// them: every role, the preference, every lock. Where one of them cannot be
// read, none of them can be relied on: the error comes with a nil State, which
// denies, and whoever keeps deciding by an older one lets in whom the newer
// one may have shut out.
func PolicyState(roles [][]byte, preference []byte, locks [][]byte) (*policy.State, error) {
	state := &policy.State{Roles: make(map[string]policy.Role, len(roles))}
	for _, doc := range roles {
		r, err := parseAs[*Role](doc)
		if err != nil {
			return nil, err
		}
		name := r.Metadata.Name
		if _, twice := state.Roles[name]; twice {
			return nil, fmt.Errorf("resource: role %q is there twice", name)
		}
		if state.Roles[name], err = r.policyRole(); err != nil {
			return nil, fmt.Errorf("resource: role %q: %w", name, err)
		}
	}
	// Without it a demand for devices would be lost.
	if len(preference) == 0 {
		return nil, errors.New("resource: the " + KindPreference + " is missing")
	}
	p, err := parseAs[*Preference](preference)
	if err != nil {
		return nil, err
	}
	state.Preference = p.Spec.Preference
	for _, doc := range locks {
		l, err := parseAs[*Lock](doc)
		if err != nil {
			return nil, err
		}
		state.Locks = append(state.Locks, policy.Lock{
			Name: l.Metadata.Name, Target: l.Spec.Target, Message: l.Spec.Message, Expires: l.Spec.Expires,
		})
	}
	return state, nil
}

func parseAs[R Resource](doc []byte) (R, error) {
	var none R
	r, err := ParseJSON(doc)
	if err != nil {
		return none, fmt.Errorf("resource: %w", err)
	}
	as, ok := r.(R)
	if !ok {
		return none, fmt.Errorf("resource: a %s is where a %T should be", r.Head().Kind, none)
	}
	return as, nil
}
