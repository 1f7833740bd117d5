package devices

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"connectrpc.com/connect"
	"github.com/google/go-cmp/cmp"

	"devicetrust/api"
	"devicetrust/audit/event"
	"devicetrust/identity"
	"devicetrust/resource"
	"devicetrust/store"
	"devicetrust/store/storetest"
)

const carol = "carol"

// withUsers has the world know alice, bob and carol, and gives what is ended.
func (w *world) withUsers() (ended *[]string) {
	ended = &[]string{}
	w.UsersExist = func(_ *store.Tx, names []string) error {
		if rest := without(names, []string{alice, bob, carol}); len(rest) > 0 {
			return api.Refuse(connect.CodeInvalidArgument, "user %q does not exist", rest[0])
		}
		return nil
	}
	w.EndFor = func(_ *store.Tx, id, user string) error {
		*ended = append(*ended, id+" "+user)
		return nil
	}
	return ended
}

// own sets the owners of the device with the test's tag.
func (w *world) own(t testing.TB, owners ...string) error {
	t.Helper()
	d := w.device(t, testTag)
	d.Spec.Owners = owners
	_, err := w.Update(t.Context(), admin, d, "", nil)
	return err
}

func (w *world) ownedBy(t testing.TB, user string) (ids []string) {
	t.Helper()
	err := w.db.Read(t.Context(), func(tx *store.Tx) (err error) {
		ids, err = w.OwnedBy(tx, user)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return ids
}

func TestADeviceSpeaksForItsOwnersToo(t *testing.T) {
	storetest.Run(t, func(t *testing.T, db *store.DB) {
		w, m := newWorld(t, db), newMachine(t)
		ended := w.withUsers()
		w.enroll(t, m, alice, Trust{})
		id := w.device(t, testTag).Metadata.Name
		_, err := w.loginWith(t, m, login{user: bob})
		wantCode(t, err, connect.CodePermissionDenied, "enrolled by another user")

		if err := w.own(t, bob, carol); err != nil {
			t.Fatal(err)
		}
		v, err := w.loginWith(t, m, login{user: bob})
		if err != nil {
			t.Fatal(err)
		}
		stands := func() error {
			return db.Read(t.Context(), func(tx *store.Tx) error { return w.StillStands(tx, v) })
		}
		if err := stands(); err != nil {
			t.Error(err)
		}
		if _, err := w.loginWith(t, m, login{user: alice}); err != nil {
			t.Errorf("who enrolled it: %v", err)
		}
		if got := w.ownedBy(t, bob); !cmp.Equal(got, []string{id}) {
			t.Errorf("bob owns %q", got)
		}

		// Out of the list, what he had ends, and nothing else.
		if err := w.own(t, carol); err != nil {
			t.Fatal(err)
		}
		if want := []string{id + " bob"}; !cmp.Equal(*ended, want) {
			t.Errorf("ended %q, want %q", *ended, want)
		}
		wantRefusal(t, stands(), "enrolled by another user")
		if got := w.ownedBy(t, bob); got != nil {
			t.Errorf("bob owns %q", got)
		}
		if e := w.lastEvent(t, event.DeviceUpdate); !cmp.Equal(e.Reasons, []string{"not an owner any more: bob"}) {
			t.Errorf("the record is %+v", e)
		}
	})
}

func TestOwnersComeWithManyDevicesToo(t *testing.T) {
	storetest.Run(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db)
		w.withUsers()
		document := func(tag string, owners ...string) resource.Device {
			return resource.Device{Spec: resource.DeviceSpec{OSType: "linux", AssetTag: tag, Owners: owners}}
		}
		_, err := w.CreateAll(t.Context(), admin, []resource.Device{document("SHARED1", bob), document("SHARED2", "dave")}, Bulk{})
		wantCode(t, err, connect.CodeInvalidArgument, `user "dave" does not exist`)
		if _, err := w.CreateAll(t.Context(), admin, []resource.Device{document("SHARED1", bob), document("SHARED2")}, Bulk{}); err != nil {
			t.Fatal(err)
		}
		if got := w.labels(t, Filter{Owner: bob}, 10); !cmp.Equal(got, []string{"SHARED1/linux"}) {
			t.Errorf("bob is listed for %q", got)
		}
	})
}

