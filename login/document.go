package login

import (
	"encoding/json"
	"fmt"

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
	if err := identity.CheckRoles(u.Spec.Roles); err != nil {
		return err
	}
	return identity.CheckTraits(u.Spec.Traits)
}
