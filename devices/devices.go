// Package devices says which machine it is: the inventory of machines, the
// tokens that enroll them, and the server's half of the two ceremonies in
// which a machine's TPM proves itself. The machine's half is devices/tpm;
// docs/attestation.md says what is proved.
package devices

import (
	"context"
	"fmt"
	"strings"
	"time"

	"connectrpc.com/connect"
	"github.com/google/uuid"

	"devicetrust/api"
	"devicetrust/audit"
	"devicetrust/audit/event"
	"devicetrust/devices/assettag"
	"devicetrust/resource"
	"devicetrust/store"
)

// Inventory is the cluster's devices. Its methods may be called from many
// goroutines, and by several processes on one store.
type Inventory struct {
	db      *store.DB
	log     *audit.Log
	cluster string
	now     func() time.Time
	seats   *seats

	// UsersExist is asked in each transaction that makes users the owners of
	// a device whether there are such; nil refuses all owners. EndFor ends in
	// such a transaction what a device gave to a user who is taken out; nil
	// lets nobody be. Both are set before the inventory is used.
	UsersExist func(tx *store.Tx, names []string) error
	EndFor     func(tx *store.Tx, id, user string) error
}

// New returns the inventory kept in db.
func New(db *store.DB, log *audit.Log, cluster string, now func() time.Time) *Inventory {
	return &Inventory{db: db, log: log, cluster: cluster, now: now, seats: newSeats()}
}

// Ref names a device by one of its two names.
type Ref struct{ ID, AssetTag string }

func (r Ref) String() string {
	if r.ID != "" {
		return r.ID
	}
	return r.AssetTag
}

// NewDevice is what is known of a machine that is registered.
type NewDevice struct {
	// OSType is linux, macos or windows.
	OSType   string
	AssetTag string
	// Source is where the registration came from; nil is by hand.
	Source *resource.DeviceSource
}

// Operating systems, as resources and the wire name them.
const (
	osLinux   = "linux"
	osMacOS   = "macos"
	osWindows = "windows"
)

// byHand is the source of what an administrator registers.
var byHand = resource.DeviceSource{Name: "manual", Origin: "api"}

// bySelf is the source of what a person registers for the machine in front of
// them.
var bySelf = resource.DeviceSource{Name: "self", Origin: "api"}

// Add registers a machine. It is refused where the OS is unknown, the tag
// names no machine (CodeInvalidArgument) or is registered already
// (CodeAlreadyExists).
func (i *Inventory) Add(ctx context.Context, actor string, d NewDevice) (device resource.Device, err error) {
	err = i.db.Write(ctx, func(tx *store.Tx) error {
		device, err = i.register(tx, actor, i.blank(d))
		return err
	})
	return device, err
}

// AddWithToken is Add and CreateToken in one: both happen, or neither.
func (i *Inventory) AddWithToken(ctx context.Context, actor string, d NewDevice, ttl time.Duration) (device resource.Device, token Token, err error) {
	err = i.db.Write(ctx, func(tx *store.Tx) error {
		if device, err = i.register(tx, actor, i.blank(d)); err != nil {
			return err
		}
		token, err = i.issueToken(tx, actor, device, ttl)
		return err
	})
	return device, token, err
}

// blank is the document of a machine that nothing else is known of.
func (i *Inventory) blank(d NewDevice) resource.Device {
	return resource.Device{
		// IDs that are made one after another stand together in the index.
		Header: resource.Header{Metadata: resource.Metadata{Name: uuid.Must(uuid.NewV7()).String()}},
		Spec:   resource.DeviceSpec{OSType: d.OSType, AssetTag: d.AssetTag, Source: d.Source},
	}
}

// register checks and stores device as a new one.
func (i *Inventory) register(tx *store.Tx, actor string, device resource.Device) (resource.Device, error) {
	if err := i.complete(&device); err != nil {
		return resource.Device{}, err
	}
	same, err := find(tx, `asset_tag = $1 AND os_type = $2`, device.Spec.AssetTag, device.Spec.OSType)
	if err != nil {
		return resource.Device{}, err
	}
	if len(same) > 0 {
		return resource.Device{}, taken(device, same[0])
	}
	if err := insert(tx, &device); err != nil {
		return resource.Device{}, err
	}
	if err := i.listOwners(tx, device); err != nil {
		return resource.Device{}, err
	}
	_, err = i.log.Record(tx, created(actor, device))
	return device, err
}

func created(actor string, d resource.Device) event.Event {
	return event.Event{Type: event.DeviceCreate, User: actor, Success: true, Device: described(d)}
}

