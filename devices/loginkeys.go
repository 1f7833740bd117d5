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
	"golang.org/x/crypto/ssh"

	"devicetrust/api"
	"devicetrust/api/dtv1"
	"devicetrust/identity"
)

// LoginKeys are the two keys of a login that the device's TPM holds, and proves
// to hold. Only a ceremony makes them; the zero value is none.
type LoginKeys struct {
	ssh ssh.PublicKey
	tls []byte // PKIX DER
	// attestation is hex of the SHA-256 of the SSH key's proof.
	attestation string
}

// SSH is the key for the SSH certificate; nil where the login has no keys in
// the TPM.
func (k LoginKeys) SSH() ssh.PublicKey { return k.ssh }

// TLS is the key for the X.509 certificate, PKIX DER.
func (k LoginKeys) TLS() []byte { return k.tls }

// Attestation is what the SSH certificate says of its key's proof
// (identity.Identity.KeyAttestation).
func (k LoginKeys) Attestation() string { return k.attestation }

// loginKeyAttributes are all that a login's key has, and no more (TPM 2.0 Part
// 2, section 8.3): it cannot leave the TPM, was made there, and signs what it
// is given.
const loginKeyAttributes = akAttributes &^ tpm2.FlagRestricted

var errLoginKey = api.Refuse(connect.CodePermissionDenied, "the proof that the login's keys are in the TPM does not hold").
	WithHint("Try again; without keys in the TPM, log in with: dtsh login --key=software")

// unverifiedLoginKeys reads the keys that the device wants certified, for the
// nonces; nothing of them is believed yet.
func unverifiedLoginKeys(sent *dtv1.TPMLoginKeys) (LoginKeys, error) {
	sshKey, err := unverifiedLoginKey(sent.GetSsh())
	if err != nil {
		return LoginKeys{}, err
	}
	tlsKey, err := unverifiedLoginKey(sent.GetTls())
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
func unverifiedLoginKey(sent *dtv1.TPMCertifiedKey) (*ecdsa.PublicKey, error) {
	public := sent.GetPublic()
	if len(public) == 0 || len(public) > maxStructure {
		return nil, errMalformed
	}
	area, err := tpm2.DecodePublic(public)
	if err != nil {
		return nil, withDetail(errMalformed, err)
	}
	if encoded, err := area.Encode(); err != nil || !bytes.Equal(encoded, public) {
		return nil, withDetail(errMalformed, errors.New("the public area is not in its one encoding"))
	}
	if !strongHash(area.NameAlg) {
		return nil, withDetail(errLoginKey, fmt.Errorf("name algorithm %v", area.NameAlg))
	}
	if area.Attributes != loginKeyAttributes {
		return nil, withDetail(errLoginKey, fmt.Errorf("attributes %#08x, want %#08x", uint32(area.Attributes), uint32(loginKeyAttributes)))
	}
	if area.Type != tpm2.AlgECC || area.ECCParameters.CurveID != tpm2.CurveNISTP256 {
		return nil, withDetail(errLoginKey, fmt.Errorf("type %v, want a key on P-256", area.Type))
	}
	if err := checkScheme(area); err != nil {
		return nil, withDetail(errLoginKey, err)
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
	sshNonce, tlsNonce := identity.SSHKeyNonce(b), identity.TLSKeyNonce(b)
	if err := verifyCertified(akPublic, sent.GetSsh(), sshNonce[:]); err != nil {
		return LoginKeys{}, withDetail(errLoginKey, fmt.Errorf("SSH key: %w", err))
	}
	if err := verifyCertified(akPublic, sent.GetTls(), tlsNonce[:]); err != nil {
		return LoginKeys{}, withDetail(errLoginKey, fmt.Errorf("TLS key: %w", err))
	}
	k.attestation = attestationDigest(sent.GetSsh())
	return k, nil
}

// verifyCertified: the attestation key, which signs only what its TPM made,
// says that the TPM has a key of that name, for this nonce. go-attestation
// compares no nonce, and no parent.
func verifyCertified(akPublic []byte, sent *dtv1.TPMCertifiedKey, nonce []byte) error {
	if len(sent.GetCertifyInfo()) > maxStructure || len(sent.GetSignature()) > maxStructure {
		return errMalformed
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
	area, err := tpm2.DecodePublic(sent.GetPublic())
	if err != nil {
		return err
	}
	name, err := nameOf(area.NameAlg, sent.GetPublic())
	if err != nil {
		return err
	}
	if err := sameName(info.AttestedCertifyInfo.Name, name); err != nil {
		return fmt.Errorf("name: %w", err)
	}
	qualified, err := nameOf(area.NameAlg, append(bytes.Clone(inEndorsementHierarchy), name...))
	if err != nil {
		return err
	}
	if err := sameName(info.AttestedCertifyInfo.QualifiedName, qualified); err != nil {
		return fmt.Errorf("qualified name: %w", err)
	}
	ak, err := tpm2.DecodePublic(akPublic)
	if err != nil {
		return fmt.Errorf("stored attestation key: %w", err)
	}
	return verifyByAK(ak, sent)
}

// sameName compares what a TPM calls an object with what it is called.
func sameName(got tpm2.Name, want []byte) error {
	if got.Digest == nil || !bytes.Equal(append(binary.BigEndian.AppendUint16(nil, uint16(got.Digest.Alg)), got.Digest.Value...), want) {
		return fmt.Errorf("it is of another key than %.34x", want)
	}
	return nil
}

// verifyByAK verifies the signature with the key of ak, by the scheme that is
// fixed with it.
func verifyByAK(ak tpm2.Public, sent *dtv1.TPMCertifiedKey) error {
	key, err := ak.Key()
	if err != nil {
		return fmt.Errorf("stored attestation key: %w", err)
	}
	hash := crypto.SHA256
	if scheme := signScheme(ak); scheme != nil {
		if hash, err = scheme.Hash.Hash(); err != nil {
			return fmt.Errorf("stored attestation key: %w", err)
		}
	}
	p := attest.CertificationParameters{Public: sent.GetPublic(), CreateAttestation: sent.GetCertifyInfo(), CreateSignature: sent.GetSignature()}
	return p.Verify(attest.VerifyOpts{Public: key, Hash: hash})
}

func signScheme(ak tpm2.Public) *tpm2.SigScheme {
	switch {
	case ak.ECCParameters != nil:
		return ak.ECCParameters.Sign
	case ak.RSAParameters != nil:
		return ak.RSAParameters.Sign
	}
	return nil
}

// attestationDigest is over the three parts of the proof, each with its length
// before it (uint32, big-endian).
func attestationDigest(sent *dtv1.TPMCertifiedKey) string {
	h := sha256.New()
	for _, part := range [][]byte{sent.GetPublic(), sent.GetCertifyInfo(), sent.GetSignature()} {
		h.Write(binary.BigEndian.AppendUint32(nil, uint32(len(part))))
		h.Write(part)
	}
	return hex.EncodeToString(h.Sum(nil))
}
