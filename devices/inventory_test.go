package devices

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/types/known/timestamppb"

	"devicetrust/api"
	"devicetrust/api/dtv1"
	"devicetrust/audit/event"
	"devicetrust/resource"
	"devicetrust/store"
	"devicetrust/store/storetest"
)

func add(t testing.TB, w *world, os, tag string) resource.Device {
	t.Helper()
	d, err := w.Add(t.Context(), admin, NewDevice{OSType: os, AssetTag: tag})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func wantCode(t testing.TB, err error, code connect.Code, text string) {
	t.Helper()
	wantRefusal(t, err, text)
	var r *api.Refusal
	if errors.As(err, &r) && r.Code != code {
		t.Errorf("refused with %v, want %v", r.Code, code)
	}
}

func TestADeviceIsRegisteredOnce(t *testing.T) {
	storetest.Run(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db)
		d := add(t, w, "linux", testTag)
		if d.Kind != "device" || d.Version != "v1" || d.Spec.EnrollStatus != resource.NotEnrolled || !d.Spec.CreateTime.Equal(w.clock) {
			t.Errorf("got %+v", d)
		}
		if diff := cmp.Diff(d, w.device(t, testTag)); diff != "" {
			t.Errorf("another comes back: %s", diff)
		}
		want := &event.Device{DeviceID: d.Metadata.Name, AssetTag: testTag, OSType: "linux"}
		if e := w.lastEvent(t, event.DeviceCreate); e.User != admin || e.Code != "TV001I" || !cmp.Equal(e.Device, want) {
			t.Errorf("the record is %+v", e)
		}
		_, err := w.Add(t.Context(), admin, NewDevice{OSType: "linux", AssetTag: testTag})
		wantCode(t, err, connect.CodeAlreadyExists, "device PF2ABCDE/linux is registered already")
		if r, ok := errors.AsType[*api.Refusal](err); !ok || r.Hint != "Give it a token: dtctl devices enroll --device-id="+d.Metadata.Name {
			t.Errorf("the remedy is %+v", r)
		}
		_, err = w.Add(t.Context(), admin, NewDevice{OSType: "beos", AssetTag: testTag})
		wantCode(t, err, connect.CodeInvalidArgument, `unknown operating system "beos"`)
		_, err = w.Add(t.Context(), admin, NewDevice{OSType: "linux", AssetTag: "Default string"})
		wantCode(t, err, connect.CodeInvalidArgument, "Default string")
		if n := len(w.events(t, event.DeviceCreate)); n != 1 {
			t.Errorf("%d were recorded as created", n)
		}
	})
}

func TestATagOnTwoSystemsIsNoName(t *testing.T) {
	storetest.Run(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db)
		linux, windows := add(t, w, "linux", testTag), add(t, w, "windows", testTag)
		_, err := w.Find(t.Context(), Ref{AssetTag: testTag})
		wantCode(t, err, connect.CodeFailedPrecondition, "PF2ABCDE/linux ("+linux.Metadata.Name+"), PF2ABCDE/windows ("+windows.Metadata.Name+")")
		got, err := w.Find(t.Context(), Ref{ID: windows.Metadata.Name})
		if err != nil || got.Spec.OSType != "windows" {
			t.Errorf("by its ID: %+v, %v", got, err)
		}
		_, err = w.Find(t.Context(), Ref{AssetTag: "ANOTHER1"})
		wantCode(t, err, connect.CodeNotFound, `device "ANOTHER1" not found`)
		for _, ref := range []Ref{{}, {ID: "x", AssetTag: "y"}} {
			_, err = w.Find(t.Context(), ref)
			wantCode(t, err, connect.CodeInvalidArgument, "one of the two")
		}
	})
}

func TestADeviceIsCalledByItsIDOrItsTag(t *testing.T) {
	w := newWorld(t, storetest.Open(t))
	d := add(t, w, "linux", testTag)
	for name, want := range map[string]Ref{d.Metadata.Name: {ID: d.Metadata.Name}, testTag: {AssetTag: testTag}} {
		err := w.db.Read(t.Context(), func(tx *store.Tx) error {
			got, err := w.Resolve(tx, name)
			if got != want {
				t.Errorf("%s is %+v", name, got)
			}
			return err
		})
		if err != nil {
			t.Error(err)
		}
	}
}

