package devices

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
	"google.golang.org/protobuf/proto"

	"devicetrust/api/dtv1"
	"devicetrust/audit/event"
	"devicetrust/devices/tpm"
	"devicetrust/identity"
	"devicetrust/resource"
	"devicetrust/store"
	"devicetrust/store/storetest"
)

func TestALoginOnAnEnrolledDeviceIsVerified(t *testing.T) {
	storetest.Run(t, func(t *testing.T, db *store.DB) {
		w, m := newWorld(t, db), newMachine(t)
		w.enroll(t, m, alice, Trust{})
		w.pass(time.Hour)
		m.data.OsVersion = "13"
		v, err := w.loginWith(t, m, login{})
		if err != nil {
			t.Fatal(err)
		}
		d := w.device(t, testTag)
		want := identity.Device{ID: d.Metadata.Name, AssetTag: testTag, CredentialID: d.Spec.Credential.ID}
		if v.Device() != want || v.OSType() != "linux" {
			t.Errorf("verified %+v", v)
		}
		if !d.Spec.LastSeenTime.Equal(w.clock) || len(d.Spec.CollectedData) != 2 || d.Spec.CollectedData[1].OSVersion != "13" {
			t.Errorf("the device is %+v", d.Spec)
		}
		e := w.lastEvent(t, event.DeviceAuthenticate)
		if !e.Success || e.User != alice || e.Device == nil || e.Device.CredentialID != want.CredentialID || e.RemoteAddr != testAddr {
			t.Errorf("the record is %+v", e)
		}
		if n := m.chip.Loaded(t); n != 0 {
			t.Errorf("%d keys and sessions were left in the TPM", n)
		}
	})
}

func TestOnlyTheLastReportsAreKept(t *testing.T) {
	w, m := newWorld(t, storetest.Open(t)), newMachine(t)
	w.enroll(t, m, alice, Trust{})
	for n := range maxCollected + 3 {
		m.data.OsBuild = strings.Repeat("x", n+1)
		if _, err := w.loginWith(t, m, login{}); err != nil {
			t.Fatal(err)
		}
	}
	kept := w.device(t, testTag).Spec.CollectedData
	if len(kept) != maxCollected || len(kept[maxCollected-1].OSBuild) != maxCollected+3 {
		t.Errorf("%d are kept, the last is %+v", len(kept), kept[len(kept)-1])
	}
}

func TestAnAuthenticationThatDoesNotHoldIsRefusedAndRecorded(t *testing.T) {
	w, m, other := newWorld(t, storetest.Open(t)), newMachine(t), newMachine(t)
	w.enroll(t, m, alice, Trust{})
	other.data.AssetTag = "ANOTHER1"
	w.enroll(t, other, alice, Trust{})

	// What another session of the same device signed.
	var replayed *dtv1.TPMPlatform
	if _, err := w.loginWith(t, m, login{onAnswer: func(p *dtv1.TPMPlatform) { replayed = proto.CloneOf(p) }}); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name  string
		on    *machine
		login login
		want  string
	}{
		{"a replayed quote", m, login{onAnswer: func(p *dtv1.TPMPlatform) { proto.Reset(p); proto.Merge(p, replayed) }}, "quote does not hold"},
		{"a quote for another SSH key", m, login{clientSSH: []byte("another")}, "quote does not hold"},
		{"a quote for another TLS key", m, login{clientTLS: []byte("another")}, "quote does not hold"},
		{"a quote for another user", m, login{clientUser: bob}, "quote does not hold"},
		{"a quote for another challenge", m, login{onChallenge: func(c *dtv1.AuthenticateChallenge) { c.Challenge[31] ^= 1 }}, "quote does not hold"},
		{"another person's login", m, login{user: bob}, "enrolled by another user"},
		{"another device's credential", m, login{onInit: func(i *dtv1.AuthenticateInit) {
			i.CredentialId = w.device(t, "ANOTHER1").Spec.Credential.ID
			i.DeviceData.AssetTag = "ANOTHER1"
		}}, "quote does not hold"},
		{"an unknown credential", m, login{onInit: func(i *dtv1.AuthenticateInit) { i.CredentialId = strings.Repeat("0", 64) }}, "not enrolled in example"},
		{"no credential", m, login{onInit: func(i *dtv1.AuthenticateInit) { i.CredentialId = "" }}, "which key"},
		{"another operating system", m, login{onInit: func(i *dtv1.AuthenticateInit) { i.DeviceData.OsType = "windows" }}, "registered for linux"},
		{"no report", m, login{onInit: func(i *dtv1.AuthenticateInit) { i.DeviceData = nil }}, "does not say what it is"},
		{"no quote", m, login{onAnswer: func(p *dtv1.TPMPlatform) { p.Quotes = nil }}, "quote does not hold"},
		{"two quotes", m, login{onAnswer: func(p *dtv1.TPMPlatform) { p.Quotes = append(p.Quotes, p.Quotes[0]) }}, "quote does not hold"},
		{"a forged PCR in place of the quoted", m, login{onAnswer: func(p *dtv1.TPMPlatform) { p.Pcrs[0].Digest[0] ^= 1 }}, "quote does not hold"},
		{"a forged PCR before the quoted", m, login{onAnswer: func(p *dtv1.TPMPlatform) {
			forged := proto.CloneOf(p.Pcrs[0])
			forged.Digest[0] ^= 1
			p.Pcrs = append([]*dtv1.TPMPCR{forged}, p.Pcrs...)
		}}, "quote does not hold"},
		{"a forged PCR in the place of another", m, login{onAnswer: func(p *dtv1.TPMPlatform) {
			p.Pcrs[23] = proto.CloneOf(p.Pcrs[0])
		}}, "quote does not hold"},
		{"a PCR missing", m, login{onAnswer: func(p *dtv1.TPMPlatform) { p.Pcrs = p.Pcrs[:23] }}, "quote does not hold"},
		{"a PCR of another bank", m, login{onAnswer: func(p *dtv1.TPMPlatform) { p.Pcrs[3].DigestAlg = 4 }}, "quote does not hold"},
		{"a broken signature", m, login{onAnswer: func(p *dtv1.TPMPlatform) {
			s := p.Quotes[0].Signature
			s[len(s)-1] ^= 1
		}}, "quote does not hold"},
	} {
		t.Run(test.name, func(t *testing.T) {
			before := w.device(t, testTag)
			v, err := w.loginWith(t, test.on, test.login)
			wantRefusal(t, err, test.want)
			if v.Device().Trusted() {
				t.Error("a device came out of it")
			}
			if after := w.device(t, testTag); after.Metadata.Revision != before.Metadata.Revision {
				t.Error("the device was changed")
			}
			e := w.lastEvent(t, event.DeviceAuthenticate)
			if e.Success || !strings.Contains(e.Message, test.want) || e.User != first(test.login.user, alice) {
				t.Errorf("the record is %+v", e)
			}
		})
	}
}

