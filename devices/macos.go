package devices

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"

	"connectrpc.com/connect"

	"devicetrust/api"
	"devicetrust/api/dtv1"
	"devicetrust/devices/assettag"
	"devicetrust/policy"
)

var errMacKey = api.Refuse(connect.CodeInvalidArgument, "the device's key is not ECDSA on P-256, as PKIX DER")

var errMacSignature = api.Refuse(connect.CodePermissionDenied, "the device's signature does not hold").
	WithHint("Try again; if it stays so, enroll the device again")

// proveMacOS has a machine without a TPM sign with the key that it wants to be
// known by. Nothing shows where that key is kept, so it proves no more than
// itself.
func (e *enrolling) proveMacOS(ctx context.Context, init *dtv1.EnrollInit, s EnrollStream) (proposal, measured, error) {
	if err := macAllowed(e.trust.AllowedCAs); err != nil {
		return proposal{}, measured{}, err
	}
	if tag := e.device.Spec.AssetTag; assettag.IsFromEK(tag) {
		return proposal{}, measured{}, api.Refuse(connect.CodePermissionDenied, "asset tag %s is that of a TPM, and a macOS device has none", tag)
	}
	key, err := guard(func() (attestationKey, error) { return checkMacKey(init.GetMacos().GetPublicKeyDer()) })
	if err != nil {
		return proposal{}, measured{}, err
	}
	if key.credentialID != init.GetCredentialId() {
		return proposal{}, measured{}, api.Refuse(connect.CodeInvalidArgument, "the credential ID is not that of the device's key")
	}
	challenge := make([]byte, challengeBytes)
	rand.Read(challenge) // it never fails
	answer, err := ask(ctx, s, &dtv1.EnrollDeviceResponse{Payload: &dtv1.EnrollDeviceResponse_MacosChallenge{
		MacosChallenge: &dtv1.MacOSEnrollChallenge{Challenge: challenge},
	}})
	if err != nil {
		return proposal{}, measured{}, err
	}
	if answer.GetMacosChallengeResponse() == nil {
		return proposal{}, measured{}, errNoAnswer
	}
	m, err := verifySignature(key.der, answer.GetMacosChallengeResponse().GetSignature(), e.nonce(challenge, key.credentialID))
	p := proposal{endorsement: endorsement{attestation: attestedMacOS}, key: key, data: init.GetDeviceData()}
	return p, m, err
}

// macAllowed refuses where there is a list of makers: only their TPMs come in
// then, and a Mac has none.
func macAllowed(allowedCAs []string) error {
	if len(allowedCAs) == 0 {
		return nil
	}
	return api.Refuse(connect.CodePermissionDenied, "a macOS device has no endorsement key certificate, and this cluster asks for one of the CAs in ekcert_allowed_cas").
		WithHint("Only an administrator can let it in: by taking ekcert_allowed_cas out of cluster_auth_preference")
}

// checkMacKey takes a public key of the one kind that a Secure Enclave has, in
// its one encoding: two encodings would be two credential IDs of one key.
func checkMacKey(der []byte) (attestationKey, error) {
	if len(der) > maxMacKey {
		return attestationKey{}, withDetail(errMacKey, fmt.Errorf("%d bytes, want %d", len(der), maxMacKey))
	}
	if _, err := parseMacKey(der); err != nil {
		return attestationKey{}, withDetail(errMacKey, err)
	}
	digest := sha256.Sum256(der)
	return attestationKey{der: der, credentialID: hex.EncodeToString(digest[:])}, nil
}

func parseMacKey(der []byte) (*ecdsa.PublicKey, error) {
	parsed, err := x509.ParsePKIXPublicKey(der) // which wants a point on the curve
	if err != nil {
		return nil, err
	}
	key, ok := parsed.(*ecdsa.PublicKey)
	if !ok || key.Curve != elliptic.P256() {
		return nil, fmt.Errorf("it is a %T", parsed)
	}
	if encoded, err := x509.MarshalPKIXPublicKey(key); err != nil || !bytes.Equal(encoded, der) {
		return nil, errors.New("it is not in its one encoding")
	}
	return key, nil
}

// verifySignature holds an ECDSA signature with SHA-256 over nonce (ASN.1 DER,
// RFC 3279 section 2.2.3) against a key that checkMacKey took.
func verifySignature(der, signature []byte, nonce [32]byte) (measured, error) {
	key, err := parseMacKey(der)
	if err != nil {
		return measured{}, fmt.Errorf("devices: key of a macOS device: %w", err)
	}
	if len(signature) > maxMacSignature {
		return measured{}, errMalformed
	}
	digest := sha256.Sum256(nonce[:])
	if !ecdsa.VerifyASN1(key, digest[:], signature) {
		return measured{}, errMacSignature
	}
	return measured{level: policy.EvidenceKey}, nil
}
