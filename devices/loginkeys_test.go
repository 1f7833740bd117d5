package devices

import (
	"bytes"
	"crypto/elliptic"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-tpm/tpm2"
	"golang.org/x/crypto/ssh"

	"devicetrust/api"
	"devicetrust/api/dtv1"
	"devicetrust/audit/event"
	"devicetrust/devices/tpm"
	"devicetrust/identity"
	"devicetrust/resource"
	"devicetrust/store"
	"devicetrust/store/storetest"
)

func TestKeysInTheTPMAreVerified(t *testing.T) {
	storetest.Run(t, func(t *testing.T, db *store.DB) {
		w, m := newWorld(t, db), newMachine(t)
		w.enroll(t, m, alice, Trust{})
		var proved tpm.Authenticated
		var sent *dtv1.TPMLoginKeys
		v, err := w.loginWith(t, m, login{
			newKeys:  true,
			onProved: func(p tpm.Authenticated) { proved = p },
			onKeys:   func(keys *dtv1.TPMLoginKeys) { sent = keys },
		})
		if err != nil {
			t.Fatal(err)
		}
		public, err := proved.Keys.SSH.PublicKey()
		if err != nil {
			t.Fatal(err)
		}
		want, err := ssh.NewPublicKey(public)
		if err != nil {
			t.Fatal(err)
		}
		if k := v.Keys(); k.SSH() == nil || !bytes.Equal(k.SSH().Marshal(), want.Marshal()) || len(k.Attestation()) != 64 {
			t.Errorf("verified %+v", k)
		}
		recorded := w.lastEvent(t, event.DeviceAuthenticate).Key
		wantKey := &event.Key{
			Policy: "hardware_key", Attestation: v.Keys().Attestation(), Public: sent.GetSsh().GetPublic(),
			CertifyInfo: sent.GetSsh().GetCertifyInfo(), Signature: sent.GetSsh().GetSignature(),
		}
		if diff := cmp.Diff(wantKey, recorded); diff != "" {
			t.Errorf("the record of the key (-want +got):\n%s", diff)
		}
		again, err := w.loginWith(t, m, login{keys: proved.Keys})
		if err != nil {
			t.Fatal(err)
		}
		if k := again.Keys(); !bytes.Equal(k.SSH().Marshal(), want.Marshal()) || k.Attestation() == v.Keys().Attestation() {
			t.Errorf("the keys were certified again as %+v", k)
		}
		if _, err := w.loginWith(t, m, login{}); err != nil {
			t.Fatal(err)
		}
		if k := w.lastEvent(t, event.DeviceAuthenticate).Key; k != nil {
			t.Errorf("the record of a login without keys in the TPM has %+v", k)
		}
		if n := m.chip.Loaded(t); n != 0 {
			t.Errorf("%d keys and sessions were left in the TPM", n)
		}
	})
}

// An auditor has the record, and the digest in the certificate.
func TestTheRecordOfALoginHasTheProofThatTheCertificateNames(t *testing.T) {
	w, m := newWorld(t, storetest.Open(t)), newMachine(t)
	w.enroll(t, m, alice, Trust{})
	v, err := w.loginWith(t, m, login{newKeys: true})
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(w.lastEvent(t, event.DeviceAuthenticate))
	if err != nil {
		t.Fatal(err)
	}
	var record struct {
		Key struct {
			Attestation string `json:"attestation"`
			Public      []byte `json:"public"`
			CertifyInfo []byte `json:"certify_info"`
			Signature   []byte `json:"signature"`
		} `json:"key"`
	}
	if err := json.Unmarshal(text, &record); err != nil {
		t.Fatal(err)
	}
	var all []byte
	for _, part := range [][]byte{record.Key.Public, record.Key.CertifyInfo, record.Key.Signature} {
		all = append(binary.BigEndian.AppendUint32(all, uint32(len(part))), part...)
	}
	digest := sha256.Sum256(all)
	if got := hex.EncodeToString(digest[:]); got != record.Key.Attestation || got != v.Keys().Attestation() {
		t.Errorf("the proof has the digest %s, the record says %s, the certificate %s", got, record.Key.Attestation, v.Keys().Attestation())
	}
}

