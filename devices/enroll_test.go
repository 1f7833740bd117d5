package devices

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/google/go-cmp/cmp"

	"devicetrust/api"
	"devicetrust/api/dtv1"
	"devicetrust/audit/event"
	"devicetrust/devices/assettag"
	"devicetrust/devices/tpm"
	"devicetrust/devices/tpm/tpmtest"
	"devicetrust/resource"
	"devicetrust/store"
	"devicetrust/store/storetest"
)

func newCA(t testing.TB, name string, parent *tpmtest.CA) *tpmtest.CA {
	t.Helper()
	ca, err := tpmtest.NewCA(name, parent)
	if err != nil {
		t.Fatal(err)
	}
	return ca
}

func pemOf(cas ...*tpmtest.CA) []string {
	var out []string
	for _, ca := range cas {
		out = append(out, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca.Certificate.Raw})))
	}
	return out
}

func TestADeviceIsEnrolledAsWhatItsTPMProves(t *testing.T) {
	maker := newCA(t, "maker", nil)
	for _, test := range []struct {
		name         string
		certificates []tpmtest.Certificate
		allowed      []string
		want         string
	}{
		{"without a certificate", nil, nil, "tpm_ekpub"},
		{"ECC certificate, no list", []tpmtest.Certificate{{CA: maker}}, nil, "tpm_ekcert"},
		{"ECC certificate of a listed CA", []tpmtest.Certificate{{CA: maker}}, pemOf(newCA(t, "other", nil), maker), "tpm_ekcert_trusted"},
		{"RSA certificate of a listed CA", []tpmtest.Certificate{{CA: maker, RSA: true}}, pemOf(maker), "tpm_ekcert_trusted"},
		{"RSA key at its persistent handle", []tpmtest.Certificate{{CA: maker, RSA: true, Persist: true}}, pemOf(maker), "tpm_ekcert_trusted"},
		{"ECC P-384 certificate of a listed CA", []tpmtest.Certificate{{CA: maker, P384: true}}, pemOf(maker), "tpm_ekcert_trusted"},
		{"ECC P-384 key at its persistent handle", []tpmtest.Certificate{{CA: maker, P384: true, Persist: true}}, pemOf(maker), "tpm_ekcert_trusted"},
		{"RSA certificate of the high range", []tpmtest.Certificate{{CA: maker, RSA: true, HighRange: true}}, pemOf(maker), "tpm_ekcert_trusted"},
		{"ECC certificate of the high range", []tpmtest.Certificate{{CA: maker, HighRange: true}}, pemOf(maker), "tpm_ekcert_trusted"},
		{"expired certificate, no list", []tpmtest.Certificate{{CA: maker, NotAfter: time.Now().Add(-time.Hour)}}, nil, "tpm_ekcert"},
	} {
		t.Run(test.name, func(t *testing.T) {
			storetest.Run(t, func(t *testing.T, db *store.DB) {
				w, m := newWorld(t, db), newMachine(t, test.certificates...)
				w.enroll(t, m, alice, Trust{AllowedCAs: test.allowed})

				d := w.device(t, testTag)
				if d.Spec.EnrollStatus != resource.Enrolled || d.Spec.Owner != alice || d.Spec.Credential == nil {
					t.Fatalf("the device is %+v", d.Spec)
				}
				c := d.Spec.Credential
				if c.DeviceAttestationType != test.want || (c.TPMSerial != "") != (test.certificates != nil) {
					t.Errorf("attestation %s, serial %q", c.DeviceAttestationType, c.TPMSerial)
				}
				if len(c.ID) != 64 || len(c.TPMEKKeyDigest) != 64 || len(c.TPMAKPublic) == 0 {
					t.Errorf("credential %+v", c)
				}
				if len(d.Spec.CollectedData) != 1 || d.Spec.CollectedData[0].Hostname != "laptop" || d.Spec.CollectedData[0].TPMManufacturer != "IBM" {
					t.Errorf("collected %+v", d.Spec.CollectedData)
				}
				remembered, err := tpm.Enrolled(m.state, testCluster)
				if err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(tpm.Enrollment{CredentialID: c.ID, DeviceID: d.Metadata.Name, AssetTag: testTag}, remembered); diff != "" {
					t.Error(diff)
				}
				if n := m.chip.Loaded(t); n != 0 {
					t.Errorf("%d keys and sessions were left in the TPM", n)
				}
				if _, err := w.loginWith(t, m, login{}); err != nil {
					t.Errorf("log in with it: %v", err)
				}

				want := &event.Device{DeviceID: d.Metadata.Name, AssetTag: testTag, OSType: "linux"}
				if e := w.lastEvent(t, event.DeviceTokenSpent); !e.Success || !cmp.Equal(e.Device, want) || e.User != alice || e.RemoteAddr != testAddr {
					t.Errorf("the token's record is %+v", e)
				}
				want.CredentialID = c.ID
				e := w.lastEvent(t, event.DeviceEnroll)
				if !e.Success || !cmp.Equal(e.Device, want) || e.User != alice {
					t.Errorf("the enrollment's record is %+v", e)
				}
				if diff := cmp.Diff([]string{"attestation: " + test.want, "evidence: quote", "event log: empty"}, e.Reasons); diff != "" {
					t.Error(diff)
				}
			})
		})
	}
}

