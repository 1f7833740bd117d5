package devices

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"encoding/hex"
	"errors"
	"math/big"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"devicetrust/api"
	"devicetrust/api/dtv1"
	"devicetrust/audit/event"
	"devicetrust/identity"
	"devicetrust/policy"
	"devicetrust/resource"
	"devicetrust/store"
	"devicetrust/store/storetest"
)

// mac is a machine without a TPM. Its key is in memory, where a Mac has it in
// its Secure Enclave; the server cannot see the difference.
type mac struct {
	key  crypto.Signer
	der  []byte
	data *dtv1.DeviceData
}

const macTag = "C00AA0AAAA0A"

func newMac(t testing.TB) *mac {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return macWith(t, key)
}

func macWith(t testing.TB, key crypto.Signer) *mac {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	return &mac{key, der, &dtv1.DeviceData{OsType: "macos", AssetTag: macTag, Hostname: "mac"}}
}

func (m *mac) credentialID() string {
	digest := sha256.Sum256(m.der)
	return hex.EncodeToString(digest[:])
}

func (m *mac) sign(t testing.TB, nonce [32]byte) []byte {
	t.Helper()
	digest := sha256.Sum256(nonce[:])
	signature, err := m.key.Sign(rand.Reader, digest[:], crypto.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	return signature
}

// macEnrollment is how a test enrolls a Mac; what changes messages may be nil.
type macEnrollment struct {
	user, token string
	trust       Trust
	onInit      func(*dtv1.EnrollInit)
	onSign      func(*identity.EnrollBinding)
	onAnswer    func(*dtv1.EnrollDeviceRequest)
}

func (w *world) enrollMacWith(t testing.TB, m *mac, e macEnrollment) error {
	t.Helper()
	e.user = first(e.user, alice)
	_, err := converse(t,
		func(s *serverEnd[dtv1.EnrollDeviceRequest, dtv1.EnrollDeviceResponse]) error {
			return w.Inventory.Enroll(t.Context(), e.user, testAddr, e.trust, s)
		},
		func(s *clientEnd[dtv1.EnrollDeviceRequest, dtv1.EnrollDeviceResponse]) (any, error) {
			init := &dtv1.EnrollInit{
				Token: e.token, CredentialId: m.credentialID(), DeviceData: m.data, Macos: &dtv1.MacOSEnroll{PublicKeyDer: m.der},
			}
			if e.onInit != nil {
				init = copied(init)
				e.onInit(init)
			}
			s.Send(&dtv1.EnrollDeviceRequest{Payload: &dtv1.EnrollDeviceRequest_Init{Init: init}})
			msg, err := s.Receive()
			if err != nil {
				return nil, err
			}
			b := identity.EnrollBinding{
				Challenge: msg.GetMacosChallenge().GetChallenge(), Cluster: testCluster, User: e.user, CredentialID: m.credentialID(),
			}
			if len(b.Challenge) != challengeBytes {
				return nil, errors.New("no challenge")
			}
			if e.onSign != nil {
				e.onSign(&b)
			}
			answer := macEnrollAnswer(m.sign(t, identity.EnrollNonce(b)))
			if e.onAnswer != nil {
				e.onAnswer(answer)
			}
			s.Send(answer)
			return s.Receive()
		})
	return wired(err)
}

func macEnrollAnswer(signature []byte) *dtv1.EnrollDeviceRequest {
	return &dtv1.EnrollDeviceRequest{Payload: &dtv1.EnrollDeviceRequest_MacosChallengeResponse{
		MacosChallengeResponse: &dtv1.MacOSEnrollChallengeResponse{Signature: signature},
	}}
}

func wired(err error) error {
	if err == nil {
		return nil
	}
	return api.FromWire(err)
}

func (w *world) registerMac(t testing.TB, m *mac) string {
	t.Helper()
	return w.register(t, &machine{data: m.data}).Token
}

func (w *world) enrollMac(t testing.TB, m *mac) {
	t.Helper()
	if err := w.enrollMacWith(t, m, macEnrollment{token: w.registerMac(t, m)}); err != nil {
		t.Fatal(err)
	}
}

// macLogin is how a test authenticates a Mac.
type macLogin struct {
	user     string
	onInit   func(*dtv1.AuthenticateInit)
	onSign   func(*identity.LoginBinding)
	onAnswer func(*dtv1.AuthenticateDeviceRequest)
}

func (w *world) loginMac(t testing.TB, m *mac, l macLogin) (v Verified, err error) {
	t.Helper()
	binding := identity.LoginBinding{User: first(l.user, alice), SSHPublicKey: []byte("ssh key"), TLSPublicKey: []byte("tls key")}
	_, err = converse(t,
		func(s *serverEnd[dtv1.AuthenticateDeviceRequest, dtv1.AuthenticateDeviceResponse]) (err error) {
			if v, err = w.Inventory.Authenticate(t.Context(), binding, Demands{}, testAddr, s); err != nil {
				return err
			}
			return s.Send(&dtv1.AuthenticateDeviceResponse{})
		},
		func(s *clientEnd[dtv1.AuthenticateDeviceRequest, dtv1.AuthenticateDeviceResponse]) (any, error) {
			init := &dtv1.AuthenticateInit{CredentialId: m.credentialID(), DeviceData: copied(m.data)}
			if l.onInit != nil {
				l.onInit(init)
			}
			s.Send(&dtv1.AuthenticateDeviceRequest{Payload: &dtv1.AuthenticateDeviceRequest_Init{Init: init}})
			msg, err := s.Receive()
			if err != nil {
				return nil, err
			}
			b := binding
			b.Cluster, b.CredentialID, b.Challenge = testCluster, m.credentialID(), msg.GetChallenge().GetChallenge()
			if l.onSign != nil {
				l.onSign(&b)
			}
			answer := macLoginAnswer(m.sign(t, identity.LoginNonce(b)))
			if l.onAnswer != nil {
				l.onAnswer(answer)
			}
			s.Send(answer)
			return s.Receive()
		})
	return v, wired(err)
}

func macLoginAnswer(signature []byte) *dtv1.AuthenticateDeviceRequest {
	return &dtv1.AuthenticateDeviceRequest{Payload: &dtv1.AuthenticateDeviceRequest_MacosChallengeResponse{
		MacosChallengeResponse: &dtv1.MacOSAuthenticateChallengeResponse{Signature: signature},
	}}
}

func TestAMacIsEnrolledAndLogsInWithItsKey(t *testing.T) {
	storetest.Run(t, func(t *testing.T, db *store.DB) {
		w, m := newWorld(t, db), newMac(t)
		w.enrollMac(t, m)
		d := w.device(t, macTag)
		want := &resource.Credential{ID: m.credentialID(), PublicKeyDER: m.der, DeviceAttestationType: "macos_key"}
		if diff := cmp.Diff(want, d.Spec.Credential); diff != "" || d.Spec.EnrollStatus != resource.Enrolled || d.Spec.Owner != alice {
			t.Errorf("it is %s, of %q: %s", d.Spec.EnrollStatus, d.Spec.Owner, diff)
		}
		if e := w.lastEvent(t, event.DeviceEnroll); !e.Success || !cmp.Equal(e.Reasons, []string{"attestation: macos_key", "evidence: key"}) {
			t.Errorf("the record is %+v", e)
		}
		v, err := w.loginMac(t, m, macLogin{})
		if err != nil {
			t.Fatal(err)
		}
		if got := (identity.Device{ID: d.Metadata.Name, AssetTag: macTag, CredentialID: m.credentialID()}); v.Device() != got || v.OSType() != "macos" {
			t.Errorf("verified %+v", v)
		}
		if got := v.Evidence(); got != (identity.Evidence{Level: string(policy.EvidenceKey)}) {
			t.Errorf("the evidence is %+v", got)
		}
		if e := w.lastEvent(t, event.DeviceAuthenticate); !e.Success || e.Device.CredentialID != m.credentialID() {
			t.Errorf("the record is %+v", e)
		}
	})
}

func TestAMacThatDoesNotProveItsKeyIsNotEnrolled(t *testing.T) {
	w, m, other := newWorld(t, storetest.Open(t)), newMac(t), newMac(t)
	// What it signed when it was enrolled before.
	var replayed []byte
	if err := w.enrollMacWith(t, m, macEnrollment{token: w.registerMac(t, m), onAnswer: func(r *dtv1.EnrollDeviceRequest) {
		replayed = bytes.Clone(r.GetMacosChallengeResponse().GetSignature())
	}}); err != nil {
		t.Fatal(err)
	}
	signature := func(change func([]byte) []byte) func(*dtv1.EnrollDeviceRequest) {
		return func(r *dtv1.EnrollDeviceRequest) {
			a := r.GetMacosChallengeResponse()
			a.Signature = change(a.Signature)
		}
	}
	const noSignature = "signature does not hold"
	for _, test := range []struct {
		name string
		e    macEnrollment
		want string
	}{
		{"a replayed signature", macEnrollment{onAnswer: signature(func([]byte) []byte { return replayed })}, noSignature},
		{"a signature for another challenge", macEnrollment{onSign: func(b *identity.EnrollBinding) { b.Challenge[31] ^= 1 }}, noSignature},
		{"a signature for another cluster", macEnrollment{onSign: func(b *identity.EnrollBinding) { b.Cluster = "other" }}, noSignature},
		{"a signature for another person", macEnrollment{onSign: func(b *identity.EnrollBinding) { b.User = bob }}, noSignature},
		{"a signature for another key", macEnrollment{onSign: func(b *identity.EnrollBinding) { b.CredentialID = other.credentialID() }}, noSignature},
		{"a truncated signature", macEnrollment{onAnswer: signature(func(s []byte) []byte { return s[:len(s)-1] })}, noSignature},
		{"a longer signature", macEnrollment{onAnswer: signature(func(s []byte) []byte { return append(s, make([]byte, 100)...) })}, "malformed"},
		{"no signature", macEnrollment{onAnswer: signature(func([]byte) []byte { return nil })}, noSignature},
		{"the answer of a TPM", macEnrollment{onAnswer: func(r *dtv1.EnrollDeviceRequest) {
			r.Payload = &dtv1.EnrollDeviceRequest_TpmChallengeResponse{TpmChallengeResponse: &dtv1.TPMEnrollChallengeResponse{}}
		}}, "does not answer the challenge"},
		{"another's credential ID", macEnrollment{onInit: func(i *dtv1.EnrollInit) { i.CredentialId = other.credentialID() }}, "credential ID is not that"},
		{"another's key", macEnrollment{onInit: func(i *dtv1.EnrollInit) {
			i.Macos.PublicKeyDer, i.CredentialId = other.der, other.credentialID()
		}}, noSignature},
		{"no key", macEnrollment{onInit: func(i *dtv1.EnrollInit) { i.Macos = nil }}, "key of a Mac"},
		{"an empty key", macEnrollment{onInit: func(i *dtv1.EnrollInit) { i.Macos.PublicKeyDer = nil }}, "not ECDSA on P-256"},
		{"a TPM in place of it", macEnrollment{onInit: func(i *dtv1.EnrollInit) { i.Macos, i.Tpm = nil, &dtv1.TPMEnroll{} }}, "key of a Mac"},
		{"a TPM beside it", macEnrollment{onInit: func(i *dtv1.EnrollInit) { i.Tpm = &dtv1.TPMEnroll{} }}, "key of a Mac"},
		{"a list of makers", macEnrollment{trust: Trust{AllowedCAs: pemOf(newCA(t, "maker", nil))}}, "ekcert_allowed_cas"},
	} {
		t.Run(test.name, func(t *testing.T) {
			before := w.device(t, macTag)
			token, err := w.CreateToken(t.Context(), admin, Ref{AssetTag: macTag}, 0)
			if err != nil {
				t.Fatal(err)
			}
			test.e.token = token.Token
			wantRefusal(t, w.enrollMacWith(t, m, test.e), test.want)
			if diff := cmp.Diff(before, w.device(t, macTag)); diff != "" {
				t.Errorf("it was changed: %s", diff)
			}
			if e := w.lastEvent(t, event.DeviceEnroll); e.Success || !strings.Contains(e.Message, test.want) {
				t.Errorf("the record is %+v", e)
			}
		})
	}
}

func TestOnlyKeysOnP256InTheirOneEncodingAreAMacs(t *testing.T) {
	key := func(curve elliptic.Curve) []byte {
		k, err := ecdsa.GenerateKey(curve, rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		return macWith(t, k).der
	}
	edwards, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ed, err := x509.MarshalPKIXPublicKey(edwards)
	if err != nil {
		t.Fatal(err)
	}
	good := newMac(t).der
	if _, err := checkMacKey(good); err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		der  []byte
		want string
	}{
		"P-224":                    {key(elliptic.P224()), "it is a"},
		"P-384":                    {key(elliptic.P384()), "120 bytes, want 91"},
		"Ed25519":                  {ed, "it is a"},
		"something after it":       {append(bytes.Clone(good), 0), "92 bytes"},
		"something missing":        {good[:len(good)-1], "asn1"},
		"a point beside the curve": {append(bytes.Clone(good[:len(good)-1]), good[len(good)-1]^1), "not on curve"},
		"a second encoding of it":  {shifted(t, good), "one encoding"},
		"an endless one":           {bytes.Repeat([]byte{0x30}, 1<<20), "1048576 bytes"},
	} {
		if key, err := checkMacKey(test.der); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: key %q, error %v, want %q in it", name, key.credentialID, err, test.want)
		}
	}
}