func TestARemovedDeviceIsGoneWithItsTokensAndWhatItGave(t *testing.T) {
	storetest.Run(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db)
		d, token, err := w.AddWithToken(t.Context(), admin, NewDevice{OSType: "linux", AssetTag: testTag}, 0)
		if err != nil {
			t.Fatal(err)
		}
		failing := errors.New("the certificates cannot be revoked")
		_, err = w.Remove(t.Context(), admin, Ref{AssetTag: testTag}, func(*store.Tx, string) error { return failing })
		if !errors.Is(err, failing) {
			t.Errorf("got %v", err)
		}
		w.device(t, testTag) // still there

		var ended string
		removed, err := w.Remove(t.Context(), admin, Ref{AssetTag: testTag}, func(_ *store.Tx, id string) error { ended = id; return nil })
		if err != nil || ended != d.Metadata.Name || removed.Metadata.Name != ended {
			t.Errorf("ended %q: %v", ended, err)
		}
		if e := w.lastEvent(t, event.DeviceDelete); e.Device == nil || e.Device.DeviceID != ended {
			t.Errorf("the record is %+v", e)
		}
		_, err = w.Remove(t.Context(), admin, Ref{AssetTag: testTag}, nil)
		wantCode(t, err, connect.CodeNotFound, "not found")

		// Registered anew, it does not inherit the token.
		add(t, w, "linux", testTag)
		_, _, err = w.spendToken(t.Context(), alice, testAddr, token.Token)
		wantRefusal(t, err, "never given")
	})
}

func TestTokensAreKeptAsDigestsAndExpire(t *testing.T) {
	storetest.Run(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db)
		d := add(t, w, "linux", testTag)
		token, err := w.CreateToken(t.Context(), admin, Ref{AssetTag: testTag}, 0)
		if err != nil {
			t.Fatal(err)
		}
		if token.DeviceID != d.Metadata.Name || token.AssetTag != testTag || !token.Expires.Equal(w.clock.Add(time.Hour)) || len(token.Token) != 43 {
			t.Errorf("got %+v", token)
		}
		err = db.Read(t.Context(), func(tx *store.Tx) error {
			var hash []byte
			err := tx.QueryRow(`SELECT hash FROM device_tokens`).Scan(&hash)
			if want := sha256.Sum256([]byte(token.Token)); !bytes.Equal(hash, want[:]) {
				t.Error("the token is not kept as its digest")
			}
			return err
		})
		if err != nil {
			t.Error(err)
		}
		e := w.lastEvent(t, event.DeviceTokenCreate)
		if !e.Success || e.Code != "TV003I" || e.Device == nil || !e.ValidUntil.Equal(token.Expires) {
			t.Errorf("the record is %+v", e)
		}
		for _, ttl := range []time.Duration{-1, time.Millisecond, maxTokenTTL + 1} {
			_, err = w.CreateToken(t.Context(), admin, Ref{AssetTag: testTag}, ttl)
			wantCode(t, err, connect.CodeInvalidArgument, "cannot live for")
		}
		_, err = w.CreateToken(t.Context(), admin, Ref{AssetTag: "ANOTHER1"}, 0)
		wantCode(t, err, connect.CodeNotFound, "not found")

		if got, _, err := w.spendToken(t.Context(), alice, testAddr, token.Token); err != nil || got.Metadata.Name != d.Metadata.Name {
			t.Errorf("spent: %+v, %v", got, err)
		}
		_, _, err = w.spendToken(t.Context(), alice, testAddr, token.Token)
		wantRefusal(t, err, "was used")
	})
}

