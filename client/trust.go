package client

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"time"

	"connectrpc.com/connect"

	"devicetrust/api"
	"devicetrust/identity"
)

// Trust says whom to believe to be the dtauthd. The zero value believes
// nobody.
type Trust struct {
	// Pins are digests of authorities' SubjectPublicKeyInfo: an authority
	// that the server sends along is believed where its digest is one. Where
	// there are pins, nothing else counts.
	Pins []Pin
	// Roots are authorities.
	Roots []*x509.Certificate
	// System adds the authorities that this machine trusts for the web.
	System bool
}

// Pin is the digest of an authority's SubjectPublicKeyInfo, as
// identity.PinOf and `dtctl status` write it.
type Pin string

// ParsePin reads "sha256:" and 64 hexadecimal digits.
func ParsePin(s string) (Pin, error) {
	digits, ok := strings.CutPrefix(s, "sha256:")
	b, err := hex.DecodeString(digits)
	if !ok || err != nil || len(b) != sha256.Size {
		return "", api.Refuse(connect.CodeInvalidArgument, "%.100q is not a CA pin: want sha256: and 64 hexadecimal digits", s).
			WithHint(hintPin)
	}
	return Pin(strings.ToLower(s)), nil
}

// NewTrust is the trust that flags ask for: pins where there are some, the
// authorities in caFile where it is named. With neither it is kept, which the
// profile has; and where that is empty, the system's authorities.
func NewTrust(pins []Pin, caFile string, kept Trust) (Trust, error) {
	switch {
	case len(pins) > 0 && caFile != "":
		return Trust{}, api.Refuse(connect.CodeInvalidArgument, "a CA pin and a CA file were given: want one of them")
	case len(pins) > 0:
		return Trust{Pins: pins}, nil
	case caFile != "":
		return trustFile(caFile)
	case len(kept.Roots) > 0 || kept.System:
		return kept, nil
	}
	return Trust{System: true}, nil
}

func trustFile(name string) (Trust, error) {
	data, err := readBounded(name)
	if err != nil {
		return Trust{}, api.Refuse(connect.CodeInvalidArgument, "cannot read the CA file %q: %s", name, reason(err))
	}
	roots, err := parseCertificates(data)
	if err == nil && len(roots) == 0 {
		err = errors.New("it holds no certificate in PEM form")
	}
	if err != nil {
		return Trust{}, api.Refuse(connect.CodeInvalidArgument, "cannot use the CA file %q: %v", name, err).
			WithHint("Write it with: dtctl auth export --type=tls")
	}
	return Trust{Roots: roots}, nil
}

// parseCertificates reads PEM; blocks of other types are refused.
func parseCertificates(data []byte) ([]*x509.Certificate, error) {
	var certs []*x509.Certificate
	for {
		block, rest := pem.Decode(data)
		if block == nil {
			if len(strings.TrimSpace(string(rest))) > 0 {
				return nil, errors.New("it is not PEM throughout")
			}
			return certs, nil
		}
		if block.Type != "CERTIFICATE" {
			return nil, fmt.Errorf("it holds a %.64q, want certificates only", block.Type)
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		certs = append(certs, c)
		data = rest
	}
}

// with adds authorities that t does not have yet.
func (t Trust) with(more ...*x509.Certificate) Trust {
	t.Roots = slices.Clone(t.Roots)
	for _, c := range more {
		if c != nil && !slices.ContainsFunc(t.Roots, c.Equal) {
			t.Roots = append(t.Roots, c)
		}
	}
	return t
}

// hintPin tells where the pin comes from.
const hintPin = "An administrator sees the pin with: dtctl status"

// verify believes the server at the other end of s to be host where its
// certificate leads to an authority that t trusts, is for host, for servers,
// and valid at now. It returns the authority. This is all that is between a
// person's password and a stranger: crypto/tls's own verification is off,
// because it cannot take an authority out of the chain by its digest.
func (t Trust) verify(s tls.ConnectionState, host string, now time.Time) (*x509.Certificate, error) {
	if len(s.PeerCertificates) == 0 {
		return nil, errors.New("it showed no certificate")
	}
	opts := x509.VerifyOptions{
		DNSName:       host,
		CurrentTime:   now,
		Intermediates: x509.NewCertPool(),
		KeyUsages:     []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	leaf, sent := s.PeerCertificates[0], s.PeerCertificates[1:]
	for _, c := range sent {
		opts.Intermediates.AddCert(c)
	}
	roots, err := t.roots(sent)
	if err != nil {
		return nil, err
	}
	opts.Roots = roots
	chains, err := leaf.Verify(opts)
	if err != nil {
		return nil, err
	}
	return chains[0][len(chains[0])-1], nil
}

func (t Trust) roots(sent []*x509.Certificate) (*x509.CertPool, error) {
	pool := x509.NewCertPool()
	if len(t.Pins) > 0 {
		return pool, t.pinned(pool, sent)
	}
	if t.System {
		system, err := x509.SystemCertPool()
		if err != nil {
			return nil, fmt.Errorf("cannot read this machine's authorities: %w", err)
		}
		pool = system
	}
	for _, c := range t.Roots {
		pool.AddCert(c)
	}
	return pool, nil
}

// pinned adds to pool the authorities in sent that are pinned.
func (t Trust) pinned(pool *x509.CertPool, sent []*x509.Certificate) error {
	var got []Pin
	found := false
	for _, c := range sent {
		if !c.IsCA || !c.BasicConstraintsValid {
			continue
		}
		pin := Pin(identity.PinOf(c))
		if slices.Contains(t.Pins, pin) {
			pool.AddCert(c)
			found = true
		}
		got = append(got, pin)
	}
	if !found {
		return &pinMismatch{want: t.Pins, got: got}
	}
	return nil
}

// pinMismatch: the server has no authority with a pin that was given.
type pinMismatch struct{ want, got []Pin }

func (e *pinMismatch) Error() string {
	got := "no CA certificate"
	if len(e.got) > 0 {
		got = joinPins(e.got)
	}
	return fmt.Sprintf("want CA pin %s, got %s", joinPins(e.want), got)
}

func joinPins(pins []Pin) string {
	words := make([]string, len(pins))
	for i, p := range pins {
		words[i] = string(p)
	}
	return strings.Join(words, ", ")
}

// tlsConfig verifies with t, shows cert where there is one, and hands the
// authority that was believed to found.
func (t Trust) tlsConfig(proxy string, cert *tls.Certificate, now func() time.Time, found func(*x509.Certificate)) (*tls.Config, error) {
	host, _, err := net.SplitHostPort(proxy)
	if err != nil {
		return nil, err
	}
	c := &tls.Config{
		MinVersion:         tls.VersionTLS13,
		ServerName:         host,
		Time:               now,
		InsecureSkipVerify: true, // VerifyConnection does it, see verify
		VerifyConnection: func(s tls.ConnectionState) error {
			root, err := t.verify(s, host, now())
			if err != nil {
				return &untrusted{proxy: proxy, now: now(), why: err}
			}
			found(root)
			return nil
		},
	}
	if cert != nil {
		c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return cert, nil }
	}
	return c, nil
}
