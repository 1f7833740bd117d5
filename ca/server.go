package ca

import (
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"devicetrust/identity"
)

// IssueServer signs dtauthd's own HTTPS certificate for names (host names or
// IP addresses): the leaf and its root, DER. It is in no inventory, so its
// life is bounded; dtauthd renews it before that. Names in capitals are
// lowered; a name that is none is an error.
func (c *CA) IssueServer(names []string, key crypto.PublicKey, life time.Duration) (der [][]byte, err error) {
	if len(names) == 0 || len(names) > maxServerNames {
		return nil, fmt.Errorf("ca: a server certificate needs 1 to %d names, got %d", maxServerNames, len(names))
	}
	if life <= 0 || life > maxServerLife {
		return nil, fmt.Errorf("ca: a server certificate lives up to %s, got %s", maxServerLife, life)
	}
	template, err := c.serverTemplate(names, life)
	if err != nil {
		return nil, err
	}
	leaf, err := x509.CreateCertificate(rand.Reader, template, c.root, key, c.tls)
	if err != nil {
		return nil, fmt.Errorf("ca: %w", err)
	}
	if err := c.verifyServer(leaf, names); err != nil {
		return nil, err
	}
	return [][]byte{leaf, c.root.Raw}, nil
}

func (c *CA) serverTemplate(names []string, life time.Duration) (*x509.Certificate, error) {
	serial, err := randomSerial()
	if err != nil {
		return nil, fmt.Errorf("ca: %w", err)
	}
	now := c.now()
	t := &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{CommonName: "dtauthd " + c.cluster},
		NotBefore:             now.Add(-skew),
		NotAfter:              c.notBeyondRoot(now.Add(life)),
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid: true,
	}
	for _, n := range names {
		n = strings.ToLower(n)
		if ip := net.ParseIP(n); ip != nil {
			t.IPAddresses = append(t.IPAddresses, ip)
			continue
		}
		if err := identity.CheckHostName(n); err != nil {
			return nil, fmt.Errorf("ca: server certificate: %w", err)
		}
		t.DNSNames = append(t.DNSNames, n)
	}
	return t, nil
}

// verifyServer reads the leaf as a client would, and as nobody may: it must
// not pass for a caller's.
func (c *CA) verifyServer(der []byte, names []string) error {
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return fmt.Errorf("ca: own server certificate: %w", err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(c.root)
	for _, n := range names {
		if _, err := leaf.Verify(x509.VerifyOptions{Roots: pool, DNSName: n, CurrentTime: c.now()}); err != nil {
			return fmt.Errorf("ca: own server certificate: %w", err)
		}
	}
	if _, err := c.VerifyTLSClient(leaf); err == nil {
		return errors.New("ca: own server certificate would pass for a caller's")
	}
	return nil
}
