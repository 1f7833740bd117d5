package devices

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"strings"

	"connectrpc.com/connect"
	"github.com/google/uuid"

	"devicetrust/api"
	"devicetrust/audit/event"
	"devicetrust/resource"
	"devicetrust/store"
)

// Create registers the device of a document. A name, where it has one, becomes
// its ID. Fields that only a ceremony or the server sets are refused by name.
func (i *Inventory) Create(ctx context.Context, actor string, d resource.Device) (device resource.Device, err error) {
	if device, err = i.proposed(d); err != nil {
		return resource.Device{}, err
	}
	err = i.db.Write(ctx, func(tx *store.Tx) error {
		same, err := find(tx, `id = $1`, device.Metadata.Name)
		if err != nil {
			return err
		}
		if len(same) > 0 {
			return taken(device, same[0])
		}
		device, err = i.register(tx, actor, device)
		return err
	})
	if err != nil {
		return resource.Device{}, err
	}
	return device, nil
}

// proposed is the device that a document registers.
func (i *Inventory) proposed(d resource.Device) (resource.Device, error) {
	fresh := resource.Device{Spec: resource.DeviceSpec{OSType: d.Spec.OSType, AssetTag: d.Spec.AssetTag}}
	if err := onlyEditable(d, fresh); err != nil {
		return resource.Device{}, err
	}
	if s := d.Spec.EnrollStatus; s != "" && s != resource.NotEnrolled {
		return resource.Device{}, errEnrollStatus(s)
	}
	if err := checkNotes(d); err != nil {
		return resource.Device{}, err
	}
	device := i.blank(NewDevice{OSType: d.Spec.OSType, AssetTag: d.Spec.AssetTag})
	if id := d.Metadata.Name; id != "" {
		if err := checkID(id); err != nil {
			return resource.Device{}, err
		}
		device.Metadata.Name = id
	}
	note(&device, d)
	return device, nil
}

func checkID(id string) error {
	if parsed, err := uuid.Parse(id); err != nil || parsed.String() != id {
		return api.Refuse(connect.CodeInvalidArgument, "metadata.name %.64q is not a device's ID, a UUID in lower case", id).
			WithHint("Leave it out, and the device is given one")
	}
	return nil
}

// taken refuses what is registered already: the ID, or the tag and the system.
func taken(d, by resource.Device) error {
	if d.Metadata.Name == by.Metadata.Name {
		return api.Refuse(connect.CodeAlreadyExists, "device %s is registered already, as %s", d.Metadata.Name, label(by))
	}
	// By its ID: the tag may be that of machines of several systems.
	return api.Refuse(connect.CodeAlreadyExists, "device %s is registered already, as %s", label(d), by.Metadata.Name).
		WithHint("Give it a token: dtctl devices enroll --device-id=%s", by.Metadata.Name)
}

// Update replaces what an administrator may change of the device that d names
// by its ID: description, labels, profile and owners; and enroll_status from
// enrolled to not_enrolled, which ends the enrollment: then inTx, where not nil,
// ends in the same transaction what it gave. A revision that is not empty must
// be the current one (CodeAborted). The other fields may be left out; a change
// of one is refused by its name.
func (i *Inventory) Update(ctx context.Context, actor string, d resource.Device, revision string, inTx func(tx *store.Tx, id string) error) (device resource.Device, err error) {
	if err := checkNotes(d); err != nil {
		return resource.Device{}, err
	}
	err = i.db.Write(ctx, func(tx *store.Tx) error {
		current, err := i.Get(tx, Ref{ID: d.Metadata.Name})
		if err != nil {
			return err
		}
		if revision != "" && revision != current.Metadata.Revision {
			return api.Refuse(connect.CodeAborted, "device %s was changed in the meantime", label(current)).
				WithHint("Get it again and repeat the change")
		}
		if err := onlyEditable(d, current); err != nil {
			return err
		}
		device, err = i.change(tx, actor, current, d, inTx)
		return err
	})
	return device, err
}

