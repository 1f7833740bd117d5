package ca

import (
	"crypto/tls"
	"crypto/x509"
	"io"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"devicetrust/store/storetest"
)

// handshake lets a client meet a server and gives the client's error.
func handshake(t *testing.T, server, client *tls.Config) error {
	t.Helper()
	l, err := tls.Listen("tcp", "127.0.0.1:0", server)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		if conn, err := l.Accept(); err == nil {
			_, _ = io.ReadAll(conn) // the client says what went wrong
			_ = conn.Close()
		}
	}()
	d := tls.Dialer{Config: client}
	conn, err := d.DialContext(t.Context(), "tcp", l.Addr().String())
	if err == nil {
		err = conn.Close()
	}
	_ = l.Close()
	<-done
	return err
}

func TestClientsTrustTheServersCertificateUnderItsNames(t *testing.T) {
	w := newWorld(t, storetest.Open(t))
	key, _ := tlsKey(t)
	chain, err := w.ca.IssueServer([]string{"Auth.example.com", "127.0.0.1", "::1"}, key.Public(), time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	server := &tls.Config{Certificates: []tls.Certificate{{Certificate: chain, PrivateKey: key}}, MinVersion: tls.VersionTLS13}
	roots := x509.NewCertPool()
	roots.AddCert(w.ca.TLSAuthorities()[0])
	client := func(name string) *tls.Config {
		return &tls.Config{RootCAs: roots, ServerName: name, Time: w.clock.now, MinVersion: tls.VersionTLS13}
	}
	for _, name := range []string{"auth.example.com", "127.0.0.1", "::1"} {
		if err := handshake(t, server, client(name)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := handshake(t, server, client("other.example.com")); err == nil {
		t.Error("trusted under another name")
	}
	if len(chain) != 2 || string(chain[1]) != string(w.ca.root.Raw) {
		t.Error("the root, which clients pin, is not in the chain")
	}
	leaf := mustParse(t, chain[0])
	if _, err := w.ca.VerifyTLSClient(leaf); err == nil {
		t.Error("it passes for a caller's")
	}
	if d := cmp.Diff([]x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, leaf.ExtKeyUsage); d != "" {
		t.Errorf("uses: want (-), got (+):\n%s", d)
	}
}

// A node's or a user's certificate must not make a server of its holder.
func TestCallersCertificatesMakeNoServer(t *testing.T) {
	w := newWorld(t, storetest.Open(t))
	key, der := tlsKey(t)
	req := w.nodeRequest(t)
	req.TLSKey = der
	_, leaf, err := w.ca.IssueNode(t.Context(), req, allow)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(w.ca.TLSAuthorities()[0])
	if _, err := mustParse(t, leaf).Verify(x509.VerifyOptions{Roots: roots, CurrentTime: w.clock.now()}); err == nil {
		t.Error("the certificate is good for a server")
	}
	server := &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{leaf}, PrivateKey: key}}}
	if err := handshake(t, server, &tls.Config{RootCAs: roots, ServerName: "web-1", Time: w.clock.now, MinVersion: tls.VersionTLS13}); err == nil {
		t.Error("a client trusts it")
	}
}

func TestServerCertificatesAreBounded(t *testing.T) {
	w := newWorld(t, storetest.Open(t))
	key, _ := tlsKey(t)
	for name, row := range map[string]struct {
		names []string
		life  time.Duration
	}{
		"no names":       {nil, time.Hour},
		"too many names": {make([]string, maxServerNames+1), time.Hour},
		"an empty name":  {[]string{""}, time.Hour},
		"a pattern":      {[]string{"*.example.com"}, time.Hour},
		"no life":        {[]string{"a"}, 0},
		"a long life":    {[]string{"a"}, maxServerLife + 1},
	} {
		if _, err := w.ca.IssueServer(row.names, key.Public(), row.life); err == nil {
			t.Errorf("%s: was issued", name)
		}
	}
}
