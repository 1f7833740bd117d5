package identity

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"errors"
	"fmt"

	"golang.org/x/crypto/ssh"
)

// CheckSSHKey refuses a public key that may be neither certified nor an
// authority: anything but Ed25519, ECDSA on the NIST curves, RSA of at least
// 2048 bits and the FIDO forms of the first two. DSA and certificates are
// among what is refused.
func CheckSSHKey(key ssh.PublicKey) error {
	if key == nil {
		return errors.New("there is no SSH key")
	}
	if _, ok := key.(*ssh.Certificate); ok {
		return errors.New("a certificate cannot stand for a key")
	}
	switch key.Type() {
	case ssh.KeyAlgoED25519, ssh.KeyAlgoSKED25519, ssh.KeyAlgoSKECDSA256,
		ssh.KeyAlgoECDSA256, ssh.KeyAlgoECDSA384, ssh.KeyAlgoECDSA521:
		return nil
	case ssh.KeyAlgoRSA:
		return checkRSA(key)
	}
	return fmt.Errorf("SSH keys of type %.64q are not accepted", key.Type())
}

func checkRSA(key ssh.PublicKey) error {
	ck, ok := key.(ssh.CryptoPublicKey)
	if !ok {
		return errors.New("the RSA key cannot be read")
	}
	pub, ok := ck.CryptoPublicKey().(*rsa.PublicKey)
	if !ok {
		return errors.New("the RSA key cannot be read")
	}
	return checkRSASize(pub)
}

func checkRSASize(pub *rsa.PublicKey) error {
	if bits := pub.N.BitLen(); bits < minRSA {
		return fmt.Errorf("the RSA key has %d bits, fewer than %d", bits, minRSA)
	}
	return nil
}

// ParseTLSKey reads a PKIX DER public key that may be certified for TLS:
// Ed25519, ECDSA on P-256, P-384 or P-521, RSA of at least 2048 bits.
func ParseTLSKey(der []byte) (crypto.PublicKey, error) {
	key, err := x509.ParsePKIXPublicKey(der)
	if err != nil {
		return nil, errors.New("the TLS key is not a PKIX public key")
	}
	if err := checkTLSKey(key); err != nil {
		return nil, err
	}
	return key, nil
}

func checkTLSKey(key crypto.PublicKey) error {
	switch k := key.(type) {
	case ed25519.PublicKey:
		return nil
	case *ecdsa.PublicKey:
		switch k.Curve {
		case elliptic.P256(), elliptic.P384(), elliptic.P521():
			return nil
		}
		return errors.New("the TLS key's curve is not accepted")
	case *rsa.PublicKey:
		return checkRSASize(k)
	}
	return fmt.Errorf("TLS keys of type %T are not accepted", key)
}
