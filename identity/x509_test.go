package identity

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"math/big"
	"net"
	"net/netip"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// aliceTLS is what X.509 carries of alice.
func aliceTLS() Identity {
	id := alice()
	return Identity{
		Cluster: "example.com", User: id.User, Roles: id.Roles, Device: id.Device,
		Serial: id.Serial, ValidAfter: id.ValidAfter, ValidBefore: id.ValidBefore,
	}
}

func userTemplate(t testing.TB, id Identity) *x509.Certificate {
	t.Helper()
	template, err := UserTemplate(id)
	if err != nil {
		t.Fatal(err)
	}
	return template
}

func TestAVerifiedUserIsTheOneThatWasEncoded(t *testing.T) {
	ca := newTLSCA(t)
	full := alice()
	full.Cluster = "example.com"
	caller, err := VerifyX509(ca.sign(t, userTemplate(t, full)), []*x509.Certificate{newTLSCA(t).cert, ca.cert}, now)
	if err != nil {
		t.Fatal(err)
	}
	if caller.Kind() != KindUser || caller.Name() != full.User || caller.Cluster() != "example.com" || caller.Serial() != 42 {
		t.Errorf("got %+v", caller)
	}
	if d := cmp.Diff(aliceTLS(), caller.Identity(), cmpopts.EquateComparable(netip.Addr{})); d != "" {
		t.Errorf("want (-), got (+):\n%s", d)
	}
}

func TestAVerifiedNodeIsANodeAndNoUser(t *testing.T) {
	ca := newTLSCA(t)
	template, err := NodeTemplate("example.com", "9cdfc0ad-64b7", 7, now, now.Add(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	cert := ca.sign(t, template)
	caller, err := VerifyX509(cert, []*x509.Certificate{ca.cert}, now)
	if err != nil {
		t.Fatal(err)
	}
	if caller.Kind() != KindNode || caller.Name() != "9cdfc0ad-64b7" || caller.Serial() != 7 || caller.Identity().User != "" {
		t.Errorf("got %+v", caller)
	}
	_, err = UnverifiedFromX509(cert)
	wantReason(t, err, ReasonWrongType)
}

// Each row makes one fault in a good template, before it is signed.
func TestVerifyX509RefusesOneFaultAtATime(t *testing.T) {
	ca := newTLSCA(t)
	uri := func(s string) func(*x509.Certificate) {
		return func(c *x509.Certificate) {
			u, err := url.Parse(s)
			if err != nil {
				t.Fatal(err)
			}
			c.URIs = []*url.URL{u}
		}
	}
	attribute := func(oid asn1.ObjectIdentifier, value string) func(*x509.Certificate) {
		return func(c *x509.Certificate) {
			c.Subject.ExtraNames = append(c.Subject.ExtraNames, pkix.AttributeTypeAndValue{Type: oid, Value: value})
		}
	}
	for name, row := range map[string]struct {
		fault func(*x509.Certificate)
		want  Reason
	}{
		"a server's":              {func(c *x509.Certificate) { c.ExtKeyUsage[0] = x509.ExtKeyUsageServerAuth }, ReasonWrongType},
		"for any use":             {func(c *x509.Certificate) { c.ExtKeyUsage[0] = x509.ExtKeyUsageAny }, ReasonWrongType},
		"for no use":              {func(c *x509.Certificate) { c.ExtKeyUsage = nil }, ReasonWrongType},
		"for two uses":            {func(c *x509.Certificate) { c.ExtKeyUsage = append(c.ExtKeyUsage, x509.ExtKeyUsageServerAuth) }, ReasonWrongType},
		"a CA":                    {func(c *x509.Certificate) { c.IsCA = true }, ReasonWrongType},
		"expired":                 {func(c *x509.Certificate) { c.NotAfter = now.Add(-time.Second) }, ReasonExpired},
		"expired this second":     {func(c *x509.Certificate) { c.NotAfter = now }, ReasonExpired},
		"not yet valid":           {func(c *x509.Certificate) { c.NotBefore = now.Add(time.Second) }, ReasonNotYetValid},
		"no URI":                  {func(c *x509.Certificate) { c.URIs = nil }, ReasonWrongType},
		"two URIs":                {func(c *x509.Certificate) { c.URIs = append(c.URIs, c.URIs[0]) }, ReasonWrongType},
		"a DNS name":              {func(c *x509.Certificate) { c.DNSNames = []string{"example.com"} }, ReasonWrongType},
		"an address":              {func(c *x509.Certificate) { c.IPAddresses = []net.IP{{127, 0, 0, 1}} }, ReasonWrongType},
		"another scheme":          {uri("spiffe://example.com/user/alice@example.com"), ReasonWrongType},
		"another kind":            {uri("dt://example.com/admin/alice@example.com"), ReasonWrongType},
		"kind none":               {uri("dt://example.com/none/alice@example.com"), ReasonWrongType},
		"another user in the URI": {uri("dt://example.com/user/bob"), ReasonMalformed},
		"an escaped user":         {uri("dt://example.com/user/%61lice@example.com"), ReasonWrongType},
		"a query":                 {uri("dt://example.com/user/alice@example.com?x"), ReasonWrongType},
		"a deeper path":           {uri("dt://example.com/user/alice/x"), ReasonMalformed},
		"a port":                  {uri("dt://example.com:1/user/alice@example.com"), ReasonMalformed},
		"a password":              {uri("dt://x@example.com/user/alice@example.com"), ReasonWrongType},
		"a node in capitals":      {uri("dt://example.com/node/NODE"), ReasonMalformed},
		"a large serial":          {func(c *x509.Certificate) { c.SerialNumber.Lsh(c.SerialNumber, 64) }, ReasonMalformed},
		"an unknown attribute":    {attribute(asn1.ObjectIdentifier{2, 5, 4, 11}, "admins"), ReasonMalformed},
		"a device twice":          {attribute(oidDeviceID, "another"), ReasonMalformed},
		"two names":               {attribute(oidCommonName, "bob"), ReasonMalformed},
		"a role twice":            {attribute(oidOrganization, "editor"), ReasonMalformed},
		"a role of two lines":     {attribute(oidOrganization, "a\nb"), ReasonMalformed},
		"an unknown critical extension": {func(c *x509.Certificate) {
			c.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{1, 3, 9999, 9}, Critical: true, Value: []byte{5, 0}}}
		}, ReasonMalformed},
	} {
		t.Run(name, func(t *testing.T) {
			id := alice()
			id.Cluster = "example.com"
			template := userTemplate(t, id)
			row.fault(template)
			caller, err := VerifyX509(ca.sign(t, template), []*x509.Certificate{ca.cert}, now)
			if got := ReasonOf(err); got != row.want {
				t.Errorf("got %q (%v), want %q", got, err, row.want)
			}
			if err != nil && (caller.Kind() != KindNone || caller.Name() != "") {
				t.Errorf("a refusal came with a caller: %+v", caller)
			}
			if err != nil && strings.Contains(err.Error(), "\n") {
				t.Errorf("error is not one line: %q", err)
			}
		})
	}
}