func TestATPMAsDebianMakesThemForVirtualMachinesIsEnrolled(t *testing.T) {
	w, m := newWorld(t, storetest.Open(t)), newMachine(t)
	chip, issuer := tpmtest.StartDebian(t)
	m.chip = chip
	w.pass(time.Minute) // its certificates are younger than the world
	w.enroll(t, m, alice, Trust{AllowedCAs: []string{issuer}})
	if _, err := w.loginWith(t, m, login{}); err != nil {
		t.Error(err)
	}
}

func TestAnEnrollmentThatDoesNotHoldIsRefusedAndRecorded(t *testing.T) {
	maker, stranger := newCA(t, "maker", nil), newCA(t, "stranger", nil)
	line := newCA(t, "line", maker) // an intermediate that is not listed
	trusted := Trust{AllowedCAs: pemOf(maker)}
	otherEK := newMachine(t, tpmtest.Certificate{CA: maker})
	certOfOther, err := x509.ParseCertificate(otherEK.chip.EKCertificate)
	if err != nil {
		t.Fatal(err)
	}
	certified := func(c tpmtest.Certificate) []tpmtest.Certificate { return []tpmtest.Certificate{c} }

	for _, test := range []struct {
		name         string
		certificates []tpmtest.Certificate
		data         func(*dtv1.DeviceData)
		enrollment   enrollment
		want         string
	}{
		{name: "another operating system", data: func(d *dtv1.DeviceData) { d.OsType = "windows" }, want: "registered for linux"},
		{name: "another tag", data: func(d *dtv1.DeviceData) { d.AssetTag = "C00AA0AAAA0A" }, want: `this is device "C00AA0AAAA0A"`},
		{name: "a junk tag", data: func(d *dtv1.DeviceData) { d.AssetTag = "None" }, want: "placeholder"},
		{name: "an unknown operating system", data: func(d *dtv1.DeviceData) { d.OsType = "plan9" }, want: "unknown operating system"},
		{name: "control characters", data: func(d *dtv1.DeviceData) { d.Hostname = "\x1b[2Jlaptop" }, want: "hostname"},
		{name: "a long text", data: func(d *dtv1.DeviceData) { d.OsBuild = strings.Repeat("x", 257) }, want: "os_build"},

		{name: "no certificate where one is asked for", enrollment: enrollment{trust: trusted}, want: "no endorsement key certificate"},
		{name: "a certificate of another CA", certificates: certified(tpmtest.Certificate{CA: stranger}), enrollment: enrollment{trust: trusted}, want: "which is not in ekcert_allowed_cas"},
		{name: "a certificate of an intermediate that is not listed", certificates: certified(tpmtest.Certificate{CA: line}), enrollment: enrollment{trust: trusted}, want: "which is not in ekcert_allowed_cas"},
		{name: "an expired certificate", certificates: certified(tpmtest.Certificate{CA: maker, NotAfter: time.Now().Add(-time.Hour)}), enrollment: enrollment{trust: trusted}, want: "and not now"},
		{name: "a certificate for something else", certificates: certified(tpmtest.Certificate{CA: maker, NotForEK: true}), enrollment: enrollment{trust: trusted}, want: "not one for endorsement keys"},
		{name: "a certificate of another key", certificates: certified(tpmtest.Certificate{CA: maker, Of: certOfOther.PublicKey}), enrollment: enrollment{trust: trusted}, want: "that of another key"},
		{name: "a certificate of another key, no list", certificates: certified(tpmtest.Certificate{CA: maker, Of: certOfOther.PublicKey}), want: "that of another key"},
		{name: "a certificate and key of another TPM", enrollment: enrollment{trust: trusted, onInit: func(i *dtv1.EnrollInit) {
			i.Tpm.EkCert, i.Tpm.EkKey = certOfOther.Raw, nil
		}}, want: "activate the credential"},
		{name: "an intermediate sent along", certificates: certified(tpmtest.Certificate{CA: line}), enrollment: enrollment{trust: trusted, onInit: func(i *dtv1.EnrollInit) {
			i.Tpm.EkCert = append(i.Tpm.EkCert, line.Certificate.Raw...)
		}}, want: "cannot be read"},
		{name: "a list that holds no CA", certificates: certified(tpmtest.Certificate{CA: maker}), enrollment: enrollment{trust: Trust{AllowedCAs: []string{"maker"}}}, want: "entry 1"},
		{name: "a list that holds an end certificate", certificates: certified(tpmtest.Certificate{CA: maker}), enrollment: enrollment{trust: Trust{
			AllowedCAs: []string{string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certOfOther.Raw}))},
		}}, want: "entry 1"},

		{name: "no TPM", enrollment: enrollment{onInit: func(i *dtv1.EnrollInit) { i.Tpm = nil }}, want: "shown no TPM"},
		{name: "no endorsement key", enrollment: enrollment{onInit: func(i *dtv1.EnrollInit) { i.Tpm.EkKey = nil }}, want: "no endorsement key"},
		{name: "no attestation key", enrollment: enrollment{onInit: func(i *dtv1.EnrollInit) { i.Tpm.AttestationParameters = nil }}, want: "malformed"},
		{name: "another credential ID", enrollment: enrollment{onInit: func(i *dtv1.EnrollInit) { i.CredentialId = strings.Repeat("0", 64) }}, want: "credential ID"},
		{name: "bytes after the attestation key", enrollment: enrollment{onInit: func(i *dtv1.EnrollInit) {
			p := i.Tpm.AttestationParameters
			p.Public = append(p.Public, 0)
		}}, want: "malformed"},
		{name: "another proof of creation", enrollment: enrollment{onInit: func(i *dtv1.EnrollInit) {
			p := i.Tpm.AttestationParameters
			p.CreateAttestation[len(p.CreateAttestation)-1] ^= 1
		}}, want: "how the attestation key was made"},

		{name: "another secret", enrollment: enrollment{onAnswer: func(a *dtv1.TPMEnrollChallengeResponse) { a.ActivatedSecret[0] ^= 1 }}, want: "could not decrypt"},
		{name: "no secret", enrollment: enrollment{onAnswer: func(a *dtv1.TPMEnrollChallengeResponse) { a.ActivatedSecret = nil }}, want: "could not decrypt"},
		{name: "a quote for another nonce", enrollment: enrollment{onChallenge: func(c *dtv1.TPMEnrollChallenge) { c.Nonce[0] ^= 1 }}, want: "quote does not hold"},
		{name: "no quote", enrollment: enrollment{onAnswer: func(a *dtv1.TPMEnrollChallengeResponse) { a.Platform.Quotes = nil }}, want: "quote does not hold"},
		{name: "nothing at all", enrollment: enrollment{onAnswer: func(a *dtv1.TPMEnrollChallengeResponse) { a.Platform = nil }}, want: "quote does not hold"},
		{name: "an event log that is too long", enrollment: enrollment{onAnswer: func(a *dtv1.TPMEnrollChallengeResponse) {
			a.Platform.EventLog = make([]byte, maxEventLog+1)
		}}, want: "event log"},
	} {
		t.Run(test.name, func(t *testing.T) {
			w, m := newWorld(t, storetest.Open(t)), newMachine(t, test.certificates...)
			test.enrollment.token = w.register(t, m).Token
			if test.data != nil {
				test.data(m.data)
			}
			err := w.enrollWith(t, m, test.enrollment)
			if err == nil {
				t.Fatal("it was enrolled")
			}
			if !strings.Contains(err.Error(), test.want) {
				t.Errorf("refused with %q, want %q in it", err, test.want)
			}
			if d := w.device(t, testTag); d.Spec.EnrollStatus != resource.NotEnrolled || d.Spec.Credential != nil || d.Spec.Owner != "" {
				t.Errorf("the device was changed: %+v", d.Spec)
			}
			if _, err := tpm.Enrolled(m.state, testCluster); !errors.Is(err, tpm.ErrNotEnrolled) {
				t.Errorf("the machine remembers: %v", err)
			}
			if e := w.lastEvent(t, event.DeviceEnroll); e.Success || e.Message == "" || e.Device == nil {
				t.Errorf("the record is %+v", e)
			}
			if n := m.chip.Loaded(t); n != 0 {
				t.Errorf("%d keys and sessions were left in the TPM", n)
			}
			// Whatever the outcome, the token is spent.
			err = w.enrollWith(t, m, enrollment{token: test.enrollment.token})
			wantRefusal(t, err, "enrollment token is not valid")
		})
	}
}