// answerWith is a login of alice's in which the machine says what answer gives.
func (w *world) answerWith(t testing.TB, m *machine, answer func(identity.LoginBinding) *dtv1.TPMAuthenticateChallengeResponse) (v Verified, err error) {
	t.Helper()
	_, err = converse(t,
		func(s *serverEnd[dtv1.AuthenticateDeviceRequest, dtv1.AuthenticateDeviceResponse]) (err error) {
			b := identity.LoginBinding{User: alice, SSHPublicKey: []byte("the login's ssh key"), TLSPublicKey: []byte("the login's tls key")}
			if v, err = w.Authenticate(t.Context(), b, Demands{}, testAddr, s); err != nil {
				return err
			}
			return s.Send(&dtv1.AuthenticateDeviceResponse{})
		},
		func(s *clientEnd[dtv1.AuthenticateDeviceRequest, dtv1.AuthenticateDeviceResponse]) (none []byte, err error) {
			b := identity.LoginBinding{Cluster: testCluster, User: alice, CredentialID: w.device(t, testTag).Spec.Credential.ID}
			init := &dtv1.AuthenticateInit{CredentialId: b.CredentialID, DeviceData: m.data}
			if err := s.Send(&dtv1.AuthenticateDeviceRequest{Payload: &dtv1.AuthenticateDeviceRequest_Init{Init: init}}); err != nil {
				return nil, err
			}
			msg, err := s.Receive()
			if err != nil {
				return nil, err
			}
			b.Challenge = msg.GetChallenge().GetChallenge()
			if err := s.Send(&dtv1.AuthenticateDeviceRequest{Payload: &dtv1.AuthenticateDeviceRequest_TpmChallengeResponse{TpmChallengeResponse: answer(b)}}); err != nil {
				return nil, err
			}
			_, err = s.Receive()
			return nil, api.FromWire(err)
		})
	return v, err
}

// refused fails unless a login was refused with want, gave no device, changed
// nothing and is recorded with detail.
func (w *world) refused(t testing.TB, before resource.Device, v Verified, err error, want, detail string) {
	t.Helper()
	wantRefusal(t, err, want)
	if v.Device().Trusted() || v.Keys().SSH() != nil || v.Keys().Attestation() != "" {
		t.Errorf("it gave %+v", v)
	}
	e := w.lastEvent(t, event.DeviceAuthenticate)
	if e.Success || !strings.Contains(e.Message, want) || !strings.Contains(e.Message, detail) || e.User != alice || e.Device == nil || e.Key != nil {
		t.Errorf("the record is %+v, want %q in it", e, detail)
	}
	if after := w.device(t, testTag); after.Metadata.Revision != before.Metadata.Revision {
		t.Error("the device was changed")
	}
}

const (
	doesNotHold = "the proof that the login's keys are in the TPM does not hold"
	isMalformed = "the device's attestation is malformed"
)