// shifted is der with the leading zeros of the point cut off, of which the
// parser of crypto/x509 makes the same point.
func shifted(t *testing.T, der []byte) []byte {
	t.Helper()
	var info struct {
		Algorithm asn1.RawValue
		Key       asn1.BitString
	}
	if _, err := asn1.Unmarshal(der, &info); err != nil {
		t.Fatal(err)
	}
	info.Key.BitLength -= 3
	info.Key.Bytes = new(big.Int).Lsh(new(big.Int).SetBytes(info.Key.Bytes), 3).Bytes()
	out, err := asn1.Marshal(info)
	if err != nil {
		t.Fatal(err)
	}
	if key, err := x509.ParsePKIXPublicKey(out); err != nil || len(out) != len(der) {
		t.Fatalf("it is no second form of the key: %v, %v", key, err)
	}
	return out
}

func TestALoginOfAMacThatDoesNotHoldIsRefusedAndRecorded(t *testing.T) {
	w, m, other := newWorld(t, storetest.Open(t)), newMac(t), newMac(t)
	w.enrollMac(t, m)
	other.data.AssetTag = "ANOTHER1"
	w.enrollMac(t, other)
	var replayed []byte
	if _, err := w.loginMac(t, m, macLogin{onAnswer: func(r *dtv1.AuthenticateDeviceRequest) {
		replayed = r.GetMacosChallengeResponse().GetSignature()
	}}); err != nil {
		t.Fatal(err)
	}
	signature := func(change func([]byte) []byte) func(*dtv1.AuthenticateDeviceRequest) {
		return func(r *dtv1.AuthenticateDeviceRequest) {
			a := r.GetMacosChallengeResponse()
			a.Signature = change(a.Signature)
		}
	}
	var challenge []byte
	const noSignature = "signature does not hold"
	for _, test := range []struct {
		name  string
		login macLogin
		want  string
	}{
		{"a replayed signature", macLogin{onAnswer: signature(func([]byte) []byte { return replayed })}, noSignature},
		{"a signature for another challenge", macLogin{onSign: func(b *identity.LoginBinding) { b.Challenge[0] ^= 1 }}, noSignature},
		{"a signature for another SSH key", macLogin{onSign: func(b *identity.LoginBinding) { b.SSHPublicKey = []byte("another") }}, noSignature},
		{"a signature for another TLS key", macLogin{onSign: func(b *identity.LoginBinding) { b.TLSPublicKey = []byte("another") }}, noSignature},
		{"a signature for another person", macLogin{onSign: func(b *identity.LoginBinding) { b.User = bob }}, noSignature},
		{"a signature for another cluster", macLogin{onSign: func(b *identity.LoginBinding) { b.Cluster = "other" }}, noSignature},
		{"a signature for an enrollment", macLogin{
			onSign: func(b *identity.LoginBinding) { challenge = b.Challenge },
			onAnswer: signature(func([]byte) []byte {
				return m.sign(t, identity.EnrollNonce(identity.EnrollBinding{Challenge: challenge, Cluster: testCluster, User: alice, CredentialID: m.credentialID()}))
			}),
		}, noSignature},
		{"another's key", macLogin{onInit: func(i *dtv1.AuthenticateInit) { i.CredentialId = other.credentialID() }}, noSignature},
		{"a truncated signature", macLogin{onAnswer: signature(func(s []byte) []byte { return s[:8] })}, noSignature},
		{"a longer signature", macLogin{onAnswer: signature(func(s []byte) []byte { return make([]byte, 1<<16) })}, "malformed"},
		{"no signature", macLogin{onAnswer: signature(func([]byte) []byte { return nil })}, noSignature},
		{"the answer of a TPM", macLogin{onAnswer: func(r *dtv1.AuthenticateDeviceRequest) {
			r.Payload = &dtv1.AuthenticateDeviceRequest_TpmChallengeResponse{TpmChallengeResponse: &dtv1.TPMAuthenticateChallengeResponse{}}
		}}, "does not answer the challenge"},
		{"another person's login", macLogin{user: bob}, "enrolled by another user"},
		{"another operating system", macLogin{onInit: func(i *dtv1.AuthenticateInit) { i.DeviceData.OsType = "linux" }}, "registered for macos"},
	} {
		t.Run(test.name, func(t *testing.T) {
			before := w.device(t, macTag)
			v, err := w.loginMac(t, m, test.login)
			wantRefusal(t, err, test.want)
			if v.Device().Trusted() || v.Evidence() != (identity.Evidence{}) {
				t.Errorf("out of it came %+v", v)
			}
			if diff := cmp.Diff(before, w.device(t, macTag)); diff != "" {
				t.Errorf("it was changed: %s", diff)
			}
			if e := w.lastEvent(t, event.DeviceAuthenticate); e.Success || !strings.Contains(e.Message, test.want) {
				t.Errorf("the record is %+v", e)
			}
		})
	}
}