func TestALoginCountsWithADeviceThatSpeaksForIt(t *testing.T) {
	d := resource.Device{Spec: resource.DeviceSpec{
		AssetTag: testTag, EnrollStatus: resource.Enrolled, Owner: alice, Owners: []string{bob}, Credential: &resource.Credential{ID: "c"},
	}}
	d.Metadata.Name = "id"
	for user, want := range map[string]bool{alice: true, bob: true, carol: false, "": false} {
		if device, _, err := Counts(d, user); (err == nil) != want || (device.CredentialID == "c") != want {
			t.Errorf("%q: %+v, %v", user, device, err)
		}
	}
	for name, change := range map[string]func(*resource.DeviceSpec){
		"not enrolled":  func(s *resource.DeviceSpec) { s.EnrollStatus = resource.NotEnrolled },
		"no credential": func(s *resource.DeviceSpec) { s.Credential = nil },
		"frozen":        func(s *resource.DeviceSpec) { s.Frozen = &resource.DeviceFreeze{} },
	} {
		changed := d
		change(&changed.Spec)
		if device, _, err := Counts(changed, alice); err == nil || device != (identity.Device{}) {
			t.Errorf("%s: it counts", name)
		}
	}
}

func TestWhoEnrolledADeviceStaysItsOwner(t *testing.T) {
	w, m := newWorld(t, storetest.Open(t)), newMachine(t)
	ended := w.withUsers()
	w.enroll(t, m, alice, Trust{})
	if err := w.own(t, alice, bob); err != nil {
		t.Fatal(err)
	}
	if err := w.own(t); err != nil {
		t.Fatal(err)
	}
	id := w.device(t, testTag).Metadata.Name
	if want := []string{id + " bob"}; !cmp.Equal(*ended, want) {
		t.Errorf("ended %q, want %q", *ended, want)
	}
	if _, err := w.loginWith(t, m, login{user: alice}); err != nil {
		t.Error(err)
	}
}

// The one credential of a device is of use to all of its owners: an owner's
// enrollment proves it anew, and takes it from nobody.
func TestAnOwnersEnrollmentOfAnEnrolledDeviceChangesNothing(t *testing.T) {
	w, m := newWorld(t, storetest.Open(t)), newMachine(t)
	w.withUsers()
	w.enroll(t, m, alice, Trust{})
	if err := w.own(t, bob); err != nil {
		t.Fatal(err)
	}
	token := func() string {
		t.Helper()
		token, err := w.CreateToken(t.Context(), admin, Ref{AssetTag: testTag}, 0)
		if err != nil {
			t.Fatal(err)
		}
		return token.Token
	}
	first, before := m.state, w.device(t, testTag)
	m.state = filepath.Join(t.TempDir(), "device", "state.json") // of bob's account
	ended := Trust{Replaced: func(*store.Tx, string) error { return errors.New("what alice has was ended") }}
	if err := w.enrollWith(t, m, enrollment{user: bob, token: token(), trust: ended}); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(before, w.device(t, testTag)); diff != "" {
		t.Error(diff)
	}
	if e := w.lastEvent(t, event.DeviceEnroll); !e.Success || e.User != bob || len(e.Reasons) != 1 || !strings.Contains(e.Reasons[0], "enrolled already") {
		t.Errorf("the record is %+v", e)
	}
	if _, err := w.loginWith(t, m, login{user: bob}); err != nil {
		t.Errorf("bob: %v", err)
	}
	m.state = first
	if _, err := w.loginWith(t, m, login{user: alice}); err != nil {
		t.Errorf("alice: %v", err)
	}

	wantRefusal(t, w.enrollWith(t, newMachine(t), enrollment{user: bob, token: token()}), "enrolled with another TPM")
	wantRefusal(t, w.enrollWith(t, m, enrollment{user: carol, token: token()}), "enrolled by another user")
	other := newMachine(t)
	other.chip = m.chip
	w.spoilCredential(t)
	wantRefusal(t, w.enrollWith(t, other, enrollment{user: bob, token: token()}), "enrolled with another key")
}

