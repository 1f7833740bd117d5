package devices

import (
	"errors"
	"testing"

	"connectrpc.com/connect"
	"github.com/google/go-cmp/cmp"

	"devicetrust/api"
	"devicetrust/api/dtv1"
	"devicetrust/store"
	"devicetrust/store/storetest"
)

// breakLog makes recording impossible.
func breakLog(t testing.TB, w *world) {
	t.Helper()
	err := w.db.Write(t.Context(), func(tx *store.Tx) error {
		_, err := tx.Exec(`ALTER TABLE audit_log RENAME TO audit_log_gone`)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestWhatCannotBeRecordedDoesNotHappen(t *testing.T) {
	storetest.Run(t, func(t *testing.T, db *store.DB) {
		w, m := newWorld(t, db), newMachine(t)
		token := w.register(t, m).Token
		before := w.device(t, testTag)
		breakLog(t, w)
		unchanged := func(what string, err error) {
			t.Helper()
			var r *api.Refusal
			if err == nil || errors.As(err, &r) {
				t.Errorf("%s: got %v, want an error of ours", what, err)
			}
			all := w.all(t)
			if len(all) != 1 || !cmp.Equal(before, all[0]) {
				t.Errorf("%s changed the inventory: %s", what, cmp.Diff(before, all[0]))
			}
		}
		_, err := w.Add(t.Context(), admin, NewDevice{OSType: "linux", AssetTag: "ANOTHER1"})
		unchanged("registering", err)
		_, err = w.CreateToken(t.Context(), admin, Ref{AssetTag: testTag}, 0)
		unchanged("a token", err)
		_, err = w.Update(t.Context(), admin, before, "", nil)
		unchanged("editing", err)
		_, err = w.Remove(t.Context(), admin, Ref{AssetTag: testTag}, nil)
		unchanged("removing", err)
		_, _, err = w.spendToken(t.Context(), alice, testAddr, token)
		unchanged("spending a token", err)
		var left int
		if err := db.Read(t.Context(), func(tx *store.Tx) error {
			return tx.QueryRow(`SELECT count(*) FROM device_tokens`).Scan(&left)
		}); err != nil || left != 1 {
			t.Errorf("%d tokens are left: %v", left, err)
		}
	})
}

func TestACeremonyThatCannotBeRecordedProvesNothing(t *testing.T) {
	w, m := newWorld(t, storetest.Open(t)), newMachine(t)
	token := w.register(t, m).Token
	before := w.device(t, testTag)
	err := w.enrollWith(t, m, enrollment{token: token, onChallenge: func(*dtv1.TPMEnrollChallenge) { breakLog(t, w) }})
	if err == nil {
		t.Error("it was enrolled")
	}
	if diff := cmp.Diff(before, w.device(t, testTag)); diff != "" {
		t.Error(diff)
	}

	w, m = newWorld(t, storetest.Open(t)), newMachine(t)
	w.enroll(t, m, alice, Trust{})
	before = w.device(t, testTag)
	v, err := w.loginWith(t, m, login{onChallenge: func(*dtv1.AuthenticateChallenge) { breakLog(t, w) }})
	if err == nil || v.Device().Trusted() {
		t.Errorf("it was verified: %+v", v)
	}
	if diff := cmp.Diff(before, w.device(t, testTag)); diff != "" {
		t.Error(diff)
	}
}

// That the log is gone is told to those who run the server, and not hidden by
// the refusal that it should hold.
func TestARefusalThatCannotBeRecordedIsAFaultOfOurs(t *testing.T) {
	ours := func(what string, err error) {
		t.Helper()
		var r *api.Refusal
		if err == nil || errors.As(err, &r) && r.Code != connect.CodeInternal { // which the edge makes of it
			t.Errorf("%s: got %v, want an error of ours", what, err)
		}
	}
	w, m := newWorld(t, storetest.Open(t)), newMachine(t)
	ours("an enrollment", w.enrollWith(t, m, enrollment{
		token:       w.register(t, m).Token,
		onChallenge: func(*dtv1.TPMEnrollChallenge) { breakLog(t, w) },
		onAnswer:    func(r *dtv1.TPMEnrollChallengeResponse) { r.Platform = nil },
	}))

	w, m = newWorld(t, storetest.Open(t)), newMachine(t)
	w.enroll(t, m, alice, Trust{})
	_, err := w.loginWith(t, m, login{
		onChallenge: func(*dtv1.AuthenticateChallenge) { breakLog(t, w) },
		onAnswer:    func(p *dtv1.TPMPlatform) { p.Quotes = nil },
	})
	ours("a login", err)
	_, err = w.RegisterCurrent(t.Context(), bob, m.data)
	ours("registering another's machine", err)
}