func (i *Inventory) change(tx *store.Tx, actor string, current, wanted resource.Device, inTx func(tx *store.Tx, id string) error) (resource.Device, error) {
	e, err := i.edit(tx, &current, wanted, inTx)
	if err != nil {
		return resource.Device{}, err
	}
	if err := update(tx, &current); err != nil {
		return resource.Device{}, err
	}
	e.User = actor
	_, err = i.log.Record(tx, e)
	return current, err
}

// edit changes current and gives the record of it; neither is stored yet.
func (i *Inventory) edit(tx *store.Tx, current *resource.Device, wanted resource.Device, inTx func(tx *store.Tx, id string) error) (event.Event, error) {
	var done []string
	switch status := wanted.Spec.EnrollStatus; {
	case status == "" || status == current.Spec.EnrollStatus:
	case status == resource.NotEnrolled:
		if err := i.unenroll(tx, current, inTx); err != nil {
			return event.Event{}, err
		}
		done = append(done, "unenrolled")
	default:
		return event.Event{}, errEnrollStatus(status)
	}
	before := *current
	note(current, wanted)
	if fields := noted(before, *current); len(fields) > 0 {
		done = append(done, strings.Join(fields, ", ")+" changed")
	}
	owners, err := i.changeOwners(tx, *current, before.Spec.Owners)
	if err != nil {
		return event.Event{}, err
	}
	done = append(done, owners...)
	current.Spec.UpdateTime = i.instant()
	return event.Event{Type: event.DeviceUpdate, Success: true, Device: described(*current), Reasons: done}, nil
}

func errEnrollStatus(status string) error {
	return api.Refuse(connect.CodeInvalidArgument, "spec.enroll_status cannot be set to %.32q: only the enrollment ceremony enrolls a device", status).
		WithHint("Give the device a token: dtctl devices enroll --asset-tag=TAG")
}

// unenroll takes away what the ceremony gave.
func (i *Inventory) unenroll(tx *store.Tx, d *resource.Device, inTx func(tx *store.Tx, id string) error) error {
	d.Spec.EnrollStatus, d.Spec.Owner, d.Spec.Credential = resource.NotEnrolled, "", nil
	d.Spec.Baseline, d.Spec.Evidence, d.Spec.Frozen = nil, nil, nil
	if err := forgetAll(tx, d.Metadata.Name); err != nil {
		return err
	}
	return i.end(tx, d.Metadata.Name, inTx)
}

// note copies what an administrator may write.
func note(d *resource.Device, from resource.Device) {
	d.Metadata.Description, d.Metadata.Labels = from.Metadata.Description, from.Metadata.Labels
	d.Spec.Profile, d.Spec.Owners = from.Spec.Profile, from.Spec.Owners
}

// noted names the fields that note changed, but for owners, who are recorded
// one by one.
func noted(before, after resource.Device) (fields []string) {
	if before.Metadata.Description != after.Metadata.Description {
		fields = append(fields, "description")
	}
	if !maps.Equal(before.Metadata.Labels, after.Metadata.Labels) {
		fields = append(fields, "labels")
	}
	var profiles [2]resource.DeviceProfile
	for n, p := range []*resource.DeviceProfile{before.Spec.Profile, after.Spec.Profile} {
		if p != nil {
			profiles[n] = *p
		}
	}
	x, y := reflect.ValueOf(profiles[0]), reflect.ValueOf(profiles[1])
	for n := range x.NumField() {
		if !reflect.DeepEqual(x.Field(n).Interface(), y.Field(n).Interface()) {
			name, _, _ := strings.Cut(x.Type().Field(n).Tag.Get("json"), ",")
			fields = append(fields, "profile."+name)
		}
	}
	return fields
}

