package devices

import (
	"errors"
	"strings"
	"testing"

	"connectrpc.com/connect"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"devicetrust/api"
	"devicetrust/audit/event"
	"devicetrust/resource"
	"devicetrust/store"
	"devicetrust/store/storetest"
)

func TestManyDevicesAreRegisteredAtOnce(t *testing.T) {
	storetest.Run(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db)
		documents := fleet(0, 900)
		const id = "9cdfc0ad-64b7-4d9c-8a9c-000000000002"
		documents[7].Metadata.Name, documents[7].Metadata.Labels = id, map[string]string{"room": "7"}
		got, err := w.CreateAll(t.Context(), admin, documents, Bulk{})
		if err != nil || got != (Changed{Created: 900}) {
			t.Fatalf("%+v, %v", got, err)
		}
		if n := len(w.events(t, event.DeviceCreate)); n != 900 {
			t.Errorf("%d were recorded as created", n)
		}
		// Each is as Create would have made it.
		one, err := w.Create(t.Context(), admin, fleet(900, 1)[0])
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range documents {
			stored := w.device(t, d.Spec.AssetTag)
			want := one
			want.Spec.AssetTag, want.Metadata.Labels = d.Spec.AssetTag, d.Metadata.Labels
			if diff := cmp.Diff(want, stored, cmpopts.IgnoreFields(resource.Metadata{}, "Name")); diff != "" {
				t.Fatal(diff)
			}
			if want := d.Metadata.Name; want != "" && stored.Metadata.Name != want || len(stored.Metadata.Name) != 36 {
				t.Errorf("its ID is %q, want %q", stored.Metadata.Name, want)
			}
		}
		if all := w.labels(t, Filter{Source: "manual"}, 100); len(all) != 901 {
			t.Errorf("%d are listed", len(all))
		}
	})
}

// enrolled registers a device and makes it alice's.
func (w *world) enrolled(t testing.TB, tag string) resource.Device {
	t.Helper()
	d := add(t, w, "linux", tag)
	w.set(t, d, func(s *resource.DeviceSpec) {
		s.EnrollStatus, s.Owner, s.Credential = resource.Enrolled, alice, &resource.Credential{ID: "c" + tag}
	})
	return w.device(t, tag)
}

func TestOfManyDevicesAllAreRegisteredOrNone(t *testing.T) {
	storetest.Run(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db)
		w.withUsers()
		there := w.enrolled(t, "THERE1")
		before := w.all(t)
		for name, c := range map[string]struct {
			spoil   func(all []resource.Device)
			replace bool
			code    connect.Code
			want    string
		}{
			"a tag that is registered": {
				func(all []resource.Device) { all[600].Spec.AssetTag = "THERE1" }, false,
				connect.CodeAlreadyExists, "document 601: device THERE1/linux is registered already, as " + there.Metadata.Name,
			},
			"an ID that is registered": {
				func(all []resource.Device) { all[3].Metadata.Name = there.Metadata.Name }, false,
				connect.CodeAlreadyExists, "document 4: device " + there.Metadata.Name + " is registered already, as THERE1/linux",
			},
			"a tag twice": {
				func(all []resource.Device) { all[9].Spec.AssetTag = all[2].Spec.AssetTag }, true,
				connect.CodeInvalidArgument, "documents 3 and 10 are both device",
			},
			"an ID twice": {
				func(all []resource.Device) {
					all[1].Metadata.Name = "9cdfc0ad-64b7-4d9c-8a9c-000000000001"
					all[4].Metadata.Name = all[1].Metadata.Name
				}, false,
				connect.CodeInvalidArgument, "documents 2 and 5 both have the ID",
			},
			"an unknown system": {
				func(all []resource.Device) { all[0].Spec.OSType = "amiga" }, false,
				connect.CodeInvalidArgument, `document 1: unknown operating system "amiga"`,
			},
			"a junk tag": {
				func(all []resource.Device) { all[0].Spec.AssetTag = "None" }, true,
				connect.CodeInvalidArgument, "document 1: asset tag",
			},
			"an owner": {
				func(all []resource.Device) { all[5].Spec.Owner = bob }, false,
				connect.CodeInvalidArgument, "document 6: spec.owner is set by the server",
			},
			"an owner who does not exist": {
				func(all []resource.Device) { all[5].Spec.Owners = []string{"mallory"} }, false,
				connect.CodeInvalidArgument, `document 6: user "mallory" does not exist`,
			},
			"an owner who does not exist, with replace": {
				func(all []resource.Device) { all[620].Spec.Owners = []string{"mallory"} }, true,
				connect.CodeInvalidArgument, `document 621: user "mallory" does not exist`,
			},
			"an ID that is none": {
				func(all []resource.Device) { all[5].Metadata.Name = "mine" }, true,
				connect.CodeInvalidArgument, `document 6: metadata.name "mine" is not a device's ID`,
			},
			"enrolled": {
				func(all []resource.Device) { all[5].Spec.EnrollStatus = resource.Enrolled }, false,
				connect.CodeInvalidArgument, "document 6: spec.enroll_status cannot be set",
			},
			"another's owner, with replace": {
				func(all []resource.Device) { all[5].Spec.AssetTag, all[5].Spec.Owner = "THERE1", bob }, true,
				connect.CodeInvalidArgument, "document 6: spec.owner is set by the server",
			},
			"another ID for a tag, with replace": {
				func(all []resource.Device) {
					all[5].Spec.AssetTag, all[5].Metadata.Name = "THERE1", "9cdfc0ad-64b7-4d9c-8a9c-000000000001"
				}, true,
				connect.CodeAlreadyExists, "document 6: device THERE1/linux is registered already, as " + there.Metadata.Name,
			},
			"another tag for an ID, with replace": {
				func(all []resource.Device) { all[5].Metadata.Name = there.Metadata.Name }, true,
				connect.CodeInvalidArgument, "document 6: spec.asset_tag cannot be changed: it says which machine",
			},
			"a tag that is no text, with replace": {
				func(all []resource.Device) { all[5].Spec.AssetTag = "A\x00B" }, true,
				connect.CodeInvalidArgument, "document 6: asset tag",
			},
			"a label of two lines, with replace": {
				func(all []resource.Device) {
					all[5].Spec.AssetTag, all[5].Metadata.Labels = "THERE1", map[string]string{"a": "b\nc"}
				}, true,
				connect.CodeInvalidArgument, "document 6: metadata.labels",
			},
		} {
			t.Run(name, func(t *testing.T) {
				all := fleet(0, 700)
				c.spoil(all)
				got, err := w.CreateAll(t.Context(), admin, all, Bulk{Replace: c.replace})
				wantCode(t, err, c.code, c.want)
				if diff := cmp.Diff(before, w.all(t)); diff != "" {
					t.Errorf("something was stored (%+v): %s", got, diff)
				}
			})
		}
	})
}

