package identity

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"net/netip"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
)

var now = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// alice has one of everything.
func alice() Identity {
	return Identity{
		User:             "alice@example.com",
		Roles:            []string{"editor", "access", "require-trusted-device"},
		Logins:           []string{"alice", "root"},
		Traits:           map[string][]string{"logins": {"root", "alice"}},
		Device:           Device{ID: "9cdfc0ad-64b7-4d9c-8e1c-6a4b2bf58269", AssetTag: "C00AA0AAAA0A", CredentialID: "61c7b1b6"},
		Evidence:         Evidence{Level: "event_log", TPMManufacturer: "IFX", TPMFirmware: "7.85.4555.0"},
		Permit:           Permit{PTY: true, PortForwarding: true, AgentForwarding: true},
		LoginIP:          netip.MustParseAddr("192.0.2.7"),
		PinSourceIP:      true,
		ForceCommand:     "/usr/local/bin/backup --all",
		PrivateKeyPolicy: KeyPolicyNone,
		Serial:           42,
		ValidAfter:       now.Add(-time.Minute),
		ValidBefore:      now.Add(time.Hour),
	}
}

// attested is alice with a key in the TPM of the device.
func attested() Identity {
	id := alice()
	id.PrivateKeyPolicy, id.KeyAttestation = KeyPolicyHardware, strings.Repeat("0a", 32)
	return id
}

func newSigner(t testing.TB, key crypto.Signer) ssh.Signer {
	t.Helper()
	s, err := ssh.NewSignerFromSigner(key)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// fixedSigner is the same in each process: a fuzzer's workers share its corpus.
func fixedSigner(t testing.TB, seed byte) ssh.Signer {
	t.Helper()
	return newSigner(t, ed25519.NewKeyFromSeed(bytes.Repeat([]byte{seed}, ed25519.SeedSize)))
}

func ed25519Signer(t testing.TB) ssh.Signer {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return newSigner(t, key)
}

func ecdsaSigner(t testing.TB, curve elliptic.Curve) ssh.Signer {
	t.Helper()
	key, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return newSigner(t, key)
}

func rsaSigner(t testing.TB, bits int) ssh.Signer {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, bits)
	if err != nil {
		t.Fatal(err)
	}
	return newSigner(t, key)
}

// wire signs cert and sends it over the wire and back.
func wire(t testing.TB, cert *ssh.Certificate, authority ssh.Signer) *ssh.Certificate {
	t.Helper()
	if err := cert.SignCert(rand.Reader, authority); err != nil {
		t.Fatal(err)
	}
	key, err := ssh.ParsePublicKey(cert.Marshal())
	if err != nil {
		t.Fatal(err)
	}
	return key.(*ssh.Certificate)
}

func encode(t testing.TB, id Identity, key ssh.PublicKey) *ssh.Certificate {
	t.Helper()
	cert, err := id.SSHCertificate(key)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

// tlsCA is a root like the cluster's.
type tlsCA struct {
	cert *x509.Certificate
	key  crypto.Signer
}

func newTLSCA(t testing.TB) tlsCA {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "dt test"},
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(1000 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return tlsCA{cert: cert, key: key}
}

func (ca tlsCA) sign(t testing.TB, template *x509.Certificate) *x509.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return ca.signFor(t, template, key.Public())
}

func (ca tlsCA) signFor(t testing.TB, template *x509.Certificate, key crypto.PublicKey) *x509.Certificate {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, template, ca.cert, key, ca.key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}
