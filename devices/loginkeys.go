package devices

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"

	"connectrpc.com/connect"
	"github.com/google/go-attestation/attest"
	"github.com/google/go-tpm/legacy/tpm2"
	direct "github.com/google/go-tpm/tpm2"
	"golang.org/x/crypto/ssh"

	"devicetrust/api"
	"devicetrust/api/dtv1"
	"devicetrust/audit/event"
	"devicetrust/identity"
)

// LoginKeys are the two keys of a login that the device's TPM holds, and proves
// to hold. Only a ceremony makes them; the zero value is none.
type LoginKeys struct {
	ssh ssh.PublicKey
	tls []byte // PKIX DER
	// proof of the SSH key, as it is recorded.
	proof event.Key
}

// SSH is the key for the SSH certificate; nil where the login has no keys in
// the TPM.
func (k LoginKeys) SSH() ssh.PublicKey { return k.ssh }

// TLS is the key for the X.509 certificate, PKIX DER.
func (k LoginKeys) TLS() []byte { return k.tls }

// Attestation is what the SSH certificate says of its key's proof
// (identity.Identity.KeyAttestation).
func (k LoginKeys) Attestation() string { return k.proof.Attestation }

// recorded is what a record says of the SSH key; nil where it is not in the TPM.
func (k LoginKeys) recorded() *event.Key {
	if k.ssh == nil {
		return nil
	}
	return &k.proof
}

var errLoginKey = api.Refuse(connect.CodePermissionDenied, "the proof that the login's keys are in the TPM does not hold").
	WithHint("Try again; without keys in the TPM, log in with: dtsh login --key=software")

// loginKeyAttributes: the key cannot leave the TPM, was made there, and signs
// what it is given (TPM 2.0 Part 2, section 8.3).
const loginKeyAttributes = akAttributes &^ tpm2.FlagRestricted

// loginKeyArea is the public area of a login's key of that point: there is no
// other form.
func loginKeyArea(point tpm2.ECPoint) tpm2.Public {
	return tpm2.Public{
		Type: tpm2.AlgECC, NameAlg: tpm2.AlgSHA256, Attributes: loginKeyAttributes,
		ECCParameters: &tpm2.ECCParams{
			Sign:    &tpm2.SigScheme{Alg: tpm2.AlgECDSA, Hash: tpm2.AlgSHA256},
			CurveID: tpm2.CurveNISTP256, Point: point,
		},
	}
}

// unverifiedLoginKeys reads the keys that the device wants certified, for the
// nonces; nothing of them is believed yet.
func unverifiedLoginKeys(sent *dtv1.TPMLoginKeys) (LoginKeys, error) {
	sshKey, err := unverifiedLoginKey(sent.GetSsh().GetPublic())
	if err != nil {
		return LoginKeys{}, err
	}
	tlsKey, err := unverifiedLoginKey(sent.GetTls().GetPublic())
	if err != nil {
		return LoginKeys{}, err
	}
	if sshKey.Equal(tlsKey) {
		// What an SSH agent signs must be good for nothing else.
		return LoginKeys{}, withDetail(errLoginKey, errors.New("one key is to serve SSH and TLS"))
	}
	var k LoginKeys
	if k.ssh, err = ssh.NewPublicKey(sshKey); err != nil {
		return LoginKeys{}, withDetail(errLoginKey, err)
	}
	if k.tls, err = x509.MarshalPKIXPublicKey(tlsKey); err != nil {
		return LoginKeys{}, withDetail(errLoginKey, err)
	}
	return k, nil
}

// unverifiedLoginKey reads a public area: its form and what it says of itself.
func unverifiedLoginKey(public []byte) (*ecdsa.PublicKey, error) {
	if len(public) > maxStructure {
		return nil, errMalformed
	}
	area, err := tpm2.DecodePublic(public)
	if err != nil {
		return nil, withDetail(errMalformed, err)
	}
	if area.ECCParameters == nil {
		return nil, withDetail(errLoginKey, fmt.Errorf("type %v, want a key on P-256", area.Type))
	}
	want, err := loginKeyArea(area.ECCParameters.Point).Encode()
	if err != nil {
		return nil, withDetail(errMalformed, err)
	}
	if !bytes.Equal(public, want) {
		return nil, withDetail(errLoginKey, fmt.Errorf("name algorithm %v and attributes %#08x, want %v and %#08x; public area %x, want %x",
			area.NameAlg, uint32(area.Attributes), tpm2.AlgSHA256, uint32(loginKeyAttributes), public, want))
	}
	key, err := area.Key()
	if err != nil {
		return nil, withDetail(errMalformed, err)
	}
	if err := checkStrength(key); err != nil {
		return nil, withDetail(errLoginKey, err)
	}
	return key.(*ecdsa.PublicKey), nil //nolint:forcetypeassert // area.Type says so
}

