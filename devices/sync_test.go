package devices

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/google/go-cmp/cmp"

	"devicetrust/audit/event"
	"devicetrust/resource"
	"devicetrust/store"
	"devicetrust/store/storetest"
)

var testSource = resource.DeviceSource{Name: "jamf", Origin: "jamf"}

// macRecord is a record of a Mac, as it was reported at the given hour of a day.
func macRecord(tag, version string, hour int) SyncRecord {
	return SyncRecord{OSType: "macos", AssetTag: tag, Place: "id " + tag, Profile: resource.DeviceProfile{
		ExternalID: "1", OSVersion: version, UpdateTime: time.Date(2026, 1, 1, hour, 0, 0, 0, time.UTC),
	}}
}

func pages(all ...[]SyncRecord) iter.Seq2[[]SyncRecord, error] {
	return func(yield func([]SyncRecord, error) bool) {
		for _, page := range all {
			if !yield(page, nil) {
				return
			}
		}
	}
}

// breaking are pages that end with an error.
func breaking(err error, all ...[]SyncRecord) iter.Seq2[[]SyncRecord, error] {
	return func(yield func([]SyncRecord, error) bool) {
		for page := range pages(all...) {
			if !yield(page, nil) {
				return
			}
		}
		yield(nil, err)
	}
}

func full() SyncPlan {
	return SyncPlan{Source: testSource, Full: true, DeleteMissing: true, MaxDeletePercent: 50}
}

func (w *world) sync(t *testing.T, plan SyncPlan, records ...SyncRecord) SyncCounts {
	t.Helper()
	counts, err := w.Sync(t.Context(), "mdm:jamf", plan, pages(slices.Collect(slices.Chunk(records, 2))...))
	if err != nil {
		t.Fatal(err)
	}
	return counts
}

func wantCounts(t *testing.T, got SyncCounts, want string) {
	t.Helper()
	if got.String() != want {
		t.Errorf("got  %s\nwant %s\nproblems: %q", got, want, got.Problems)
	}
}

func tags(t *testing.T, w *world) string {
	t.Helper()
	all, _, err := w.ListPage(t.Context(), Filter{}, Page{Size: MaxPage})
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, d := range all {
		found = append(found, d.Spec.AssetTag)
	}
	return strings.Join(found, " ")
}

func TestAFullSyncRegistersUpdatesAndDeletes(t *testing.T) {
	storetest.Run(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db)
		wantCounts(t, w.sync(t, full(), macRecord("MAC1", "14.1", 1), macRecord("MAC2", "14.1", 1), macRecord("MAC3", "14.1", 1)),
			"3 seen, 3 created, 0 updated, 0 unchanged, 0 deleted, 0 skipped")
		d := w.device(t, "MAC1")
		if diff := cmp.Diff(&testSource, d.Spec.Source); diff != "" || d.Spec.EnrollStatus != resource.NotEnrolled {
			t.Errorf("registered as %+v", d.Spec)
		}
		if p := macRecord("MAC1", "14.1", 1).Profile; !cmp.Equal(d.Spec.Profile, &p) {
			t.Errorf("its profile is %+v", d.Spec.Profile)
		}

		var ended []string
		plan := full()
		plan.Ended = func(_ *store.Tx, id string) error { ended = append(ended, id); return nil }
		gone := w.device(t, "MAC3")
		wantCounts(t, w.sync(t, plan, macRecord("MAC1", "14.2", 2), macRecord("MAC2", "14.1", 2)),
			"2 seen, 0 created, 1 updated, 1 unchanged, 1 deleted, 0 skipped")
		if got := w.device(t, "MAC1").Spec.Profile.OSVersion; got != "14.2" {
			t.Errorf("the version is %q", got)
		}
		if !slices.Equal(ended, []string{gone.Metadata.Name}) {
			t.Errorf("ended %q, want what %s gave", ended, gone.Metadata.Name)
		}
		if e := w.lastEvent(t, event.DeviceDelete); e.User != "mdm:jamf" || e.Device.AssetTag != "MAC3" {
			t.Errorf("recorded as %+v", e)
		}
		if n := len(w.events(t, event.DeviceUpdate)); n != 1 {
			t.Errorf("%d updates were recorded, one was made", n)
		}
		e := w.lastEvent(t, event.DeviceSync)
		want := []string{"full", "2 seen, 0 created, 1 updated, 1 unchanged, 1 deleted, 0 skipped"}
		if !e.Success || e.Name != "jamf" || !slices.Equal(e.Reasons, want) {
			t.Errorf("the run was recorded as %+v", e)
		}
	})
}