func checkNotes(d resource.Device) error {
	refuse := func(format string, args ...any) error {
		return api.Refuse(connect.CodeInvalidArgument, format, args...)
	}
	if !isLine(d.Metadata.Description) {
		return refuse("metadata.description is not a line of at most %d bytes", maxField)
	}
	if len(d.Metadata.Labels) > maxLabels {
		return refuse("metadata.labels has %d entries, at most %d can be", len(d.Metadata.Labels), maxLabels)
	}
	for key, value := range d.Metadata.Labels {
		if key == "" || !isLine(key) || !isLine(value) {
			return refuse("metadata.labels: %.64q: %.64q are not lines of at most %d bytes", key, value, maxField)
		}
	}
	if err := checkOwners(d.Spec.Owners); err != nil {
		return err
	}
	return checkProfile(d.Spec.Profile)
}

func checkProfile(p *resource.DeviceProfile) error {
	if p == nil {
		return nil
	}
	if len(p.OSUsernames) > maxUsernames {
		return api.Refuse(connect.CodeInvalidArgument, "spec.profile.os_usernames has %d entries, at most %d can be", len(p.OSUsernames), maxUsernames)
	}
	for _, text := range append([]string{
		p.ExternalID, p.OSID, p.OSVersion, p.OSBuild, p.KernelVersion, p.Hostname, p.ModelIdentifier,
		p.SerialNumber, p.AssetTag, p.JamfBinaryVersion,
	}, p.OSUsernames...) {
		if !isLine(text) {
			return api.Refuse(connect.CodeInvalidArgument, "spec.profile: %.64q is not a line of at most %d bytes", text, maxField)
		}
	}
	return nil
}

// onlyEditable refuses a document that changes what is the server's; what it
// leaves out it does not change.
func onlyEditable(d, current resource.Device) error {
	if !d.Metadata.Expires.IsZero() {
		return api.Refuse(connect.CodeInvalidArgument, "metadata.expires is not supported for devices")
	}
	for _, field := range []struct {
		name      string
		got, want any
	}{
		{"spec.os_type", d.Spec.OSType, current.Spec.OSType},
		{"spec.asset_tag", d.Spec.AssetTag, current.Spec.AssetTag},
		{"spec.owner", d.Spec.Owner, current.Spec.Owner},
		{"spec.source", d.Spec.Source, current.Spec.Source},
		{"spec.credential", d.Spec.Credential, current.Spec.Credential},
		{"spec.frozen", d.Spec.Frozen, current.Spec.Frozen},
		{"spec.baseline", d.Spec.Baseline, current.Spec.Baseline},
		{"spec.evidence", d.Spec.Evidence, current.Spec.Evidence},
		{"spec.collected_data", d.Spec.CollectedData, current.Spec.CollectedData},
		{"spec.create_time", d.Spec.CreateTime, current.Spec.CreateTime},
		{"spec.update_time", d.Spec.UpdateTime, current.Spec.UpdateTime},
		{"spec.last_seen_time", d.Spec.LastSeenTime, current.Spec.LastSeenTime},
	} {
		if reflect.ValueOf(field.got).IsZero() {
			continue
		}
		same, err := sameJSON(field.got, field.want)
		if err != nil {
			return err
		}
		if !same && (field.name == "spec.os_type" || field.name == "spec.asset_tag") {
			return api.Refuse(connect.CodeInvalidArgument, "%s cannot be changed: it says which machine the device is", field.name).
				WithHint("Register the other machine: dtctl devices add; and remove this device if it is gone: dtctl devices rm")
		}
		if !same {
			return api.Refuse(connect.CodeInvalidArgument, "%s is set by the server and cannot be changed", field.name).
				WithHint("Leave it as it is, or out")
		}
	}
	return nil
}

// sameJSON compares what documents say: times without their zones' names,
// empty lists as absent ones.
func sameJSON(a, b any) (bool, error) {
	x, err := json.Marshal(a)
	if err != nil {
		return false, fmt.Errorf("devices: %w", err)
	}
	y, err := json.Marshal(b)
	if err != nil {
		return false, fmt.Errorf("devices: %w", err)
	}
	return bytes.Equal(x, y), nil
}