func TestATokenThatIsNoGoodIsRefusedAndRecorded(t *testing.T) {
	storetest.Run(t, func(t *testing.T, db *store.DB) {
		w, m := newWorld(t, db), newMachine(t)
		old := w.register(t, m)
		newer, err := w.CreateToken(t.Context(), admin, Ref{AssetTag: testTag}, time.Minute)
		if err != nil {
			t.Fatal(err)
		}
		other, err := w.Add(t.Context(), admin, NewDevice{OSType: "linux", AssetTag: "ANOTHER1"})
		if err != nil {
			t.Fatal(err)
		}
		foreign, err := w.CreateToken(t.Context(), admin, Ref{ID: other.Metadata.Name}, 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, test := range []struct{ name, token, want string }{
			{"none", "", "not an enrollment token"},
			{"a long one", strings.Repeat("x", 129), "not an enrollment token"},
			{"one that never was", "AAAAAAAAAAAAAAAAAAAAAAAA", "never given"},
			{"one that a newer one voids", old.Token, "replaced"},
		} {
			err := w.enrollWith(t, m, enrollment{token: test.token})
			wantRefusal(t, err, test.want)
			if e := w.lastEvent(t, event.DeviceTokenSpent); e.Success || !strings.Contains(e.Message, test.want) || e.User != alice {
				t.Errorf("%s: the record is %+v", test.name, e)
			}
		}
		wantRefusal(t, w.enrollWith(t, m, enrollment{token: foreign.Token}), `this is device "PF2ABCDE", and not "ANOTHER1"`)

		w.pass(time.Minute)
		wantRefusal(t, w.enrollWith(t, m, enrollment{token: newer.Token}), "expired at")
		if e := w.lastEvent(t, event.DeviceTokenSpent); e.Success || e.Device == nil || e.Device.AssetTag != testTag {
			t.Errorf("the record is %+v", e)
		}
		wantRefusal(t, w.enrollWith(t, m, enrollment{token: newer.Token}), "never given")
	})
}

func TestTwoCeremoniesCannotSpendOneToken(t *testing.T) {
	storetest.Run(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db)
		machines := []*machine{newMachine(t), newMachine(t), newMachine(t)}
		token := w.register(t, machines[0]).Token
		var wg sync.WaitGroup
		errs := make([]error, len(machines))
		for n, m := range machines {
			wg.Go(func() { errs[n] = w.enrollWith(t, m, enrollment{token: token}) })
		}
		wg.Wait()
		enrolled := 0
		for _, err := range errs {
			if err == nil {
				enrolled++
				continue
			}
			wantRefusal(t, err, "enrollment token is not valid")
		}
		spent := 0
		for _, e := range w.events(t, event.DeviceTokenSpent) {
			if e.Success {
				spent++
			}
		}
		if enrolled != 1 || spent != 1 {
			t.Errorf("%d were enrolled and the token was spent %d times", enrolled, spent)
		}
	})
}