func TestWhatIsNoTextNamesNoDevice(t *testing.T) {
	storetest.Run(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db)
		for _, text := range []string{"A\x00B", "A\xffB"} {
			for _, ref := range []Ref{{ID: text}, {AssetTag: text}} {
				_, err := w.Find(t.Context(), ref)
				wantCode(t, err, connect.CodeNotFound, "not found")
			}
		}
	})
}

func TestMoreDevicesThanABulkHasAreRefused(t *testing.T) {
	w := newWorld(t, storetest.Open(t))
	_, err := w.CreateAll(t.Context(), admin, fleet(0, MaxBulk+1), Bulk{})
	wantCode(t, err, connect.CodeInvalidArgument, "50001 devices are more than 50000")
}

func TestManyDevicesAreReplacedAsOneIs(t *testing.T) {
	storetest.Run(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db)
		kept, leaves := w.enrolled(t, "KEPT01"), w.enrolled(t, "LEAVES1")
		note := func(d resource.Device) resource.Device {
			d.Metadata.Labels = map[string]string{"room": "7"}
			return d
		}
		byID, byTag := note(kept), fleet(0, 1)[0]
		byTag.Spec.AssetTag, byTag.Spec.EnrollStatus = "LEAVES1", resource.NotEnrolled
		var ended []string
		got, err := w.CreateAll(t.Context(), admin, append(fleet(5, 3), byID, byTag), Bulk{
			Replace: true,
			Ended:   func(_ *store.Tx, id string) error { ended = append(ended, id); return nil },
		})
		if err != nil || got != (Changed{Created: 3, Updated: 2}) {
			t.Fatalf("%+v, %v", got, err)
		}
		if diff := cmp.Diff([]string{leaves.Metadata.Name}, ended); diff != "" {
			t.Errorf("ended: %s", diff)
		}
		now := w.device(t, "KEPT01")
		want := note(kept)
		want.Metadata.Revision, want.Spec.UpdateTime = "3", now.Spec.UpdateTime
		if diff := cmp.Diff(want, now); diff != "" {
			t.Error(diff)
		}
		if d := w.device(t, "LEAVES1"); d.Spec.EnrollStatus != resource.NotEnrolled || d.Spec.Credential != nil || d.Spec.Owner != "" || d.Metadata.Name != leaves.Metadata.Name {
			t.Errorf("%+v", d)
		}
		updates := w.events(t, event.DeviceUpdate)
		if len(updates) != 2 || updates[0].User != admin || strings.Join(updates[1].Reasons, "") != "unenrolled" {
			t.Errorf("recorded: %+v", updates)
		}
		broken := errors.New("not now")
		_, err = w.CreateAll(t.Context(), admin, []resource.Device{func() resource.Device {
			d := byTag
			d.Spec.AssetTag = "KEPT01"
			return d
		}()}, Bulk{Replace: true, Ended: func(*store.Tx, string) error { return broken }})
		if !errors.Is(err, broken) {
			t.Errorf("got %v, want that it does not happen", err)
		}
		if d := w.device(t, "KEPT01"); d.Spec.EnrollStatus != resource.Enrolled {
			t.Error("it was unenrolled")
		}
	})
}

func TestManyThatCannotBeRecordedAreNotRegistered(t *testing.T) {
	storetest.Run(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db)
		breakLog(t, w)
		_, err := w.CreateAll(t.Context(), admin, fleet(0, 10), Bulk{})
		var r *api.Refusal
		if err == nil || errors.As(err, &r) {
			t.Errorf("got %v, want an error of ours", err)
		}
		if all := w.all(t); len(all) != 0 {
			t.Errorf("%d devices are there", len(all))
		}
	})
}

// A device with all of its reports is much larger than a document that
// replaces it, and there may be MaxBulk.
func TestDevicesThatAreReplacedAreHeldAFewAtATime(t *testing.T) {
	w := newWorld(t, storetest.Open(t))
	documents := fleet(0, 2*maxLookup+7)
	if _, err := w.CreateAll(t.Context(), admin, documents, Bulk{}); err != nil {
		t.Fatal(err)
	}
	all := &bulk{Inventory: w.Inventory, Bulk: Bulk{Replace: true}, actor: admin, documents: documents}
	if err := w.db.Write(t.Context(), all.run); err != nil || all.changed.Updated != len(documents) {
		t.Fatalf("%+v, %v", all.changed, err)
	}
	if len(all.updates) > maxLookup {
		t.Errorf("%d are held at once", len(all.updates))
	}
}
