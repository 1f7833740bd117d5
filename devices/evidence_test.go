package devices

import (
	"crypto/sha256"
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"devicetrust/api/dtv1"
	"devicetrust/audit/event"
	"devicetrust/policy"
	"devicetrust/resource"
	"devicetrust/store"
	"devicetrust/store/storetest"
)

// under demands a policy for PCRs.
func under(p policy.PCRPolicy, pcrs ...int64) Demands {
	return Demands{Trust: func(*store.Tx) (policy.DeviceTrust, error) {
		return policy.DeviceTrust{PCRPolicy: p, PCRs: pcrs}, nil
	}}
}

// update changes what the machine starts.
func (m *machine) update(t testing.TB, pcrs ...uint32) {
	t.Helper()
	digest := sha256.Sum256([]byte("another boot loader"))
	for _, pcr := range pcrs {
		extend(t, m, pcr, digest[:])
	}
}

func TestPCRsThatChangedAreWhatThePolicySays(t *testing.T) {
	storetest.Run(t, func(t *testing.T, db *store.DB) {
		w, m := newWorld(t, db), newMachine(t)
		w.enroll(t, m, alice, Trust{})
		if _, err := w.loginWith(t, m, login{demands: under(policy.PCRPolicyEnforce)}); err != nil {
			t.Fatal(err)
		}
		m.update(t, 4, 7, 12)
		const both = "PCR 4, 7 changed"
		for _, test := range []struct {
			demands       Demands
			refused       string
			note, warning bool
			changed       []int64
		}{
			{Demands{}, "", false, false, []int64{4, 7}},
			{under(policy.PCRPolicyOff), "", false, false, []int64{4, 7}},
			{under(policy.PCRPolicyWarn), "", true, true, []int64{4, 7}},
			{under(policy.PCRPolicyEnforce), both, true, false, []int64{4, 7}},
			{under("a policy of tomorrow"), both, true, false, []int64{4, 7}},
			{under(policy.PCRPolicyEnforce, 12), "PCR 12 changed", false, false, []int64{12}},
			{under(policy.PCRPolicyEnforce, 0, 1, 14), "", false, false, nil},
		} {
			seen := w.device(t, testTag).Spec.LastSeenTime
			w.pass(1000)
			v, err := w.loginWith(t, m, login{demands: test.demands})
			e := w.lastEvent(t, event.DeviceAuthenticate)
			if test.refused == "" && err != nil {
				t.Errorf("%+v: %v", test, err)
			}
			if test.refused != "" {
				wantRefusal(t, err, test.refused)
				if e.Success || !strings.Contains(e.Message, test.refused) || v.Device().Trusted() {
					t.Errorf("%+v: the record is %+v", test, e)
				}
			}
			if got := slices.Contains(e.Reasons, both); got != test.note {
				t.Errorf("%+v: the record says %q", test, e.Reasons)
			}
			if got := len(v.Warnings()) == 1 && strings.Contains(v.Warnings()[0], both); got != test.warning {
				t.Errorf("%+v: warnings %q", test, v.Warnings())
			}
			d := w.device(t, testTag)
			if diff := cmp.Diff(test.changed, d.Spec.Evidence.ChangedPCRs); diff != "" {
				t.Errorf("%+v: %s", test, diff)
			}
			if d.Spec.LastSeenTime.Equal(seen) != (test.refused != "") {
				t.Errorf("%+v: last seen at %v, before at %v", test, d.Spec.LastSeenTime, seen)
			}
		}
		if n := len(w.events(t, event.DeviceAuthenticate)); n != 8 {
			t.Errorf("8 logins left %d records", n)
		}
	})
}

func TestAPolicyThatChangesDuringALoginCounts(t *testing.T) {
	w, m := newWorld(t, storetest.Open(t)), newMachine(t)
	w.enroll(t, m, alice, Trust{})
	m.update(t, 4)
	trust := policy.DeviceTrust{}
	_, err := w.loginWith(t, m, login{
		demands:     Demands{Trust: func(*store.Tx) (policy.DeviceTrust, error) { return trust, nil }},
		onChallenge: func(*dtv1.AuthenticateChallenge) { trust.PCRPolicy = policy.PCRPolicyEnforce },
	})
	wantRefusal(t, err, "PCR 4 changed")
}

