package devices

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"

	"devicetrust/api/dtv1"
	"devicetrust/audit/event"
	"devicetrust/policy"
	"devicetrust/resource"
	"devicetrust/store"
	"devicetrust/store/storetest"
)

func TestWhatATPMCountsOnlyGrows(t *testing.T) {
	then := counters{reset: 4, restart: 2, clock: 1000, firmware: "1.2.3.4"}
	for _, test := range []struct {
		name string
		now  counters
		want string
	}{
		{"the same reading", then, ""},
		{"later in the same start", counters{4, 2, 1001, "1.2.3.4"}, ""},
		{"resumed", counters{4, 3, 5, "1.2.3.4"}, ""},
		{"started, with a clock that was not written down", counters{5, 0, 5, "1.2.3.4"}, ""},
		{"newer firmware", counters{5, 0, 5, "1.2.10.0"}, ""},
		{"firmware that is not known", counters{5, 0, 5, ""}, ""},
		{"rolled back", counters{3, 2, 2000, "1.2.3.4"}, "reset count of its TPM went back from 4 to 3"},
		{"cleared", counters{0, 0, 1, "1.2.3.4"}, "reset count of its TPM went back from 4 to 0"},
		{"resumed less often", counters{4, 1, 2000, "1.2.3.4"}, "restart count of its TPM went back from 2 to 1"},
		{"earlier in the same start", counters{4, 2, 999, "1.2.3.4"}, "clock (ms) of its TPM went back from 1000 to 999"},
		{"older firmware", counters{5, 0, 5, "1.2.2.9"}, "firmware version of its TPM went back from 1.2.3.4 to 1.2.2.9"},
	} {
		t.Run(test.name, func(t *testing.T) {
			got := test.now.wentBack(then)
			if test.want == "" && got != "" || !strings.Contains(got, test.want) {
				t.Errorf("%q, want %q", got, test.want)
			}
		})
	}
}

func TestAFirmwareVersionIsWrittenInOneWay(t *testing.T) {
	if got := dotted(0x2019102300163636); got != "8217.4131.22.13878" {
		t.Error(got)
	}
	if v, ok := undotted("8217.4131.22.13878"); !ok || v != 0x2019102300163636 {
		t.Errorf("%#x, %v", v, ok)
	}
	for _, text := range []string{"", "1.2.3", "1.2.3.4.5", "1.2.3.65536", "1.2.3.-1", "a.b.c.d"} {
		if _, ok := undotted(text); ok {
			t.Errorf("%q was taken", text)
		}
	}
}

func TestTwoLoginsAtTheSameTimeDoNotLookLikeARollback(t *testing.T) {
	challenged := &resource.DeviceBaseline{ResetCount: 4, ClockMillis: 1000}
	later := &resource.DeviceBaseline{ResetCount: 4, ClockMillis: 1200}
	accepted := &resource.DeviceBaseline{ResetCount: 0, ClockMillis: 10}
	for _, test := range []struct {
		name            string
		challenged, now *resource.DeviceBaseline
		shows           counters
		frozen          bool
	}{
		{"the earlier of the two", challenged, later, counters{reset: 4, clock: 1100}, false},
		{"of before both", challenged, later, counters{reset: 4, clock: 900}, true},
		{"accepted in the meantime", challenged, accepted, counters{reset: 0, clock: 20}, false},
		{"without a baseline", nil, nil, counters{}, false},
		{"with one since then", nil, later, counters{}, false},
	} {
		if why := discontinuity(test.challenged, test.now, test.shows); (why != "") != test.frozen {
			t.Errorf("%s: %q", test.name, why)
		}
	}
	b := *later
	advance(&b, counters{reset: 4, clock: 1100})
	if diff := cmp.Diff(*later, b); diff != "" {
		t.Errorf("the earlier of two readings replaced the later: %s", diff)
	}
}

// ended notes which devices' certificates were ended.
func ended(ids *[]string) func(*store.Tx, string) error {
	return func(_ *store.Tx, id string) error {
		*ids = append(*ids, id)
		return nil
	}
}