// complete checks what a new device is called and fills in what the server
// says of it.
func (i *Inventory) complete(device *resource.Device) error {
	if err := checkOS(device.Spec.OSType); err != nil {
		return err
	}
	if err := assettag.Valid(device.Spec.AssetTag); err != nil {
		return api.Refuse(connect.CodeInvalidArgument, "%v", err).
			WithHint("dtsh device asset-tag, on the machine itself, says its tag")
	}
	device.Kind, device.Version = resource.KindDevice, version
	device.Spec.EnrollStatus = resource.NotEnrolled
	if device.Spec.Source == nil {
		source := byHand
		device.Spec.Source = &source
	}
	now := i.instant()
	device.Spec.CreateTime, device.Spec.UpdateTime = now, now
	return nil
}

func checkOS(os string) error {
	switch os {
	case osLinux, osMacOS, osWindows:
		return nil
	default:
		return api.Refuse(connect.CodeInvalidArgument, "unknown operating system %.32q: want linux, macos or windows", os)
	}
}

// Get finds a device in tx. A tag that machines of several operating systems
// share is refused with their names (CodeFailedPrecondition); what is not
// there is CodeNotFound.
func (i *Inventory) Get(tx *store.Tx, ref Ref) (resource.Device, error) {
	var found []resource.Device
	var err error
	switch {
	case ref.ID != "" && ref.AssetTag == "":
		found, err = find(tx, `id = $1`, ref.ID)
	case ref.ID == "" && ref.AssetTag != "":
		found, err = find(tx, `asset_tag = $1`, ref.AssetTag)
	default:
		return resource.Device{}, api.Refuse(connect.CodeInvalidArgument, "a device is named by its ID or by its asset tag, one of the two")
	}
	if err != nil {
		return resource.Device{}, err
	}
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		return resource.Device{}, api.Refuse(connect.CodeNotFound, "device %.80q not found", ref.String()).
			WithHint("dtctl devices ls shows the devices that are registered")
	default:
		return resource.Device{}, ambiguous(ref.AssetTag, found)
	}
}

func ambiguous(tag string, found []resource.Device) error {
	var names []string
	for _, d := range found {
		names = append(names, fmt.Sprintf("%s (%s)", label(d), d.Metadata.Name))
	}
	return api.Refuse(connect.CodeFailedPrecondition, "asset tag %q is that of %d devices: %s", tag, len(found), strings.Join(names, ", ")).
		WithHint("Name the device by its ID")
}

// Find is Get in a transaction of its own.
func (i *Inventory) Find(ctx context.Context, ref Ref) (device resource.Device, err error) {
	err = i.db.Read(ctx, func(tx *store.Tx) error {
		device, err = i.Get(tx, ref)
		return err
	})
	return device, err
}

// Resolve gives the Ref of what a person calls a device: its ID where there is
// one of that ID, else its asset tag. It does not say that there is one.
func (i *Inventory) Resolve(tx *store.Tx, name string) (Ref, error) {
	found, err := find(tx, `id = $1`, name)
	if err != nil {
		return Ref{}, err
	}
	if len(found) == 1 {
		return Ref{ID: name}, nil
	}
	return Ref{AssetTag: name}, nil
}

// Remove takes a device out of the inventory, with its tokens. inTx, where not
// nil, ends in the same transaction what the device gave.
func (i *Inventory) Remove(ctx context.Context, actor string, ref Ref, inTx func(tx *store.Tx, id string) error) (device resource.Device, err error) {
	err = i.db.Write(ctx, func(tx *store.Tx) error {
		if device, err = i.Get(tx, ref); err != nil {
			return err
		}
		return i.remove(tx, actor, device, inTx)
	})
	return device, err
}

func (i *Inventory) remove(tx *store.Tx, actor string, d resource.Device, inTx func(tx *store.Tx, id string) error) error {
	if err := i.end(tx, d.Metadata.Name, inTx); err != nil {
		return err
	}
	if _, err := tx.Exec(`DELETE FROM devices WHERE id = $1`, d.Metadata.Name); err != nil {
		return fmt.Errorf("devices: %w", err)
	}
	_, err := i.log.Record(tx, event.Event{Type: event.DeviceDelete, User: actor, Success: true, Device: described(d)})
	return err
}

// end voids a device's tokens and has inTx end the rest.
func (i *Inventory) end(tx *store.Tx, id string, inTx func(tx *store.Tx, id string) error) error {
	if _, err := tx.Exec(`DELETE FROM device_tokens WHERE device_id = $1`, id); err != nil {
		return fmt.Errorf("devices: %w", err)
	}
	if inTx == nil {
		return nil
	}
	return inTx(tx, id)
}

// instant is now as the store keeps it.
func (i *Inventory) instant() time.Time { return i.now().Truncate(time.Microsecond).UTC() }

// label is how a device is called in messages: TAG/os.
func label(d resource.Device) string { return d.Spec.AssetTag + "/" + d.Spec.OSType }

// described is d in an audit record.
func described(d resource.Device) *event.Device {
	e := &event.Device{DeviceID: d.Metadata.Name, AssetTag: d.Spec.AssetTag, OSType: d.Spec.OSType}
	if d.Spec.Credential != nil {
		e.CredentialID = d.Spec.Credential.ID
	}
	return e
}