// The other root of the equation holds as well, and is no second use: the
// challenge is gone after one answer.
func TestTheSignatureOfAMacMayHaveAHighS(t *testing.T) {
	w, m := newWorld(t, storetest.Open(t)), newMac(t)
	w.enrollMac(t, m)
	_, err := w.loginMac(t, m, macLogin{onAnswer: func(r *dtv1.AuthenticateDeviceRequest) {
		var root struct{ R, S *big.Int }
		a := r.GetMacosChallengeResponse()
		if _, err := asn1.Unmarshal(a.Signature, &root); err != nil {
			t.Error(err)
			return
		}
		root.S.Sub(elliptic.P256().Params().N, root.S)
		a.Signature, _ = asn1.Marshal(root)
	}})
	if err != nil {
		t.Error(err)
	}
}

func TestAMachineWithATPMDoesNotComeInAsAMacDoes(t *testing.T) {
	w, m, chip := newWorld(t, storetest.Open(t)), newMac(t), newMachine(t)
	for _, os := range []string{"linux", "windows"} {
		m.data.OsType = os
		wantRefusal(t, w.enrollMacWith(t, m, macEnrollment{token: w.registerMac(t, m)}), "has shown no TPM")
	}
	wantRefusal(t, w.enrollWith(t, chip, enrollment{
		token: w.register(t, chip).Token, onInit: func(i *dtv1.EnrollInit) { i.Macos = &dtv1.MacOSEnroll{PublicKeyDer: m.der} },
	}), "has shown no TPM")

	// Nor does it log in with the signature of a key.
	chip.data.AssetTag = "ANOTHER1"
	w.enroll(t, chip, alice, Trust{})
	id := w.device(t, "ANOTHER1").Spec.Credential.ID
	_, err := w.loginMac(t, m, macLogin{onInit: func(i *dtv1.AuthenticateInit) { i.CredentialId, i.DeviceData = id, chip.data }})
	wantRefusal(t, err, "does not answer the challenge")

	chip.data = &dtv1.DeviceData{OsType: "macos", AssetTag: "ANOTHER2"}
	wantRefusal(t, w.enrollWith(t, chip, enrollment{token: w.register(t, chip).Token}), "key of a Mac")
}