func TestAPersonRegistersTheMachineInFrontOfThem(t *testing.T) {
	storetest.Run(t, func(t *testing.T, db *store.DB) {
		w, m := newWorld(t, db), newMachine(t)
		first, err := w.RegisterCurrent(t.Context(), alice, m.data)
		if err != nil {
			t.Fatal(err)
		}
		d := w.device(t, testTag)
		if d.Metadata.Name != first.DeviceID || d.Spec.Source == nil || d.Spec.Source.Name != "self" {
			t.Errorf("registered %+v", d)
		}
		again, err := w.RegisterCurrent(t.Context(), alice, m.data)
		if err != nil || again.DeviceID != first.DeviceID {
			t.Errorf("again: %+v, %v", again, err)
		}
		if err := w.enrollWith(t, m, enrollment{token: again.Token}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.RegisterCurrent(t.Context(), alice, m.data); err != nil {
			t.Errorf("by its owner: %v", err)
		}
		_, err = w.RegisterCurrent(t.Context(), bob, m.data)
		wantCode(t, err, connect.CodePermissionDenied, "enrolled by another user")
		e := w.lastEvent(t, event.DeviceTokenCreate)
		if e.Success || e.User != bob || e.Message == "" || e.Device == nil || e.Device.DeviceID != first.DeviceID {
			t.Errorf("the record is %+v", e)
		}
		for _, data := range []*dtv1.DeviceData{
			nil, {}, {OsType: "linux"}, {OsType: "linux", AssetTag: "None"}, {OsType: "dos", AssetTag: testTag},
			{OsType: "linux", AssetTag: testTag, Hostname: "a\nb"},
			{OsType: "linux", AssetTag: testTag, CollectTime: &timestamppb.Timestamp{Seconds: 1 << 60}},
			{OsType: "linux", AssetTag: testTag, CollectTime: &timestamppb.Timestamp{Seconds: -1 << 40}},
		} {
			if _, err := w.RegisterCurrent(t.Context(), alice, data); err == nil {
				t.Errorf("%v was registered", data)
			} else {
				wantCode(t, err, connect.CodeInvalidArgument, "")
			}
		}
	})
}

func TestADocumentRegistersADevice(t *testing.T) {
	storetest.Run(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db)
		doc := resource.Device{Spec: resource.DeviceSpec{OSType: "linux", AssetTag: testTag, Profile: &resource.DeviceProfile{ModelIdentifier: "X1"}}}
		doc.Metadata.Labels = map[string]string{"site": "berlin"}
		d, err := w.Create(t.Context(), admin, doc)
		if err != nil {
			t.Fatal(err)
		}
		if d.Spec.Profile.ModelIdentifier != "X1" || d.Metadata.Labels["site"] != "berlin" || d.Metadata.Name == "" {
			t.Errorf("got %+v", d)
		}
		if diff := cmp.Diff(d, w.device(t, testTag)); diff != "" {
			t.Error(diff)
		}

		named := doc
		named.Metadata.Name, named.Spec.AssetTag = "9cdfc0ad-64b7-4d9c-8a1e-0123456789ab", "ANOTHER1"
		if d, err = w.Create(t.Context(), admin, named); err != nil || d.Metadata.Name != named.Metadata.Name {
			t.Errorf("with a name: %+v, %v", d, err)
		}
		named.Spec.AssetTag = "ANOTHER2"
		_, err = w.Create(t.Context(), admin, named)
		wantCode(t, err, connect.CodeAlreadyExists, "registered already, as ANOTHER1/linux")

		for name, change := range map[string]func(*resource.Device){
			"metadata.name":       func(d *resource.Device) { d.Metadata.Name = "laptop" },
			"metadata.expires":    func(d *resource.Device) { d.Metadata.Expires = w.clock },
			"metadata.labels":     func(d *resource.Device) { d.Metadata.Labels = map[string]string{"a": "b\x1b"} },
			"metadata.descript":   func(d *resource.Device) { d.Metadata.Description = "a\nb" },
			"spec.owner":          func(d *resource.Device) { d.Spec.Owner = alice },
			"spec.source":         func(d *resource.Device) { d.Spec.Source = &resource.DeviceSource{Name: "jamf"} },
			"spec.credential":     func(d *resource.Device) { d.Spec.Credential = &resource.Credential{ID: "x"} },
			"spec.collected_data": func(d *resource.Device) { d.Spec.CollectedData = make([]resource.CollectedData, 1) },
			"spec.create_time":    func(d *resource.Device) { d.Spec.CreateTime = w.clock },
			"spec.update_time":    func(d *resource.Device) { d.Spec.UpdateTime = w.clock },
			"spec.last_seen_time": func(d *resource.Device) { d.Spec.LastSeenTime = w.clock },
			"spec.enroll_status":  func(d *resource.Device) { d.Spec.EnrollStatus = resource.Enrolled },
			"spec.profile":        func(d *resource.Device) { d.Spec.Profile = &resource.DeviceProfile{OSVersion: "a\nb"} },
			"placeholder":         func(d *resource.Device) { d.Spec.AssetTag = "None" },
			"operating system":    func(d *resource.Device) { d.Spec.OSType = "" },
		} {
			bad := resource.Device{Spec: resource.DeviceSpec{OSType: "linux", AssetTag: "ANOTHER3"}}
			change(&bad)
			_, err := w.Create(t.Context(), admin, bad)
			wantCode(t, err, connect.CodeInvalidArgument, name)
		}
	})
}