func TestAKeyThatIsNotAsALoginsKeyIsRefused(t *testing.T) {
	ak := newSoftKey(t, nil)
	w, m := yesWorld(t, ak)
	if _, err := w.try(t, m, ak, newSoftKey(t, loginArea(nil)), nil); err != nil {
		t.Fatalf("a good one was refused: %v", err)
	}
	keys := map[string]*softKey{
		"on P-384": newSoftKeyOn(t, elliptic.P384(), loginArea(func(a *tpm2.TPMTPublic) {
			a.Parameters = eccParms(tpm2.TPMECCNistP384, tpm2.TPMAlgECDSA, tpm2.TPMAlgSHA256)
		})),
		"on P-384, called P-256": newSoftKeyOn(t, elliptic.P384(), loginArea(nil)),
		"signs with SHA-1": newSoftKey(t, loginArea(func(a *tpm2.TPMTPublic) {
			a.Parameters = eccParms(tpm2.TPMECCNistP256, tpm2.TPMAlgECDSA, tpm2.TPMAlgSHA1)
		})),
		"signs with SHA-384": newSoftKey(t, loginArea(func(a *tpm2.TPMTPublic) {
			a.Parameters = eccParms(tpm2.TPMECCNistP256, tpm2.TPMAlgECDSA, tpm2.TPMAlgSHA384)
		})),
		"without a scheme":           newSoftKey(t, loginArea(func(a *tpm2.TPMTPublic) { a.Parameters = eccParms(tpm2.TPMECCNistP256, tpm2.TPMAlgNull, 0) })),
		"named by SHA-384":           newSoftKey(t, loginArea(func(a *tpm2.TPMTPublic) { a.NameAlg = tpm2.TPMAlgSHA384 })),
		"named by SHA-1":             newSoftKey(t, loginArea(func(a *tpm2.TPMTPublic) { a.NameAlg = tpm2.TPMAlgSHA1 })),
		"without a name":             newSoftKey(t, loginArea(func(a *tpm2.TPMTPublic) { a.NameAlg = tpm2.TPMAlgNull })),
		"with a policy":              newSoftKey(t, loginArea(func(a *tpm2.TPMTPublic) { a.AuthPolicy.Buffer = make([]byte, 32) })),
		"with a point that is none":  newSoftKey(t, loginArea(func(a *tpm2.TPMTPublic) { a.Unique = point(1, 1) })),
		"with the point at infinity": newSoftKey(t, loginArea(func(a *tpm2.TPMTPublic) { a.Unique = point(0, 0) })),
		"without a point":            newSoftKey(t, loginArea(func(a *tpm2.TPMTPublic) { a.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{}) })),
	}
	for bit := range 32 {
		k := newSoftKey(t, loginArea(nil))
		k.public[4+bit/8] ^= 1 << (bit % 8) // TPMT_PUBLIC: type, nameAlg, objectAttributes
		keys[fmt.Sprintf("with bit %d of its attributes turned", 31-(bit/8*8+7-bit%8))] = k
	}
	rsa := newSoftRSAKey(t, 2048, tpm2.TPMAlgRSASSA)
	rsa.public[5] &^= 1 // not restricted
	keys["of RSA"] = rsa
	long := newSoftKey(t, loginArea(nil))
	long.public = append(long.public, 0)
	keys["with something after it"] = long
	if len(keys) != 12+32+2 {
		t.Errorf("%d kinds of keys are tried", len(keys))
	}
	for name, k := range keys {
		t.Run(name, func(t *testing.T) {
			before := w.device(t, testTag)
			v, err := w.try(t, m, ak, k, nil)
			w.refused(t, before, v, err, doesNotHold, "")
			v, err = w.try(t, m, ak, newSoftKey(t, loginArea(nil)), func(c *yesChip, a *dtv1.TPMAuthenticateChallengeResponse) {
				a.Keys.Tls = k.certified(t, ak, identity.TLSKeyNonce(c.binding), nil)
			})
			w.refused(t, before, v, err, doesNotHold, "")
		})
	}
}

func point(x, y byte) tpm2.TPMUPublicID {
	return tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{
		X: tpm2.TPM2BECCParameter{Buffer: append(make([]byte, 31), x)}, Y: tpm2.TPM2BECCParameter{Buffer: append(make([]byte, 31), y)},
	})
}