func TestDevicesOfAnotherSourceAreNeverTouched(t *testing.T) {
	storetest.Run(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db)
		add(t, w, "macos", "MANUAL1")
		other := full()
		other.Source = resource.DeviceSource{Name: "other", Origin: "jamf"}
		w.sync(t, other, macRecord("OTHER1", "14.1", 1))
		namesake := full()
		namesake.Source.Origin = "file"
		w.sync(t, namesake, macRecord("FILE1", "14.1", 1))

		counts := w.sync(t, full(), macRecord("MANUAL1", "1", 1), macRecord("OTHER1", "1", 1), macRecord("FILE1", "1", 1), macRecord("MAC1", "1", 1))
		wantCounts(t, counts, "4 seen, 1 created, 0 updated, 0 unchanged, 0 deleted, 3 skipped")
		if want := "id MANUAL1: device MANUAL1/macos is not of this source, and stays as it is"; counts.Problems[0] != want {
			t.Errorf("got %q, want %q", counts.Problems[0], want)
		}
		plan := full()
		plan.MaxDeletePercent = 100
		wantCounts(t, w.sync(t, plan, macRecord("MAC2", "1", 1)), "1 seen, 1 created, 0 updated, 0 unchanged, 1 deleted, 0 skipped")
		if got := tags(t, w); got != "FILE1 MAC2 MANUAL1 OTHER1" {
			t.Errorf("there are %s", got)
		}
		if d := w.device(t, "MANUAL1"); d.Spec.Source.Name != "manual" || d.Spec.Profile != nil {
			t.Errorf("the one registered by hand is %+v", d.Spec)
		}
	})
}

// The note of a run is no reason to delete: what counts is the document.
func TestADeviceThatOnlyANoteGivesToTheSourceIsKept(t *testing.T) {
	storetest.Run(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db)
		d := add(t, w, "macos", "MANUAL1")
		err := db.Write(t.Context(), func(tx *store.Tx) error {
			_, err := tx.Exec(`INSERT INTO device_sync (device_id, source, origin, run, said_at) VALUES ($1, 'jamf', 'jamf', 'x', 0)`, d.Metadata.Name)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		plan := full()
		plan.MaxDeletePercent = 100
		wantCounts(t, w.sync(t, plan, macRecord("MAC1", "1", 1), macRecord("MAC2", "1", 1)), "2 seen, 2 created, 0 updated, 0 unchanged, 0 deleted, 0 skipped")
		if got := tags(t, w); got != "MAC1 MAC2 MANUAL1" {
			t.Errorf("there are %s", got)
		}
	})
}

func TestWhatIsNotAWholeFullSyncDeletesNothing(t *testing.T) {
	storetest.Run(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db)
		three := []SyncRecord{macRecord("MAC1", "1", 1), macRecord("MAC2", "1", 1), macRecord("MAC3", "1", 1)}
		w.sync(t, full(), three...)
		noop, partial := full(), full()
		noop.DeleteMissing, partial.Full = false, false
		counts := w.sync(t, noop, three[0])
		wantCounts(t, counts, "1 seen, 0 created, 0 updated, 1 unchanged, 0 deleted, 0 skipped")
		if want := "2 devices are no longer in the source, and are kept (on_missing: noop)"; !slices.Equal(counts.Problems, []string{want}) {
			t.Errorf("told %q, want %q", counts.Problems, want)
		}
		w.sync(t, partial, three[0])

		lost := errors.New("the connection was lost")
		stale := full()
		stale.Stands = func(*store.Tx) error { return errors.New("another run has taken over") }
		cancelled, cancel := context.WithCancel(t.Context())
		for _, tt := range []struct {
			name, want string
			ctx        context.Context
			plan       SyncPlan
			pages      iter.Seq2[[]SyncRecord, error]
		}{
			{"it broke off", "the connection was lost", t.Context(), full(), breaking(lost, three[:2])},
			{"it gave nothing", "jamf has no devices at all", t.Context(), full(), pages()},
			{"too many are missing", "2 of the 3 devices of jamf are missing, and more than 50% are not deleted at once: nothing is", t.Context(), full(), pages(three[:1])},
			{"its lease is lost", "another run has taken over", t.Context(), stale, pages(three[:2])},
			{"it was cancelled", "context canceled", cancelled, full(), func(yield func([]SyncRecord, error) bool) {
				yield(three[:2], nil)
				cancel()
			}},
		} {
			t.Run(tt.name, func(t *testing.T) {
				_, err := w.Sync(tt.ctx, admin, tt.plan, tt.pages)
				if err == nil || !strings.Contains(err.Error(), tt.want) {
					t.Errorf("got %v, want %q", err, tt.want)
				}
				if got := tags(t, w); got != "MAC1 MAC2 MAC3" {
					t.Errorf("there are %s", got)
				}
				if e := w.lastEvent(t, event.DeviceSync); e.Success || e.Code != "DT112E" || !strings.Contains(e.Message, tt.want) {
					t.Errorf("recorded as %+v", e)
				}
			})
		}
		if _, err := w.Sync(t.Context(), admin, full(), pages(three[:1])); err != nil {
			wantCode(t, err, connect.CodeFailedPrecondition, "are missing")
		}
	})
}

