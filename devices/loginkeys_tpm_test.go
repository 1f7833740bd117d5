package devices

import (
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/json"
	"errors"
	"os"
	"testing"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
	"golang.org/x/crypto/ssh"

	"devicetrust/api/dtv1"
	"devicetrust/devices/tpm/tpmtest"
	"devicetrust/identity"
	"devicetrust/store/storetest"
)

// forger is a program on an enrolled machine that has a TPM do what can be had
// of it.
type forger struct {
	t      testing.TB
	chip   transport.TPM
	unique []byte // of the attestation key
}

// recipe is how a key is made in the TPM, and which one certifies it.
type recipe struct {
	hierarchy tpm2.TPMHandle
	area      tpm2.TPMTPublic
	signer    tpm2.TPMTPublic // zero is the attestation key's
}

// loginRecipe is that of a login's key, another one for each n.
func loginRecipe(n byte, change func(*tpm2.TPMTPublic)) recipe {
	area := ofUnique(goodArea(), append(make([]byte, 31), n))
	loginArea(change)(&area)
	return recipe{hierarchy: tpm2.TPMRHEndorsement, area: area}
}

func (r recipe) in(hierarchy tpm2.TPMHandle) recipe {
	r.hierarchy = hierarchy
	return r
}

func (r recipe) by(signer tpm2.TPMTPublic) recipe {
	r.signer = signer
	return r
}

// ofUnique is an area with what a key is made from.
func ofUnique(area tpm2.TPMTPublic, unique []byte) tpm2.TPMTPublic {
	area.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{
		X: tpm2.TPM2BECCParameter{Buffer: unique}, Y: tpm2.TPM2BECCParameter{Buffer: make([]byte, 32)},
	})
	return area
}

// primary makes a key in the TPM; drop flushes it.
func (f *forger) primary(hierarchy tpm2.TPMHandle, area tpm2.TPMTPublic) (key tpm2.NamedHandle, public []byte, drop func()) {
	f.t.Helper()
	rsp, err := tpm2.CreatePrimary{PrimaryHandle: hierarchy, InPublic: tpm2.New2B(area)}.Execute(f.chip)
	if err != nil {
		f.t.Fatal(err)
	}
	drop = func() { tpm2.FlushContext{FlushHandle: rsp.ObjectHandle}.Execute(f.chip) }
	return tpm2.NamedHandle{Handle: rsp.ObjectHandle, Name: rsp.Name}, rsp.OutPublic.Bytes(), drop
}

// public is the public half of the key of r.
func (f *forger) public(r recipe) any {
	f.t.Helper()
	_, public, drop := f.primary(r.hierarchy, r.area)
	drop()
	area, err := tpm2.Unmarshal[tpm2.TPMTPublic](public)
	if err != nil {
		f.t.Fatal(err)
	}
	key, err := tpm2.Pub(*area)
	if err != nil {
		f.t.Fatal(err)
	}
	return key
}

// certify has the key of r certified.
func (f *forger) certify(r recipe, nonce [32]byte) *dtv1.TPMCertifiedKey {
	f.t.Helper()
	key, public, drop := f.primary(r.hierarchy, r.area)
	defer drop()
	if r.signer.Type == 0 {
		r.signer = ofUnique(goodArea(), f.unique)
	}
	signer, _, dropSigner := f.primary(tpm2.TPMRHEndorsement, r.signer)
	defer dropSigner()
	rsp, err := tpm2.Certify{
		ObjectHandle: key, SignHandle: signer, QualifyingData: tpm2.TPM2BData{Buffer: nonce[:]},
		InScheme: tpm2.TPMTSigScheme{Scheme: tpm2.TPMAlgNull},
	}.Execute(f.chip)
	if err != nil {
		f.t.Fatal(err)
	}
	return &dtv1.TPMCertifiedKey{Public: public, CertifyInfo: rsp.CertifyInfo.Bytes(), Signature: tpm2.Marshal(rsp.Signature)}
}