func TestTheKeyOfOneTPMIsOfNoUseInAnother(t *testing.T) {
	w, m := newWorld(t, storetest.Open(t)), newMachine(t)
	w.enroll(t, m, alice, Trust{})
	thief := newMachine(t)
	thief.state = m.state
	_, err := w.loginWith(t, thief, login{})
	if !errors.Is(err, tpm.ErrStaleKey) {
		t.Fatalf("got %v", err)
	}
	// On its own TPM it is still good.
	if _, err := w.loginWith(t, m, login{}); err != nil {
		t.Error(err)
	}
}

// A TPM that cannot do it now has not lost the key.
func TestAPasswordOfTheEndorsementHierarchyIsNoStaleKey(t *testing.T) {
	w, m := newWorld(t, storetest.Open(t)), newMachine(t)
	w.enroll(t, m, alice, Trust{})
	m.chip.SetEndorsementPassword(t)
	_, err := w.loginWith(t, m, login{})
	if errors.Is(err, tpm.ErrStaleKey) {
		t.Errorf("got %v", err)
	}
	wantRefusal(t, err, "its endorsement hierarchy has a password")
}

// The owner hierarchy is the machine's owner's: nothing of ours is there.
func TestAPasswordOfTheOwnerIsNoObstacle(t *testing.T) {
	w, m := newWorld(t, storetest.Open(t)), newMachine(t)
	m.chip.Do(t, func(c transport.TPM) error {
		_, err := tpm2.HierarchyChangeAuth{AuthHandle: tpm2.TPMRHOwner, NewAuth: tpm2.TPM2BAuth{Buffer: []byte("secret")}}.Execute(c)
		return err
	})
	w.enroll(t, m, alice, Trust{})
	if _, err := w.loginWith(t, m, login{}); err != nil {
		t.Error(err)
	}
}

func TestAMachineThatIsNotEnrolledSaysSo(t *testing.T) {
	w, m := newWorld(t, storetest.Open(t)), newMachine(t)
	_, err := w.loginWith(t, m, login{})
	if !errors.Is(err, tpm.ErrNotEnrolled) {
		t.Fatalf("got %v", err)
	}
	wantRefusal(t, err, "this device is not enrolled in example")
}

func TestWhoseDeviceItIsNotIsNotToldThatItIsFrozen(t *testing.T) {
	w, m := newWorld(t, storetest.Open(t)), newMachine(t)
	w.enroll(t, m, alice, Trust{})
	w.edit(t, func(d *resource.Device) { d.Spec.Frozen = &resource.DeviceFreeze{Reason: "it went back"} })
	_, err := w.loginWith(t, m, login{user: bob})
	wantRefusal(t, err, "enrolled by another user")
	_, err = w.loginWith(t, m, login{})
	wantRefusal(t, err, "is frozen: it went back")
}

