package devices

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"reflect"
	"slices"
	"strings"
	"time"

	"connectrpc.com/connect"
	"github.com/google/uuid"

	"devicetrust/api"
	"devicetrust/audit/event"
	"devicetrust/devices/assettag"
	"devicetrust/resource"
	"devicetrust/store"
)

// SyncRecord is what a device management system says of one machine.
type SyncRecord struct {
	// OSType is linux, macos or windows; one with another is skipped.
	OSType   string
	AssetTag string
	Profile  resource.DeviceProfile
	// Place is where it stands, for people: "page 3, id 17", "line 12".
	Place string
}

// SyncPlan is how a source is taken over.
type SyncPlan struct {
	Source resource.DeviceSource
	// Full says that the source gives all that it has, so that what it does
	// not give is missing.
	Full bool
	// DeleteMissing deletes what is missing, unless that is more than
	// MaxDeletePercent of the source's devices: of those from before this run,
	// and of those from before LastFull, the end of the last full run that
	// succeeded; zero is never.
	DeleteMissing    bool
	MaxDeletePercent int
	LastFull         time.Time
	// Stands, where not nil, is asked in each transaction whether this run may
	// still write.
	Stands func(tx *store.Tx) error
	// Ended, where not nil, ends in the same transaction what a deleted device
	// gave.
	Ended func(tx *store.Tx, id string) error
	// Progress, where not nil, hears of each page that was written.
	Progress func(SyncCounts)
}

// SyncCounts is what a run did. Each record that was seen is one of created,
// updated, unchanged and skipped.
type SyncCounts struct {
	Seen, Created, Updated, Unchanged, Skipped int64
	// Deleted are devices that the source no longer has.
	Deleted int64
	// Problems name the first records that were skipped, and why.
	Problems []string
}

// Sync takes over what a source says, page by page, each in one transaction.
// New machines are registered; of those that the same source registered, the
// profile is replaced where it differs. Devices of another source, those
// registered by hand among them, stay as they are. Where pages gives an error
// the run ends with it: what was written before stays, and nothing is deleted.
// The run is recorded, however it ends.
func (i *Inventory) Sync(ctx context.Context, actor string, plan SyncPlan, pages iter.Seq2[[]SyncRecord, error]) (SyncCounts, error) {
	r := &syncRun{Inventory: i, actor: actor, plan: plan, id: uuid.NewString()}
	err := r.take(ctx, pages)
	if err == nil && plan.Full {
		err = r.settleMissing(ctx)
	}
	return r.counts, errors.Join(err, i.log.RecordAlone(ctx, r.record(err)))
}

type syncRun struct {
	*Inventory
	actor  string
	plan   SyncPlan
	id     string
	counts SyncCounts
}

func (r *syncRun) record(err error) event.Event {
	e := event.Event{
		Type: event.DeviceSync, User: r.actor, Name: r.plan.Source.Name, Kind: r.plan.Source.Origin, Success: err == nil,
		Reasons: append([]string{r.kind(), r.counts.String()}, r.counts.Problems...),
	}
	if err != nil {
		e.Message = err.Error()
	}
	return e
}

func (r *syncRun) kind() string {
	if r.plan.Full {
		return "full"
	}
	return "partial"
}

func (c SyncCounts) String() string {
	return fmt.Sprintf("%d seen, %d created, %d updated, %d unchanged, %d deleted, %d skipped",
		c.Seen, c.Created, c.Updated, c.Unchanged, c.Deleted, c.Skipped)
}

// write is a transaction of the run. What fn counts counts once it stands.
func (r *syncRun) write(ctx context.Context, fn func(tx *store.Tx, counts *SyncCounts) error) error {
	var counts SyncCounts
	err := r.db.Write(ctx, func(tx *store.Tx) error {
		counts = r.counts
		if r.plan.Stands != nil {
			if err := r.plan.Stands(tx); err != nil {
				return err
			}
		}
		return fn(tx, &counts)
	})
	if err != nil {
		return err
	}
	r.counts = counts
	if r.plan.Progress != nil {
		r.plan.Progress(counts)
	}
	return nil
}

