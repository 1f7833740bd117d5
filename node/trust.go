package node

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"connectrpc.com/connect"

	"devicetrust/api"
)

// Pin is the SHA-256 of an authority's SubjectPublicKeyInfo.
type Pin [sha256.Size]byte

// ParsePin reads "sha256:" and 64 hexadecimal digits.
func ParsePin(s string) (Pin, error) {
	var p Pin
	digits, ok := strings.CutPrefix(s, "sha256:")
	b, err := hex.DecodeString(digits)
	if !ok || err != nil || len(b) != len(p) {
		return p, fmt.Errorf("CA pin %.80q is not sha256: and 64 hexadecimal digits", s)
	}
	return Pin(b), nil
}

func (p Pin) String() string { return "sha256:" + hex.EncodeToString(p[:]) }

func pinOf(c *x509.Certificate) Pin { return sha256.Sum256(c.RawSubjectPublicKeyInfo) }

// trust says which server is the control plane. Without pins and authorities
// it is none.
type trust struct {
	// pins of the authority, for the first contact.
	pins []Pin
	// authorities, afterwards.
	authorities []*x509.Certificate
	// host is what the server's certificate must be for.
	host string
	now  func() time.Time
}

// config is for a connection that is refused unless verify accepts it.
func (t trust) config() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		ServerName: t.host,
		// crypto/tls knows no pins: verify does all of its work instead, and
		// runs on resumed connections too.
		InsecureSkipVerify: true,
		VerifyConnection:   t.verify,
	}
}

// verify accepts a server whose certificate is valid now, for the host, and
// signed by one of the authorities, or by one that it sends and that is
// pinned.
func (t trust) verify(c tls.ConnectionState) error {
	if len(c.PeerCertificates) == 0 {
		return errors.New("the server sent no certificate")
	}
	leaf, sent := c.PeerCertificates[0], c.PeerCertificates[1:]
	roots, err := t.roots(sent)
	if err != nil {
		return err
	}
	between := x509.NewCertPool()
	for _, cert := range sent {
		between.AddCert(cert)
	}
	_, err = leaf.Verify(x509.VerifyOptions{
		DNSName: t.host, Roots: roots, Intermediates: between, CurrentTime: t.now(),
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	})
	return t.explain(leaf, err)
}

func (t trust) roots(sent []*x509.Certificate) (*x509.CertPool, error) {
	roots := x509.NewCertPool()
	for _, ca := range t.authorities {
		roots.AddCert(ca)
	}
	if len(t.pins) == 0 {
		return roots, nil
	}
	var seen []string
	for _, cert := range sent {
		if !cert.IsCA {
			continue
		}
		got := pinOf(cert)
		seen = append(seen, got.String())
		for _, want := range t.pins {
			if got == want {
				roots.AddCert(cert)
				return roots, nil
			}
		}
	}
	if len(seen) == 0 {
		seen = []string{"none at all"}
	}
	return nil, api.Refuse(connect.CodeUnauthenticated,
		"the server is not the one that --ca-pin names: its authority is %s", strings.Join(seen, ", ")).
		WithHint("Compare --ca-pin with what 'dtctl status' prints on the control plane; where they are the same, something else answers at this address.")
}

// explain puts what x509 refuses into words with a remedy.
func (t trust) explain(leaf *x509.Certificate, err error) error {
	var invalid x509.CertificateInvalidError
	if errors.As(err, &invalid) && invalid.Reason == x509.Expired {
		return api.Refuse(connect.CodeUnauthenticated,
			"a certificate of the control plane is not valid at %s, the time of this machine's clock (the server's own is from %s to %s)",
			clock(t.now()), clock(leaf.NotBefore), clock(leaf.NotAfter)).
			WithHint("Set this machine's clock (timedatectl set-ntp true), or look at the control plane's.")
	}
	var name x509.HostnameError
	if errors.As(err, &name) {
		return api.Refuse(connect.CodeUnauthenticated, "the control plane's certificate is not for %q but for %s", t.host, names(leaf)).
			WithHint("Use one of these names in --auth-server, or start dtauthd with --public-addr=%s.", net.JoinHostPort(t.host, "PORT"))
	}
	var unknown x509.UnknownAuthorityError
	if errors.As(err, &unknown) {
		return api.Refuse(connect.CodeUnauthenticated, "the server's certificate is not signed by the cluster's authority").
			WithHint("Something else answers at this address, or the cluster was set up anew; then remove the data directory and join again.")
	}
	return err
}

func clock(t time.Time) string { return t.UTC().Format(time.RFC3339) }

func names(c *x509.Certificate) string {
	all := append([]string{}, c.DNSNames...)
	for _, ip := range c.IPAddresses {
		all = append(all, ip.String())
	}
	if len(all) == 0 {
		return "no name"
	}
	return strings.Join(all, ", ")
}
