package devices

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"strings"
	"testing"
	"time"

	"devicetrust/api"
	"devicetrust/api/dtv1"
	"devicetrust/devices/tpm/tpmtest"
)

// issued is a certificate of a new key.
func issued(t testing.TB, ca *tpmtest.CA, c tpmtest.Certificate) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := ca.Issue(key.Public(), c)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func TestACertificateIsJudgedByTheListAlone(t *testing.T) {
	root := newCA(t, "root", nil)
	line := newCA(t, "line", root)
	sameName := newCA(t, "line", root)
	long := newCA(t, strings.Repeat("x", 500)+"\n", nil)
	now := time.Now()
	good := issued(t, line, tpmtest.Certificate{})
	for _, test := range []struct {
		name    string
		der     []byte
		allowed []string
		now     time.Time
		want    string // empty: it is of a listed CA
	}{
		{"an intermediate listed alone", good, pemOf(line), now, ""},
		{"an intermediate and its root", good, pemOf(line, root), now, ""},
		{"a root that issues itself", issued(t, root, tpmtest.Certificate{}), pemOf(root), now, ""},
		{"two of one name, of which one issued it", good, pemOf(sameName, line), now, ""},
		{"a root without its intermediate", good, pemOf(root), now, `issued by "CN=line", which is not in ekcert_allowed_cas`},
		{"one of the same name", good, pemOf(sameName), now, `issued by "CN=line", which is not in ekcert_allowed_cas`},
		{"a long name with a line feed", issued(t, long, tpmtest.Certificate{}), pemOf(root), now, `issued by "CN=xxx`},
		{"no list", good, nil, now, `issued by "CN=line", which is not`},
		{"no certificate", nil, pemOf(line), now, "no endorsement key certificate"},
		{"no longer valid", issued(t, line, tpmtest.Certificate{NotAfter: now.Add(-time.Hour)}), pemOf(line), now,
			" to " + now.Add(-time.Hour).UTC().Format(time.RFC3339) + ", and not now"},
		{"not yet valid", good, pemOf(line), now.AddDate(-2, 0, 0), "and not now"},
		{"of a CA that is no longer valid", issued(t, line, tpmtest.Certificate{NotAfter: now.AddDate(40, 0, 0)}), pemOf(line), now.AddDate(30, 0, 0),
			`the CA in ekcert_allowed_cas that issued the TPM's endorsement key certificate, "CN=line", is valid from`},
		{"of another use", issued(t, line, tpmtest.Certificate{NotForEK: true}), pemOf(line), now, "not one for endorsement keys"},
		{"of another use and of another CA", issued(t, line, tpmtest.Certificate{NotForEK: true}), pemOf(root), now, "not one for endorsement keys"},
		{"with something after it", append(append([]byte{}, good...), 0), pemOf(line), now, "cannot be read"},
		{"a list that holds none", good, []string{"line"}, now, "entry 1"},
	} {
		t.Run(test.name, func(t *testing.T) {
			manufacturer, err := judgeCertificate(test.der, test.allowed, test.now)
			if test.want == "" {
				if err != nil || manufacturer != "IBM" {
					t.Errorf("got %q, %v", manufacturer, err)
				}
				return
			}
			wantRefusal(t, err, test.want)
			if manufacturer != "" {
				t.Errorf("it is said to be of %q all the same", manufacturer)
			}
			if r, ok := errors.AsType[*api.Refusal](err); ok && len(r.Message) > 300 {
				t.Errorf("the refusal has %d bytes", len(r.Message))
			}
		})
	}
	_, err := judgeCertificate(issued(t, long, tpmtest.Certificate{}), pemOf(root), now)
	if err == nil || !strings.Contains(err.Error(), strings.Repeat("x", 500)) || strings.Contains(err.Error(), "\n") {
		t.Errorf("the record has the issuer not in full, or in more lines than one: %v", err)
	}
}

// What is in the certificate besides, and nobody here understands, is not
// passed over.
func TestACriticalExtensionThatNobodyKnowsIsRefused(t *testing.T) {
	ca := newCA(t, "maker", nil)
	der := issued(t, ca, tpmtest.Certificate{Critical: asn1.ObjectIdentifier{1, 2, 3, 4}})
	_, err := judgeCertificate(der, pemOf(ca), time.Now())
	wantRefusal(t, err, "certificate does not hold")
}

func TestTheManufacturerIsKnownOnlyOfATrustedCertificate(t *testing.T) {
	maker := newCA(t, "maker", nil)
	der := issued(t, maker, tpmtest.Certificate{})
	for name, trust := range map[string]Trust{"": {}, "IBM": {AllowedCAs: pemOf(maker)}} {
		e, err := checkEndorsement(&dtv1.TPMEnroll{EkCert: der}, trust, time.Now())
		if err != nil || e.manufacturer != name {
			t.Errorf("%d listed CAs: %q, %v", len(trust.AllowedCAs), e.manufacturer, err)
		}
		if string(e.certificate) != string(der) {
			t.Error("the certificate is not kept as it came")
		}
	}
}