func TestVerifyX509BelievesOnlyItsRoots(t *testing.T) {
	ca := newTLSCA(t)
	cert := ca.sign(t, userTemplate(t, aliceTLS()))
	for name, row := range map[string]struct {
		cert  *x509.Certificate
		roots []*x509.Certificate
		now   time.Time
		want  Reason
	}{
		"no roots":       {cert, nil, now, ReasonAuthority},
		"a nil root":     {cert, []*x509.Certificate{nil}, now, ReasonAuthority},
		"another root":   {cert, []*x509.Certificate{newTLSCA(t).cert}, now, ReasonAuthority},
		"the root":       {ca.cert, []*x509.Certificate{ca.cert}, now, ReasonWrongType},
		"no certificate": {nil, []*x509.Certificate{ca.cert}, now, ReasonNotACertificate},
		"no time":        {cert, []*x509.Certificate{ca.cert}, time.Time{}, ReasonNotConfigured},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := VerifyX509(row.cert, row.roots, row.now)
			wantReason(t, err, row.want)
		})
	}
}

// A user's certificate must not sign another one.
func TestACertificateSignedByAUserIsRefused(t *testing.T) {
	ca := newTLSCA(t)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	alice := tlsCA{cert: ca.signFor(t, userTemplate(t, aliceTLS()), key.Public()), key: key}
	root := aliceTLS()
	root.User = "admin"
	_, err = VerifyX509(alice.sign(t, userTemplate(t, root)), []*x509.Certificate{ca.cert}, now)
	wantReason(t, err, ReasonAuthority)
}

func TestWeakTLSKeysAreRefused(t *testing.T) {
	ca := newTLSCA(t)
	weak, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	p224, err := ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for name, key := range map[string]any{"RSA 1024": weak.Public(), "P-224": p224.Public()} {
		t.Run(name, func(t *testing.T) {
			_, err := VerifyX509(ca.signFor(t, userTemplate(t, aliceTLS()), key), []*x509.Certificate{ca.cert}, now)
			wantReason(t, err, ReasonWeakKey)
			der, err := x509.MarshalPKIXPublicKey(key)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := ParseTLSKey(der); err == nil {
				t.Error("the key would be certified")
			}
		})
	}
	if _, err := ParseTLSKey([]byte("garbage")); err == nil {
		t.Error("garbage is a key")
	}
}

func TestTemplatesThatCannotBeReadAgainAreRefused(t *testing.T) {
	for name, fault := range map[string]func(*Identity){
		"no cluster":            func(id *Identity) { id.Cluster = "" },
		"a cluster in capitals": func(id *Identity) { id.Cluster = "Example.com" },
		"a cluster with a path": func(id *Identity) { id.Cluster = "example.com/user" },
		"half a device":         func(id *Identity) { id.Device.CredentialID = "" },
		"no user":               func(id *Identity) { id.User = "" },
		"serial 0":              func(id *Identity) { id.Serial = 0 },
	} {
		t.Run(name, func(t *testing.T) {
			id := aliceTLS()
			fault(&id)
			if _, err := UserTemplate(id); err == nil {
				t.Error("was written")
			}
		})
	}
	for name, id := range map[string]string{"no ID": "", "a path": "a/b", "capitals": "Node"} {
		if _, err := NodeTemplate("example.com", id, 1, now, now.Add(time.Hour)); err == nil {
			t.Errorf("a node with %s was written", name)
		}
	}
}

func TestHalfADeviceInX509IsNone(t *testing.T) {
	ca := newTLSCA(t)
	id := aliceTLS()
	template := userTemplate(t, id)
	names := template.Subject.ExtraNames
	template.Subject.ExtraNames = names[:len(names)-1]
	template.SerialNumber = big.NewInt(42)
	caller, err := VerifyX509(ca.sign(t, template), []*x509.Certificate{ca.cert}, now)
	if err != nil {
		t.Fatal(err)
	}
	if caller.Identity().Device != (Device{}) {
		t.Errorf("got %+v, want no device", caller.Identity().Device)
	}
}