func (f *forger) quote(b identity.LoginBinding) *dtv1.TPMPlatform {
	f.t.Helper()
	ak, _, drop := f.primary(tpm2.TPMRHEndorsement, ofUnique(goodArea(), f.unique))
	defer drop()
	platform, err := quotedBy(f.chip, ak, identity.LoginNonce(b))
	if err != nil {
		f.t.Fatal(err)
	}
	return platform
}

// with puts the keys of two recipes into b.
func (f *forger) with(b identity.LoginBinding, sshRecipe, tlsRecipe recipe) identity.LoginBinding {
	f.t.Helper()
	wire, err := ssh.NewPublicKey(f.public(sshRecipe))
	if err != nil {
		f.t.Fatal(err)
	}
	b.SSHPublicKey = wire.Marshal()
	if b.TLSPublicKey, err = x509.MarshalPKIXPublicKey(f.public(tlsRecipe)); err != nil {
		f.t.Fatal(err)
	}
	return b
}

// forge is a login in which a program answers with the keys of two recipes:
// made and certified by keysOf, quoted by the machine's own TPM.
func (w *world) forge(t testing.TB, m *machine, keysOf *tpmtest.TPM, sshRecipe, tlsRecipe recipe, change func(*dtv1.TPMLoginKeys)) (Verified, error) {
	t.Helper()
	text, err := os.ReadFile(m.state)
	if err != nil {
		t.Fatal(err)
	}
	var state struct {
		Clusters map[string]struct {
			Unique []byte `json:"unique"`
		} `json:"clusters"`
	}
	if err := json.Unmarshal(text, &state); err != nil {
		t.Fatal(err)
	}
	f := &forger{t: t, unique: state.Clusters[testCluster].Unique}
	on := func(chip *tpmtest.TPM, do func()) {
		chip.Do(t, func(c transport.TPM) error {
			f.chip = c
			do()
			return nil
		})
	}
	return w.answerWith(t, m, func(b identity.LoginBinding) *dtv1.TPMAuthenticateChallengeResponse {
		answer := &dtv1.TPMAuthenticateChallengeResponse{}
		on(keysOf, func() {
			b = f.with(b, sshRecipe, tlsRecipe)
			answer.Keys = &dtv1.TPMLoginKeys{Ssh: f.certify(sshRecipe, identity.SSHKeyNonce(b)), Tls: f.certify(tlsRecipe, identity.TLSKeyNonce(b))}
		})
		on(m.chip, func() { answer.Platform = f.quote(b) })
		if change != nil {
			change(answer.Keys)
		}
		return answer
	})
}

