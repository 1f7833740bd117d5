package tpm

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"

	"github.com/google/go-tpm/tpm2"

	"devicetrust/api/dtv1"
)

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

// uniqueOf tells a TPM's key for one cluster from that for another, and those
// of two systems on one machine, which are two devices: a P-256 coordinate,
// which is where the template has room for it. All accounts of a system have
// the same key, so that a device can speak for several people
// (docs/decisions/0009).
func uniqueOf(cluster, os string) []byte {
	digest := sha256.Sum256([]byte("dt/v1 attestation key\x00" + cluster + "\x00" + os))
	return digest[:]
}

// akTemplate is a restricted signing key: it signs only what the TPM made
// itself, so a quote cannot be forged by asking for a signature. ECDSA, since
// chips make and use such keys ten to a hundred times faster than RSA ones.
func akTemplate(unique []byte) tpm2.TPMTPublic {
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
		Unique: tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{
			X: tpm2.TPM2BECCParameter{Buffer: unique},
			Y: tpm2.TPM2BECCParameter{Buffer: make([]byte, len(unique))},
		}),
	}
}

// makeAK makes the attestation key of unique, a primary key of the endorsement
// hierarchy: the same one every time, as long as the TPM has its endorsement
// seed, which TPM2_Clear leaves (TPM 2.0 Part 3, TPM2_Clear). Only quotes of a
// key in that hierarchy tell the true reset count and firmware version (Part 3,
// section 18.1).
func (t *TPM) makeAK(unique []byte) (*attestationKey, *tpm2.CreatePrimaryResponse, error) {
	rsp, err := tpm2.CreatePrimary{
		PrimaryHandle: tpm2.TPMRHEndorsement,
		InPublic:      tpm2.New2B(akTemplate(unique)),
	}.Execute(t.ch)
	if err != nil {
		return nil, nil, failedTo("make the attestation key", err)
	}
	return &attestationKey{
		handle: tpm2.NamedHandle{Handle: rsp.ObjectHandle, Name: rsp.Name},
		public: rsp.OutPublic.Bytes(),
	}, rsp, nil
}

// provenAK makes the attestation key of unique. made is the proof of how it was
// made, which is to be had only now.
func (t *TPM) provenAK(unique []byte) (ak *attestationKey, made *dtv1.TPMAttestationParameters, err error) {
	ak, rsp, err := t.makeAK(unique)
	if err != nil {
		return nil, nil, err
	}
	proof, err := tpm2.CertifyCreation{
		SignHandle: ak.handle, ObjectHandle: ak.handle,
		CreationHash: rsp.CreationHash, CreationTicket: rsp.CreationTicket,
		InScheme: tpm2.TPMTSigScheme{Scheme: tpm2.TPMAlgNull},
	}.Execute(t.ch)
	if err != nil {
		t.flush(ak.handle.Handle)
		return nil, nil, failedTo("certify the attestation key", err)
	}
	made = &dtv1.TPMAttestationParameters{
		Public:            ak.public,
		CreateData:        rsp.CreationData.Bytes(),
		CreateAttestation: proof.CertifyInfo.Bytes(),
		CreateSignature:   tpm2.Marshal(proof.Signature),
	}
	return ak, made, nil
}

// enrolledAK makes the key of an enrollment in cluster again. ErrStaleKey says
// that this TPM cannot have made it; any other failure says nothing of that
// kind.
func (t *TPM) enrolledAK(cluster string, e enrollment) (*attestationKey, error) {
	ak, _, err := t.makeAK(e.Unique)
	if err != nil {
		return nil, err
	}
	if credentialID(ak.public) != e.CredentialID {
		t.flush(ak.handle.Handle)
		return nil, staleKey(cluster)
	}
	return ak, nil
}

// activate decrypts what the server encrypted to the endorsement key for the
// attestation key: the TPM does it only where it holds both.
func (t *TPM) activate(ak *attestationKey, ek loadedEK, credential, secret []byte) ([]byte, error) {
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
		KeyHandle:      ek.authorized(),
		CredentialBlob: *blob,
		Secret:         *seed,
	}.Execute(t.ch)
	if err != nil {
		return nil, failedTo("activate the credential", err)
	}
	return rsp.CertInfo.Buffer, nil
}