func TestWhatEndsADeviceEndsALoginThatGoesOn(t *testing.T) {
	storetest.Run(t, func(t *testing.T, db *store.DB) {
		w, m := newWorld(t, db), newMachine(t)
		w.enroll(t, m, alice, Trust{})
		v, err := w.loginWith(t, m, login{})
		if err != nil {
			t.Fatal(err)
		}
		stands := func(v Verified) error {
			return db.Write(t.Context(), func(tx *store.Tx) error { return w.StillStands(tx, v) })
		}
		if err := stands(v); err != nil {
			t.Errorf("right after it was verified: %v", err)
		}
		wantRefusal(t, stands(Verified{}), "no device has proved itself")

		unenroll := func() {
			d := w.device(t, testTag)
			d.Spec.EnrollStatus = resource.NotEnrolled
			if _, err := w.Update(t.Context(), admin, d, "", nil); err != nil {
				t.Error(err)
			}
		}
		_, err = w.loginWith(t, m, login{onChallenge: func(*dtv1.AuthenticateChallenge) { unenroll() }})
		wantRefusal(t, err, "not enrolled any more")
		wantRefusal(t, stands(v), "not enrolled any more")

		// Enrolled anew by somebody else, it is not what was verified.
		token, err := w.CreateToken(t.Context(), admin, Ref{AssetTag: testTag}, 0)
		if err != nil {
			t.Fatal(err)
		}
		if err := w.enrollWith(t, m, enrollment{user: bob, token: token.Token}); err != nil {
			t.Fatal(err)
		}
		wantRefusal(t, stands(v), "enrolled by another user")
		w.spoilCredential(t)
		wantRefusal(t, stands(v), "not enrolled any more")
		if _, err := w.Remove(t.Context(), admin, Ref{AssetTag: testTag}, nil); err != nil {
			t.Fatal(err)
		}
		wantRefusal(t, stands(v), "not found")
	})
}

func TestALoginIsForAUserAndTwoKeys(t *testing.T) {
	w := newWorld(t, storetest.Open(t))
	for _, b := range []identity.LoginBinding{
		{},
		{User: alice, SSHPublicKey: []byte("x")},
		{User: alice, TLSPublicKey: []byte("x")},
		{SSHPublicKey: []byte("x"), TLSPublicKey: []byte("x")},
	} {
		if _, err := w.Authenticate(t.Context(), b, Demands{}, testAddr, nil); err == nil {
			t.Errorf("%+v was accepted", b)
		}
	}
}

func TestAMachineInSeveralClustersHasAKeyForEach(t *testing.T) {
	w, m := newWorld(t, storetest.Open(t)), newMachine(t)
	w.enroll(t, m, alice, Trust{})
	here, err := tpm.Enrolled(m.state, testCluster)
	if err != nil {
		t.Fatal(err)
	}
	elsewhere := newWorld(t, storetest.Open(t))
	elsewhere.cluster = "elsewhere"
	token := elsewhere.register(t, m).Token
	chip := m.open(t)
	_, err = converse(t,
		func(s *serverEnd[dtv1.EnrollDeviceRequest, dtv1.EnrollDeviceResponse]) error {
			return elsewhere.Inventory.Enroll(t.Context(), alice, testAddr, Trust{}, s)
		},
		func(s *clientEnd[dtv1.EnrollDeviceRequest, dtv1.EnrollDeviceResponse]) ([]byte, error) {
			return chip.Enroll(t.Context(), tpm.EnrollArgs{Token: token, Cluster: "elsewhere", User: alice, Data: m.data, StatePath: m.state}, s)
		})
	chip.Close()
	if err != nil {
		t.Fatal(err)
	}
	there, err := tpm.Enrolled(m.state, "elsewhere")
	if err != nil {
		t.Fatal(err)
	}
	if here.CredentialID == there.CredentialID {
		t.Error("the two clusters share a key")
	}
	if _, err := w.loginWith(t, m, login{}); err != nil {
		t.Errorf("the first enrollment is lost: %v", err)
	}
}

// BenchmarkDeviceCeremony is the whole ceremony of a login on a software TPM:
// opening it, loading the key, a quote, its verification, SQLite.
func BenchmarkDeviceCeremony(b *testing.B) {
	w, m := newWorld(b, storetest.Open(b)), newMachine(b)
	w.enroll(b, m, alice, Trust{})
	for b.Loop() {
		if _, err := w.loginWith(b, m, login{}); err != nil {
			b.Fatal(err)
		}
	}
}

// Somebody else at the machine, or root, may read another serial number.
func TestALoginIsOfTheDeviceWhateverTagTheMachineFinds(t *testing.T) {
	w, m := newWorld(t, storetest.Open(t)), newMachine(t)
	w.enroll(t, m, alice, Trust{})
	enrolled := w.device(t, m.data.GetAssetTag())
	verified, err := w.loginWith(t, m, login{onInit: func(i *dtv1.AuthenticateInit) { i.DeviceData.AssetTag = "ANOTHER1" }})
	if err != nil {
		t.Fatal(err)
	}
	if got := verified.Device().AssetTag; got != enrolled.Spec.AssetTag {
		t.Errorf("the certificate would say %q, and the device is %q", got, enrolled.Spec.AssetTag)
	}
	kept := w.device(t, enrolled.Spec.AssetTag).Spec.CollectedData
	if got := kept[len(kept)-1].AssetTag; got != "ANOTHER1" {
		t.Errorf("the report that is kept says %q", got)
	}
}