// Two Macs have the same endorsement key digest, which is none.
func TestMacsAreNotOneMachineForHavingNoTPM(t *testing.T) {
	w, m, other := newWorld(t, storetest.Open(t)), newMac(t), newMac(t)
	w.enrollMac(t, m)
	other.data.AssetTag = "ANOTHER1"
	var asked []string
	err := w.enrollMacWith(t, other, macEnrollment{token: w.registerMac(t, other), trust: Trust{Stands: func(_ *store.Tx, d resource.Device) error {
		asked = append(asked, d.Spec.AssetTag)
		return nil
	}}})
	if err != nil {
		t.Error(err)
	}
	if !cmp.Equal(asked, []string{"ANOTHER1"}) {
		t.Errorf("asked is whether %q stand", asked)
	}
}

func TestAMacIsEnrolledAgainWithItsKeyAlone(t *testing.T) {
	w, m, other := newWorld(t, storetest.Open(t)), newMac(t), newMac(t)
	w.enrollMac(t, m)
	again := func() string {
		token, err := w.CreateToken(t.Context(), admin, Ref{AssetTag: macTag}, 0)
		if err != nil {
			t.Fatal(err)
		}
		return token.Token
	}
	before := w.device(t, macTag)
	wantRefusal(t, w.enrollMacWith(t, other, macEnrollment{token: again()}), "enrolled with another key")
	if diff := cmp.Diff(before, w.device(t, macTag)); diff != "" {
		t.Errorf("it was changed: %s", diff)
	}
	if err := w.enrollMacWith(t, m, macEnrollment{token: again()}); err != nil {
		t.Errorf("with the same key: %v", err)
	}
	m.data.AssetTag = "ANOTHER1"
	wantRefusal(t, w.enrollMacWith(t, m, macEnrollment{token: w.registerMac(t, m)}), "this key is enrolled already, as device C00AA0AAAA0A/macos")
}

