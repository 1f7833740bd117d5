package devices

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"testing"

	"github.com/google/go-tpm/tpm2"
	"golang.org/x/crypto/ssh"

	"devicetrust/api/dtv1"
	"devicetrust/identity"
	"devicetrust/resource"
	"devicetrust/store/storetest"
)

// loginArea makes of goodArea one of a login's key.
func loginArea(change func(*tpm2.TPMTPublic)) func(*tpm2.TPMTPublic) {
	return func(area *tpm2.TPMTPublic) {
		area.ObjectAttributes.Restricted = false
		if change != nil {
			change(area)
		}
	}
}

// yesChip is a chip that has a key of the attestation key's form and signs
// with it what it likes: only what the server looks at stands against it.
type yesChip struct {
	ak, ssh, tls *softKey
	binding      identity.LoginBinding
}

// wire is the SSH key in the encoding that nonces are made of; what cannot be
// one has none.
func (k *softKey) wire() []byte {
	key, err := ssh.NewPublicKey(k.signer.Public())
	if err != nil {
		return nil
	}
	return key.Marshal()
}

// certified is a proof that holds but for what change makes of it.
func (k *softKey) certified(t testing.TB, by *softKey, nonce [32]byte, change func(*tpm2.TPMSAttest, *tpm2.TPMSCertifyInfo)) *dtv1.TPMCertifiedKey {
	t.Helper()
	info := &tpm2.TPMSCertifyInfo{Name: tpm2.TPM2BName{Buffer: k.name()}, QualifiedName: tpm2.TPM2BName{Buffer: qualified(inEndorsementHierarchy, k.name())}}
	attest := tpm2.TPMSAttest{
		Magic: tpm2.TPMGeneratedValue, Type: tpm2.TPMSTAttestCertify,
		QualifiedSigner: tpm2.TPM2BName{Buffer: qualified(inEndorsementHierarchy, by.name())},
		ExtraData:       tpm2.TPM2BData{Buffer: nonce[:]},
	}
	if change != nil {
		change(&attest, info)
	}
	attest.Attested = tpm2.NewTPMUAttest(tpm2.TPMSTAttestCertify, info)
	return by.signed(t, k.public, tpm2.Marshal(attest))
}

func (k *softKey) signed(t testing.TB, public, info []byte) *dtv1.TPMCertifiedKey {
	t.Helper()
	return &dtv1.TPMCertifiedKey{Public: public, CertifyInfo: info, Signature: k.sign(t, info)}
}

// qualified is the qualified name of a key under a parent of that one.
func qualified(parent, name []byte) []byte {
	digest := sha256.Sum256(append(bytes.Clone(parent), name...))
	return append([]byte{0x00, 0x0b}, digest[:]...)
}

// answer is what the chip says, changed by the test.
func (c *yesChip) answer(t testing.TB, change func(*yesChip, *dtv1.TPMAuthenticateChallengeResponse)) *dtv1.TPMAuthenticateChallengeResponse {
	t.Helper()
	nonce := identity.LoginNonce(c.binding)
	answer := &dtv1.TPMAuthenticateChallengeResponse{
		Platform: c.ak.platform(t, softQuote{nonce: nonce[:]}),
		Keys: &dtv1.TPMLoginKeys{
			Ssh: c.ssh.certified(t, c.ak, identity.SSHKeyNonce(c.binding), nil),
			Tls: c.tls.certified(t, c.ak, identity.TLSKeyNonce(c.binding), nil),
		},
	}
	if change != nil {
		change(c, answer)
	}
	return answer
}

// yesWorld is a world with a device whose attestation key is ak.
func yesWorld(t testing.TB, ak *softKey) (*world, *machine) {
	t.Helper()
	w, m := newWorld(t, storetest.Open(t)), newMachine(t)
	w.enroll(t, m, alice, Trust{})
	w.edit(t, func(d *resource.Device) { d.Spec.Credential.TPMAKPublic, d.Spec.Baseline = ak.public, nil })
	return w, m
}

// try is a login with that SSH key.
func (w *world) try(t testing.TB, m *machine, ak, sshKey *softKey, change func(*yesChip, *dtv1.TPMAuthenticateChallengeResponse)) (Verified, error) {
	t.Helper()
	c := &yesChip{ak: ak, ssh: sshKey, tls: newSoftKey(t, loginArea(nil))}
	return w.answerWith(t, m, func(b identity.LoginBinding) *dtv1.TPMAuthenticateChallengeResponse {
		c.binding = b
		c.binding.SSHPublicKey, c.binding.TLSPublicKey = c.ssh.wire(), c.tls.pkix(t)
		return c.answer(t, change)
	})
}

func (k *softKey) pkix(t testing.TB) []byte {
	t.Helper()
	keys, err := unverifiedLoginKeys(&dtv1.TPMLoginKeys{
		Ssh: &dtv1.TPMCertifiedKey{Public: newSoftKey(t, loginArea(nil)).public}, Tls: &dtv1.TPMCertifiedKey{Public: k.public},
	})
	if err != nil {
		t.Fatal(err)
	}
	return keys.tls
}

// quoted is a quote for the nonce of the SSH key.
func (c *yesChip) quoted(t testing.TB) []byte {
	nonce := identity.SSHKeyNonce(c.binding)
	return c.ak.platform(t, softQuote{nonce: nonce[:]}).Quotes[0].Quote
}

// inHierarchy has the key be a primary one of another hierarchy.
func inHierarchy[C any](forge func(func(*tpm2.TPMSAttest, *tpm2.TPMSCertifyInfo)) C, hierarchy tpm2.TPMHandle) C {
	return forge(func(_ *tpm2.TPMSAttest, i *tpm2.TPMSCertifyInfo) {
		i.QualifiedName.Buffer = qualified(binary.BigEndian.AppendUint32(nil, uint32(hierarchy)), i.Name.Buffer)
	})
}
