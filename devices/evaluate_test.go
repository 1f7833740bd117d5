package devices

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"devicetrust/devices/tpm/tpmtest"
	"devicetrust/policy"
	"devicetrust/resource"
	"devicetrust/store"
	"devicetrust/store/storetest"
)

// evaluated gives the one evaluation of a device.
func (w *world) evaluation(t testing.TB, trust policy.DeviceTrust) Evaluation {
	t.Helper()
	var all []Evaluation
	if err := w.Evaluate(t.Context(), Ref{AssetTag: testTag}, trust, func(e Evaluation) error {
		all = append(all, e)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if len(all) != 1 {
		t.Fatalf("%d evaluations", len(all))
	}
	return all[0]
}

func TestAnEvaluationSaysWhatAPolicyWouldMakeOfADevice(t *testing.T) {
	storetest.Run(t, func(t *testing.T, db *store.DB) {
		ca, other := newCA(t, "Maker", nil), newCA(t, "Other", nil)
		w, m, fw := newWorld(t, db), newMachine(t, tpmtest.Certificate{CA: ca}), uefi(t, true)
		fw.boot(t, m)
		w.enroll(t, m, alice, Trust{})
		m.update(t, 4)
		if _, err := w.loginWith(t, m, login{}); err != nil {
			t.Fatal(err)
		}
		for _, test := range []struct {
			name   string
			trust  policy.DeviceTrust
			passes bool
			reason string
		}{
			{"what is in force", policy.DeviceTrust{}, true, "PCR 4 changed"},
			{"its maker", policy.DeviceTrust{EKCertAllowedCAs: pemOf(ca)}, true, ""},
			{"another maker", policy.DeviceTrust{EKCertAllowedCAs: pemOf(other)}, false, "ekcert_allowed_cas"},
			{"a warning", policy.DeviceTrust{PCRPolicy: policy.PCRPolicyWarn}, true, "PCR 4 changed"},
			{"enforced PCRs", policy.DeviceTrust{PCRPolicy: policy.PCRPolicyEnforce}, false, "PCR 4 changed"},
			{"a policy of tomorrow", policy.DeviceTrust{PCRPolicy: "tomorrow"}, false, "PCR 4 changed"},
			{"other PCRs", policy.DeviceTrust{PCRPolicy: policy.PCRPolicyEnforce, PCRs: []int64{0, 1}}, true, ""},
		} {
			e := w.evaluation(t, test.trust)
			if e.Passes != test.passes || !strings.Contains(strings.Join(e.Reasons, "; "), test.reason) || e.Level != policy.EvidenceQuote {
				t.Errorf("%s: %v, %q, %q", test.name, e.Passes, e.Level, e.Reasons)
			}
		}
		w.freezeNow(t)
		if e := w.evaluation(t, policy.DeviceTrust{}); e.Passes || e.Reasons[0] != "frozen: it went back" {
			t.Errorf("frozen: %+v", e)
		}
	})
}

func TestEvidenceThatDoesNotHoldAnyMoreDoesNotPass(t *testing.T) {
	ca := newCA(t, "Maker", nil)
	w, m := newWorld(t, storetest.Open(t)), newMachine(t, tpmtest.Certificate{CA: ca})
	w.enroll(t, m, alice, Trust{})
	list := policy.DeviceTrust{EKCertAllowedCAs: pemOf(ca)}
	if e := w.evaluation(t, list); !e.Passes {
		t.Fatalf("%+v", e)
	}
	w.spoil(t, func(d *evidenceDocument) { d.PCRs[0][0] ^= 1 })
	if e := w.evaluation(t, list); e.Passes || e.Level != "" || !strings.Contains(e.Reasons[0], "does not hold") {
		t.Errorf("a PCR of another: %+v", e)
	}
	stranger := newMachine(t, tpmtest.Certificate{CA: ca})
	w.spoil(t, func(d *evidenceDocument) {
		d.PCRs[0][0] ^= 1
		d.EKKey, d.EKCertificate = nil, stranger.chip.EKCertificate
	})
	if e := w.evaluation(t, list); e.Passes || !strings.Contains(e.Reasons[0], "not the one that it is enrolled with") {
		t.Errorf("a certificate of another: %+v", e)
	}
	if err := w.db.Write(t.Context(), func(tx *store.Tx) error {
		_, err := tx.Exec(`DELETE FROM device_evidence`)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	if e := w.evaluation(t, policy.DeviceTrust{}); e.Passes || e.Reasons[0] != "no evidence of it is kept" {
		t.Errorf("nothing is kept: %+v", e)
	}
	err := w.Evaluate(t.Context(), Ref{}, policy.DeviceTrust{EKCertAllowedCAs: []string{"x"}}, nil)
	wantRefusal(t, err, "entry 1")
}

func TestAllEnrolledDevicesAreEvaluatedPageByPage(t *testing.T) {
	storetest.Run(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db)
		const enrolled = 2*evaluated + 3
		for n := range enrolled + 2 {
			d, err := w.Add(t.Context(), admin, NewDevice{OSType: "linux", AssetTag: fmt.Sprintf("TAG-%d", n)})
			if err != nil {
				t.Fatal(err)
			}
			if n >= enrolled {
				continue
			}
			d.Spec.EnrollStatus = resource.Enrolled
			if err := db.Write(t.Context(), func(tx *store.Tx) error { return update(tx, &d) }); err != nil {
				t.Fatal(err)
			}
		}
		seen := map[string]bool{}
		if err := w.Evaluate(t.Context(), Ref{}, policy.DeviceTrust{}, func(e Evaluation) error {
			seen[e.Device.Spec.AssetTag] = true
			if e.Passes {
				t.Errorf("%s passes with nothing", e.Device.Spec.AssetTag)
			}
			// A transaction that were still open would stop this one.
			_, err := w.Add(t.Context(), admin, NewDevice{OSType: "windows", AssetTag: e.Device.Spec.AssetTag})
			return err
		}); err != nil {
			t.Fatal(err)
		}
		if len(seen) != enrolled {
			t.Errorf("%d of %d", len(seen), enrolled)
		}
		gone := errors.New("the caller left")
		if err := w.Evaluate(t.Context(), Ref{}, policy.DeviceTrust{}, func(Evaluation) error { return gone }); !errors.Is(err, gone) {
			t.Error(err)
		}
	})
}
