package devices

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"connectrpc.com/connect"

	"devicetrust/api"
	"devicetrust/audit/event"
	"devicetrust/resource"
	"devicetrust/store"
)

// Bulk says what CreateAll does with devices that are registered already.
type Bulk struct {
	// Replace changes them as Update does, whatever their revision; else they
	// are refused.
	Replace bool
	// Ended, where not nil, ends in the same transaction what the enrollment of
	// a device gave that a document unenrolls.
	Ended func(tx *store.Tx, id string) error
}

// Changed is what CreateAll did.
type Changed struct{ Created, Updated int }

// CreateAll registers the devices of documents as Create does, all of them or
// none, with a record for each. A document is that of a device which is
// registered where it has its ID or, without one, its tag and system. The
// refusal says which document it is about, the first being document 1; two of
// one device, and more than MaxBulk, are refused (CodeInvalidArgument).
func (i *Inventory) CreateAll(ctx context.Context, actor string, documents []resource.Device, b Bulk) (Changed, error) {
	if len(documents) > MaxBulk {
		return Changed{}, api.Refuse(connect.CodeInvalidArgument, "%d devices are more than %d, which is what can be registered at once", len(documents), MaxBulk).
			WithHint("Make several files of it")
	}
	if err := noTwins(documents); err != nil {
		return Changed{}, err
	}
	all := &bulk{Inventory: i, Bulk: b, actor: actor, documents: documents}
	if !b.Replace {
		// All that can be done before the store is locked.
		if err := all.prepare(); err != nil {
			return Changed{}, err
		}
	}
	if err := i.db.Write(ctx, all.run); err != nil {
		return Changed{}, err
	}
	return all.changed, nil
}

// noTwins refuses two documents of one device.
func noTwins(documents []resource.Device) error {
	ids, keys := make(map[string]int, len(documents)), make(map[key]int, len(documents))
	for n, d := range documents {
		if first, twice := keys[keyOf(d)]; twice {
			return api.Refuse(connect.CodeInvalidArgument, "documents %d and %d are both device %.80q, %.16s", first+1, n+1, d.Spec.AssetTag, d.Spec.OSType)
		}
		keys[keyOf(d)] = n
		id := d.Metadata.Name
		if first, twice := ids[id]; twice && id != "" {
			return api.Refuse(connect.CodeInvalidArgument, "documents %d and %d both have the ID %.64q", first+1, n+1, id)
		}
		ids[id] = n
	}
	return nil
}

// about says in a refusal which document it is about.
func about(n int, err error) error {
	if r, ok := errors.AsType[*api.Refusal](err); ok {
		c := *r
		c.Message = fmt.Sprintf("document %d: %s", n+1, r.Message)
		return &c
	}
	return err
}

// bulk is one CreateAll.
type bulk struct {
	*Inventory
	Bulk
	actor     string
	documents []resource.Device

	inserts, updates [][]any
	owned            []numbered // of the inserts, those with owners
	events           []event.Event
	changed          Changed
}

// numbered is a device and the number of its document, from 0.
type numbered struct {
	n      int
	device resource.Device
}

// prepare makes the row and the record of every document.
func (b *bulk) prepare() error {
	for n, d := range b.documents {
		if err := b.create(n, d); err != nil {
			return about(n, err)
		}
	}
	return nil
}

func (b *bulk) create(n int, d resource.Device) error {
	device, err := b.proposed(d)
	if err != nil {
		return err
	}
	if err := b.complete(&device); err != nil {
		return err
	}
	row, err := newRow(&device)
	if err != nil {
		return err
	}
	b.inserts, b.events = append(b.inserts, row), append(b.events, created(b.actor, device))
	if len(device.Spec.Owners) > 0 {
		b.owned = append(b.owned, numbered{n, device})
	}
	b.changed.Created++
	return nil
}

func (b *bulk) update(tx *store.Tx, current, d resource.Device) error {
	if err := checkNotes(d); err != nil {
		return err
	}
	if err := onlyEditable(d, current); err != nil {
		return err
	}
	e, err := b.edit(tx, &current, d, b.Ended)
	if err != nil {
		return err
	}
	row, err := nextRow(&current)
	if err != nil {
		return err
	}
	e.User = b.actor
	b.updates, b.events = append(b.updates, row), append(b.events, e)
	b.changed.Updated++
	return nil
}

func (b *bulk) run(tx *store.Tx) error {
	done := 0
	for some := range slices.Chunk(b.documents, maxLookup) {
		if err := b.sort(tx, some, done); err != nil {
			return err
		}
		done += len(some)
	}
	slices.SortFunc(b.inserts, byTag)
	if err := insertRows(tx, b.inserts); err != nil {
		return err
	}
	for _, o := range b.owned {
		if err := b.listOwners(tx, o.device); err != nil {
			return about(o.n, err)
		}
	}
	return b.log.RecordAll(tx, b.events)
}

// sort decides what becomes of some documents, of which done come before. What
// is updated is written at once: with all of their reports, devices have many
// times what their documents have here, and not all of them are in memory.
func (b *bulk) sort(tx *store.Tx, some []resource.Device, done int) error {
	there, err := registered(tx, some)
	if err != nil {
		return err
	}
	if !b.Replace && len(there.ids) == 0 {
		return nil // what prepare made stands
	}
	b.updates = nil
	for n, d := range some {
		if err := b.place(tx, there, done+n, d); err != nil {
			return about(done+n, err)
		}
	}
	return updateRows(tx, b.updates)
}

func (b *bulk) place(tx *store.Tx, there inventoried, n int, d resource.Device) error {
	byKey, sameKey := there.keys[keyOf(d)]
	current, found := there.ids[d.Metadata.Name]
	switch {
	case d.Metadata.Name == "":
		current, found = byKey, sameKey
	case sameKey && byKey.Metadata.Name != d.Metadata.Name:
		return taken(d, byKey)
	}
	switch {
	case found && b.Replace:
		return b.update(tx, current, d)
	case found:
		return taken(d, current)
	case b.Replace:
		return b.create(n, d)
	}
	return nil
}

// inventoried are devices by both of their names.
type inventoried struct {
	ids  map[string]resource.Device
	keys map[key]resource.Device
}

// registered finds those devices that have the ID, or the tag and the system,
// of one of the documents.
func registered(tx *store.Tx, documents []resource.Device) (inventoried, error) {
	there := inventoried{map[string]resource.Device{}, map[key]resource.Device{}}
	for some := range slices.Chunk(documents, maxLookup) {
		var tags, ids []any
		for _, d := range some {
			tags = append(tags, d.Spec.AssetTag)
			if d.Metadata.Name != "" {
				ids = append(ids, d.Metadata.Name)
			}
		}
		for column, names := range map[string][]any{`asset_tag`: tags, `id`: ids} {
			if err := there.add(tx, column, names); err != nil {
				return inventoried{}, err
			}
		}
	}
	return there, nil
}

func (there inventoried) add(tx *store.Tx, column string, names []any) error {
	if len(names) == 0 {
		return nil
	}
	var q query
	q.and(column+` IN (%s`+strings.Repeat(`, %s`, len(names)-1)+`)`, names...)
	return scan(tx, q.where(), q.args, func(d resource.Device, _ int) bool {
		there.ids[d.Metadata.Name], there.keys[keyOf(d)] = d, d
		return true
	})
}
