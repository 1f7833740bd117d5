package catalog

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"

	"connectrpc.com/connect"
	"github.com/google/uuid"

	"devicetrust/api"
	"devicetrust/identity"
	"devicetrust/policy"
	"devicetrust/resource"
	"devicetrust/store"
)

// prepare checks r and gives its document. What cannot be decided by is not
// stored.
func (c *Catalog) prepare(r resource.Resource, actor string) (string, error) {
	head := r.Head()
	var err error
	switch v := r.(type) {
	case *resource.Role:
		err = checkRole(v)
	case *resource.Preference:
		err = checkPreference(v)
	case *resource.Lock:
		if head.Metadata.Name == "" {
			head.Metadata.Name = uuid.NewString()
		}
		if v.Spec.CreatedAt.IsZero() {
			v.Spec.CreatedAt, v.Spec.CreatedBy = c.now().UTC(), actor
		}
		err = c.checkLock(v)
	default:
		err = fmt.Errorf("a %s is not policy", head.Kind)
	}
	if err != nil {
		return "", api.Refuse(connect.CodeInvalidArgument, "%s %q: %v", head.Kind, head.Metadata.Name, err)
	}
	stored := *head
	head.Metadata.Revision, head.Metadata.ID = "", 0 // the row's own number tells
	doc, err := json.Marshal(r)
	*head = stored
	if err != nil {
		return "", fmt.Errorf("catalog: %w", err)
	}
	return string(doc), nil
}

// checkRole adds what policy cannot know: which logins servers have.
func checkRole(r *resource.Role) error {
	if _, err := policy.NewRole(r.Metadata.Name, r.Spec); err != nil {
		return err
	}
	for _, logins := range [][]string{r.Spec.Allow.Logins, r.Spec.Deny.Logins} {
		for _, l := range logins {
			if strings.HasPrefix(l, "{{") {
				continue // NewRole knows the variables
			}
			if err := identity.CheckLogin(l); err != nil {
				return err
			}
		}
	}
	return nil
}

func checkPreference(p *resource.Preference) error {
	if p.Metadata.Name != resource.PreferenceName {
		return fmt.Errorf("its name must be %q", resource.PreferenceName)
	}
	switch p.Spec.DeviceTrust.Mode {
	case policy.ModeUnset:
		// Unset stands for optional; written down, so that it shows.
		p.Spec.DeviceTrust.Mode = policy.ModeOptional
	case policy.ModeOff, policy.ModeOptional, policy.ModeRequired, policy.ModeRequiredForHumans:
	default:
		return fmt.Errorf("device_trust.mode %.64q is unknown: off, optional, required or required-for-humans", p.Spec.DeviceTrust.Mode)
	}
	if p.Spec.Type == "" {
		p.Spec.Type = "local"
	}
	if p.Spec.SecondFactor == "" {
		p.Spec.SecondFactor = "off"
	}
	return nil
}

func (c *Catalog) checkLock(l *resource.Lock) error {
	if err := policy.CheckName(l.Metadata.Name); err != nil {
		return err
	}
	if l.Spec.Target.Empty() {
		return fmt.Errorf("target must name a user, role, login, device or node")
	}
	if !l.Spec.Expires.IsZero() && !l.Spec.Expires.After(c.now()) {
		return fmt.Errorf("expires lies in the past")
	}
	return nil
}

func decode(kind, doc string, revision int64) (resource.Resource, error) {
	var r resource.Resource
	switch kind {
	case resource.KindRole:
		r = &resource.Role{}
	case resource.KindPreference:
		r = &resource.Preference{}
	case resource.KindLock:
		r = &resource.Lock{}
	default:
		return nil, fmt.Errorf("catalog: a %q is not policy", kind)
	}
	if err := json.Unmarshal([]byte(doc), r); err != nil {
		return nil, fmt.Errorf("catalog: a stored %s: %w", kind, err)
	}
	r.Head().Metadata.Revision = strconv.FormatInt(revision, 10)
	return r, nil
}

// State is the policy in force. Its Revoked is empty: those are the CA's.
func (c *Catalog) State(tx *store.Tx, now time.Time) (*policy.State, error) {
	roles, preference, locks, err := c.documents(tx, now)
	if err != nil {
		return nil, err
	}
	state, err := resource.PolicyState(roles, preference, locks)
	if err != nil {
		return nil, fmt.Errorf("catalog: %w", err)
	}
	return state, nil
}

// Documents are the same as JSON resources, for nodes. Locks that have run
// out by now may be among them: Decide looks at the time.
func (c *Catalog) Documents(tx *store.Tx) (roles [][]byte, preference []byte, locks [][]byte, err error) {
	return c.documents(tx, c.now())
}

func (c *Catalog) documents(tx *store.Tx, now time.Time) (roles [][]byte, preference []byte, locks [][]byte, err error) {
	rows, err := tx.Query(`SELECT kind, document FROM policy_objects
		WHERE expires_at = 0 OR expires_at > $1 ORDER BY kind, name`, store.Micros(now))
	if err != nil {
		return nil, nil, nil, err
	}
	defer rows.Close() //nolint:errcheck // rows.Err tells
	for rows.Next() {
		var kind, doc string
		if err := rows.Scan(&kind, &doc); err != nil {
			return nil, nil, nil, fmt.Errorf("catalog: %w", err)
		}
		switch kind {
		case resource.KindRole:
			roles = append(roles, []byte(doc))
		case resource.KindPreference:
			preference = []byte(doc)
		case resource.KindLock:
			locks = append(locks, []byte(doc))
		default:
			return nil, nil, nil, fmt.Errorf("catalog: a stored %q is unknown", kind)
		}
	}
	return roles, preference, locks, rows.Err()
}
