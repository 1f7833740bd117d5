package tpm

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"

	"github.com/google/go-tpm/tpm2"

	"devicetrust/api/dtv1"
)

// storageKey is where the well-known storage root key lives (TCG TPM v2.0
// Provisioning Guidance, section 7.8).
const storageKey tpm2.TPMHandle = 0x81000001

// attestationKey is loaded in the TPM and signs quotes, and nothing else.
type attestationKey struct {
	handle tpm2.NamedHandle
	// public is the TPMT_PUBLIC that its credential ID is the digest of.
	public []byte
}

// credentialID is hex of the SHA-256 of the key's TPMT_PUBLIC.
func credentialID(akPublic []byte) string {
	digest := sha256.Sum256(akPublic)
	return hex.EncodeToString(digest[:])
}

// akTemplate is a restricted signing key: it signs only what the TPM made
// itself, so a quote cannot be forged by asking for a signature. ECDSA, since
// chips make and use such keys ten to a hundred times faster than RSA ones.
func akTemplate() tpm2.TPMTPublic {
	return tpm2.TPMTPublic{
		Type:    tpm2.TPMAlgECC,
		NameAlg: tpm2.TPMAlgSHA256,
		ObjectAttributes: tpm2.TPMAObject{
			FixedTPM: true, FixedParent: true, SensitiveDataOrigin: true,
			UserWithAuth: true, NoDA: true, Restricted: true, SignEncrypt: true,
		},
		Parameters: tpm2.NewTPMUPublicParms(tpm2.TPMAlgECC, &tpm2.TPMSECCParms{
			Scheme: tpm2.TPMTECCScheme{
				Scheme:  tpm2.TPMAlgECDSA,
				Details: tpm2.NewTPMUAsymScheme(tpm2.TPMAlgECDSA, &tpm2.TPMSSigSchemeECDSA{HashAlg: tpm2.TPMAlgSHA256}),
			},
			CurveID: tpm2.TPMECCNistP256,
		}),
	}
}

// createAK makes a new attestation key and loads it. made is the proof of how
// it was made, which is to be had only then; saved is what loads it again.
func (t *TPM) createAK() (ak *attestationKey, made *dtv1.TPMAttestationParameters, saved savedKey, err error) {
	parent, release, err := t.storageKeyForNewKeys()
	if err != nil {
		return nil, nil, saved, err
	}
	rsp, err := tpm2.Create{ParentHandle: parent, InPublic: tpm2.New2B(akTemplate())}.Execute(t.ch)
	if err != nil {
		release()
		return nil, nil, saved, failedTo("make the attestation key", err)
	}
	saved = savedKey{
		Public:     rsp.OutPublic.Bytes(),
		Private:    rsp.OutPrivate.Buffer,
		ParentName: parent.Name.Buffer,
	}
	ak, err = t.loadUnder(parent, saved)
	release() // before anything else wants its slot
	if err != nil {
		return nil, nil, saved, err
	}
	proof, err := tpm2.CertifyCreation{
		SignHandle: ak.handle, ObjectHandle: ak.handle,
		CreationHash: rsp.CreationHash, CreationTicket: rsp.CreationTicket,
		InScheme: tpm2.TPMTSigScheme{Scheme: tpm2.TPMAlgNull},
	}.Execute(t.ch)
	if err != nil {
		t.flush(ak.handle.Handle)
		return nil, nil, saved, failedTo("certify the attestation key", err)
	}
	made = &dtv1.TPMAttestationParameters{
		Public:            ak.public,
		CreateData:        rsp.CreationData.Bytes(),
		CreateAttestation: proof.CertifyInfo.Bytes(),
		CreateSignature:   tpm2.Marshal(proof.Signature),
	}
	return ak, made, saved, nil
}

// errKeyGone says that this TPM cannot have made the key, or was cleared
// since; any other failure says nothing of that kind.
var errKeyGone = errors.New("the TPM no longer has the key that the attestation key was made under")

// loadAK loads a key that createAK made. It makes no RSA key.
func (t *TPM) loadAK(saved savedKey) (*attestationKey, error) {
	parent, release, err := t.storageKeyNamed(saved.ParentName)
	if err != nil {
		return nil, err
	}
	defer release()
	return t.loadUnder(parent, saved)
}