func TestTheTagOfATPMMustBeThatOfTheTPM(t *testing.T) {
	w, m := newWorld(t, storetest.Open(t)), newMachine(t)
	m.data.AssetTag = "TPM-0123456789ab"
	err := w.enrollWith(t, m, enrollment{token: w.register(t, m).Token})
	wantRefusal(t, err, "is not that of this TPM")

	chip := m.open(t)
	ek, err := chip.EKPublicDER(t.Context())
	chip.Close()
	if err != nil {
		t.Fatal(err)
	}
	m.data.AssetTag = assettag.FromEK(ek)
	w.enroll(t, m, alice, Trust{})
}

func TestOneTPMIsNotTwoDevices(t *testing.T) {
	w, m := newWorld(t, storetest.Open(t)), newMachine(t)
	w.enroll(t, m, alice, Trust{})
	m.data.AssetTag = "ANOTHER1"
	token := w.register(t, m).Token
	wantRefusal(t, w.enrollWith(t, m, enrollment{token: token}), "enrolled already, as device PF2ABCDE/linux")

	// A second operating system on the same machine is no second machine.
	m.data.AssetTag, m.data.OsType = testTag, "windows"
	w.enroll(t, m, alice, Trust{})
}

func TestADeviceDoesNotChangeHandsUnseen(t *testing.T) {
	storetest.Run(t, func(t *testing.T, db *store.DB) {
		w, m := newWorld(t, db), newMachine(t)
		w.enroll(t, m, alice, Trust{})
		id := w.device(t, testTag).Metadata.Name
		token, err := w.CreateToken(t.Context(), admin, Ref{ID: id}, 0)
		if err != nil {
			t.Fatal(err)
		}
		wantRefusal(t, w.enrollWith(t, m, enrollment{user: bob, token: token.Token, onChallenge: func(*dtv1.TPMEnrollChallenge) {
			t.Error("another user's device was challenged")
		}}), "enrolled by another user")

		// Its owner may enroll it again; what the enrollment before gave is ended.
		var ended []string
		replaced := func(_ *store.Tx, id string) error { ended = append(ended, id); return nil }
		if token, err = w.CreateToken(t.Context(), admin, Ref{ID: id}, 0); err != nil {
			t.Fatal(err)
		}
		if err := w.enrollWith(t, m, enrollment{token: token.Token, trust: Trust{Replaced: replaced}}); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff([]string{id}, ended); diff != "" {
			t.Error(diff)
		}

		// Unenrolled, it may be enrolled by somebody else.
		d := w.device(t, testTag)
		d.Spec.EnrollStatus = resource.NotEnrolled
		if _, err := w.Update(t.Context(), admin, d, "", nil); err != nil {
			t.Fatal(err)
		}
		if token, err = w.CreateToken(t.Context(), admin, Ref{ID: id}, 0); err != nil {
			t.Fatal(err)
		}
		if err := w.enrollWith(t, m, enrollment{user: bob, token: token.Token}); err != nil {
			t.Error(err)
		}
	})
}

