package identity

import (
	"crypto/sha256"
	"encoding/binary"
)

// LoginBinding is what a login quote is bound to: the quote is good for this
// challenge, this person, this device and these two keys, and for no other.
type LoginBinding struct {
	Challenge    []byte // 32 random bytes of the server's
	Cluster      string
	User         string
	CredentialID string
	SSHPublicKey []byte // wire format (RFC 4253 section 6.6)
	TLSPublicKey []byte // PKIX DER
}

// LoginNonce is what a device signs at a login, a TPM as the qualifying data
// of its quote: the SHA-256 over a purpose string and each field of b, each
// with its length before it (uint32, big-endian), the two keys by their
// SHA-256.
func LoginNonce(b LoginBinding) [32]byte { return loginNonce("dt/v1 device authentication", b) }

// SSHKeyNonce and TLSKeyNonce are what the attestation key signs of the two
// keys of b where they are in the TPM, made as LoginNonce is. The purposes are
// others, so that neither is taken for the other.
func SSHKeyNonce(b LoginBinding) [32]byte { return loginNonce("dt/v1 SSH key in the TPM", b) }
func TLSKeyNonce(b LoginBinding) [32]byte { return loginNonce("dt/v1 TLS key in the TPM", b) }

func loginNonce(purpose string, b LoginBinding) [32]byte {
	ssh, tls := sha256.Sum256(b.SSHPublicKey), sha256.Sum256(b.TLSPublicKey)
	return nonce(purpose,
		b.Challenge, []byte(b.Cluster), []byte(b.User), []byte(b.CredentialID), ssh[:], tls[:])
}

// EnrollBinding is what a quote, or the signature of a device without a TPM, is
// bound to when the device is enrolled.
type EnrollBinding struct {
	Challenge    []byte // 32 random bytes of the server's
	Cluster      string
	User         string
	CredentialID string
}

// EnrollNonce is what a device signs when it is enrolled, made as LoginNonce
// is. Its purpose is another one, so that no signature is good for both.
func EnrollNonce(b EnrollBinding) [32]byte {
	return nonce("dt/v1 device enrollment",
		b.Challenge, []byte(b.Cluster), []byte(b.User), []byte(b.CredentialID))
}

func nonce(purpose string, fields ...[]byte) [32]byte {
	h := sha256.New()
	for _, field := range append([][]byte{[]byte(purpose)}, fields...) {
		var n [4]byte
		binary.BigEndian.PutUint32(n[:], uint32(len(field)))
		h.Write(n[:])
		h.Write(field)
	}
	return [32]byte(h.Sum(nil))
}