// spoilCredential has the device be enrolled with a key that is not its TPM's.
func (w *world) spoilCredential(t testing.TB) {
	t.Helper()
	w.set(t, w.device(t, testTag), func(s *resource.DeviceSpec) { s.Credential.ID = strings.Repeat("0", 64) })
}

func TestOwnersThatCannotBeAreRefused(t *testing.T) {
	storetest.Run(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db)
		ended := w.withUsers()
		add(t, w, "linux", testTag)
		var many []string
		for n := range maxOwners + 1 {
			many = append(many, fmt.Sprintf("user-%d", n))
		}
		for text, owners := range map[string][]string{
			"spec.owners has 65 entries": many,
			"is there twice":             {bob, bob},
			"spec.owners[0]":             {"not a name\n"},
			`user "dave" does not exist`: {alice, "dave"},
		} {
			err := w.own(t, owners...)
			wantCode(t, err, connect.CodeInvalidArgument, text)
			d := resource.Device{Spec: resource.DeviceSpec{OSType: "linux", AssetTag: "ANOTHER1", Owners: owners}}
			_, err = w.Create(t.Context(), admin, d)
			wantCode(t, err, connect.CodeInvalidArgument, text)
		}
		if d := w.device(t, testTag); d.Spec.Owners != nil || len(*ended) > 0 {
			t.Errorf("owners are %q, ended %q", d.Spec.Owners, *ended)
		}
		// An owner who was one before need not be asked for again.
		if err := w.own(t, bob); err != nil {
			t.Fatal(err)
		}
		w.UsersExist = nil
		if err := w.own(t, bob); err != nil {
			t.Error(err)
		}
		if err := w.own(t, bob, carol); err == nil {
			t.Error("owners are taken whom nobody knows")
		}
		w.EndFor = nil
		if err := w.own(t); err == nil {
			t.Error("an owner is taken out, and nobody ends what he had")
		}
	})
}

func TestAUserWhoGoesIsNobodysOwnerAnyMore(t *testing.T) {
	storetest.Run(t, func(t *testing.T, db *store.DB) {
		w, m := newWorld(t, db), newMachine(t)
		w.withUsers()
		w.enroll(t, m, alice, Trust{})
		if err := w.own(t, bob, carol); err != nil {
			t.Fatal(err)
		}
		var unenrolled []string
		disown := func(user string) {
			t.Helper()
			err := db.Write(t.Context(), func(tx *store.Tx) error {
				return w.Disown(tx, admin, user, func(_ *store.Tx, id string) error { unenrolled = append(unenrolled, id); return nil })
			})
			if err != nil {
				t.Fatal(err)
			}
		}
		disown(bob)
		if d := w.device(t, testTag); !cmp.Equal(d.Spec.Owners, []string{carol}) || d.Spec.Owner != alice || unenrolled != nil {
			t.Errorf("without bob it is %+v, unenrolled %q", d.Spec, unenrolled)
		}
		disown(alice)
		if d := w.device(t, testTag); !cmp.Equal(d.Spec.Owners, []string{carol}) || d.Spec.Owner != "" || len(unenrolled) != 1 {
			t.Errorf("without alice it is %+v, unenrolled %q", d.Spec, unenrolled)
		}
		// The list is kept, and counts once somebody enrolls it.
		if got := w.ownedBy(t, carol); got != nil {
			t.Errorf("carol owns %q", got)
		}
	})
}