func TestAProofThatDoesNotHoldIsRefused(t *testing.T) {
	ak, other := newSoftKey(t, nil), newSoftKey(t, nil)
	w, m := yesWorld(t, ak)
	type answer = dtv1.TPMAuthenticateChallengeResponse
	// forge gives a change that has the attestation key sign another statement
	// of the SSH key.
	forge := func(change func(*tpm2.TPMSAttest, *tpm2.TPMSCertifyInfo)) func(*yesChip, *answer) {
		return func(c *yesChip, a *answer) {
			a.Keys.Ssh = c.ssh.certified(t, c.ak, identity.SSHKeyNonce(c.binding), change)
		}
	}
	// elsewhere has it signed for another login.
	elsewhere := func(change func(*identity.LoginBinding)) func(*yesChip, *answer) {
		return func(c *yesChip, a *answer) {
			b := c.binding
			change(&b)
			a.Keys.Ssh = c.ssh.certified(t, c.ak, identity.SSHKeyNonce(b), nil)
		}
	}
	by := func(signer func(*yesChip) *softKey) func(*yesChip, *answer) {
		return func(c *yesChip, a *answer) {
			a.Keys.Ssh = c.ssh.certified(t, signer(c), identity.SSHKeyNonce(c.binding), nil)
		}
	}
	const (
		another   = "SSH key: it is for another challenge"
		verify    = "SSH key: could not verify"
		name      = "SSH key: name: it is of another key"
		qualifies = "SSH key: qualified name: it is of another key"
		tag       = "are not of a certified key"
		anyDetail = ""
	)
	for _, test := range []struct {
		what         string
		change       func(*yesChip, *answer)
		want, detail string
	}{
		{"no keys in the message for them", func(_ *yesChip, a *answer) { a.Keys = &dtv1.TPMLoginKeys{} }, isMalformed, anyDetail},
		{"no SSH key", func(_ *yesChip, a *answer) { a.Keys.Ssh = nil }, isMalformed, anyDetail},
		{"no TLS key", func(_ *yesChip, a *answer) { a.Keys.Tls = nil }, isMalformed, anyDetail},
		{"an SSH key without anything", func(_ *yesChip, a *answer) { a.Keys.Ssh = &dtv1.TPMCertifiedKey{} }, isMalformed, anyDetail},
		{"half a public area", func(_ *yesChip, a *answer) { a.Keys.Ssh.Public = a.Keys.Ssh.Public[:40] }, isMalformed, anyDetail},
		{"a public area that is too long", func(_ *yesChip, a *answer) {
			a.Keys.Ssh.Public = append(a.Keys.Ssh.Public, make([]byte, maxStructure)...)
		}, isMalformed, anyDetail},
		{"one key for both", func(c *yesChip, a *answer) {
			a.Keys.Tls = c.ssh.certified(t, c.ak, identity.TLSKeyNonce(c.binding), nil)
		}, doesNotHold, "one key is to serve SSH and TLS"},

		{"claimed and not certified", func(_ *yesChip, a *answer) { a.Keys.Ssh.CertifyInfo, a.Keys.Ssh.Signature = nil, nil }, doesNotHold, "SSH key: "},
		{"a TLS key claimed and not certified", func(_ *yesChip, a *answer) { a.Keys.Tls.CertifyInfo, a.Keys.Tls.Signature = nil, nil }, doesNotHold, "TLS key: "},
		{"certified and not signed", func(_ *yesChip, a *answer) { a.Keys.Ssh.Signature = nil }, doesNotHold, "SSH key: "},
		{"signed and not certified", func(_ *yesChip, a *answer) { a.Keys.Ssh.CertifyInfo = nil }, doesNotHold, "SSH key: "},
		{"a certified structure that is too long", func(c *yesChip, a *answer) {
			a.Keys.Ssh = c.ak.signed(t, c.ssh.public, append(a.Keys.Ssh.CertifyInfo, make([]byte, maxStructure)...))
		}, doesNotHold, "bytes are certified"},
		{"a signature that is too long", func(_ *yesChip, a *answer) {
			a.Keys.Ssh.Signature = append(a.Keys.Ssh.Signature, make([]byte, maxStructure)...)
		}, doesNotHold, "bytes are certified"},
		{"something after the certified structure", func(_ *yesChip, a *answer) {
			a.Keys.Ssh.CertifyInfo = append(a.Keys.Ssh.CertifyInfo, 0)
		}, doesNotHold, verify},
		{"something after the signature", func(_ *yesChip, a *answer) { a.Keys.Ssh.Signature = append(a.Keys.Ssh.Signature, 0) }, doesNotHold, "SSH key: the signature is not in its one encoding"},
		{"a broken signature", func(_ *yesChip, a *answer) { a.Keys.Ssh.Signature[len(a.Keys.Ssh.Signature)-1] ^= 1 }, doesNotHold, verify},
		{"a signature of another kind", func(c *yesChip, a *answer) {
			a.Keys.Ssh.Signature = newSoftRSAKey(t, 2048, tpm2.TPMAlgRSASSA).sign(t, a.Keys.Ssh.CertifyInfo)
		}, doesNotHold, "SSH key: ecdsa public key provided for non-ecdsa signature"},

		{"certified by another attestation key", by(func(*yesChip) *softKey { return other }), doesNotHold, verify},
		{"certified by itself", by(func(c *yesChip) *softKey { return c.ssh }), doesNotHold, verify},
		{"certified by the TLS key", by(func(c *yesChip) *softKey { return c.tls }), doesNotHold, verify},
		{"a TLS key certified by the SSH key", func(c *yesChip, a *answer) {
			a.Keys.Tls = c.tls.certified(t, c.ssh, identity.TLSKeyNonce(c.binding), nil)
		}, doesNotHold, "TLS key: could not verify"},

		{"for another challenge", elsewhere(func(b *identity.LoginBinding) { b.Challenge = make([]byte, 32) }), doesNotHold, another},
		{"for another cluster", elsewhere(func(b *identity.LoginBinding) { b.Cluster = "elsewhere" }), doesNotHold, another},
		{"for another user", elsewhere(func(b *identity.LoginBinding) { b.User = bob }), doesNotHold, another},
		{"for another device", elsewhere(func(b *identity.LoginBinding) { b.CredentialID = strings.Repeat("0", 64) }), doesNotHold, another},
		{"for the login's first keys", elsewhere(func(b *identity.LoginBinding) {
			b.SSHPublicKey, b.TLSPublicKey = []byte("the login's ssh key"), []byte("the login's tls key")
		}), doesNotHold, another},
		{"beside another TLS key", elsewhere(func(b *identity.LoginBinding) { b.TLSPublicKey = other.wire() }), doesNotHold, another},
		{"with the nonce of a quote", forge(func(a *tpm2.TPMSAttest, _ *tpm2.TPMSCertifyInfo) { a.ExtraData.Buffer = nil }), doesNotHold, another},
		{"the proof of the TLS key", func(_ *yesChip, a *answer) {
			a.Keys.Ssh.CertifyInfo, a.Keys.Ssh.Signature = a.Keys.Tls.CertifyInfo, a.Keys.Tls.Signature
		}, doesNotHold, another},
		{"the proof of the SSH key for TLS", func(_ *yesChip, a *answer) {
			a.Keys.Tls.CertifyInfo, a.Keys.Tls.Signature = a.Keys.Ssh.CertifyInfo, a.Keys.Ssh.Signature
		}, doesNotHold, "TLS key: it is for another challenge"},
		{"the two keys in each other's place", func(_ *yesChip, a *answer) { a.Keys.Ssh, a.Keys.Tls = a.Keys.Tls, a.Keys.Ssh }, "quote does not hold", "another challenge"},
		{"a key that the quote is not for", func(c *yesChip, a *answer) {
			c.ssh = newSoftKey(t, loginArea(nil))
			b := c.binding
			b.SSHPublicKey = c.ssh.wire()
			a.Keys.Ssh = c.ssh.certified(t, c.ak, identity.SSHKeyNonce(b), nil)
			a.Keys.Tls = c.tls.certified(t, c.ak, identity.TLSKeyNonce(b), nil)
		}, "quote does not hold", "another challenge"},

		{"the name of another key", forge(func(_ *tpm2.TPMSAttest, i *tpm2.TPMSCertifyInfo) { i.Name.Buffer = other.name() }), doesNotHold, name},
		{"a handle for a name", forge(func(_ *tpm2.TPMSAttest, i *tpm2.TPMSCertifyInfo) { i.Name.Buffer = []byte{0x80, 0, 0, 0} }), doesNotHold, name},
		{"no name", forge(func(_ *tpm2.TPMSAttest, i *tpm2.TPMSCertifyInfo) { i.Name.Buffer = nil }), doesNotHold, name},
		{"a name by another hash", forge(func(_ *tpm2.TPMSAttest, i *tpm2.TPMSCertifyInfo) { i.Name.Buffer[1] = 0x0c }), doesNotHold, "SSH key: "},
		{"a key in the owner's hierarchy", inHierarchy(forge, tpm2.TPMRHOwner), doesNotHold, qualifies},
		{"a key in the platform's hierarchy", inHierarchy(forge, tpm2.TPMRHPlatform), doesNotHold, qualifies},
		{"a key in no hierarchy", inHierarchy(forge, tpm2.TPMRHNull), doesNotHold, qualifies},
		{"a key under another", forge(func(_ *tpm2.TPMSAttest, i *tpm2.TPMSCertifyInfo) {
			i.QualifiedName.Buffer = qualified(qualified(inEndorsementHierarchy, other.name()), i.Name.Buffer)
		}), doesNotHold, qualifies},
		{"no qualified name", forge(func(_ *tpm2.TPMSAttest, i *tpm2.TPMSCertifyInfo) { i.QualifiedName.Buffer = nil }), doesNotHold, qualifies},

		{"what no TPM made", func(c *yesChip, a *answer) {
			info := a.Keys.Ssh.CertifyInfo
			info[0] ^= 1
			a.Keys.Ssh = c.ak.signed(t, c.ssh.public, info)
		}, doesNotHold, "magic"},
		{"a quote called a certified key", func(c *yesChip, a *answer) {
			a.Keys.Ssh = c.ak.signed(t, c.ssh.public, c.quoted(t))
		}, doesNotHold, tag},
		{"a certified key called a quote", func(c *yesChip, a *answer) {
			info := bytes.Clone(a.Keys.Ssh.CertifyInfo)
			info[5] = 0x18 // TPM_ST_ATTEST_QUOTE
			a.Keys.Ssh = c.ak.signed(t, c.ssh.public, info)
		}, doesNotHold, "SSH key: "},
		{"a proof of creation", func(c *yesChip, a *answer) {
			nonce, hash := identity.SSHKeyNonce(c.binding), sha256.Sum256(nil)
			a.Keys.Ssh = c.ak.signed(t, c.ssh.public, tpm2.Marshal(tpm2.TPMSAttest{
				Magic: tpm2.TPMGeneratedValue, Type: tpm2.TPMSTAttestCreation,
				QualifiedSigner: tpm2.TPM2BName{Buffer: c.ak.name()}, ExtraData: tpm2.TPM2BData{Buffer: nonce[:]},
				Attested: tpm2.NewTPMUAttest(tpm2.TPMSTAttestCreation, &tpm2.TPMSCreationInfo{
					ObjectName: tpm2.TPM2BName{Buffer: c.ssh.name()}, CreationHash: tpm2.TPM2BDigest{Buffer: hash[:]},
				}),
			}))
		}, doesNotHold, tag},
		{"half a certified structure", func(c *yesChip, a *answer) {
			a.Keys.Ssh = c.ak.signed(t, c.ssh.public, a.Keys.Ssh.CertifyInfo[:60])
		}, doesNotHold, "SSH key: "},
		{"a certified key for a quote", func(_ *yesChip, a *answer) {
			a.Platform.Quotes[0] = &dtv1.TPMQuote{Quote: a.Keys.Ssh.CertifyInfo, Signature: a.Keys.Ssh.Signature}
		}, "quote does not hold", "are not of a quote"},
		{"no quote", func(_ *yesChip, a *answer) { a.Platform = nil }, "quote does not hold", "0 quotes"},
	} {
		t.Run(test.what, func(t *testing.T) {
			before := w.device(t, testTag)
			v, err := w.try(t, m, ak, newSoftKey(t, loginArea(nil)), test.change)
			w.refused(t, before, v, err, test.want, test.detail)
		})
	}
	if _, err := w.try(t, m, ak, newSoftKey(t, loginArea(nil)), nil); err != nil {
		t.Errorf("after all that, a good one was refused: %v", err)
	}
}