func TestAMacIsNotNamedAfterATPM(t *testing.T) {
	w, m := newWorld(t, storetest.Open(t)), newMac(t)
	m.data.AssetTag = "TPM-0123456789ab"
	wantRefusal(t, w.enrollMacWith(t, m, macEnrollment{token: w.registerMac(t, m)}), "is that of a TPM")
}

func FuzzMacSignature(f *testing.F) {
	m := newMac(f)
	f.Add(m.der, m.sign(f, [32]byte{1}))
	f.Add([]byte{0x30, 0}, []byte{0x30, 6, 2, 1, 1, 2, 1, 1})
	f.Fuzz(func(t *testing.T, der, signature []byte) {
		key, err := checkMacKey(der)
		if err != nil {
			return
		}
		if _, err := verifySignature(key.der, signature, [32]byte{}); err == nil {
			t.Errorf("%x is a signature of %x", signature, der)
		}
	})
}

func TestAnEvaluationLetsAMacInAsAnEnrollmentWould(t *testing.T) {
	w, m := newWorld(t, storetest.Open(t)), newMac(t)
	m.data.AssetTag = testTag
	w.enrollMac(t, m)
	if e := w.evaluation(t, policy.DeviceTrust{}); !e.Passes || e.Level != policy.EvidenceKey {
		t.Errorf("it is %+v", e)
	}
	e := w.evaluation(t, policy.DeviceTrust{EKCertAllowedCAs: pemOf(newCA(t, "maker", nil))})
	if e.Passes || !strings.Contains(strings.Join(e.Reasons, "; "), "ekcert_allowed_cas") {
		t.Errorf("with a list of makers it is %+v", e)
	}
}
