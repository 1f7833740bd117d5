package devices

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/rsa"
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

	"devicetrust/api"
	"devicetrust/api/dtv1"
)

// attestationKey is an attestation key that was checked: of a form that a TPM
// gives to restricted signing keys. That it is in a TPM, only the activation
// shows.
type attestationKey struct {
	public []byte // TPMT_PUBLIC
	der    []byte // PKIX DER
	// name is what a TPM knows it by: the algorithm and the digest of public.
	name []byte
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
	name, err := nameOf(area.NameAlg, public)
	if err != nil {
		return attestationKey{}, withDetail(errKey, err)
	}
	digest := sha256.Sum256(public)
	return attestationKey{public: public, der: der, name: name, credentialID: hex.EncodeToString(digest[:])}, nil
}

// nameOf gives the name of an object (TPM 2.0 Part 1, section 16).
func nameOf(alg tpm2.Algorithm, public []byte) ([]byte, error) {
	hash, err := alg.Hash()
	if err != nil {
		return nil, err
	}
	digest := hash.New()
	digest.Write(public)
	return digest.Sum(binary.BigEndian.AppendUint16(nil, uint16(alg))), nil
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

// inEndorsementHierarchy is the name of the parent of every primary key there:
// TPM_RH_ENDORSEMENT (TPM 2.0 Part 1, section 16: a permanent handle is its own
// name).
var inEndorsementHierarchy = []byte{0x40, 0x00, 0x00, 0x0b}

var (
	errCreation  = api.Refuse(connect.CodePermissionDenied, "the proof of how the attestation key was made does not hold")
	errHierarchy = api.Refuse(connect.CodePermissionDenied, "the attestation key is not in the endorsement hierarchy").
			WithHint("This program is of another version than the cluster: update it, and enroll the device with a new token")
)

// checkCreation holds the proof of creation against the key: the key says
// itself that it is a primary one of the endorsement hierarchy. Software can
// say so, too; a restricted key in a TPM, which the activation shows it to be,
// cannot say it wrongly. Quotes of keys elsewhere would tell an obfuscated
// reset count and firmware version (TPM 2.0 Part 3, section 18.1).
func checkCreation(ak attestationKey, p *dtv1.TPMAttestationParameters) error {
	for _, structure := range [][]byte{p.GetCreateData(), p.GetCreateAttestation(), p.GetCreateSignature()} {
		if len(structure) > maxStructure {
			return errMalformed
		}
	}
	parameters := attest.ActivationParameters{AK: attest.AttestationParameters{
		Public: ak.public, CreateData: p.GetCreateData(),
		CreateAttestation: p.GetCreateAttestation(), CreateSignature: p.GetCreateSignature(),
	}}
	if err := parameters.CheckAKParameters(); err != nil {
		return withDetail(errCreation, err)
	}
	data, err := direct.Unmarshal[direct.TPMSCreationData](p.GetCreateData())
	if err != nil {
		return withDetail(errMalformed, err)
	}
	if !bytes.Equal(direct.Marshal(*data), p.GetCreateData()) {
		return withDetail(errMalformed, errors.New("the creation data is not in its one encoding"))
	}
	for _, name := range [][]byte{data.ParentName.Buffer, data.ParentQualifiedName.Buffer} {
		if !bytes.Equal(name, inEndorsementHierarchy) {
			return withDetail(errHierarchy, fmt.Errorf("its parent is %.34x", name))
		}
	}
	if data.ParentNameAlg != direct.TPMAlgNull {
		return withDetail(errHierarchy, fmt.Errorf("its parent has the name algorithm %#04x", uint16(data.ParentNameAlg)))
	}
	return nil
}

// activation is a secret that only a TPM which holds both keys can decrypt.
type activation struct {
	secret    []byte
	encrypted *dtv1.TPMEncryptedCredential
}

// challengeKey encrypts a secret to the endorsement key, for the attestation
// key of that name (TPM 2.0 Part 1, section 24).
func challengeKey(ek endorsement, ak attestationKey) (activation, error) {
	area, err := ek.area()
	if err != nil {
		return activation{}, err
	}
	key, err := direct.ImportEncapsulationKey(area)
	if err != nil {
		return activation{}, withDetail(errMalformed, fmt.Errorf("endorsement key: %w", err))
	}
	secret := make([]byte, challengeBytes)
	rand.Read(secret) // it never fails
	credential, seed, err := direct.CreateCredential(rand.Reader, key, ak.name, secret)
	if err != nil {
		return activation{}, fmt.Errorf("devices: encrypt the challenge: %w", err)
	}
	return activation{secret, &dtv1.TPMEncryptedCredential{
		Credential: direct.Marshal(direct.TPM2BIDObject{Buffer: credential}),
		Secret:     direct.Marshal(direct.TPM2BEncryptedSecret{Buffer: seed}),
	}}, nil
}