func (t *TPM) loadUnder(parent tpm2.NamedHandle, saved savedKey) (*attestationKey, error) {
	rsp, err := tpm2.Load{
		ParentHandle: parent,
		InPrivate:    tpm2.TPM2BPrivate{Buffer: saved.Private},
		InPublic:     tpm2.BytesAs2B[tpm2.TPMTPublic](saved.Public),
	}.Execute(t.ch)
	if errors.Is(err, tpm2.TPMRCIntegrity) {
		return nil, fmt.Errorf("%w: %w", errKeyGone, err)
	}
	if err != nil {
		return nil, failedTo("load the attestation key", err)
	}
	return &attestationKey{
		handle: tpm2.NamedHandle{Handle: rsp.ObjectHandle, Name: rsp.Name},
		public: saved.Public,
	}, nil
}

// storageKeyNamed finds the parent of a saved key: the well-known one, or the
// one that createStorageKey makes. Its name is the digest of its public half,
// so after TPM2_Clear and in another TPM none fits.
func (t *TPM) storageKeyNamed(want []byte) (h tpm2.NamedHandle, release func(), err error) {
	if _, name, _, err := t.readPublic(storageKey); err == nil && bytes.Equal(name.Buffer, want) {
		return tpm2.NamedHandle{Handle: storageKey, Name: name}, func() {}, nil
	}
	h, err = t.createStorageKey()
	if err != nil {
		return h, nil, err
	}
	if !bytes.Equal(h.Name.Buffer, want) {
		t.flush(h.Handle)
		return h, nil, errKeyGone
	}
	return h, func() { t.flush(h.Handle) }, nil
}

// storageKeyForNewKeys takes the storage root key at its well-known handle. It
// is put there where the place is empty: a chip then need not make it again at
// every login.
func (t *TPM) storageKeyForNewKeys() (h tpm2.NamedHandle, release func(), err error) {
	public, name, _, err := t.readPublic(storageKey)
	if err == nil && isStorageKey(public) {
		return tpm2.NamedHandle{Handle: storageKey, Name: name}, func() {}, nil
	}
	isEmpty := errors.Is(err, tpm2.TPMRCHandle)
	h, err = t.createStorageKey()
	if err != nil {
		return h, nil, err
	}
	if isEmpty {
		// Where the owner keeps a password this is refused; the key is then
		// made again when it is needed.
		tpm2.EvictControl{Auth: tpm2.TPMRHOwner, ObjectHandle: h, PersistentHandle: storageKey}.Execute(t.ch) //nolint:errcheck // see above
	}
	return h, func() { t.flush(h.Handle) }, nil
}

// isStorageKey tells whether a key can be the parent of ours without a
// password or a policy.
func isStorageKey(public *tpm2.TPMTPublic) bool {
	a := public.ObjectAttributes
	return a.Restricted && a.Decrypt && !a.SignEncrypt && a.FixedTPM && a.FixedParent && a.UserWithAuth && a.NoDA
}

// createStorageKey makes the ECC P-256 storage key of the owner hierarchy: the
// same one every time, until TPM2_Clear.
func (t *TPM) createStorageKey() (tpm2.NamedHandle, error) {
	rsp, err := tpm2.CreatePrimary{PrimaryHandle: tpm2.TPMRHOwner, InPublic: tpm2.New2B(tpm2.ECCSRKTemplate)}.Execute(t.ch)
	if err != nil {
		return tpm2.NamedHandle{}, failedTo("make the storage key", err)
	}
	return tpm2.NamedHandle{Handle: rsp.ObjectHandle, Name: rsp.Name}, nil
}

// activate decrypts what the server encrypted to the endorsement key for the
// attestation key: the TPM does it only where it holds both.
func (t *TPM) activate(ak *attestationKey, ek tpm2.NamedHandle, credential, secret []byte) ([]byte, error) {
	blob, err := tpm2.Unmarshal[tpm2.TPM2BIDObject](credential)
	if err != nil {
		return nil, fmt.Errorf("the server's credential: %w", err)
	}
	seed, err := tpm2.Unmarshal[tpm2.TPM2BEncryptedSecret](secret)
	if err != nil {
		return nil, fmt.Errorf("the server's credential: %w", err)
	}
	rsp, err := tpm2.ActivateCredential{
		ActivateHandle: ak.handle,
		KeyHandle:      tpm2.AuthHandle{Handle: ek.Handle, Name: ek.Name, Auth: tpm2.Policy(tpm2.TPMAlgSHA256, 16, ekPolicy)},
		CredentialBlob: *blob,
		Secret:         *seed,
	}.Execute(t.ch)
	if err != nil {
		return nil, failedTo("activate the credential", err)
	}
	return rsp.CertInfo.Buffer, nil
}
