package devices

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"iter"
	"reflect"
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
	// MaxDeletePercent of the source's devices.
	DeleteMissing    bool
	MaxDeletePercent int
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
			for _, rec := range page {
				if err := r.takeOne(tx, rec, counts); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func (r *syncRun) takeOne(tx *store.Tx, rec SyncRecord, counts *SyncCounts) error {
	counts.Seen++
	if err := checkSynced(rec); err != nil {
		counts.skip(rec, err.Error())
		return nil
	}
	found, err := find(tx, `asset_tag = $1 AND os_type = $2`, rec.AssetTag, rec.OSType)
	if err != nil {
		return err
	}
	if len(found) == 0 {
		counts.Created++
		return r.create(tx, rec)
	}
	d := found[0]
	if d.Spec.Source == nil || *d.Spec.Source != r.plan.Source {
		counts.skip(rec, fmt.Sprintf("device %s is not of this source, and stays as it is", label(d)))
		return nil
	}
	return r.compare(tx, d, rec, counts)
}

func (r *syncRun) create(tx *store.Tx, rec SyncRecord) error {
	device := r.blank(NewDevice{OSType: rec.OSType, AssetTag: rec.AssetTag, Source: &r.plan.Source})
	device.Spec.Profile = rec.profile()
	device, err := r.register(tx, r.actor, device)
	if err != nil {
		return err
	}
	return r.mark(tx, device.Metadata.Name, rec)
}

// compare brings d up to date. A system can have several records of one
// machine, of before and after it was set up again: the newest counts,
// whatever their order, or the device would change to and fro at each run.
func (r *syncRun) compare(tx *store.Tx, d resource.Device, rec SyncRecord, counts *SyncCounts) error {
	run, said, err := lastSync(tx, d.Metadata.Name)
	if err != nil {
		return err
	}
	older := !rec.Profile.UpdateTime.IsZero() && rec.Profile.UpdateTime.Before(said)
	same, err := sameProfile(d.Spec.Profile, rec.profile())
	if err != nil {
		return err
	}
	if older || same {
		if run == r.id {
			counts.skip(rec, fmt.Sprintf("device %s is in the source twice; the newest counts", label(d)))
			return nil
		}
		counts.Unchanged++
		if older {
			rec.Profile.UpdateTime = said
		}
		return r.mark(tx, d.Metadata.Name, rec)
	}
	wanted := d
	wanted.Spec.EnrollStatus, wanted.Spec.Profile = "", rec.profile()
	if _, err := r.change(tx, r.actor, d, wanted, nil); err != nil {
		return err
	}
	counts.Updated++
	return r.mark(tx, d.Metadata.Name, rec)
}

// lastSync is the run that saw a device last, and the time of what it was
// told.
func lastSync(tx *store.Tx, id string) (run string, said time.Time, err error) {
	var micros int64
	err = tx.QueryRow(`SELECT run, said_at FROM device_sync WHERE device_id = $1`, id).Scan(&run, &micros)
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return "", time.Time{}, fmt.Errorf("devices: %w", err)
	}
	return run, store.Time(micros), nil
}

// mark notes that this run has seen a device.
func (r *syncRun) mark(tx *store.Tx, id string, rec SyncRecord) error {
	_, err := tx.Exec(`INSERT INTO device_sync (device_id, source, origin, run, said_at) VALUES ($1, $2, $3, $4, $5)
		ON CONFLICT (device_id) DO UPDATE SET source = excluded.source, origin = excluded.origin,
			run = excluded.run, said_at = excluded.said_at`,
		id, r.plan.Source.Name, r.plan.Source.Origin, r.id, store.Micros(rec.Profile.UpdateTime))
	if err != nil {
		return fmt.Errorf("devices: %w", err)
	}
	return nil
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

func checkSynced(rec SyncRecord) error {
	if err := checkOS(rec.OSType); err != nil {
		return err
	}
	if err := assettag.Valid(rec.AssetTag); err != nil {
		return err
	}
	if t := rec.Profile.UpdateTime; !t.IsZero() && (t.UTC().Year() < 1970 || t.UTC().Year() > 9999) {
		return fmt.Errorf("its update_time is no time")
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
	missing, all, err := r.countMissing(ctx)
	if err != nil || missing == 0 {
		return err
	}
	if !r.plan.DeleteMissing {
		r.counts.problem(fmt.Sprintf("%d devices are no longer in the source, and are kept (on_missing: noop)", missing))
		return nil
	}
	if missing*100 > all*int64(r.plan.MaxDeletePercent) {
		return api.Refuse(connect.CodeFailedPrecondition, "%d of the %d devices of %s are missing, and more than %d%% are not deleted at once: nothing is",
			missing, all, r.plan.Source.Name, r.plan.MaxDeletePercent).
			WithHint("If they are really gone, raise max_delete_percent of the source for one run")
	}
	for last, more := "", true; more; {
		if last, more, err = r.deleteMissing(ctx, last); err != nil {
			return err
		}
	}
	return nil
}

func (r *syncRun) countMissing(ctx context.Context) (missing, all int64, err error) {
	err = r.db.Read(ctx, func(tx *store.Tx) error {
		err := tx.QueryRow(`SELECT count(*), coalesce(sum(CASE WHEN run <> $3 THEN 1 ELSE 0 END), 0)
			FROM device_sync WHERE source = $1 AND origin = $2`,
			r.plan.Source.Name, r.plan.Source.Origin, r.id).Scan(&all, &missing)
		if err != nil {
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
