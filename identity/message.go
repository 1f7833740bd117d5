package identity

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/hiddeco/sshsig"
	"golang.org/x/crypto/ssh"
)

// Namespace is what a signature over a message is for; one for another is none
// (OpenSSH, PROTOCOL.sshsig).
type Namespace string

// What the SSH user authority signs besides certificates.
const (
	NamespaceState Namespace = "state@devicetrust"
	NamespaceNode  Namespace = "node@devicetrust"
	NamespaceKRL   Namespace = "krl@devicetrust"
)

// SignMessage gives the signature of signer over message, as PROTOCOL.sshsig has
// it, without armor. What is signed begins in a way in which no certificate
// and no message of the SSH protocol does.
func SignMessage(signer ssh.Signer, ns Namespace, message []byte) ([]byte, error) {
	if ns == "" {
		return nil, errors.New("identity: a message is signed for nothing")
	}
	s, err := sshsig.Sign(bytes.NewReader(message), signer, sshsig.HashSHA512, string(ns))
	if err != nil {
		return nil, fmt.Errorf("identity: %w", err)
	}
	return s.Marshal(), nil
}

// ArmorSignature is s as `ssh-keygen -Y verify` reads it.
func ArmorSignature(s []byte) ([]byte, error) {
	parsed, err := sshsig.ParseSignature(s)
	if err != nil {
		return nil, fmt.Errorf("identity: %w", err)
	}
	return sshsig.Armor(parsed), nil
}

// VerifyMessage tells whether signature is one of one of authorities over
// message, for ns. Without authorities it is none. Errors are *Refused.
func VerifyMessage(authorities []ssh.PublicKey, ns Namespace, message, signature []byte) error {
	s, err := sshsig.ParseSignature(signature)
	if err != nil {
		return refuse(ReasonMalformed, "the signature cannot be read")
	}
	if ns == "" || s.Namespace != string(ns) {
		return refuse(ReasonSignature, "the signature is for %.64q and not for %q", s.Namespace, ns)
	}
	if !isAuthority(s.PublicKey, authorities) {
		return refuse(ReasonAuthority, "it is signed by %s, which is not one of this cluster's", ssh.FingerprintSHA256(s.PublicKey))
	}
	if err := sshsig.Verify(bytes.NewReader(message), s, s.PublicKey, s.HashAlgorithm, string(ns)); err != nil {
		return refuse(ReasonSignature, "the signature does not verify")
	}
	return nil
}