func TestWhatIsRemovedDuringTheCeremonyIsNotEnrolled(t *testing.T) {
	w, m := newWorld(t, storetest.Open(t)), newMachine(t)
	err := w.enrollWith(t, m, enrollment{token: w.register(t, m).Token, onChallenge: func(*dtv1.TPMEnrollChallenge) {
		if _, err := w.Remove(t.Context(), admin, Ref{AssetTag: testTag}, nil); err != nil {
			t.Error(err)
		}
	}})
	wantRefusal(t, err, "not found")
}

func TestWhoMayNotAnyMoreAtTheEndOfTheCeremonyDoesNotEnroll(t *testing.T) {
	w, m := newWorld(t, storetest.Open(t)), newMachine(t)
	before := w.register(t, m)
	var ended atomic.Bool
	err := w.enrollWith(t, m, enrollment{
		token:       before.Token,
		onChallenge: func(*dtv1.TPMEnrollChallenge) { ended.Store(true) },
		trust: Trust{Stands: func(*store.Tx, resource.Device) error {
			if ended.Load() {
				return api.Refuse(connect.CodeUnauthenticated, "this login has ended")
			}
			return nil
		}},
	})
	wantRefusal(t, err, "login has ended")
	if d := w.device(t, testTag); d.Spec.EnrollStatus != resource.NotEnrolled || d.Spec.Owner != "" {
		t.Errorf("it is %s, of %q", d.Spec.EnrollStatus, d.Spec.Owner)
	}
}

func TestATagDoesNotPutAnotherTPMInTheDevicesPlace(t *testing.T) {
	storetest.Run(t, func(t *testing.T, db *store.DB) {
		w, m, other := newWorld(t, db), newMachine(t), newMachine(t)
		w.enroll(t, m, alice, Trust{})
		enrolled := w.device(t, testTag)
		again := func() Token {
			token, err := w.CreateToken(t.Context(), admin, Ref{AssetTag: testTag}, 0)
			if err != nil {
				t.Fatal(err)
			}
			return token
		}
		wantRefusal(t, w.enrollWith(t, other, enrollment{token: again().Token}), "enrolled with another TPM")
		if diff := cmp.Diff(enrolled, w.device(t, testTag)); diff != "" {
			t.Error(diff)
		}
		d := w.device(t, testTag)
		d.Spec.EnrollStatus = resource.NotEnrolled
		if _, err := w.Update(t.Context(), admin, d, "", nil); err != nil {
			t.Fatal(err)
		}
		if err := w.enrollWith(t, other, enrollment{token: again().Token}); err != nil {
			t.Error(err)
		}
	})
}

