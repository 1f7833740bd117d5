package login

import (
	"encoding/json"
	"fmt"
	"strings"
	"unicode"

	"connectrpc.com/connect"

	"devicetrust/api"
	"devicetrust/identity"
	"devicetrust/resource"
)

// userVersion is the version of a user's document that is read and written.
const userVersion = "v2"

// checkUser returns u as it is stored, without what is the server's to set,
// or refuses (CodeInvalidArgument) what could not go into a certificate.
func checkUser(u resource.User) (resource.User, error) {
	if err := checkShape(u); err != nil {
		return resource.User{}, api.Refuse(connect.CodeInvalidArgument, "%s", err)
	}
	u.Kind, u.Version = resource.KindUser, userVersion
	u.Metadata.Revision, u.Metadata.ID = "", 0
	u.Spec.TrustedDeviceIDs = nil
	text, err := json.Marshal(u)
	if err != nil {
		return resource.User{}, api.Refuse(connect.CodeInvalidArgument, "user %q cannot be written as JSON: %v", u.Metadata.Name, err)
	}
	if len(text) > maxDocument {
		return resource.User{}, api.Refuse(connect.CodeInvalidArgument,
			"user %q has %d bytes as a document, more than %d", u.Metadata.Name, len(text), maxDocument)
	}
	return u, nil
}

func checkShape(u resource.User) error {
	switch {
	case u.Kind != "" && u.Kind != resource.KindUser:
		return fmt.Errorf("kind is %.64q, want %q", u.Kind, resource.KindUser)
	case u.Version != "" && u.Version != userVersion:
		return fmt.Errorf("version of a user is %.64q, want %q", u.Version, userVersion)
	case u.Spec.Status.IsLocked:
		return fmt.Errorf("status.is_locked cannot be set: create a lock")
	}
	if err := identity.CheckUser(u.Metadata.Name); err != nil {
		return err
	}
	if err := checkRoles(u.Spec.Roles); err != nil {
		return err
	}
	return checkTraits(u.Spec.Traits)
}

func checkRoles(roles []string) error {
	if len(roles) > maxRoles {
		return fmt.Errorf("%d roles, more than %d", len(roles), maxRoles)
	}
	seen := make(map[string]bool)
	for _, r := range roles {
		if r == "" || len(r) > maxRoleName || !printable(r) {
			return fmt.Errorf("role name %.64q must be 1 to %d printable characters", r, maxRoleName)
		}
		if seen[r] {
			return fmt.Errorf("role %q is there twice", r)
		}
		seen[r] = true
	}
	return nil
}

func checkTraits(traits map[string][]string) error {
	if len(traits) > maxTraits {
		return fmt.Errorf("%d traits, more than %d", len(traits), maxTraits)
	}
	for name, values := range traits {
		if name == "" || len(name) > maxTraitName || !printable(name) {
			return fmt.Errorf("trait name %.64q must be 1 to %d printable characters", name, maxTraitName)
		}
		if len(values) > maxValues {
			return fmt.Errorf("trait %q has %d values, more than %d", name, len(values), maxValues)
		}
		for _, v := range values {
			if len(v) > maxValue || !printable(v) {
				return fmt.Errorf("value %.64q of trait %q must be at most %d printable characters", v, name, maxValue)
			}
		}
	}
	for _, l := range traits["logins"] {
		if err := identity.CheckLogin(l); err != nil {
			return err
		}
	}
	return nil
}

func printable(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) || r == unicode.ReplacementChar })
}