// verifyLoginKeys holds the proofs of the keys against the attestation key that
// the device was enrolled with. b has the keys.
func verifyLoginKeys(akPublic []byte, sent *dtv1.TPMLoginKeys, k LoginKeys, b identity.LoginBinding) (LoginKeys, error) {
	ak, err := tpm2.DecodePublic(akPublic)
	if err != nil {
		return LoginKeys{}, fmt.Errorf("devices: stored attestation key: %w", err)
	}
	sshNonce, tlsNonce := identity.SSHKeyNonce(b), identity.TLSKeyNonce(b)
	if err := verifyCertified(ak, sent.GetSsh(), sshNonce[:]); err != nil {
		return LoginKeys{}, withDetail(errLoginKey, fmt.Errorf("SSH key: %w", err))
	}
	if err := verifyCertified(ak, sent.GetTls(), tlsNonce[:]); err != nil {
		return LoginKeys{}, withDetail(errLoginKey, fmt.Errorf("TLS key: %w", err))
	}
	k.proof = proofOf(sent.GetSsh())
	return k, nil
}

// verifyCertified: the attestation key, which signs only what its TPM made,
// says that the TPM has a key of that name, for this nonce. go-attestation
// compares no nonce, and no parent.
func verifyCertified(ak tpm2.Public, sent *dtv1.TPMCertifiedKey, nonce []byte) error {
	if len(sent.GetCertifyInfo()) > maxStructure || len(sent.GetSignature()) > maxStructure {
		return fmt.Errorf("%d bytes are certified and %d sign", len(sent.GetCertifyInfo()), len(sent.GetSignature()))
	}
	info, err := tpm2.DecodeAttestationData(sent.GetCertifyInfo())
	if err != nil {
		return err
	}
	if info.Magic != generated || info.Type != tpm2.TagAttestCertify || info.AttestedCertifyInfo == nil {
		return fmt.Errorf("magic %#x and type %#x are not of a certified key", info.Magic, uint16(info.Type))
	}
	if !bytes.Equal(info.ExtraData, nonce) {
		return errors.New("it is for another challenge")
	}
	name, err := nameOf(tpm2.AlgSHA256, sent.GetPublic())
	if err != nil {
		return err
	}
	if err := sameName(info.AttestedCertifyInfo.Name, name); err != nil {
		return fmt.Errorf("name: %w", err)
	}
	qualified, err := nameOf(tpm2.AlgSHA256, append(bytes.Clone(inEndorsementHierarchy), name...))
	if err != nil {
		return err
	}
	if err := sameName(info.AttestedCertifyInfo.QualifiedName, qualified); err != nil {
		return fmt.Errorf("qualified name: %w", err)
	}
	return verifyByAK(ak, sent)
}

// sameName compares what a TPM calls an object with what it is called.
func sameName(got tpm2.Name, want []byte) error {
	if got.Digest == nil || !bytes.Equal(append(binary.BigEndian.AppendUint16(nil, uint16(got.Digest.Alg)), got.Digest.Value...), want) {
		return fmt.Errorf("it is of another key than %x", want)
	}
	return nil
}

// verifyByAK verifies the signature with the key of ak, by the scheme that is
// fixed with it.
func verifyByAK(ak tpm2.Public, sent *dtv1.TPMCertifiedKey) error {
	// What follows the structure would be part of the proof's digest and of
	// nothing else.
	signature, err := direct.Unmarshal[direct.TPMTSignature](sent.GetSignature())
	if err != nil {
		return err
	}
	if !bytes.Equal(direct.Marshal(*signature), sent.GetSignature()) {
		return errors.New("the signature is not in its one encoding")
	}
	key, err := ak.Key()
	if err != nil {
		return fmt.Errorf("stored attestation key: %w", err)
	}
	hash, err := schemeHash(ak)
	if err != nil {
		return fmt.Errorf("stored attestation key: %w", err)
	}
	p := attest.CertificationParameters{Public: sent.GetPublic(), CreateAttestation: sent.GetCertifyInfo(), CreateSignature: sent.GetSignature()}
	return p.Verify(attest.VerifyOpts{Public: key, Hash: hash})
}

// schemeHash is of the scheme that an attestation key was made with.
func schemeHash(ak tpm2.Public) (crypto.Hash, error) {
	if err := checkScheme(ak); err != nil {
		return 0, err
	}
	if ak.ECCParameters != nil {
		return ak.ECCParameters.Sign.Hash.Hash()
	}
	return ak.RSAParameters.Sign.Hash.Hash()
}

// proofOf is the proof that a key is in the TPM, with its digest.
func proofOf(sent *dtv1.TPMCertifiedKey) event.Key {
	h := sha256.New()
	for _, part := range [][]byte{sent.GetPublic(), sent.GetCertifyInfo(), sent.GetSignature()} {
		h.Write(binary.BigEndian.AppendUint32(nil, uint32(len(part))))
		h.Write(part)
	}
	return event.Key{
		Policy: identity.KeyPolicyHardware, Attestation: hex.EncodeToString(h.Sum(nil)),
		Public: sent.GetPublic(), CertifyInfo: sent.GetCertifyInfo(), Signature: sent.GetSignature(),
	}
}