func (r *syncRun) take(ctx context.Context, pages iter.Seq2[[]SyncRecord, error]) error {
	for page, err := range pages {
		if err != nil {
			return err
		}
		err := r.write(ctx, func(tx *store.Tx, counts *SyncCounts) error {
			p := &syncPage{syncRun: r, counts: counts, there: map[key]*synced{}}
			return p.take(tx, page)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// syncPage is what a page of records makes of the inventory. The store is
// asked and told of all of them at once.
type syncPage struct {
	*syncRun
	counts *SyncCounts
	there  map[key]*synced
	seen   []*synced // by this page, in its order
	events []event.Event
}

// synced is a device that a record is about.
type synced struct {
	device resource.Device
	// run saw it last, and was told what was of the time said.
	run  string
	said time.Time
	// isNew is not stored yet; changed is not as it is stored.
	isNew, changed bool
}

func (p *syncPage) take(tx *store.Tx, page []SyncRecord) error {
	refused := make([]error, len(page))
	var usable []SyncRecord
	for i := range page {
		// As the machine itself reads its label (devices/assettag.Pick).
		page[i].AssetTag = strings.TrimSpace(page[i].AssetTag)
		if refused[i] = checkNamed(page[i]); refused[i] == nil {
			usable = append(usable, page[i])
		}
	}
	if err := p.find(tx, usable); err != nil {
		return err
	}
	for i, rec := range page {
		p.counts.Seen++
		if refused[i] != nil {
			p.counts.skip(rec, refused[i].Error())
		} else if err := p.takeOne(tx, rec); err != nil {
			return err
		}
	}
	return p.store(tx)
}

// find reads the devices that the records are about.
func (p *syncPage) find(tx *store.Tx, page []SyncRecord) error {
	var wanted []resource.Device
	for _, rec := range page {
		wanted = append(wanted, resource.Device{Spec: resource.DeviceSpec{OSType: rec.OSType, AssetTag: rec.AssetTag}})
	}
	found, err := registered(tx, wanted)
	if err != nil {
		return err
	}
	byID := map[string]*synced{}
	for k, d := range found.keys {
		byID[d.Metadata.Name] = &synced{device: d}
		p.there[k] = byID[d.Metadata.Name]
	}
	return lastSyncs(tx, byID)
}

// lastSyncs tells of each device which run saw it last.
func lastSyncs(tx *store.Tx, byID map[string]*synced) (err error) {
	for ids := range slices.Chunk(slices.Sorted(maps.Keys(byID)), maxLookup) {
		var q query
		var args []any
		for _, id := range ids {
			args = append(args, id)
		}
		q.and(`device_id IN (%s`+strings.Repeat(`, %s`, len(ids)-1)+`)`, args...)
		rows, err := tx.Query(`SELECT device_id, run, said_at FROM device_sync WHERE `+q.where(), q.args...)
		if err != nil {
			return fmt.Errorf("devices: %w", err)
		}
		for rows.Next() && err == nil {
			var id, run string
			var said int64
			if err = rows.Scan(&id, &run, &said); err == nil {
				byID[id].run, byID[id].said = run, store.Time(said)
			}
		}
		if err := errors.Join(err, rows.Err(), rows.Close()); err != nil {
			return fmt.Errorf("devices: %w", err)
		}
	}
	return nil
}

func (p *syncPage) takeOne(tx *store.Tx, rec SyncRecord) error {
	d := p.there[key{rec.AssetTag, rec.OSType}]
	unusable := checkSaid(rec)
	switch {
	case d != nil && (d.device.Spec.Source == nil || *d.device.Spec.Source != p.plan.Source):
		p.counts.skip(rec, fmt.Sprintf("device %s is not of this source, and stays as it is", label(d.device)))
	case unusable != nil:
		p.counts.skip(rec, unusable.Error())
		if d != nil { // the source has it, whatever it says of it
			p.mark(d, d.said)
		}
	case d == nil:
		return p.create(rec)
	default:
		return p.compare(tx, d, rec)
	}
	return nil
}

func (p *syncPage) create(rec SyncRecord) error {
	d := &synced{isNew: true, device: p.blank(NewDevice{OSType: rec.OSType, AssetTag: rec.AssetTag, Source: &p.plan.Source})}
	if err := p.complete(&d.device); err != nil {
		return err
	}
	d.device.Spec.Profile = rec.profile()
	p.counts.Created++
	p.events = append(p.events, created(p.actor, d.device))
	p.there[keyOf(d.device)] = d
	p.mark(d, rec.Profile.UpdateTime)
	return nil
}

// compare brings d up to date. A system can have several records of one
// machine, of before and after it was set up again: the newest counts,
// whatever their order, or the device would change to and fro at each run.
func (p *syncPage) compare(tx *store.Tx, d *synced, rec SyncRecord) error {
	older := !rec.Profile.UpdateTime.IsZero() && rec.Profile.UpdateTime.Before(d.said)
	same, err := sameProfile(d.device.Spec.Profile, rec.profile())
	if err != nil {
		return err
	}
	switch {
	case (older || same) && d.run == p.id:
		p.counts.skip(rec, fmt.Sprintf("device %s is in the source twice; the newest counts", label(d.device)))
	case older:
		p.counts.Unchanged++
		p.mark(d, d.said)
	case same:
		p.counts.Unchanged++
		p.mark(d, rec.Profile.UpdateTime)
	default:
		return p.update(tx, d, rec)
	}
	return nil
}

func (p *syncPage) update(tx *store.Tx, d *synced, rec SyncRecord) error {
	wanted := d.device
	wanted.Spec.EnrollStatus, wanted.Spec.Profile = "", rec.profile()
	e, err := p.edit(tx, &d.device, wanted, nil)
	if err != nil {
		return err
	}
	e.User = p.actor
	d.changed = true
	p.counts.Updated++
	p.events = append(p.events, e)
	p.mark(d, rec.Profile.UpdateTime)
	return nil
}

// mark notes that this run has seen d.
func (p *syncPage) mark(d *synced, said time.Time) {
	if !slices.Contains(p.seen, d) {
		p.seen = append(p.seen, d)
	}
	d.run, d.said = p.id, said
}

// store writes what was made of the page, and its records.
func (p *syncPage) store(tx *store.Tx) error {
	var inserts, updates, marks [][]any
	for _, d := range p.seen {
		var row []any
		var err error
		switch {
		case d.isNew:
			row, err = newRow(&d.device)
			inserts = append(inserts, row)
		case d.changed:
			row, err = nextRow(&d.device)
			updates = append(updates, row)
		}
		if err != nil {
			return err
		}
		marks = append(marks, []any{d.device.Metadata.Name, p.plan.Source.Name, p.plan.Source.Origin, d.run, store.Micros(d.said)})
	}
	slices.SortFunc(inserts, byTag)
	if err := insertRows(tx, inserts); err != nil {
		return err
	}
	if err := updateRows(tx, updates); err != nil {
		return err
	}
	if err := tx.InsertAll(`device_sync (device_id, source, origin, run, said_at)`, marks, `ON CONFLICT (device_id) DO UPDATE SET
		source = excluded.source, origin = excluded.origin, run = excluded.run, said_at = excluded.said_at`); err != nil {
		return fmt.Errorf("devices: %w", err)
	}
	return p.log.RecordAll(tx, p.events)
}

// profile is nil where nothing is known.
func (rec SyncRecord) profile() *resource.DeviceProfile {
	if reflect.ValueOf(rec.Profile).IsZero() {
		return nil
	}
	p := rec.Profile
	p.UpdateTime = p.UpdateTime.Truncate(time.Microsecond).UTC()
	return &p
}

// sameProfile does not look at the time: systems raise it whenever a machine
// calls, and each day would be a change of every device.
func sameProfile(a, b *resource.DeviceProfile) (bool, error) {
	var x, y resource.DeviceProfile
	if a != nil {
		x = *a
	}
	if b != nil {
		y = *b
	}
	x.UpdateTime, y.UpdateTime = time.Time{}, time.Time{}
	return sameJSON(x, y)
}

// checkNamed refuses a record that can be about no device.
func checkNamed(rec SyncRecord) error {
	if err := checkOS(rec.OSType); err != nil {
		return err
	}
	return assettag.Valid(rec.AssetTag)
}

// checkSaid refuses what cannot be taken over of a device.
func checkSaid(rec SyncRecord) error {
	if t := rec.Profile.UpdateTime; !t.IsZero() && (t.UTC().Year() < 1970 || t.UTC().Year() > 9999) {
		return errors.New("its update_time is no time")
	}
	return checkProfile(&rec.Profile)
}

func (c *SyncCounts) skip(rec SyncRecord, why string) {
	c.Skipped++
	c.problem(fmt.Sprintf("%s: %s", rec.Place, why))
}

func (c *SyncCounts) problem(text string) {
	if len(c.Problems) < maxProblems {
		c.Problems = append(c.Problems[:len(c.Problems):len(c.Problems)], text)
	}
}

// settleMissing deals with the devices of the source that a whole run did not
// see.
func (r *syncRun) settleMissing(ctx context.Context) error {
	if r.counts.Seen == 0 {
		return api.Refuse(connect.CodeFailedPrecondition, "%s has no devices at all, so none is taken for missing", r.plan.Source.Name).
			WithHint("Check the source's filter, and what its account may see")
	}
	missing, all, err := r.countMissing(ctx, time.Time{})
	if err != nil || missing == 0 {
		return err
	}
	if !r.plan.DeleteMissing {
		r.counts.problem(fmt.Sprintf("%d devices are no longer in the source, and are kept (on_missing: noop)", missing))
		return nil
	}
	if err := r.notTooMany(ctx, missing, all); err != nil {
		return err
	}
	for last, more := "", true; more; {
		if last, more, err = r.deleteMissing(ctx, last); err != nil {
			return err
		}
	}
	return nil
}

// notTooMany refuses to delete missing of all devices where that is too many.
// What this run registered, or one that failed before it, does not make up for
// them: a source that writes its serial numbers in another way has as many new
// devices as it lost.
func (r *syncRun) notTooMany(ctx context.Context, missing, all int64) (err error) {
	all -= r.counts.Created
	if missing*100 <= all*int64(r.plan.MaxDeletePercent) && !r.plan.LastFull.IsZero() {
		missing, all, err = r.countMissing(ctx, r.plan.LastFull)
	}
	if err != nil || missing*100 <= all*int64(r.plan.MaxDeletePercent) {
		return err
	}
	return api.Refuse(connect.CodeFailedPrecondition, "%d of the %d devices of %s are missing, and more than %d%% are not deleted at once: nothing is",
		missing, all, r.plan.Source.Name, r.plan.MaxDeletePercent).
		WithHint("If they are really gone, raise max_delete_percent of the source for one run")
}

// countMissing counts the devices of the source that this run did not see, and
// all of them; where before is not zero, of those that were registered then.
func (r *syncRun) countMissing(ctx context.Context, before time.Time) (missing, all int64, err error) {
	query := `SELECT count(*), coalesce(sum(CASE WHEN run <> $3 THEN 1 ELSE 0 END), 0) FROM device_sync WHERE source = $1 AND origin = $2`
	args := []any{r.plan.Source.Name, r.plan.Source.Origin, r.id}
	if !before.IsZero() {
		query += ` AND EXISTS (SELECT 1 FROM devices WHERE id = device_id AND created_at <= $4)`
		args = append(args, store.Micros(before))
	}
	err = r.db.Read(ctx, func(tx *store.Tx) error {
		if err := tx.QueryRow(query, args...).Scan(&all, &missing); err != nil {
			return fmt.Errorf("devices: %w", err)
		}
		return nil
	})
	return missing, all, err
}

// deleteMissing deletes the next missing devices after the ID after; more
// tells whether there may be others behind last.
func (r *syncRun) deleteMissing(ctx context.Context, after string) (last string, more bool, err error) {
	err = r.write(ctx, func(tx *store.Tx, counts *SyncCounts) error {
		missing, err := find(tx, `id IN (SELECT device_id FROM device_sync
			WHERE source = $1 AND origin = $2 AND run <> $3 AND device_id > $4 ORDER BY device_id LIMIT $5)`,
			r.plan.Source.Name, r.plan.Source.Origin, r.id, after, deleteBatch)
		if err != nil {
			return err
		}
		for _, d := range missing {
			last = max(last, d.Metadata.Name)
			// What device_sync says is a note; the document is what holds.
			if d.Spec.Source == nil || *d.Spec.Source != r.plan.Source {
				continue
			}
			if err := r.remove(tx, r.actor, d, r.plan.Ended); err != nil {
				return err
			}
			counts.Deleted++
		}
		more = len(missing) == deleteBatch
		return nil
	})
	return last, more, err
}
