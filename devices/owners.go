package devices

import (
	"errors"
	"fmt"
	"slices"

	"connectrpc.com/connect"

	"devicetrust/api"
	"devicetrust/identity"
	"devicetrust/resource"
	"devicetrust/store"
)

// speaksFor tells whether a login of user may be one with d: user enrolled it,
// or an administrator says so (docs/decisions/0009).
func speaksFor(d resource.Device, user string) bool {
	return user != "" && (d.Spec.Owner == user || slices.Contains(d.Spec.Owners, user))
}

// enrolledByOther refuses to enroll a device that somebody else enrolled, for
// whom it does not speak: an administrator has to take it away first, so that
// it does not change hands unseen.
func enrolledByOther(d resource.Device, user string) error {
	if d.Spec.EnrollStatus != resource.Enrolled {
		return nil
	}
	return notTheirs(d, user)
}

// notTheirs refuses the login of somebody for whom an enrolled device does not
// speak.
func notTheirs(d resource.Device, user string) error {
	if speaksFor(d, user) {
		return nil
	}
	return api.Refuse(connect.CodePermissionDenied, "device %s is enrolled by another user", d.Spec.AssetTag).
		WithHint("An administrator can list %s in its owners, or set enroll_status to %s: dtctl edit device/%s",
			user, resource.NotEnrolled, d.Spec.AssetTag)
}

// checkOwners refuses a list that cannot be one.
func checkOwners(owners []string) error {
	if len(owners) > maxOwners {
		return api.Refuse(connect.CodeInvalidArgument, "spec.owners has %d entries, at most %d can be", len(owners), maxOwners)
	}
	for n, user := range owners {
		if err := identity.CheckUser(user); err != nil {
			return api.Refuse(connect.CodeInvalidArgument, "spec.owners[%d]: %v", n, err)
		}
		if slices.Contains(owners[:n], user) {
			return api.Refuse(connect.CodeInvalidArgument, "spec.owners[%d]: %q is there twice", n, user)
		}
	}
	return nil
}

// ownersExist asks UsersExist of those that were not owners before.
func (i *Inventory) ownersExist(tx *store.Tx, before, owners []string) error {
	added := without(owners, before)
	if len(added) == 0 {
		return nil
	}
	if i.UsersExist == nil {
		return errors.New("devices: nobody says which users there are")
	}
	return i.UsersExist(tx, added)
}

// listOwners stores the owners of a new device, who must exist.
func (i *Inventory) listOwners(tx *store.Tx, d resource.Device) error {
	if len(d.Spec.Owners) == 0 {
		return nil
	}
	if err := i.ownersExist(tx, nil, d.Spec.Owners); err != nil {
		return err
	}
	return keepOwners(tx, d)
}

// keepOwners stores whose logins d may authenticate, for look-ups.
func keepOwners(tx *store.Tx, d resource.Device) error {
	if _, err := tx.Exec(`DELETE FROM device_owners WHERE device_id = $1`, d.Metadata.Name); err != nil {
		return fmt.Errorf("devices: %w", err)
	}
	for _, user := range d.Spec.Owners {
		_, err := tx.Exec(`INSERT INTO device_owners (device_id, user_name) VALUES ($1, $2)`, d.Metadata.Name, user)
		if err != nil {
			return fmt.Errorf("devices: %w", err)
		}
	}
	return nil
}

// changeOwners stores a new list, and ends what those who are not in it any
// more had by the device. Who enrolled it stays its owner. done is for the
// record.
func (i *Inventory) changeOwners(tx *store.Tx, d resource.Device, before []string) (done []string, err error) {
	if slices.Equal(before, d.Spec.Owners) {
		return nil, nil
	}
	if err := i.ownersExist(tx, before, d.Spec.Owners); err != nil {
		return nil, err
	}
	for _, user := range without(before, d.Spec.Owners) {
		if speaksFor(d, user) {
			continue
		}
		if i.EndFor == nil {
			return nil, errors.New("devices: nobody ends what a device gave to a user")
		}
		if err := i.EndFor(tx, d.Metadata.Name, user); err != nil {
			return nil, err
		}
		done = append(done, "not an owner any more: "+user)
	}
	for _, user := range without(d.Spec.Owners, before) {
		done = append(done, "an owner now: "+user)
	}
	return done, keepOwners(tx, d)
}

// without gives those of a that are not in b.
func without(a, b []string) (rest []string) {
	for _, s := range a {
		if !slices.Contains(b, s) {
			rest = append(rest, s)
		}
	}
	return rest
}

const listedFor = `id IN (SELECT device_id FROM device_owners WHERE user_name = $1)`

// OwnedBy gives the IDs of the enrolled devices that a login of user may be
// one with, in order.
func (i *Inventory) OwnedBy(tx *store.Tx, user string) ([]string, error) {
	owned, err := find(tx, `enroll_status = $2 AND (owner = $1 OR `+listedFor+`)`, user, resource.Enrolled)
	var ids []string
	for _, d := range owned {
		ids = append(ids, d.Metadata.Name)
	}
	slices.Sort(ids)
	return ids, err
}

// Disown takes a user who is going out of all devices: those that the user
// enrolled are unenrolled, and no device lists the user any more. Somebody who
// is given the name later must not find them so. inTx is called for each that
// is unenrolled.
func (i *Inventory) Disown(tx *store.Tx, actor, user string, inTx func(tx *store.Tx, id string) error) error {
	owned, err := find(tx, `owner = $1 OR `+listedFor, user)
	if err != nil {
		return err
	}
	for _, d := range owned {
		wanted := d
		if d.Spec.Owner == user {
			wanted.Spec.EnrollStatus = resource.NotEnrolled
		}
		wanted.Spec.Owners = without(d.Spec.Owners, []string{user})
		if _, err := i.change(tx, actor, d, wanted, inTx); err != nil {
			return err
		}
	}
	return nil
}