func TestADeviceWhoseTPMGoesBackInTimeIsFrozen(t *testing.T) {
	storetest.Run(t, func(t *testing.T, db *store.DB) {
		w, m := newWorld(t, db), newMachine(t)
		w.enroll(t, m, alice, Trust{})
		earlier, err := w.loginWith(t, m, login{})
		if err != nil {
			t.Fatal(err)
		}
		m.chip.Restart(t)
		if _, err := w.loginWith(t, m, login{}); err != nil {
			t.Fatal(err)
		}
		token, err := w.CreateToken(t.Context(), admin, Ref{AssetTag: testTag}, 0)
		if err != nil {
			t.Fatal(err)
		}
		m.chip.Clear(t)

		var gone []string
		_, err = w.loginWith(t, m, login{demands: Demands{Frozen: ended(&gone)}})
		wantRefusal(t, err, "is frozen: the reset count of its TPM went back from 2 to 0")
		d := w.device(t, testTag)
		if d.Spec.Frozen == nil || !d.Spec.Frozen.Time.Equal(w.clock) || d.Spec.Frozen.Reason != "the reset count of its TPM went back from 2 to 0" {
			t.Errorf("frozen: %+v", d.Spec.Frozen)
		}
		if diff := cmp.Diff([]string{d.Metadata.Name}, gone); diff != "" {
			t.Errorf("what it gave was not ended: %s", diff)
		}
		if e := w.lastEvent(t, event.DeviceFreeze); e.Device == nil || e.Device.DeviceID != d.Metadata.Name || e.Reasons[0] != d.Spec.Frozen.Reason || e.User != alice {
			t.Errorf("the record is %+v", e)
		}
		if all := w.events(t, event.DeviceAuthenticate); len(all) != 3 || all[2].Success || !strings.Contains(all[2].Message, "frozen") {
			t.Errorf("%d records, the last is %+v", len(all), all[len(all)-1])
		}

		// It stays so, on every way.
		_, err = w.loginWith(t, m, login{})
		wantRefusal(t, err, "is frozen")
		err = w.db.Read(t.Context(), func(tx *store.Tx) error { return w.StillStands(tx, earlier) })
		wantRefusal(t, err, "is frozen")
		wantRefusal(t, w.enrollWith(t, m, enrollment{token: token.Token}), "not valid")
		_, err = w.RegisterCurrent(t.Context(), alice, m.data)
		wantRefusal(t, err, "is frozen")
		if e := w.lastEvent(t, event.DeviceTokenCreate); e.Success || e.User != alice || !strings.Contains(e.Message, "is frozen") {
			t.Errorf("the record is %+v", e)
		}
		_, err = w.CreateToken(t.Context(), admin, Ref{AssetTag: testTag}, 0)
		wantRefusal(t, err, "is frozen")

		d, changes, err := w.Accept(t.Context(), admin, Ref{AssetTag: testTag})
		if err != nil || d.Spec.Frozen != nil {
			t.Fatalf("%+v, %v", d.Spec.Frozen, err)
		}
		want := []string{"frozen: the reset count of its TPM went back from 2 to 0", "reset count: 2 → 0"}
		if diff := cmp.Diff(want, changes); diff != "" {
			t.Error(diff)
		}
		if e := w.lastEvent(t, event.DeviceAccept); !e.Success || e.User != admin || !cmp.Equal(e.Reasons, want) {
			t.Errorf("the record is %+v", e)
		}
		if _, err := w.loginWith(t, m, login{}); err != nil {
			t.Error(err)
		}
	})
}

func TestACopyOfAVirtualTPMIsNoticed(t *testing.T) {
	w, m := newWorld(t, storetest.Open(t)), newMachine(t)
	w.enroll(t, m, alice, Trust{})
	copied := *m
	copied.chip = m.chip.Copy(t)
	for range 2 {
		m.chip.Restart(t)
		if _, err := w.loginWith(t, m, login{}); err != nil {
			t.Fatal(err)
		}
	}
	_, err := w.loginWith(t, &copied, login{})
	wantRefusal(t, err, "the reset count of its TPM went back from 3 to 2")
	_, err = w.loginWith(t, m, login{})
	wantRefusal(t, err, "is frozen")
}