func TestOfTwoPeopleWhoEnrollAtTheSameTimeOneDoes(t *testing.T) {
	storetest.Run(t, func(t *testing.T, db *store.DB) {
		w, m, other := newWorld(t, db), newMachine(t), newMachine(t)
		err := w.enrollWith(t, m, enrollment{user: bob, token: w.register(t, m).Token, onChallenge: func(*dtv1.TPMEnrollChallenge) {
			token, err := w.CreateToken(t.Context(), admin, Ref{AssetTag: testTag}, 0)
			if err != nil {
				t.Error(err)
			}
			if err := w.enrollWith(t, other, enrollment{user: alice, token: token.Token}); err != nil {
				t.Error(err)
			}
		}})
		wantRefusal(t, err, "enrolled by another user")
		if d := w.device(t, testTag); d.Spec.Owner != alice {
			t.Errorf("it belongs to %s", d.Spec.Owner)
		}
	})
}

func TestAnEnrollmentThatIsCutShortLeavesOnlyASpentToken(t *testing.T) {
	w, m := newWorld(t, storetest.Open(t)), newMachine(t)
	token := w.register(t, m).Token
	before := w.device(t, testTag)
	_, err := converse(t,
		func(s *serverEnd[dtv1.EnrollDeviceRequest, dtv1.EnrollDeviceResponse]) error {
			return w.Inventory.Enroll(t.Context(), alice, testAddr, Trust{}, s)
		},
		func(s *clientEnd[dtv1.EnrollDeviceRequest, dtv1.EnrollDeviceResponse]) ([]byte, error) {
			chip := m.open(t)
			defer chip.Close()
			return chip.Enroll(t.Context(), tpm.EnrollArgs{Token: token, Cluster: testCluster, User: alice, Data: m.data, StatePath: m.state}, leaving{s})
		})
	if !errors.Is(err, errLeft) {
		t.Fatalf("got %v", err)
	}
	if diff := cmp.Diff(before, w.device(t, testTag)); diff != "" {
		t.Errorf("the device was changed: %s", diff)
	}
	if e := w.lastEvent(t, event.DeviceEnroll); e.Success || !strings.Contains(e.Message, "ended the ceremony") {
		t.Errorf("the record is %+v", e)
	}
}

var errLeft = errors.New("the machine was switched off")

// leaving is a machine that leaves when it has the challenge.
type leaving struct {
	*clientEnd[dtv1.EnrollDeviceRequest, dtv1.EnrollDeviceResponse]
}

func (l leaving) Receive() (*dtv1.EnrollDeviceResponse, error) {
	if _, err := l.clientEnd.Receive(); err != nil {
		return nil, err
	}
	return nil, errLeft
}

// TPM2_Clear leaves the key: what that does to the device is for the server to
// say. Another endorsement seed is another TPM.
func TestATPMWithAnotherSeedIsEnrolledAgain(t *testing.T) {
	w, m := newWorld(t, storetest.Open(t)), newMachine(t)
	w.enroll(t, m, alice, Trust{})
	m.chip.ChangeEPS(t)
	_, err := w.loginWith(t, m, login{})
	if !errors.Is(err, tpm.ErrStaleKey) {
		t.Fatalf("got %v", err)
	}
	wantRefusal(t, err, "not the TPM that this device was enrolled with")
	if n := m.chip.Loaded(t); n != 0 {
		t.Errorf("%d keys and sessions were left in the TPM", n)
	}

	d := w.device(t, testTag)
	d.Spec.EnrollStatus = resource.NotEnrolled
	if _, err := w.Update(t.Context(), admin, d, "", nil); err != nil {
		t.Fatal(err)
	}
	token, err := w.RegisterCurrent(t.Context(), alice, m.data)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.enrollWith(t, m, enrollment{token: token.Token}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.loginWith(t, m, login{}); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(m.state + ".stale"); err != nil {
		t.Errorf("the old state was not set aside: %v", err)
	}
}
