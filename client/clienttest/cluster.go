// Package clienttest is a small cluster for tests of what runs on a person's
// machine: a dtauthd that speaks the real API over real TLS, and nodes that
// speak real SSH. It decides nothing; what it answers, the test says.
package clienttest

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"devicetrust/api/dtv1"
	"devicetrust/api/dtv1/dtv1connect"
	"devicetrust/identity"
)

// Name of the cluster.
const Name = "example"

// Cluster is a dtauthd for tests. Its fields may be set before the first call.
type Cluster struct {
	// Proxy is its HOST:PORT.
	Proxy string
	// Pin is its TLS authority's.
	Pin string
	// CAFile holds the TLS authority in PEM.
	CAFile string
	// Mode is its device trust mode.
	Mode string
	// AutoEnroll is what it says of itself.
	AutoEnroll bool
	// Passwords by user.
	Passwords map[string]string
	// Roles and Logins of everybody.
	Roles, Logins []string
	// Unattested leaves out of certificates that their key is in a TPM.
	Unattested bool
	// Life of certificates.
	Life time.Duration
	// Renewable is what it says of how long a device's login can be renewed.
	Renewable time.Duration
	// Nodes that ListNodes gives, as JSON.
	Nodes [][]byte
	// ErrLogin is what Login answers, where set.
	ErrLogin error
	// ErrDevice is what AuthenticateDevice answers, where set.
	ErrDevice error
	// Findings are what DiagnoseDevice answers.
	Findings []*dtv1.Finding
	// Certificates, where set, changes what is about to be handed out.
	Certificates func(*dtv1.Certificates)
	// Date, where set, is what its clock says.
	Date func() time.Time

	tls           *tlsAuthority
	userCA        ssh.Signer
	HostAuthority ssh.Signer
	server        *httptest.Server

	mu sync.Mutex // of what follows
	// serial of the last certificate.
	serial uint64
	// ended are the users whose logins ended, by Logout.
	ended []string
	// replaced are the serials of earlier logins that Logout was told of.
	replaced []uint64
	// diagnosed is what DiagnoseDevice was last asked.
	diagnosed *dtv1.DiagnoseDeviceRequest
}

// Start starts a cluster that ends with the test.
func Start(t testing.TB) *Cluster {
	t.Helper()
	c := &Cluster{
		Mode: "optional", Life: 12 * time.Hour,
		Passwords: map[string]string{"alice": "correct horse"},
		Roles:     []string{"access", "editor"}, Logins: []string{"root"},
		tls: newTLSAuthority(t), userCA: newSigner(t), HostAuthority: newSigner(t),
	}
	c.Pin = identity.PinOf(c.tls.cert)
	c.CAFile = filepath.Join(t.TempDir(), "ca.pem")
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.tls.cert.Raw})
	if err := os.WriteFile(c.CAFile, text, 0o600); err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.Handle(dtv1connect.NewLoginServiceHandler(&loginService{c: c}))
	mux.Handle(dtv1connect.NewAdminServiceHandler(&adminService{c: c}))
	mux.Handle(dtv1connect.NewDeviceServiceHandler(&deviceService{c: c}))
	c.Serve(t, c.tls.server(t, ServerCert{}), mux)
	return c
}

// Serve starts another server of the cluster with the TLS chain, which gives
// the address. The first one called is c.Proxy.
func (c *Cluster) Serve(t testing.TB, chain tls.Certificate, handler http.Handler) string {
	s := httptest.NewUnstartedServer(c.wrapped(handler))
	s.EnableHTTP2 = true
	s.TLS = &tls.Config{Certificates: []tls.Certificate{chain}, ClientAuth: tls.RequestClientCert, MinVersion: tls.VersionTLS13}
	// Refused handshakes are what tests are about.
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.StartTLS()
	t.Cleanup(s.Close)
	if c.server == nil {
		c.server, c.Proxy = s, s.Listener.Addr().String()
	}
	return s.Listener.Addr().String()
}

// Stop ends the dtauthd before the test ends.
func (c *Cluster) Stop() {
	c.server.CloseClientConnections()
	c.server.Close()
}

func (c *Cluster) wrapped(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if c.Date != nil {
			w.Header().Set("Date", c.Date().UTC().Format(http.TimeFormat))
		}
		if len(r.TLS.PeerCertificates) > 0 {
			r = r.WithContext(context.WithValue(r.Context(), callerKey{}, r.TLS.PeerCertificates[0]))
		}
		next.ServeHTTP(w, r)
	})
}

// Diagnosed is what DiagnoseDevice was last asked; nil before.
func (c *Cluster) Diagnosed() *dtv1.DiagnoseDeviceRequest {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.diagnosed
}

// Ended are the users whose logins were ended, in order.
func (c *Cluster) Ended() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]string(nil), c.ended...)
}

// Replaced are the serials of earlier logins that ended with those of Ended.
func (c *Cluster) Replaced() []uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]uint64(nil), c.replaced...)
}

func newSigner(t testing.TB) ssh.Signer {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	s, err := ssh.NewSignerFromKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// tlsAuthority signs TLS certificates.
type tlsAuthority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func newTLSAuthority(t testing.TB) *tlsAuthority {
	t.Helper()
	key := newKey(t)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test authority"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &tlsAuthority{cert, key}
}

// ServerCert says how a server's certificate differs from a good one.
type ServerCert struct {
	// NotBefore and NotAfter; zero is an hour around now.
	NotBefore, NotAfter time.Time
	// Name instead of 127.0.0.1.
	Name string
	// Usage instead of servers.
	Usage x509.ExtKeyUsage
	// WithoutCA leaves the authority out of the chain.
	WithoutCA bool
	// IsCA makes the server's own certificate an authority's.
	IsCA bool
}

// Chain makes a server's chain.
func (c *Cluster) Chain(t testing.TB, s ServerCert) tls.Certificate {
	t.Helper()
	return c.tls.server(t, s)
}

func (a *tlsAuthority) server(t testing.TB, s ServerCert) tls.Certificate {
	t.Helper()
	key := newKey(t)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(2),
		NotBefore:    time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		IsCA:        s.IsCA, BasicConstraintsValid: true,
	}
	if !s.NotBefore.IsZero() {
		template.NotBefore = s.NotBefore
	}
	if !s.NotAfter.IsZero() {
		template.NotAfter = s.NotAfter
	}
	if s.Name != "" {
		template.IPAddresses, template.DNSNames = nil, []string{s.Name}
	}
	if s.Usage != 0 {
		template.ExtKeyUsage = []x509.ExtKeyUsage{s.Usage}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, key.Public(), a.key)
	if err != nil {
		t.Fatal(err)
	}
	chain := tls.Certificate{Certificate: [][]byte{der, a.cert.Raw}, PrivateKey: key}
	if s.WithoutCA {
		chain.Certificate = chain.Certificate[:1]
	}
	return chain
}