// FuzzLoginKeys: what a machine sends as the proof of a key makes refusals, and
// the attestation key has said one thing only.
func FuzzLoginKeys(f *testing.F) {
	c := yesChip{
		ak: newSoftKey(f, nil), ssh: newSoftKey(f, loginArea(nil)), tls: newSoftKey(f, loginArea(nil)),
		binding: identity.LoginBinding{Challenge: make([]byte, 32), Cluster: testCluster, User: alice},
	}
	c.binding.SSHPublicKey, c.binding.TLSPublicKey = c.ssh.wire(), c.tls.pkix(f)
	said := c.answer(f, nil).GetKeys()
	f.Add(said.Ssh.Public, said.Ssh.CertifyInfo, said.Ssh.Signature)
	f.Add(said.Ssh.Public, c.quoted(f), said.Ssh.Signature)
	f.Add(newSoftRSAKey(f, 2048, tpm2.TPMAlgRSASSA).public, []byte(nil), newSoftRSAKey(f, 2048, tpm2.TPMAlgRSASSA).sign(f, nil))
	f.Add(c.ak.public, []byte(nil), []byte(nil))
	f.Fuzz(func(t *testing.T, public, info, signature []byte) {
		sent := &dtv1.TPMLoginKeys{Ssh: &dtv1.TPMCertifiedKey{Public: public, CertifyInfo: info, Signature: signature}, Tls: said.Tls}
		keys, err := unverifiedLoginKeys(sent)
		if err == nil {
			keys, err = verifyLoginKeys(c.ak.public, sent, keys, c.binding)
		}
		switch {
		case err == nil && (!bytes.Equal(public, said.Ssh.Public) || !bytes.Equal(info, said.Ssh.CertifyInfo)):
			t.Errorf("it was verified as %+v", keys)
		case err != nil && refusalOf(err) == nil:
			t.Errorf("%v is no refusal", err)
		}
	})
}
