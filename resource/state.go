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
	var readRoles []policy.Role
	for _, doc := range roles {
		role, err := PolicyRole(doc)
		if err != nil {
			return nil, err
		}
		readRoles = append(readRoles, role)
	}
	var readLocks []policy.Lock
	for _, doc := range locks {
		lock, err := PolicyLock(doc)
		if err != nil {
			return nil, err
		}
		readLocks = append(readLocks, lock)
	}
	return JoinPolicy(readRoles, preference, readLocks)
}

// JoinPolicy is PolicyState of roles and locks that are read already.
func JoinPolicy(roles []policy.Role, preference []byte, locks []policy.Lock) (*policy.State, error) {
	state := &policy.State{Roles: make(map[string]policy.Role, len(roles)), Locks: locks}
	for _, role := range roles {
		if _, twice := state.Roles[role.Name()]; twice {
			return nil, fmt.Errorf("resource: role %q is there twice", role.Name())
		}
		state.Roles[role.Name()] = role
	}
	var err error
	if state.Preference, err = PolicyPreference(preference); err != nil {
		return nil, err
	}
	return state, nil
}

// PolicyRole is the role in one document.
func PolicyRole(doc []byte) (policy.Role, error) {
	r, err := parseAs[*Role](doc)
	if err != nil {
		return policy.Role{}, err
	}
	role, err := r.policyRole()
	if err != nil {
		return policy.Role{}, fmt.Errorf("resource: role %q: %w", r.Metadata.Name, err)
	}
	return role, nil
}

// PolicyPreference is that in one document. There must be one: without it a
// demand for devices would be lost.
func PolicyPreference(doc []byte) (policy.Preference, error) {
	if len(doc) == 0 {
		return policy.Preference{}, errors.New("resource: the " + KindPreference + " is missing")
	}
	p, err := parseAs[*Preference](doc)
	if err != nil {
		return policy.Preference{}, err
	}
	return p.Spec.Preference, nil
}

// PolicyLock is the lock in one document.
func PolicyLock(doc []byte) (policy.Lock, error) {
	l, err := parseAs[*Lock](doc)
	if err != nil {
		return policy.Lock{}, err
	}
	return policy.Lock{Name: l.Metadata.Name, Target: l.Spec.Target, Message: l.Spec.Message, Expires: l.Spec.Expires}, nil
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
