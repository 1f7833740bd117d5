package devices

import (
	"context"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/google/go-cmp/cmp"

	"devicetrust/api"
	"devicetrust/api/dtv1"
	"devicetrust/audit/event"
	"devicetrust/resource"
	"devicetrust/store"
	"devicetrust/store/storetest"
)

// on is a cluster that enrolls registered devices by itself.
var on = AutoTerms{Off: func(*store.Tx) error { return nil }}

// onTrust is the same for the ceremony.
var onTrust = Trust{AutoOff: on.Off}

func profiled() *resource.DeviceProfile {
	return &resource.DeviceProfile{ExternalID: "17", OSID: "debian", OSVersion: "12", Hostname: "laptop", OSUsernames: []string{"al", "alice"}}
}

func reporting(change func(*dtv1.DeviceData)) *dtv1.DeviceData {
	data := &dtv1.DeviceData{OsType: "linux", AssetTag: testTag, OsId: "debian", OsVersion: "12", Hostname: "laptop", OsUsername: "alice", KernelVersion: "6.1"}
	if change != nil {
		change(data)
	}
	return data
}

// edit changes the registered device as the inventory keeps it.
func (w *world) edit(t testing.TB, change func(*resource.Device)) {
	t.Helper()
	d := w.device(t, testTag)
	change(&d)
	err := w.db.Write(t.Context(), func(tx *store.Tx) error {
		if err := keepOwners(tx, d); err != nil {
			return err
		}
		return update(tx, &d)
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestARegisteredDeviceThatFitsIsEnrolledByALogin(t *testing.T) {
	storetest.Run(t, func(t *testing.T, db *store.DB) {
		w, m := newWorld(t, db), newMachine(t)
		add(t, w, "linux", testTag)
		w.edit(t, func(d *resource.Device) { d.Spec.Profile = profiled() })
		m.data = reporting(nil)
		token, err := w.CreateAutoToken(t.Context(), alice, m.data, on)
		if err != nil {
			t.Fatal(err)
		}
		if life := token.Expires.Sub(w.clock); life != autoTokenTTL {
			t.Errorf("the token lives for %v", life)
		}
		if e := w.lastEvent(t, event.DeviceTokenCreate); !e.Success || e.User != alice || e.Message != "auto-enrollment" {
			t.Errorf("the record is %+v", e)
		}
		if err := w.enrollWith(t, m, enrollment{token: token.Token, trust: onTrust}); err != nil {
			t.Fatal(err)
		}
		if d := w.device(t, testTag); d.Spec.Owner != alice || d.Spec.EnrollStatus != resource.Enrolled {
			t.Errorf("it is %+v", d.Spec)
		}
		if _, err := w.loginWith(t, m, login{}); err != nil {
			t.Error(err)
		}
	})
}

// Each condition, in the order in which they are asked.
func TestADeviceThatDoesNotFitIsNotEnrolledByALogin(t *testing.T) {
	locked := on
	locked.Stands = func(*store.Tx, resource.Device) error {
		return api.Refuse(connect.CodePermissionDenied, "access denied: lock targeting it")
	}
	enrolledBy := func(user string) func(*resource.Device) {
		return func(d *resource.Device) { d.Spec.EnrollStatus, d.Spec.Owner = resource.Enrolled, user }
	}
	for name, row := range map[string]struct {
		device   func(*resource.Device)
		report   func(*dtv1.DeviceData)
		terms    AutoTerms
		refused  string
		recorded string // more than what the person is told; empty is no record
	}{
		"auto-enrollment is off": {terms: AutoTerms{}, refused: "auto-enrollment is off"},
		"another tag":            {report: func(d *dtv1.DeviceData) { d.AssetTag = "ANOTHER1" }, terms: on, refused: "device ANOTHER1/linux is not registered in example"},
		"another system":         {report: func(d *dtv1.DeviceData) { d.OsType = "windows" }, terms: on, refused: "device PF2ABCDE/windows is not registered"},
		"no report":              {report: func(d *dtv1.DeviceData) { d.Reset() }, terms: on, refused: "unknown operating system"},
		"frozen": {
			device: func(d *resource.Device) { d.Spec.Frozen = &resource.DeviceFreeze{Reason: "its TPM went back"} }, terms: on,
			refused: "is frozen", recorded: "device PF2ABCDE is frozen: its TPM went back",
		},
		"locked":              {terms: locked, refused: "lock targeting it", recorded: "access denied: lock targeting it"},
		"enrolled by another": {device: enrolledBy(bob), terms: on, refused: "is enrolled by another user", recorded: "device PF2ABCDE is enrolled by another user: by bob"},
		"others' device": {
			device: func(d *resource.Device) { d.Spec.Owners = []string{bob} }, terms: on,
			refused: "belongs to another user", recorded: "device PF2ABCDE belongs to another user: bob",
		},
		"another's, and frozen": {
			device: func(d *resource.Device) {
				enrolledBy(bob)(d)
				d.Spec.Frozen = &resource.DeviceFreeze{Reason: "its TPM went back"}
			}, terms: locked,
			refused: "is enrolled by another user", recorded: "by bob",
		},
		"another version": {
			report: func(d *dtv1.DeviceData) { d.OsVersion = "13" }, terms: on,
			refused: `os_version is reported as "13"`, recorded: `os_version is reported as "13": expected is "12"`,
		},
		"a field that is not reported": {report: func(d *dtv1.DeviceData) { d.Hostname = "" }, terms: on, refused: "hostname is reported as nothing", recorded: `expected is "laptop"`},
		"another account":              {report: func(d *dtv1.DeviceData) { d.OsUsername = "root" }, terms: on, refused: `os_usernames is reported as "root"`, recorded: `expected is "al" or "alice"`},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, storetest.Open(t))
			add(t, w, "linux", testTag)
			w.edit(t, func(d *resource.Device) {
				d.Spec.Profile = profiled()
				if row.device != nil {
					row.device(d)
				}
			})
			before := w.device(t, testTag)
			_, err := w.CreateAutoToken(t.Context(), alice, reporting(row.report), row.terms)
			wantRefusal(t, err, row.refused)
			if r := refusalOf(err); r != nil && strings.Contains(r.Message+r.Hint, "expected is") {
				t.Errorf("a stranger is told what to report: %+v", r)
			}
			records := w.events(t, event.DeviceTokenCreate)
			if row.recorded == "" && len(records) > 0 {
				t.Errorf("it is on record: %+v", records)
			}
			if row.recorded != "" && (len(records) != 1 || records[0].Success || records[0].User != alice ||
				records[0].Device == nil || !strings.Contains(records[0].Message, row.recorded)) {
				t.Errorf("on record is %+v, want a failure with %q", records, row.recorded)
			}
			if diff := cmp.Diff(before, w.device(t, testTag)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestEachFieldOfAProfileIsCompared(t *testing.T) {
	all := resource.DeviceProfile{
		OSID: "a", OSVersion: "b", OSBuild: "c", KernelVersion: "d", Hostname: "e", ModelIdentifier: "f",
		SerialNumber: "g", AssetTag: "h", JamfBinaryVersion: "i", OSUsernames: []string{"x", "j"},
	}
	d := resource.Device{Spec: resource.DeviceSpec{AssetTag: testTag, OSType: "linux", Profile: &all}}
	got := resource.CollectedData{
		OSType: "linux", AssetTag: testTag, OSID: "a", OSVersion: "b", OSBuild: "c", KernelVersion: "d", Hostname: "e",
		ModelIdentifier: "f", SerialNumber: "g", ReportedAssetTag: "h", JamfBinaryVersion: "i", OSUsername: "j",
	}
	faults := func(got resource.CollectedData) (names []string) {
		for _, f := range findings(facts{device: d, user: alice, reported: got}) {
			if f.State != OK {
				names = append(names, f.Name)
			}
		}
		return names
	}
	if names := faults(got); names != nil {
		t.Errorf("faults are %q", names)
	}
	for name, change := range map[string]func(*resource.CollectedData){
		"os_id": func(c *resource.CollectedData) { c.OSID = "" }, "os_version": func(c *resource.CollectedData) { c.OSVersion = "" },
		"os_build": func(c *resource.CollectedData) { c.OSBuild = "" }, "kernel_version": func(c *resource.CollectedData) { c.KernelVersion = "" },
		"hostname": func(c *resource.CollectedData) { c.Hostname = "" }, "model_identifier": func(c *resource.CollectedData) { c.ModelIdentifier = "" },
		"serial_number": func(c *resource.CollectedData) { c.SerialNumber = "" }, "asset_tag": func(c *resource.CollectedData) { c.ReportedAssetTag = "" },
		"jamf_binary_version": func(c *resource.CollectedData) { c.JamfBinaryVersion = "" }, "os_usernames": func(c *resource.CollectedData) { c.OSUsername = "" },
	} {
		other := got
		change(&other)
		if names := faults(other); !cmp.Equal(names, []string{"profile." + name}) {
			t.Errorf("%s: faults are %q", name, names)
		}
	}
	// What never reported is compared with nothing, which nobody is enrolled by.
	if names := faults(resource.CollectedData{}); !cmp.Equal(names, []string{"profile"}) {
		t.Errorf("without a report faults are %q", names)
	}
}

func TestATokenOfAutoEnrollmentIsOnlyForWhoAskedForIt(t *testing.T) {
	storetest.Run(t, func(t *testing.T, db *store.DB) {
		w, m := newWorld(t, db), newMachine(t)
		add(t, w, "linux", testTag)
		create := func() Token {
			t.Helper()
			token, err := w.CreateAutoToken(t.Context(), alice, m.data, on)
			if err != nil {
				t.Fatal(err)
			}
			return token
		}
		err := w.enrollWith(t, m, enrollment{user: bob, token: create().Token, trust: onTrust})
		wantRefusal(t, err, "another login's auto-enrollment")
		if e := w.lastEvent(t, event.DeviceTokenSpent); e.Success || e.User != bob {
			t.Errorf("the record is %+v", e)
		}
		// Nor is it of use where auto-enrollment was turned off meanwhile.
		wantRefusal(t, w.enrollWith(t, m, enrollment{token: create().Token}), "auto-enrollment is off")

		// An hour later it would be somebody's find.
		late := create()
		w.pass(autoTokenTTL)
		wantRefusal(t, w.enrollWith(t, m, enrollment{token: late.Token, trust: onTrust}), "expired")
		if d := w.device(t, testTag); d.Spec.EnrollStatus != resource.NotEnrolled {
			t.Errorf("it is %+v", d.Spec)
		}
	})
}

func TestAnotherReportInTheCeremonyIsHeldAgainstTheProfileToo(t *testing.T) {
	w, m := newWorld(t, storetest.Open(t)), newMachine(t)
	add(t, w, "linux", testTag)
	w.edit(t, func(d *resource.Device) { d.Spec.Profile = &resource.DeviceProfile{Hostname: "laptop"} })
	token, err := w.CreateAutoToken(t.Context(), alice, m.data, on)
	if err != nil {
		t.Fatal(err)
	}
	err = w.enrollWith(t, m, enrollment{token: token.Token, trust: onTrust, onInit: func(init *dtv1.EnrollInit) { init.DeviceData.Hostname = "other" }})
	wantRefusal(t, err, `hostname is reported as "other"`)
	if e := w.lastEvent(t, event.DeviceEnroll); e.Success || !strings.Contains(e.Message, `expected is "laptop"`) {
		t.Errorf("the record is %+v", e)
	}
	// A token of an administrator's asks for none of it.
	given, err := w.CreateToken(t.Context(), admin, Ref{AssetTag: testTag}, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.enrollWith(t, m, enrollment{token: given.Token, onInit: func(init *dtv1.EnrollInit) { init.DeviceData.Hostname = "other" }}); err != nil {
		t.Error(err)
	}
}

// An administrator's token is on its way to somebody.
func TestAutoEnrollmentVoidsNobodysToken(t *testing.T) {
	storetest.Run(t, func(t *testing.T, db *store.DB) {
		w, m := newWorld(t, db), newMachine(t)
		given := w.register(t, m)
		_, err := w.CreateAutoToken(t.Context(), alice, m.data, on)
		wantRefusal(t, err, "is waiting to be used")
		w.pass(time.Hour)
		if _, err := w.CreateAutoToken(t.Context(), alice, m.data, on); err != nil {
			t.Errorf("after it has expired: %v", err)
		}
		_, err = w.CreateAutoToken(t.Context(), bob, m.data, on)
		wantRefusal(t, err, "is waiting to be used")
		// One's own is from a login that did not come to its end.
		if _, err := w.CreateAutoToken(t.Context(), alice, m.data, on); err != nil {
			t.Error(err)
		}
		wantRefusal(t, w.enrollWith(t, m, enrollment{token: given.Token}), "replaced")
	})
}

func TestOfTwoLoginsAtOnceOneEnrolls(t *testing.T) {
	storetest.Run(t, func(t *testing.T, db *store.DB) {
		w, m := newWorld(t, db), newMachine(t)
		add(t, w, "linux", testTag)
		errs := make(chan error)
		for _, user := range []string{alice, bob} {
			go func() {
				_, err := w.CreateAutoToken(context.WithoutCancel(t.Context()), user, m.data, on)
				errs <- err
			}()
		}
		if a, b := <-errs, <-errs; (a == nil) == (b == nil) {
			t.Errorf("they hear %v and %v", a, b)
		}
	})
}

func TestNoTokenIsGivenThatCannotBeRecorded(t *testing.T) {
	w := newWorld(t, storetest.Open(t))
	add(t, w, "linux", testTag)
	breakLog(t, w)
	for _, terms := range []AutoTerms{on, {Off: on.Off, Stands: func(*store.Tx, resource.Device) error {
		return api.Refuse(connect.CodePermissionDenied, "locked")
	}}} {
		if token, err := w.CreateAutoToken(t.Context(), alice, reporting(nil), terms); err == nil || token.Token != "" || refusalOf(err) != nil {
			t.Errorf("got %+v, %v", token, err)
		}
	}
}

func TestExplainSaysWhatTheNextLoginWouldDo(t *testing.T) {
	w, m := newWorld(t, storetest.Open(t)), newMachine(t)
	add(t, w, "linux", testTag)
	w.edit(t, func(d *resource.Device) { d.Spec.Profile = &resource.DeviceProfile{Hostname: "laptop"} })
	explain := func(data *dtv1.DeviceData) (states map[string]State) {
		t.Helper()
		states = map[string]State{}
		err := w.db.Read(t.Context(), func(tx *store.Tx) error {
			all, err := w.ExplainAuto(tx, w.device(t, testTag), alice, data, on)
			for _, f := range all {
				states[f.Name] = f.State
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		return states
	}
	if got := explain(nil); got["profile"] != Note || got["registered"] != OK {
		t.Errorf("of one that never reported: %v", got)
	}
	if got := explain(m.data); got["profile.hostname"] != OK || got["machine"] != OK {
		t.Errorf("of a report: %v", got)
	}
	if got := explain(&dtv1.DeviceData{OsType: "linux", AssetTag: "ANOTHER1"}); got["machine"] != Fault || got["profile.hostname"] != Fault {
		t.Errorf("of another machine's report: %v", got)
	}
	w.edit(t, func(d *resource.Device) { collect(d, m.data, w.clock) })
	if got := explain(nil); got["profile.hostname"] != OK {
		t.Errorf("of one that reported: %v", got)
	}
	if n := len(w.events(t, event.DeviceTokenCreate)); n > 0 {
		t.Errorf("%d records", n)
	}
}

func TestADiagnosisNamesTheFirstThingThatIsMissing(t *testing.T) {
	w, m := newWorld(t, storetest.Open(t)), newMachine(t)
	w.withUsers()
	diagnose := func(user, credential string) (states map[string]State, text string) {
		t.Helper()
		states = map[string]State{}
		err := w.db.Read(t.Context(), func(tx *store.Tx) error {
			all, err := w.Diagnose(tx, user, m.data, credential, on)
			for _, f := range all {
				states[f.Name] = f.State
				text += f.Detail + f.Remedy + "\n"
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		return states, text
	}
	want := func(user, credential string, want map[string]State) {
		t.Helper()
		got, text := diagnose(user, credential)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s\n%s", diff, text)
		}
	}
	want(alice, "", map[string]State{"registered": Fault})
	add(t, w, "linux", testTag)
	want(alice, "", map[string]State{"registered": OK, "enrolled": Fault, "owner": OK, "locked": OK, "frozen": OK, "auto_enroll": OK})
	w.edit(t, func(d *resource.Device) { d.Spec.Profile = &resource.DeviceProfile{Hostname: "else"} })
	want(alice, "", map[string]State{"registered": OK, "enrolled": Fault, "owner": OK, "locked": OK, "frozen": OK, "auto_enroll": Note})
	w.edit(t, func(d *resource.Device) { d.Spec.Owners = []string{alice} })
	want(bob, "", map[string]State{"registered": OK, "enrolled": Fault, "owner": Fault})
	token, err := w.CreateToken(t.Context(), admin, Ref{AssetTag: testTag}, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.enrollWith(t, m, enrollment{token: token.Token}); err != nil {
		t.Fatal(err)
	}
	credential := w.device(t, testTag).Spec.Credential.ID
	good := map[string]State{"registered": OK, "enrolled": OK, "owner": OK, "locked": OK, "frozen": OK, "auto_enroll": Note}
	want(alice, credential, good)
	but := func(name string) map[string]State {
		out := map[string]State{}
		for k, v := range good {
			out[k] = v
		}
		out[name] = Fault
		return out
	}
	want(alice, "", but("enrolled"))
	want(alice, strings.Repeat("0", 64), but("enrolled"))
	w.edit(t, func(d *resource.Device) { d.Spec.Frozen = &resource.DeviceFreeze{Reason: "back in time"} })
	want(alice, credential, but("frozen"))
	want(bob, credential, map[string]State{"registered": OK, "enrolled": OK, "owner": Fault})
	if _, text := diagnose(bob, credential); strings.Contains(text, alice) || strings.Contains(text, "back in time") {
		t.Errorf("bob is told too much: %s", text)
	}
}

func TestWhatWasNotComparedDoesNotFit(t *testing.T) {
	if err := firstFault([]Finding{{Name: "profile", State: Note, Detail: "nothing is compared"}}); err == nil {
		t.Error("a note enrolls")
	}
	if err := firstFault([]Finding{{}}); err == nil {
		t.Error("the zero value of a finding enrolls")
	}
}