// A source that writes its serial numbers in another way, or is another one at
// the same address, has as many new devices as it lost.
func TestNewDevicesDoNotMakeUpForMissingOnes(t *testing.T) {
	storetest.Run(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db)
		w.sync(t, full(), macRecord("MAC1", "1", 1), macRecord("MAC2", "1", 1))
		plan := full()
		plan.LastFull = w.instant()
		w.pass(time.Hour)
		for range 2 { // what the first registered is no newer the second time
			_, err := w.Sync(t.Context(), admin, plan, pages([]SyncRecord{macRecord("mac1", "1", 1), macRecord("mac2", "1", 1), macRecord("mac3", "1", 1)}))
			wantCode(t, err, connect.CodeFailedPrecondition, "2 of the 2 devices of jamf are missing")
			if got := tags(t, w); got != "MAC1 MAC2 mac1 mac2 mac3" {
				t.Errorf("there are %s", got)
			}
		}
	})
}

// What a source says of a machine may be of no use, and the machine is there.
func TestADeviceWhoseRecordCannotBeUsedIsNotMissing(t *testing.T) {
	storetest.Run(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db)
		w.sync(t, full(), macRecord("MAC1", "1", 1), macRecord("MAC2", "1", 1), macRecord("MAC3", "1", 1))
		rude, timeless := macRecord("MAC1", "1\x1b[2J", 2), macRecord("MAC2", "2", 1)
		timeless.Profile.UpdateTime = time.Date(10001, 1, 1, 0, 0, 0, 0, time.UTC)
		counts := w.sync(t, full(), macRecord("MAC3", "1", 1), rude, timeless)
		wantCounts(t, counts, "3 seen, 0 created, 0 updated, 1 unchanged, 0 deleted, 2 skipped")
		if got := tags(t, w); got != "MAC1 MAC2 MAC3" {
			t.Errorf("there are %s", got)
		}
		if got := w.device(t, "MAC1").Spec.Profile.OSVersion; got != "1" {
			t.Errorf("the version is %q", got)
		}
	})
}

func TestRecordsThatCannotBeUsedAreSkippedAndTheFirstAreNamed(t *testing.T) {
	storetest.Run(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db)
		phone, junk, rude, timeless := macRecord("PHONE1", "1", 1), macRecord("Default string", "1", 1), macRecord("RUDE1", "1\x1b[2J", 1), macRecord("TIME1", "1", 1)
		phone.OSType, timeless.Profile.UpdateTime = "ios", time.Date(10001, 1, 1, 0, 0, 0, 0, time.UTC)
		counts := w.sync(t, full(), phone, junk, rude, timeless, macRecord(" MAC1\n", "1", 1))
		wantCounts(t, counts, "5 seen, 1 created, 0 updated, 0 unchanged, 0 deleted, 4 skipped")
		for i, want := range []string{`id PHONE1: unknown operating system "ios"`, `id Default string: asset tag "Default string"`, `id RUDE1: spec.profile: "1\x1b[2J"`, `id TIME1: its update_time`} {
			if !strings.HasPrefix(counts.Problems[i], want) {
				t.Errorf("got %q, want %q", counts.Problems[i], want)
			}
		}
		many := []SyncRecord{macRecord("MAC1", "1", 1)}
		for n := range 2 * maxProblems {
			r := macRecord("", "1", 1)
			r.Place = fmt.Sprintf("line %d", n)
			many = append(many, r)
		}
		if counts := w.sync(t, full(), many...); len(counts.Problems) != maxProblems || counts.Skipped != 2*maxProblems {
			t.Errorf("%d are named, of %d", len(counts.Problems), counts.Skipped)
		}
	})
}

func TestTheNewestOfSeveralRecordsOfOneMachineCounts(t *testing.T) {
	storetest.Run(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db)
		older, newer := macRecord("MAC1", "13.0", 1), macRecord("MAC1", "14.0", 2)
		wantCounts(t, w.sync(t, full(), older, newer), "2 seen, 1 created, 1 updated, 0 unchanged, 0 deleted, 0 skipped")
		for _, records := range [][]SyncRecord{{older, newer}, {newer, older}} {
			counts := w.sync(t, full(), records...)
			wantCounts(t, counts, "2 seen, 0 created, 0 updated, 1 unchanged, 0 deleted, 1 skipped")
			if got := w.device(t, "MAC1").Spec.Profile.OSVersion; got != "14.0" {
				t.Errorf("the version is %q", got)
			}
			if want := "id MAC1: device MAC1/macos is in the source twice; the newest counts"; !slices.Equal(counts.Problems, []string{want}) {
				t.Errorf("got %q", counts.Problems)
			}
		}
	})
}

func TestAPageThatIsNotStoredIsNotCounted(t *testing.T) {
	w := newWorld(t, storetest.Open(t))
	plan, n := full(), 0
	plan.Stands = func(*store.Tx) error {
		if n++; n > 1 {
			return errors.New("no more")
		}
		return nil
	}
	var heard []int64
	plan.Progress = func(c SyncCounts) { heard = append(heard, c.Seen) }
	counts, err := w.Sync(t.Context(), admin, plan, pages([]SyncRecord{macRecord("MAC1", "1", 1)}, []SyncRecord{macRecord("MAC2", "1", 1)}))
	if err == nil || counts.Seen != 1 || !slices.Equal(heard, []int64{1}) || tags(t, w) != "MAC1" {
		t.Errorf("got %v, %s; heard %d; there are %s", err, counts, heard, tags(t, w))
	}
}
