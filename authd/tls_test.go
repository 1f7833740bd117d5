package authd

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"devicetrust/ca"
	"devicetrust/identity"
)

// operatorChain writes a server's key and certificate, and gives the latter in
// PEM with that of the authority which signed it.
func operatorChain(t *testing.T, keyFile string) (leaf, root []byte, authority *x509.Certificate) {
	t.Helper()
	key := func() *ecdsa.PrivateKey {
		k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	rootKey, leafKey := key(), key()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true,
	}
	sign := func(c *x509.Certificate, public any) []byte {
		der, err := x509.CreateCertificate(rand.Reader, c, template, public, rootKey)
		if err != nil {
			t.Fatal(err)
		}
		return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	}
	root = sign(template, rootKey.Public())
	leaf = sign(&x509.Certificate{
		SerialNumber: big.NewInt(2), NotBefore: template.NotBefore, NotAfter: template.NotAfter, DNSNames: []string{"localhost"},
	}, leafKey.Public())
	der, err := x509.MarshalPKCS8PrivateKey(leafKey)
	if err == nil {
		err = os.WriteFile(keyFile, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(root)
	if authority, err = x509.ParseCertificate(block.Bytes); err != nil {
		t.Fatal(err)
	}
	return leaf, root, authority
}

func TestTheOperatorsCertificateComesWithItsAuthority(t *testing.T) {
	dir := t.TempDir()
	var own ca.CA
	server := &serverTLS{ca: &own, certFile: filepath.Join(dir, "tls.crt"), keyFile: filepath.Join(dir, "tls.key"), now: time.Now}
	leaf, root, authority := operatorChain(t, server.keyFile)
	for name, c := range map[string]struct {
		chain []byte
		want  string
	}{
		"the whole chain":       {slices.Concat(leaf, root), ""},
		"alone":                 {leaf, "does not end in the certificate of an authority"},
		"with another's":        {slices.Concat(leaf, leaf), "does not end in the certificate of an authority"},
		"no certificate at all": {[]byte("x"), "cannot use --tls-cert"},
	} {
		if err := os.WriteFile(server.certFile, c.chain, 0o600); err != nil {
			t.Fatal(err)
		}
		err := server.reload()
		if c.want == "" {
			if err != nil || !slices.Equal(server.pins(), []string{identity.PinOf(authority)}) {
				t.Errorf("%s: %v, pins %v", name, err, server.pins())
			}
			continue
		}
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
	if _, err := anchorOf(tls.Certificate{Certificate: [][]byte{authority.Raw}}); err == nil || !strings.Contains(err.Error(), "signed by itself") {
		t.Errorf("signed by itself: %v", err)
	}
}
