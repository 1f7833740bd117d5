package resource

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"sync"

	"devicetrust/identity"
	"devicetrust/policy"
)

// Check holds r to the rules of its kind, as parsing does, and fills in what
// may be left out: for resources that did not come from a document.
func Check(r Resource) error {
	if err := checkKind(r); err != nil {
		return err
	}
	return (&document{kind: r.Head().Kind, written: true}).check(r)
}

// check holds r to the rules of its kind and fills in what may be left out.
// Errors are *policy.FieldError where a field is at fault.
func (d *document) check(r Resource) error {
	if err := checkMetadata(d.kind, &r.Head().Metadata); err != nil {
		return err
	}
	switch r := r.(type) {
	case *User:
		return r.check(d.written)
	case *Role:
		return r.check()
	case *Preference:
		return r.check()
	case *Lock:
		return r.check()
	case *Device:
		return r.check()
	}
	return nil
}

func checkMetadata(kind string, m *Metadata) error {
	// It is read so that documents load; it says nothing to us.
	m.ID = 0
	if kind == KindPreference && m.Name == "" {
		m.Name = PreferenceName
	}
	if err := checkResourceName(kind, m.Name); err != nil {
		return err
	}
	if kind != KindToken && !m.Expires.IsZero() {
		return fieldError("metadata.expires", "a %s does not expire by it", kind)
	}
	if len(m.Description) > maxDescription {
		return fieldError("metadata.description", "%d bytes are more than %d", len(m.Description), maxDescription)
	}
	if err := checkLine("metadata.revision", m.Revision); err != nil {
		return err
	}
	return checkLabels("metadata.labels", m.Labels)
}

var uuidPattern = lazily(`^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$`)

// checkResourceName: locks and devices may leave it to the server.
func checkResourceName(kind, name string) error {
	const at = "metadata.name"
	switch kind {
	case KindUser:
		return wrap(at, identity.CheckUser(name))
	case KindRole:
		return wrap(at, policy.CheckName(name))
	case KindLock:
		if name != "" {
			return wrap(at, policy.CheckName(name))
		}
	case KindPreference:
		if name != PreferenceName {
			return fieldError(at, "%.64q: the only %s is %q", name, kind, PreferenceName)
		}
	case KindDevice:
		if name != "" && !uuidPattern().MatchString(name) {
			return fieldError(at, "%.64q is not a device's ID; leave it out to have one made", name)
		}
	default:
		if name == "" || len(name) > maxName || strings.ContainsFunc(name, func(r rune) bool { return r <= ' ' || unprintable(r) }) {
			return fieldError(at, "%.64q is not a name", name)
		}
	}
	return nil
}

// wrap says which field err is about.
func wrap(at string, err error) error {
	if err == nil {
		return nil
	}
	return fieldError(at, "%v", err)
}

func checkLabels(at string, labels map[string]string) error {
	if len(labels) > maxLabels {
		return fieldError(at, "%d labels are more than %d", len(labels), maxLabels)
	}
	for name, value := range labels {
		if name == "" {
			return fieldError(at, "a label has no name")
		}
		if err := checkLine(join(at, name), name, value); err != nil {
			return err
		}
	}
	return nil
}

// checkLine holds texts to one line that people can read.
func checkLine(at string, texts ...string) error {
	for _, text := range texts {
		if len(text) > maxLine || strings.ContainsAny(text, "\n\t") {
			return fieldError(at, "%.64q is not one line of at most %d bytes", text, maxLine)
		}
	}
	return nil
}

func (u *User) check(written bool) error {
	for i, role := range u.Spec.Roles {
		at := fmt.Sprintf("spec.roles[%d]", i)
		if err := policy.CheckName(role); err != nil {
			return wrap(at, err)
		}
		if slices.Contains(u.Spec.Roles[:i], role) {
			return fieldError(at, "%q is there twice", role)
		}
	}
	if len(u.Spec.Roles) > identity.MaxRoles {
		return fieldError("spec.roles", "%d roles are more than %d", len(u.Spec.Roles), identity.MaxRoles)
	}
	if !u.Spec.Expires.IsZero() {
		return fieldError("spec.expires", "users do not expire; lock or remove them")
	}
	if written && u.Spec.Status.IsLocked {
		return fieldError("spec.status.is_locked", "locks make this true; create a lock that targets the user")
	}
	if !written {
		return nil // an older server may have stored what no certificate carries
	}
	for i, login := range u.Spec.Traits["logins"] {
		if err := identity.CheckLogin(login); err != nil {
			return wrap(fmt.Sprintf("spec.traits.logins[%d]", i), err)
		}
	}
	return wrap("spec.traits", identity.CheckTraits(u.Spec.Traits))
}

func (r *Role) check() error {
	var field *policy.FieldError
	if _, err := r.policyRole(); errors.As(err, &field) {
		return fieldError("spec."+field.Field, "%s", field.Problem)
	} else if err != nil {
		return err
	}
	for block, c := range map[string]policy.RoleConditions{"allow": r.Spec.Allow, "deny": r.Spec.Deny} {
		for i, login := range c.Logins {
			// The only variable was checked for with the role.
			if strings.HasPrefix(login, "{{") {
				continue
			}
			if err := identity.CheckLogin(login); err != nil {
				return fieldError(fmt.Sprintf("spec.%s.logins[%d]", block, i), "%v", err)
			}
		}
	}
	return nil
}

// policyRole is r as policy decides by it.
func (r *Role) policyRole() (policy.Role, error) {
	return policy.NewRole(r.Metadata.Name, r.Spec)
}

// lazily gives the regular expression when it is first asked for: some programs
// are started for each question, and never ask.
func lazily(expression string) func() *regexp.Regexp {
	return sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(expression) })
}
