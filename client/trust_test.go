package client

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"

	"devicetrust/api"
	"devicetrust/api/dtv1"
	"devicetrust/client/clienttest"
	"devicetrust/identity"
)

func options() Options { return Options{Now: time.Now} }

// call makes an anonymous call that the server answers, whatever the answer.
func call(t *testing.T, proxy string, trust Trust) error {
	t.Helper()
	conn, err := DialAnonymous(proxy, trust, options())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_, err = conn.Login.Login(t.Context(), connect.NewRequest(&dtv1.LoginRequest{User: "nobody"}))
	return err
}

// answered tells that err is the server's own.
func answered(err error) bool {
	r, ok := errors.AsType[*api.Refusal](err)
	return ok && r.Code == connect.CodeUnauthenticated && strings.Contains(r.Message, "wrong user name or password")
}

func roots(t *testing.T, file string) Trust {
	t.Helper()
	trust, err := NewTrust(nil, file, Trust{})
	if err != nil {
		t.Fatal(err)
	}
	return trust
}

func TestAServerIsBelievedByItsPinOrItsAuthority(t *testing.T) {
	c := clienttest.Start(t)
	other := clienttest.Start(t)
	for _, tt := range []struct {
		name  string
		trust Trust
		want  string // empty: believed
	}{
		{"its pin", Trust{Pins: []Pin{Pin(c.Pin)}}, ""},
		{"its pin beside another", Trust{Pins: []Pin{Pin(other.Pin), Pin(c.Pin)}}, ""},
		{"its authority", roots(t, c.CAFile), ""},
		{"nothing at all", Trust{}, "not signed by an authority that is known here"},
		{"the system's authorities", Trust{System: true}, "not signed by an authority that is known here"},
		{"another authority", roots(t, other.CAFile), "not signed by an authority that is known here"},
		{"another pin", Trust{Pins: []Pin{Pin(other.Pin)}}, "want CA pin " + other.Pin + ", got " + c.Pin},
		{"another pin, although its authority is known", Trust{Pins: []Pin{Pin(other.Pin)}, Roots: roots(t, c.CAFile).Roots}, "want CA pin " + other.Pin},
	} {
		t.Run(tt.name, func(t *testing.T) {
			err := call(t, c.Proxy, tt.trust)
			if tt.want == "" {
				if !answered(err) {
					t.Errorf("not believed: %v", err)
				}
				return
			}
			r, ok := errors.AsType[*api.Refusal](err)
			if !ok || !strings.HasPrefix(r.Message, "cannot trust "+c.Proxy+": ") || !strings.Contains(r.Message, tt.want) {
				t.Errorf("error %v, want %q", err, tt.want)
			}
			if ok && !strings.Contains(r.Hint, "pin") {
				t.Errorf("hint %q does not speak of the pin", r.Hint)
			}
		})
	}
}

func TestAPinDoesNotExcuseTheCertificate(t *testing.T) {
	c := clienttest.Start(t)
	past, future := time.Now().Add(-time.Minute), time.Now().Add(time.Minute)
	for _, tt := range []struct {
		name string
		cert clienttest.ServerCert
		want string
	}{
		{"a good one", clienttest.ServerCert{}, ""},
		{"for another name", clienttest.ServerCert{Name: "dt.example.com"}, "127.0.0.1"},
		{"expired", clienttest.ServerCert{NotBefore: past.Add(-time.Hour), NotAfter: past}, "this machine's clock says"},
		{"not valid yet", clienttest.ServerCert{NotBefore: future, NotAfter: future.Add(time.Hour)}, "this machine's clock says"},
		{"a person's, who would be the server", clienttest.ServerCert{Usage: x509.ExtKeyUsageClientAuth}, "not for servers"},
		{"without the authority that is pinned", clienttest.ServerCert{WithoutCA: true}, "got no CA certificate"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			proxy := c.Serve(t, c.Chain(t, tt.cert), http.NotFoundHandler())
			err := call(t, proxy, Trust{Pins: []Pin{Pin(c.Pin)}})
			if tt.want == "" {
				if err == nil || strings.Contains(err.Error(), "trust") {
					t.Errorf("not believed: %v", err)
				}
				return
			}
			if err == nil || !strings.HasPrefix(err.Error(), "cannot trust ") || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want %q", err, tt.want)
			}
		})
	}
}

// A pin names an authority. Were it compared with the server's own
// certificate, or with whatever is sent along, a server could bring the
// authority's certificate without having anything signed by it.
func TestAPinnedAuthorityMustHaveSignedTheServer(t *testing.T) {
	c, attacker := clienttest.Start(t), clienttest.Start(t)
	genuine, err := x509.ParseCertificate(c.Chain(t, clienttest.ServerCert{}).Certificate[1])
	if err != nil {
		t.Fatal(err)
	}
	chain := attacker.Chain(t, clienttest.ServerCert{})
	chain.Certificate = append(chain.Certificate, genuine.Raw)
	proxy := attacker.Serve(t, chain, http.NotFoundHandler())
	if err := call(t, proxy, Trust{Pins: []Pin{Pin(c.Pin)}}); err == nil || !strings.HasPrefix(err.Error(), "cannot trust ") {
		t.Errorf("believed: %v", err)
	}

	own := attacker.Chain(t, clienttest.ServerCert{IsCA: true})
	leaf, err := x509.ParseCertificate(own.Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	trust := Trust{Pins: []Pin{Pin(identity.PinOf(leaf))}}
	_, err = trust.verify(tls.ConnectionState{PeerCertificates: []*x509.Certificate{leaf}}, "127.0.0.1", time.Now())
	if _, ok := errors.AsType[*pinMismatch](err); !ok {
		t.Errorf("a pin of the server's own certificate: %v", err)
	}
}

func TestAPinHasOneForm(t *testing.T) {
	good := "sha256:" + strings.Repeat("0a", 32)
	for text, want := range map[string]Pin{
		good: Pin(good), strings.Replace(good, "0a", "0A", 1): Pin(good),
		"": "", "sha256:": "", "sha256:00": "", "md5:" + strings.Repeat("0a", 32): "", strings.Repeat("0a", 32): "", good + "0a": "",
	} {
		got, err := ParsePin(text)
		if got != want || (err == nil) != (want != "") {
			t.Errorf("%q: %q, %v", text, got, err)
		}
	}
}

func TestAFileOfAuthoritiesHoldsNothingElse(t *testing.T) {
	c := clienttest.Start(t)
	ca, err := os.ReadFile(c.CAFile)
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"empty": "", "no PEM": "hello", "a key": "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
		"garbage after": string(ca) + "hello", "too long": strings.Repeat("\n", maxStored+1), "a broken certificate": "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
	} {
		file := filepath.Join(t.TempDir(), "ca.pem")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := NewTrust(nil, file, Trust{}); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if _, err := NewTrust(nil, "absent", Trust{}); err == nil {
		t.Error("an absent file: accepted")
	}
	if _, err := NewTrust([]Pin{Pin(c.Pin)}, c.CAFile, Trust{}); err == nil {
		t.Error("a pin and a file: accepted")
	}
}