func TestAKeyThatATPMReallyHasAndIsNotALoginsIsRefused(t *testing.T) {
	w, m := newWorld(t, storetest.Open(t)), newMachine(t)
	w.enroll(t, m, alice, Trust{})
	thief := newMachine(t)
	good, second := loginRecipe(1, nil), loginRecipe(2, nil)
	var before *dtv1.TPMLoginKeys
	if _, err := w.forge(t, m, m.chip, good, second, func(keys *dtv1.TPMLoginKeys) { before = keys }); err != nil {
		t.Fatalf("a good one was refused: %v", err)
	}
	with := func(change func(*tpm2.TPMTPublic)) recipe { return loginRecipe(1, change) }
	attribute := func(change func(*tpm2.TPMAObject)) recipe {
		return with(func(a *tpm2.TPMTPublic) { change(&a.ObjectAttributes) })
	}
	rsa := goodArea()
	rsa.Type, rsa.ObjectAttributes.Restricted = tpm2.TPMAlgRSA, false
	rsa.Parameters = tpm2.NewTPMUPublicParms(tpm2.TPMAlgRSA, &tpm2.TPMSRSAParms{KeyBits: 2048, Scheme: tpm2.TPMTRSAScheme{
		Scheme:  tpm2.TPMAlgRSASSA,
		Details: tpm2.NewTPMUAsymScheme(tpm2.TPMAlgRSASSA, &tpm2.TPMSSigSchemeRSASSA{HashAlg: tpm2.TPMAlgSHA256}),
	}})
	rsa.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgRSA, &tpm2.TPM2BPublicKeyRSA{})
	const qualified, attributes, verify = "SSH key: qualified name", "attributes", "SSH key: could not verify"
	for _, test := range []struct {
		what   string
		ssh    recipe
		on     *tpmtest.TPM
		detail string
		change func(*dtv1.TPMLoginKeys)
	}{
		{"in the owner's hierarchy", good.in(tpm2.TPMRHOwner), m.chip, qualified, nil},
		{"in the platform's hierarchy", good.in(tpm2.TPMRHPlatform), m.chip, qualified, nil},
		{"in no hierarchy, gone with a reset", good.in(tpm2.TPMRHNull), m.chip, qualified, nil},
		{"an attestation key", attribute(func(a *tpm2.TPMAObject) { a.Restricted = true }), m.chip, attributes, nil},
		{"a storage key", recipe{hierarchy: tpm2.TPMRHEndorsement, area: tpm2.ECCSRKTemplate}, m.chip, attributes, nil},
		{"that can leave the TPM", attribute(func(a *tpm2.TPMAObject) { a.FixedTPM, a.FixedParent = false, false }), m.chip, attributes, nil},
		{"that lockout keeps", attribute(func(a *tpm2.TPMAObject) { a.NoDA = false }), m.chip, attributes, nil},
		{"gone with a reset", attribute(func(a *tpm2.TPMAObject) { a.STClear = true }), m.chip, attributes, nil},
		{"without a password's way in", attribute(func(a *tpm2.TPMAObject) { a.UserWithAuth = false }), m.chip, attributes, nil},
		{"with a policy", with(func(a *tpm2.TPMTPublic) { a.AuthPolicy.Buffer = make([]byte, 32) }), m.chip, attributes, nil},
		{"named by SHA-384", with(func(a *tpm2.TPMTPublic) { a.NameAlg = tpm2.TPMAlgSHA384 }), m.chip, "name algorithm", nil},
		{"on P-384", with(func(a *tpm2.TPMTPublic) {
			a.Parameters = eccParms(tpm2.TPMECCNistP384, tpm2.TPMAlgECDSA, tpm2.TPMAlgSHA256)
			a.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{})
		}), m.chip, attributes, nil},
		{"without a scheme", with(func(a *tpm2.TPMTPublic) { a.Parameters = eccParms(tpm2.TPMECCNistP256, tpm2.TPMAlgNull, 0) }), m.chip, attributes, nil},
		{"of RSA", recipe{hierarchy: tpm2.TPMRHEndorsement, area: rsa}, m.chip, "want a key on P-256", nil},
		{"certified by another attestation key", good.by(ofUnique(goodArea(), make([]byte, 32))), m.chip, verify, nil},
		{"certified by itself", good.by(good.area), m.chip, verify, nil},
		{"certified by the TLS key", good.by(second.area), m.chip, verify, nil},
		{"of another TPM", good, thief.chip, verify, nil},
		{"certified in the login before", good, m.chip, "SSH key: it is for another challenge", func(keys *dtv1.TPMLoginKeys) { keys.Ssh = before.Ssh }},
	} {
		t.Run(test.what, func(t *testing.T) {
			before := w.device(t, testTag)
			v, err := w.forge(t, m, test.on, test.ssh, second, test.change)
			w.refused(t, before, v, err, doesNotHold, test.detail)
		})
	}
	if _, err := w.forge(t, m, m.chip, good, second, nil); err != nil {
		t.Errorf("after all that, a good one was refused: %v", err)
	}
}

