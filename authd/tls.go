package authd

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"os"
	"sync"
	"time"

	"connectrpc.com/connect"

	"devicetrust/api"
	"devicetrust/ca"
	"devicetrust/identity"
)

// serverTLS holds the certificate that dtauthd shows: its own CA's, renewed
// before it expires, or the operator's, read again on reload.
type serverTLS struct {
	ca    *ca.CA
	names []string
	now   func() time.Time
	// certFile and keyFile are the operator's; empty means our own CA.
	certFile, keyFile string

	mu      sync.Mutex
	current *tls.Certificate
	// anchor is the last authority of the operator's chain; nil where the
	// certificate is our own CA's.
	anchor *x509.Certificate
}

func (t *serverTLS) config() *tls.Config {
	return &tls.Config{
		MinVersion:     tls.VersionTLS13,
		GetCertificate: t.certificate,
		// The chain of a client's certificate is checked for each call, so
		// that the refusal can say why (identify); TLS proves the key.
		ClientAuth: tls.RequestClientCert,
		NextProtos: []string{"h2", "http/1.1"},
	}
}

func (t *serverTLS) certificate(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.certFile == "" && (t.current == nil || t.now().Add(serverCertRenew).After(t.current.Leaf.NotAfter)) {
		if err := t.issueLocked(); err != nil {
			return nil, err
		}
	}
	return t.current, nil
}

func (t *serverTLS) issueLocked() error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return fmt.Errorf("authd: %w", err)
	}
	chain, err := t.ca.IssueServer(t.names, key.Public(), serverCertLife)
	if err != nil {
		return err
	}
	leaf, err := x509.ParseCertificate(chain[0])
	if err != nil {
		return fmt.Errorf("authd: %w", err)
	}
	t.current = &tls.Certificate{Certificate: chain, PrivateKey: key, Leaf: leaf}
	return nil
}

// reload reads the operator's files; on an error the old ones stay in use.
func (t *serverTLS) reload() error {
	if t.certFile == "" {
		return nil
	}
	cert, err := tls.LoadX509KeyPair(t.certFile, t.keyFile)
	if err != nil {
		return api.Refuse(connect.CodeInvalidArgument, "cannot use --tls-cert and --tls-key: %v", err)
	}
	anchor, err := anchorOf(cert)
	if err != nil {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.current, t.anchor = &cert, anchor
	return nil
}

// anchorOf is the last certificate of the operator's chain, which clients pin.
// A chain without an authority is refused: no node could join by it.
func anchorOf(cert tls.Certificate) (*x509.Certificate, error) {
	chain := cert.Certificate
	last, err := x509.ParseCertificate(chain[len(chain)-1])
	if err != nil {
		return nil, fmt.Errorf("--tls-cert: %w", err)
	}
	if len(chain) == 1 && last.CheckSignatureFrom(last) == nil {
		return nil, api.Refuse(connect.CodeInvalidArgument, "the certificate of --tls-cert is signed by itself: servers believe an authority, and no certificate of a server's own").
			WithHint("Leave --tls-cert out, and the cluster's own CA makes one; or have an authority sign it.")
	}
	if len(chain) < 2 || !last.IsCA || !last.BasicConstraintsValid {
		return nil, api.Refuse(connect.CodeInvalidArgument, "the file of --tls-cert does not end in the certificate of an authority, by which servers know this one").
			WithHint("Append the certificate that signed it, and those above it, to the file.")
	}
	return last, nil
}

// anchors are the authorities by which clients may know this server: our CA,
// and the operator's.
func (t *serverTLS) anchors() []*x509.Certificate {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.anchor == nil {
		return t.ca.TLSAuthorities()
	}
	return append(t.ca.TLSAuthorities(), t.anchor)
}

// pins are those of the authority that the server shows at this time.
func (t *serverTLS) pins() []string {
	shown := t.anchors()
	if t.certFile != "" {
		shown = shown[len(shown)-1:]
	}
	var out []string
	for _, c := range shown {
		out = append(out, identity.PinOf(c))
	}
	return out
}

// serverNames are all names under which clients may reach this process.
func serverNames(public []string, cluster string) []string {
	names := []string{"localhost", "127.0.0.1", "::1", cluster}
	if h, err := os.Hostname(); err == nil {
		names = append(names, h)
	}
	for _, a := range public {
		if host, _, err := net.SplitHostPort(a); err == nil {
			names = append(names, host)
		}
	}
	return unique(names)
}

func unique(in []string) []string {
	seen := make(map[string]bool, len(in))
	out := in[:0:0]
	for _, s := range in {
		if s != "" && !seen[s] {
			seen[s] = true
			out = append(out, s)
		}
	}
	return out
}