func TestADeviceWithoutABaselineGetsOneUnlessThePolicyIsStrict(t *testing.T) {
	w, m := newWorld(t, storetest.Open(t)), newMachine(t)
	w.enroll(t, m, alice, Trust{})
	forget := func() {
		if err := w.db.Write(t.Context(), func(tx *store.Tx) error {
			d, err := w.Get(tx, Ref{AssetTag: testTag})
			if err != nil {
				return err
			}
			d.Spec.Baseline, d.Spec.Evidence = nil, nil
			return update(tx, &d)
		}); err != nil {
			t.Fatal(err)
		}
	}
	forget()
	if _, err := w.loginWith(t, m, login{}); err != nil || w.device(t, testTag).Spec.Baseline == nil {
		t.Errorf("it got none: %v", err)
	}
	forget()
	_, err := w.loginWith(t, m, login{demands: under(policy.PCRPolicyEnforce)})
	wantRefusal(t, err, "device PF2ABCDE: how it should start is not known")
	if err := w.Evaluate(t.Context(), Ref{AssetTag: testTag}, policy.DeviceTrust{PCRPolicy: policy.PCRPolicyEnforce}, func(e Evaluation) error {
		if e.Passes || e.Reasons[0] != "how it should start is not known" {
			t.Errorf("%v, %q", e.Passes, e.Reasons)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if _, changes, err := w.Accept(t.Context(), admin, Ref{AssetTag: testTag}); err != nil || changes[0] != "it had no baseline" {
		t.Errorf("%q, %v", changes, err)
	}
	if _, err := w.loginWith(t, m, login{demands: under(policy.PCRPolicyEnforce)}); err != nil {
		t.Error(err)
	}
}

func TestAnAdministratorAcceptsWhatARefusedDeviceShowed(t *testing.T) {
	storetest.Run(t, func(t *testing.T, db *store.DB) {
		w, m := newWorld(t, db), newMachine(t)
		w.enroll(t, m, alice, Trust{})
		m.update(t, 4)
		strict := login{demands: under(policy.PCRPolicyEnforce)}
		_, err := w.loginWith(t, m, strict)
		wantRefusal(t, err, "PCR 4 changed")
		d, changes, err := w.Accept(t.Context(), admin, Ref{AssetTag: testTag})
		if err != nil {
			t.Fatal(err)
		}
		if want := "PCR 4: 000000000000 → " + d.Spec.Baseline.PCRs["4"][:12]; len(changes) != 1 || changes[0] != want {
			t.Errorf("%q, want %q", changes, want)
		}
		if len(w.device(t, testTag).Spec.Evidence.ChangedPCRs) > 0 {
			t.Error("it is still said to have changed")
		}
		if _, err := w.loginWith(t, m, strict); err != nil {
			t.Error(err)
		}
		m.update(t, 5)
		_, err = w.loginWith(t, m, strict)
		wantRefusal(t, err, "PCR 5 changed")
	})
}

// kept gives the purposes of a device's evidence, the oldest first, with a "!"
// where it was refused, and how many event logs there are.
func (w *world) kept(t testing.TB) (purposes string, logs int) {
	t.Helper()
	err := w.db.Read(t.Context(), func(tx *store.Tx) error {
		rows, err := tx.Query(`SELECT purpose, accepted FROM device_evidence ORDER BY seq`)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var purpose string
			var accepted bool
			if err := rows.Scan(&purpose, &accepted); err != nil {
				return err
			}
			purposes += purpose[:1]
			if !accepted {
				purposes += "!"
			}
		}
		if err := rows.Err(); err != nil {
			return err
		}
		return tx.QueryRow(`SELECT count(*) FROM device_event_logs`).Scan(&logs)
	})
	if err != nil {
		t.Fatal(err)
	}
	return purposes, logs
}

func TestTheLastEvidenceIsKeptAndEachEventLogOnce(t *testing.T) {
	storetest.Run(t, func(t *testing.T, db *store.DB) {
		w, m, fw := newWorld(t, db), newMachine(t), uefi(t, true)
		fw.boot(t, m)
		w.enroll(t, m, alice, Trust{})
		send := func(log []byte, d Demands) error {
			_, err := w.loginWith(t, m, login{demands: d, onAnswer: func(p *dtv1.TPMPlatform) { p.EventLog = log }})
			return err
		}
		first := *fw
		first.measured = fw.measured[1:]
		if err := send(first.log(), Demands{}); err != nil {
			t.Fatal(err)
		}
		for range maxAuthentications - 1 {
			if err := send(fw.log(), Demands{}); err != nil {
				t.Fatal(err)
			}
		}
		if got, logs := w.kept(t); got != "ellllllllll" || logs != 2 {
			t.Errorf("%q and %d event logs", got, logs)
		}
		m.update(t, 4)
		wantRefusal(t, send(fw.log(), under(policy.PCRPolicyEnforce)), "PCR 4")
		if got, logs := w.kept(t); got != "ellllllllll!" || logs != 1 {
			t.Errorf("%q and %d event logs", got, logs)
		}
		token, err := w.CreateToken(t.Context(), admin, Ref{AssetTag: testTag}, 0)
		if err != nil {
			t.Fatal(err)
		}
		if err := w.enrollWith(t, m, enrollment{token: token.Token}); err != nil {
			t.Fatal(err)
		}
		if got, logs := w.kept(t); got != "llllllllll!e" || logs != 1 {
			t.Errorf("%q and %d event logs", got, logs)
		}
		if _, err := w.Remove(t.Context(), admin, Ref{AssetTag: testTag}, nil); err != nil {
			t.Fatal(err)
		}
		if got, logs := w.kept(t); got != "" || logs != 0 {
			t.Errorf("of a device that was removed there is %q and %d event logs", got, logs)
		}
	})
}

// spoil changes the newest evidence.
func (w *world) spoil(t testing.TB, change func(*evidenceDocument)) {
	t.Helper()
	d := w.newest(t, testTag)
	change(&d)
	text, err := json.Marshal(d)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.db.Write(t.Context(), func(tx *store.Tx) error {
		_, err := tx.Exec(`UPDATE device_evidence SET document = $1 WHERE seq = (SELECT MAX(seq) FROM device_evidence)`, string(text))
		return err
	}); err != nil {
		t.Fatal(err)
	}
}

// newest is the evidence that was kept last.
func (w *world) newest(t testing.TB, tag string) (d evidenceDocument) {
	t.Helper()
	id := w.device(t, tag).Metadata.Name
	if err := w.db.Read(t.Context(), func(tx *store.Tx) error {
		e, err := latest(tx, id, "")
		if err == nil {
			d = e.document
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return d
}

func TestOnlyEvidenceThatStillVerifiesIsAccepted(t *testing.T) {
	w, m, other := newWorld(t, storetest.Open(t)), newMachine(t), newMachine(t)
	_, _, err := w.Accept(t.Context(), admin, Ref{AssetTag: testTag})
	wantRefusal(t, err, "not found")
	w.register(t, m)
	_, _, err = w.Accept(t.Context(), admin, Ref{AssetTag: testTag})
	wantRefusal(t, err, "not enrolled")
	token, err := w.CreateToken(t.Context(), admin, Ref{AssetTag: testTag}, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.enrollWith(t, m, enrollment{token: token.Token}); err != nil {
		t.Fatal(err)
	}
	other.data.AssetTag = "ANOTHER1"
	w.enroll(t, other, alice, Trust{})
	foreign := w.newest(t, "ANOTHER1")
	for name, change := range map[string]func(*evidenceDocument){
		"a PCR":       func(d *evidenceDocument) { d.PCRs[4][0] ^= 1 },
		"a signature": func(d *evidenceDocument) { d.Signature[len(d.Signature)-1] ^= 1 },
		"a nonce":     func(d *evidenceDocument) { d.Nonce[0] ^= 1 },
		"a key":       func(d *evidenceDocument) { d.AKPublic = foreign.AKPublic },
		"all of it":   func(d *evidenceDocument) { *d = foreign },
		"no PCRs":     func(d *evidenceDocument) { d.PCRs = nil },
	} {
		if _, err := w.loginWith(t, m, login{}); err != nil {
			t.Fatal(err)
		}
		w.spoil(t, change)
		_, _, err := w.Accept(t.Context(), admin, Ref{AssetTag: testTag})
		if err == nil {
			t.Errorf("%s of another was accepted", name)
			continue
		}
		wantRefusal(t, err, "PF2ABCDE/linux: ")
	}
	if err := w.db.Write(t.Context(), func(tx *store.Tx) error {
		_, err := tx.Exec(`DELETE FROM device_evidence`)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	_, _, err = w.Accept(t.Context(), admin, Ref{AssetTag: testTag})
	wantRefusal(t, err, "no evidence of it is kept")
}

func TestEvidenceThatCannotBeRecordedIsNotKept(t *testing.T) {
	w, m := newWorld(t, storetest.Open(t)), newMachine(t)
	w.enroll(t, m, alice, Trust{})
	m.chip.Clear(t)
	breakLog(t, w)
	before := w.device(t, testTag)
	if _, err := w.loginWith(t, m, login{}); err == nil {
		t.Error("it was let in")
	}
	if diff := cmp.Diff(before, w.device(t, testTag)); diff != "" {
		t.Error(diff)
	}
	if got, _ := w.kept(t); got != "e" {
		t.Errorf("%q is kept", got)
	}
}

func TestWhatADeviceShouldShowIsTheServers(t *testing.T) {
	w, m := newWorld(t, storetest.Open(t)), newMachine(t)
	w.enroll(t, m, alice, Trust{})
	d := w.device(t, testTag)
	for field, change := range map[string]func(*resource.DeviceSpec){
		"spec.baseline": func(s *resource.DeviceSpec) { s.Baseline = &resource.DeviceBaseline{ResetCount: 1} },
		"spec.evidence": func(s *resource.DeviceSpec) { s.Evidence = &resource.DeviceEvidence{Level: "secure_boot"} },
		"spec.frozen":   func(s *resource.DeviceSpec) { s.Frozen = &resource.DeviceFreeze{Reason: "x"} },
	} {
		edited := d
		change(&edited.Spec)
		_, err := w.Update(t.Context(), admin, edited, "", nil)
		wantRefusal(t, err, field)
	}
}