func rdn(id asn1.ObjectIdentifier, values ...any) pkix.RelativeDistinguishedNameSET {
	var set pkix.RelativeDistinguishedNameSET
	for _, v := range values {
		set = append(set, pkix.AttributeTypeAndValue{Type: id, Value: v})
	}
	return set
}

func sanOf(t testing.TB, names ...pkix.RDNSequence) []byte {
	t.Helper()
	general := []asn1.RawValue{{Class: asn1.ClassContextSpecific, Tag: 2, Bytes: []byte("tpm.example.com")}}
	for _, name := range names {
		der, err := asn1.Marshal(name)
		if err != nil {
			t.Fatal(err)
		}
		general = append(general, asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: 4, IsCompound: true, Bytes: der})
	}
	san, err := asn1.Marshal(general)
	if err != nil {
		t.Fatal(err)
	}
	return san
}

func TestTheManufacturerIsReadStrictly(t *testing.T) {
	name, err := asn1.Marshal(pkix.RDNSequence{rdn(oidManufacturer, "id:49465800")})
	if err != nil {
		t.Fatal(err)
	}
	trailing, err := asn1.Marshal([]asn1.RawValue{{Class: asn1.ClassContextSpecific, Tag: 4, IsCompound: true, Bytes: append(name, 5, 0)}})
	if err != nil {
		t.Fatal(err)
	}
	model := rdn(asn1.ObjectIdentifier{2, 23, 133, 2, 2}, "SLB9672")
	for _, test := range []struct {
		name, want string // empty: none is read
		san        []byte
	}{
		{"Infineon", "IFX", sanOf(t, pkix.RDNSequence{rdn(oidManufacturer, "id:49465800"), model})},
		{"padded with spaces", "NTC", sanOf(t, pkix.RDNSequence{rdn(oidManufacturer, "id:4E544320")})},
		{"lower case", "STM", sanOf(t, pkix.RDNSequence{rdn(oidManufacturer, "id:53544d20")})},
		{"four letters", "INTC", sanOf(t, pkix.RDNSequence{rdn(oidManufacturer, "id:494E5443")})},
		{"no text, as swtpm has it", "id:00001014", sanOf(t, pkix.RDNSequence{rdn(oidManufacturer, "id:00001014")})},
		{"nothing but zeros", "id:00000000", sanOf(t, pkix.RDNSequence{rdn(oidManufacturer, "id:00000000")})},
		{"a control character", "id:49460A58", sanOf(t, pkix.RDNSequence{rdn(oidManufacturer, "id:49460a58")})},
		{"in one set with others", "IFX", sanOf(t, pkix.RDNSequence{append(rdn(oidManufacturer, "id:49465800"), model...)})},
		{"two in one set", "", sanOf(t, pkix.RDNSequence{rdn(oidManufacturer, "id:49465800", "id:494E5443")})},
		{"two in two names", "", sanOf(t, pkix.RDNSequence{rdn(oidManufacturer, "id:49465800")}, pkix.RDNSequence{rdn(oidManufacturer, "id:494E5443")})},
		{"text in place of the digits", "", sanOf(t, pkix.RDNSequence{rdn(oidManufacturer, "IFX")})},
		{"no id:", "", sanOf(t, pkix.RDNSequence{rdn(oidManufacturer, "49465800")})},
		{"seven digits", "", sanOf(t, pkix.RDNSequence{rdn(oidManufacturer, "id:4946580")})},
		{"ten digits", "", sanOf(t, pkix.RDNSequence{rdn(oidManufacturer, "id:4946580000")})},
		{"a number", "", sanOf(t, pkix.RDNSequence{rdn(oidManufacturer, 7)})},
		{"none", "", sanOf(t, pkix.RDNSequence{model})},
		{"no name", "", sanOf(t)},
		{"something after it", "", append(sanOf(t, pkix.RDNSequence{rdn(oidManufacturer, "id:49465800")}), 0)},
		{"something after the name in it", "", trailing},
		{"garbage", "", []byte("garbage")},
	} {
		cert := &x509.Certificate{Extensions: []pkix.Extension{{Id: oidSubjectAltName, Value: test.san}}}
		got, err := manufacturerOf(cert)
		if got != test.want || (err == nil) != (test.want != "") {
			t.Errorf("%s: got %q, %v; want %q", test.name, got, err, test.want)
		}
	}
}

func FuzzManufacturer(f *testing.F) {
	f.Add(sanOf(f, pkix.RDNSequence{rdn(oidManufacturer, "id:49465800")}))
	f.Add(sanOf(f, pkix.RDNSequence{rdn(oidManufacturer, "id:00001014", "x")}))
	f.Fuzz(func(t *testing.T, san []byte) {
		got, err := manufacturerOf(&x509.Certificate{Extensions: []pkix.Extension{{Id: oidSubjectAltName, Value: san}}})
		if (got == "") != (err != nil) || len(got) > len("id:00000000") || strings.ContainsFunc(got, func(r rune) bool { return r < ' ' || r > '~' }) {
			t.Errorf("%q, %v", got, err)
		}
	})
}