func TestAnAdministratorEditsADevice(t *testing.T) {
	storetest.Run(t, func(t *testing.T, db *store.DB) {
		w, m := newWorld(t, db), newMachine(t)
		w.enroll(t, m, alice, Trust{})
		before := w.device(t, testTag)
		w.pass(time.Minute)

		edited := before
		edited.Metadata.Description, edited.Spec.Profile = "the reception's", &resource.DeviceProfile{OSBuild: "1"}
		after, err := w.Update(t.Context(), admin, edited, before.Metadata.Revision, nil)
		if err != nil {
			t.Fatal(err)
		}
		if after.Metadata.Description != "the reception's" || after.Spec.Profile.OSBuild != "1" || after.Spec.Owner != alice || !after.Spec.UpdateTime.Equal(w.clock) {
			t.Errorf("got %+v", after)
		}
		if diff := cmp.Diff(after, w.device(t, testTag)); diff != "" {
			t.Error(diff)
		}
		e := w.lastEvent(t, event.DeviceUpdate)
		if want := []string{"description, profile.os_build changed"}; e.User != admin || e.Device.DeviceID != after.Metadata.Name || !cmp.Equal(e.Reasons, want) {
			t.Errorf("the record is %+v", e)
		}
		_, err = w.Update(t.Context(), admin, edited, before.Metadata.Revision, nil)
		wantCode(t, err, connect.CodeAborted, "was changed in the meantime")

		for name, change := range map[string]func(*resource.Device){
			"spec.os_type":        func(d *resource.Device) { d.Spec.OSType = "windows" },
			"spec.asset_tag":      func(d *resource.Device) { d.Spec.AssetTag = "ANOTHER1" },
			"spec.owner":          func(d *resource.Device) { d.Spec.Owner = bob },
			"spec.credential":     func(d *resource.Device) { c := *d.Spec.Credential; c.ID = "x"; d.Spec.Credential = &c },
			"spec.collected_data": func(d *resource.Device) { d.Spec.CollectedData = make([]resource.CollectedData, 1) },
			"spec.create_time":    func(d *resource.Device) { d.Spec.CreateTime = w.clock },
			"spec.enroll_status":  func(d *resource.Device) { d.Spec.EnrollStatus = "trusted" },
			"not found":           func(d *resource.Device) { d.Metadata.Name = "x" },
		} {
			bad := w.device(t, testTag)
			change(&bad)
			_, err := w.Update(t.Context(), admin, bad, "", nil)
			wantRefusal(t, err, name)
		}
	})
}

func TestUnenrollingEndsWhatTheDeviceGave(t *testing.T) {
	storetest.Run(t, func(t *testing.T, db *store.DB) {
		w, m := newWorld(t, db), newMachine(t)
		w.enroll(t, m, alice, Trust{})
		d := w.device(t, testTag)
		token, err := w.CreateToken(t.Context(), admin, Ref{ID: d.Metadata.Name}, 0)
		if err != nil {
			t.Fatal(err)
		}
		var ended []string
		inTx := func(_ *store.Tx, id string) error { ended = append(ended, id); return nil }
		if _, err := w.Update(t.Context(), admin, d, "", inTx); err != nil || len(ended) != 0 {
			t.Errorf("an edit that unenrolls nothing ended %q: %v", ended, err)
		}
		d = w.device(t, testTag)
		d.Spec.EnrollStatus = resource.NotEnrolled
		after, err := w.Update(t.Context(), admin, d, "", inTx)
		if err != nil {
			t.Fatal(err)
		}
		if after.Spec.EnrollStatus != resource.NotEnrolled || after.Spec.Owner != "" || after.Spec.Credential != nil {
			t.Errorf("got %+v", after.Spec)
		}
		if diff := cmp.Diff([]string{d.Metadata.Name}, ended); diff != "" {
			t.Error(diff)
		}
		_, err = w.loginWith(t, m, login{})
		wantCode(t, err, connect.CodeNotFound, "not enrolled in example, or not any more")
		wantRefusal(t, w.enrollWith(t, m, enrollment{token: token.Token}), "never given")

		d = w.device(t, testTag)
		d.Spec.EnrollStatus = resource.Enrolled
		_, err = w.Update(t.Context(), admin, d, "", inTx)
		wantCode(t, err, connect.CodeInvalidArgument, "only the enrollment ceremony")
	})
}

func TestTheDevicesOfAUserWhoGoesAreUnenrolled(t *testing.T) {
	storetest.Run(t, func(t *testing.T, db *store.DB) {
		w, m, other := newWorld(t, db), newMachine(t), newMachine(t)
		other.data.AssetTag = "ANOTHER1"
		w.enroll(t, m, alice, Trust{})
		w.enroll(t, other, bob, Trust{})
		id := w.device(t, testTag).Metadata.Name
		owned := func() (ids []string) {
			err := db.Read(t.Context(), func(tx *store.Tx) (err error) {
				ids, err = w.OwnedBy(tx, alice)
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
			return ids
		}
		if diff := cmp.Diff([]string{id}, owned()); diff != "" {
			t.Error(diff)
		}
		var ended []string
		err := db.Write(t.Context(), func(tx *store.Tx) error {
			return w.Disown(tx, admin, alice, func(_ *store.Tx, id string) error { ended = append(ended, id); return nil })
		})
		if err != nil || len(owned()) != 0 || !cmp.Equal(ended, []string{id}) {
			t.Errorf("ended %q, still owned %q: %v", ended, owned(), err)
		}
		if d := w.device(t, "ANOTHER1"); d.Spec.Owner != bob {
			t.Errorf("another user's device is %+v", d.Spec)
		}
	})
}
