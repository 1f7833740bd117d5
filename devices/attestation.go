package devices

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"

	"connectrpc.com/connect"
	"github.com/google/go-attestation/attest"
	"github.com/google/go-tpm/legacy/tpm2"

	"devicetrust/api"
	"devicetrust/api/dtv1"
)

// attestationKey is an attestation key that was checked: of a form that a TPM
// gives to restricted signing keys. That it is in a TPM, only the activation
// shows.
type attestationKey struct {
	public []byte // TPMT_PUBLIC
	der    []byte // PKIX DER
	// credentialID is hex of the SHA-256 of public.
	credentialID string
}

// akAttributes are all that an attestation key has, and no more (TPM 2.0 Part
// 2, section 8.3). A key that is not restricted signs whatever it is given,
// a forged quote too; one that is not fixed, or not made by the TPM, can be in
// two places.
const akAttributes = tpm2.FlagFixedTPM | tpm2.FlagFixedParent | tpm2.FlagSensitiveDataOrigin |
	tpm2.FlagUserWithAuth | tpm2.FlagNoDA | tpm2.FlagRestricted | tpm2.FlagSign

var errKey = api.Refuse(connect.CodePermissionDenied, "the device's attestation key is not a restricted signing key of a TPM")

// checkKey takes the public half of an attestation key.
func checkKey(public []byte) (attestationKey, error) {
	if len(public) > maxStructure {
		return attestationKey{}, errMalformed
	}
	area, err := tpm2.DecodePublic(public)
	if err != nil {
		return attestationKey{}, withDetail(errMalformed, err)
	}
	// What follows the structure would be part of the credential ID and of
	// nothing else.
	if encoded, err := area.Encode(); err != nil || !bytes.Equal(encoded, public) {
		return attestationKey{}, withDetail(errMalformed, errors.New("the public area is not in its one encoding"))
	}
	if !strongHash(area.NameAlg) {
		return attestationKey{}, withDetail(errKey, fmt.Errorf("name algorithm %v", area.NameAlg))
	}
	if area.Attributes != akAttributes {
		return attestationKey{}, withDetail(errKey, fmt.Errorf("attributes %#08x, want %#08x", uint32(area.Attributes), uint32(akAttributes)))
	}
	if err := checkScheme(area); err != nil {
		return attestationKey{}, withDetail(errKey, err)
	}
	key, err := area.Key()
	if err != nil {
		return attestationKey{}, withDetail(errMalformed, err)
	}
	if err := checkStrength(key); err != nil {
		return attestationKey{}, withDetail(errKey, err)
	}
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return attestationKey{}, withDetail(errMalformed, err)
	}
	digest := sha256.Sum256(public)
	return attestationKey{public: public, der: der, credentialID: hex.EncodeToString(digest[:])}, nil
}

func strongHash(alg tpm2.Algorithm) bool {
	return alg == tpm2.AlgSHA256 || alg == tpm2.AlgSHA384 || alg == tpm2.AlgSHA512
}

// checkScheme wants a signing scheme that is fixed with the key, and none for
// encryption.
func checkScheme(area tpm2.Public) error {
	switch area.Type {
	case tpm2.AlgRSA:
		p := area.RSAParameters
		if p.Symmetric != nil || p.Sign == nil || p.Sign.Alg != tpm2.AlgRSASSA || !strongHash(p.Sign.Hash) {
			return errors.New("its scheme is not RSASSA with SHA-256 or longer")
		}
		return nil
	case tpm2.AlgECC:
		p := area.ECCParameters
		if p.Symmetric != nil || p.KDF != nil || p.Sign == nil || p.Sign.Alg != tpm2.AlgECDSA || !strongHash(p.Sign.Hash) {
			return errors.New("its scheme is not ECDSA with SHA-256 or longer")
		}
		if p.CurveID != tpm2.CurveNISTP256 && p.CurveID != tpm2.CurveNISTP384 {
			return fmt.Errorf("curve %#x, want P-256 or P-384", uint16(p.CurveID))
		}
		return nil
	default:
		return fmt.Errorf("type %v", area.Type)
	}
}

// checkStrength looks at the numbers, not at what the structure says of them.
func checkStrength(key crypto.PublicKey) error {
	switch k := key.(type) {
	case *rsa.PublicKey:
		if bits := k.N.BitLen(); bits < minRSABits || bits > maxRSABits || k.E != 65537 {
			return fmt.Errorf("RSA of %d bits with exponent %d", bits, k.E)
		}
		return nil
	case *ecdsa.PublicKey:
		if _, err := k.ECDH(); err != nil {
			return fmt.Errorf("the point is not on the curve: %w", err)
		}
		return nil
	default:
		return fmt.Errorf("type %T", key)
	}
}

// activation is a secret that only a TPM which holds both keys can decrypt.
type activation struct {
	secret    []byte
	encrypted *dtv1.TPMEncryptedCredential
}

// challengeKey encrypts a secret to the endorsement key, for the attestation
// key whose creation the parameters prove (TPM 2.0 Part 1, section 24). The
// proof is one that software can make, too; the answer is not.
func challengeKey(ek endorsement, ak attestationKey, p *dtv1.TPMAttestationParameters) (activation, error) {
	for _, structure := range [][]byte{p.GetCreateData(), p.GetCreateAttestation(), p.GetCreateSignature()} {
		if len(structure) > maxStructure {
			return activation{}, errMalformed
		}
	}
	parameters := attest.ActivationParameters{
		EK: ek.key,
		AK: attest.AttestationParameters{
			Public: ak.public, CreateData: p.GetCreateData(),
			CreateAttestation: p.GetCreateAttestation(), CreateSignature: p.GetCreateSignature(),
		},
	}
	secret, encrypted, err := parameters.Generate()
	if err != nil {
		return activation{}, withDetail(api.Refuse(connect.CodePermissionDenied, "the proof of how the attestation key was made does not hold"), err)
	}
	return activation{secret, &dtv1.TPMEncryptedCredential{Credential: encrypted.Credential, Secret: encrypted.Secret}}, nil
}