// All of it rests on this: a TPM takes the public half of any key, with whatever
// attributes, but vouches for none of which it has no private half. What it takes
// whole says that it can be anywhere.
func TestATPMVouchesForNoKeyThatItWasOnlyTold(t *testing.T) {
	m := newMachine(t)
	login, ak := newSoftKey(t, loginArea(nil)), newSoftKey(t, nil)
	m.chip.Do(t, func(chip transport.TPM) error {
		f := &forger{t: t, chip: chip}
		signer, _, drop := f.primary(tpm2.TPMRHEndorsement, ofUnique(goodArea(), make([]byte, 32)))
		defer drop()
		for _, hierarchy := range []tpm2.TPMHandle{tpm2.TPMRHEndorsement, tpm2.TPMRHOwner, tpm2.TPMRHNull} {
			for what, vouch := range map[string]func(told tpm2.AuthHandle) error{
				"certified": func(told tpm2.AuthHandle) error {
					_, err := tpm2.Certify{
						ObjectHandle: told, SignHandle: signer, QualifyingData: tpm2.TPM2BData{Buffer: make([]byte, 32)},
						InScheme: tpm2.TPMTSigScheme{Scheme: tpm2.TPMAlgNull},
					}.Execute(chip)
					return err
				},
				"activated": func(told tpm2.AuthHandle) error {
					_, err := tpm2.ActivateCredential{
						ActivateHandle: told, KeyHandle: signer,
						CredentialBlob: tpm2.TPM2BIDObject{Buffer: make([]byte, 34)}, Secret: tpm2.TPM2BEncryptedSecret{Buffer: make([]byte, 34)},
					}.Execute(chip)
					return err
				},
			} {
				for _, key := range []*softKey{login, ak} {
					for _, auth := range []tpm2.Session{tpm2.PasswordAuth(nil), tpm2.Policy(tpm2.TPMAlgSHA256, 16, noPolicy)} {
						told, err := tpm2.LoadExternal{InPublic: key.area(), Hierarchy: hierarchy}.Execute(chip)
						if err != nil {
							t.Fatal(err)
						}
						err = vouch(tpm2.AuthHandle{Handle: told.ObjectHandle, Name: told.Name, Auth: auth})
						if !errors.Is(err, tpm2.TPMRCAuthUnavailable) {
							t.Errorf("a key that was told to hierarchy %#x is %s: %v", uint32(hierarchy), what, err)
						}
						tpm2.FlushContext{FlushHandle: told.ObjectHandle}.Execute(chip)
					}
				}
			}
		}
		private := tpm2.New2B(tpm2.TPMTSensitive{
			SensitiveType: tpm2.TPMAlgECC,
			Sensitive:     tpm2.NewTPMUSensitiveComposite(tpm2.TPMAlgECC, &tpm2.TPM2BECCParameter{Buffer: login.scalar(t)}),
		})
		for hierarchy, want := range map[tpm2.TPMHandle]error{
			tpm2.TPMRHNull: tpm2.TPMRCAttributes, tpm2.TPMRHEndorsement: tpm2.TPMRCHierarchy,
		} {
			if _, err := (tpm2.LoadExternal{InPublic: login.area(), InPrivate: private, Hierarchy: hierarchy}).Execute(chip); !errors.Is(err, want) {
				t.Errorf("a key from outside is loaded into hierarchy %#x as the TPM's own: %v", uint32(hierarchy), err)
			}
		}
		return nil
	})
}

// A key that signs what it is given would forge quotes, were it the attestation
// key by another name: what a TPM makes from its seed depends on all that is
// said of the key.
func TestTheAttestationKeyIsNotMadeAgainWithoutItsRestriction(t *testing.T) {
	newMachine(t).chip.Do(t, func(chip transport.TPM) error {
		f := &forger{t: t, chip: chip}
		restricted := recipe{hierarchy: tpm2.TPMRHEndorsement, area: ofUnique(goodArea(), make([]byte, 32))}
		free := restricted
		loginArea(nil)(&free.area)
		ak, again := f.public(restricted).(*ecdsa.PublicKey), f.public(restricted)
		if !ak.Equal(again) {
			t.Error("the attestation key is another one each time")
		}
		if ak.Equal(f.public(free)) {
			t.Error("the attestation key is made again as one that signs anything")
		}
		return nil
	})
}

func noPolicy(transport.TPM, tpm2.TPMISHPolicy, tpm2.TPM2BNonce) error { return nil }

// area is the key's public half as a TPM is told it.
func (k *softKey) area() tpm2.TPM2BPublic { return tpm2.BytesAs2B[tpm2.TPMTPublic](k.public) }

// scalar is the private half of a key on P-256.
func (k *softKey) scalar(t testing.TB) []byte {
	t.Helper()
	private, err := k.signer.(*ecdsa.PrivateKey).Bytes()
	if err != nil {
		t.Fatal(err)
	}
	return private
}