// A token is enough to enroll anew, and the owner of a copy may have the right
// to give himself one.
func TestEnrollingAgainIsNoWayAroundTheBaseline(t *testing.T) {
	for _, test := range []struct {
		name   string
		change func(m *machine)
		want   string
	}{
		{"a TPM that goes back", func(m *machine) { m.chip.Clear(t) }, "is frozen: the reset count of its TPM went back"},
		{"another boot loader", func(m *machine) { m.update(t, 4) }, "PCR 4 changed"},
	} {
		t.Run(test.name, func(t *testing.T) {
			w, m := newWorld(t, storetest.Open(t)), newMachine(t)
			m.chip.Restart(t)
			w.enroll(t, m, alice, Trust{})
			test.change(m)
			token, err := w.RegisterCurrent(t.Context(), alice, m.data)
			if err != nil {
				t.Fatal(err)
			}
			if err := w.enrollWith(t, m, enrollment{token: token.Token}); err != nil {
				t.Fatal(err)
			}
			strict := login{demands: under(policy.PCRPolicyEnforce)}
			_, err = w.loginWith(t, m, strict)
			wantRefusal(t, err, test.want)
			if _, _, err := w.Accept(t.Context(), admin, Ref{AssetTag: testTag}); err != nil {
				t.Fatal(err)
			}
			if _, err := w.loginWith(t, m, strict); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestAFrozenMachineDoesNotComeInUnderAnotherSystem(t *testing.T) {
	w, m := newWorld(t, storetest.Open(t)), newMachine(t)
	w.enroll(t, m, alice, Trust{})
	w.freezeNow(t)
	m.data.OsType = "windows"
	token, err := w.RegisterCurrent(t.Context(), alice, m.data)
	if err != nil {
		t.Fatal(err)
	}
	wantRefusal(t, w.enrollWith(t, m, enrollment{token: token.Token}), "is frozen: it went back")
}

func TestAFrozenMachineDoesNotLogInUnderItsOtherSystem(t *testing.T) {
	storetest.Run(t, func(t *testing.T, db *store.DB) {
		w, linux := newWorld(t, db), newMachine(t)
		w.enroll(t, linux, alice, Trust{})
		windows := &machine{chip: linux.chip, state: filepath.Join(t.TempDir(), "state.json"), data: proto.CloneOf(linux.data)}
		windows.data.OsType = "windows"
		token := w.register(t, windows)
		if err := w.enrollWith(t, windows, enrollment{token: token.Token}); err != nil {
			t.Fatal(err)
		}
		earlier, err := w.loginWith(t, windows, login{})
		if err != nil {
			t.Fatal(err)
		}
		copied := linux.chip.Copy(t)
		for range 2 {
			linux.chip.Restart(t)
			if _, err := w.loginWith(t, linux, login{}); err != nil {
				t.Fatal(err)
			}
		}
		linux.chip, windows.chip = copied, copied
		var gone []string
		_, err = w.loginWith(t, linux, login{demands: Demands{Frozen: ended(&gone)}})
		wantRefusal(t, err, "is frozen")
		if !slices.Contains(gone, token.DeviceID) || len(gone) != 2 {
			t.Errorf("ended: %q", gone)
		}
		// Under this one the copy is ahead of what was seen.
		_, err = w.loginWith(t, windows, login{})
		wantRefusal(t, err, "is frozen")
		if err := w.db.Read(t.Context(), func(tx *store.Tx) error {
			wantRefusal(t, w.StillStands(tx, earlier), "is frozen")
			found, err := w.Diagnose(tx, alice, windows.data, earlier.Device().CredentialID, on)
			if !slices.ContainsFunc(found, func(f Finding) bool { return f.Name == "frozen" && f.State == Fault }) {
				t.Errorf("the diagnosis is %+v", found)
			}
			return err
		}); err != nil {
			t.Fatal(err)
		}
		frozen := slices.DeleteFunc(w.all(t), func(d resource.Device) bool { return d.Spec.Frozen == nil })
		if len(frozen) != 1 {
			t.Fatalf("%d are frozen", len(frozen))
		}
		if _, _, err := w.Accept(t.Context(), admin, Ref{ID: frozen[0].Metadata.Name}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.loginWith(t, windows, login{}); err != nil {
			t.Error(err)
		}
	})
}

// freezeNow is what an authentication elsewhere may do at any time.
func (w *world) freezeNow(t testing.TB) {
	t.Helper()
	if err := w.db.Write(t.Context(), func(tx *store.Tx) error {
		d, err := w.Get(tx, Ref{AssetTag: testTag})
		if err != nil {
			return err
		}
		d.Spec.Frozen = &resource.DeviceFreeze{Time: w.now(), Reason: "it went back"}
		return update(tx, &d)
	}); err != nil {
		t.Fatal(err)
	}
}

func TestAFrozenDeviceIsNeitherEnrolledNorAuthenticated(t *testing.T) {
	for _, test := range []struct {
		name string
		try  func(w *world, m *machine, token string) error
	}{
		{"an enrollment that begins then", func(w *world, m *machine, token string) error {
			w.freezeNow(t)
			return w.enrollWith(t, m, enrollment{token: token, onChallenge: func(*dtv1.TPMEnrollChallenge) { t.Error("it was challenged") }})
		}},
		{"an enrollment that goes on then", func(w *world, m *machine, token string) error {
			return w.enrollWith(t, m, enrollment{token: token, onChallenge: func(*dtv1.TPMEnrollChallenge) { w.freezeNow(t) }})
		}},
		{"a login that begins then", func(w *world, m *machine, _ string) error {
			w.freezeNow(t)
			_, err := w.loginWith(t, m, login{onChallenge: func(*dtv1.AuthenticateChallenge) { t.Error("it was challenged") }})
			return err
		}},
		{"a login that goes on then", func(w *world, m *machine, _ string) error {
			_, err := w.loginWith(t, m, login{onChallenge: func(*dtv1.AuthenticateChallenge) { w.freezeNow(t) }})
			return err
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			w, m := newWorld(t, storetest.Open(t)), newMachine(t)
			w.enroll(t, m, alice, Trust{})
			token, err := w.CreateToken(t.Context(), admin, Ref{AssetTag: testTag}, 0)
			if err != nil {
				t.Fatal(err)
			}
			wantRefusal(t, test.try(w, m, token.Token), "is frozen: it went back")
		})
	}
}

func TestUnenrollingForgetsWhatTheDeviceShouldShow(t *testing.T) {
	storetest.Run(t, func(t *testing.T, db *store.DB) {
		w, m, fw := newWorld(t, db), newMachine(t), uefi(t, true)
		fw.boot(t, m)
		w.enroll(t, m, alice, Trust{})
		if _, err := w.loginWith(t, m, login{onAnswer: func(p *dtv1.TPMPlatform) { p.EventLog = fw.log() }}); err != nil {
			t.Fatal(err)
		}
		if got, logs := w.kept(t); got != "el" || logs != 1 {
			t.Fatalf("%q and %d event logs", got, logs)
		}
		d := w.device(t, testTag)
		d.Spec.EnrollStatus = resource.NotEnrolled
		d, err := w.Update(t.Context(), admin, d, "", nil)
		if err != nil {
			t.Fatal(err)
		}
		if d.Spec.Baseline != nil || d.Spec.Evidence != nil || d.Spec.Frozen != nil {
			t.Errorf("%+v", d.Spec)
		}
		if got, logs := w.kept(t); got != "" || logs != 0 {
			t.Errorf("%q and %d event logs are kept", got, logs)
		}
		_, _, err = w.Accept(t.Context(), admin, Ref{AssetTag: testTag})
		wantRefusal(t, err, "not enrolled")
		err = w.Evaluate(t.Context(), Ref{AssetTag: testTag}, policy.DeviceTrust{}, nil)
		wantRefusal(t, err, "not enrolled")
	})
}
