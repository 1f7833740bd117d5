package resource

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"devicetrust/policy"
)

// The documents that users of Teleport know from its guides, with their marks
// of what was added ("+") and left out ("...", "# ...").
const (
	knownUser = `
kind: user
metadata:
  id: 1692716146877042322
  name: myuser
spec:
  created_by:
    time: "2023-08-14T13:42:22.291972449Z"
  expires: "0001-01-01T00:00:00Z"
  roles:
  - access
  - auditor
  - editor
+ - require-trusted-device # add this line
  status:
    is_locked: false
    ...
`
	knownAutoEnroll = `
kind: cluster_auth_preference
version: v2
metadata:
  name: cluster-auth-preference
spec:
  # ...
  device_trust:
    mode: "required"
+   auto_enroll: true
`
	knownAllowedCAs = `
kind: cluster_auth_preference
version: v2
metadata:
  name: cluster-auth-preference
spec:
  ...
  device_trust:
    mode: "required" # add this line
+    ekcert_allowed_cas:
+      # The CA is configured inline within the resource:
+      - |
+        -----BEGIN CERTIFICATE-----
+        --snip--
+        -----END CERTIFICATE-----
`
)

// asSaved is the document as somebody has it who followed the guide: the
// mark of a line that was added takes up a column of it, or none.
func asSaved(text, mark string) string {
	text = regexp.MustCompile(`(?m)^\+`).ReplaceAllString(text, mark)
	return regexp.MustCompile(`(?m)^ +\.\.\.\n`).ReplaceAllString(text, "")
}

func TestTheKnownUserLoads(t *testing.T) {
	want := &User{
		Header: Header{Kind: "user", Version: "v2", Metadata: Metadata{Name: "myuser"}},
		Spec:   UserSpec{Roles: []string{"access", "auditor", "editor", "require-trusted-device"}},
	}
	want.Spec.CreatedBy.Time = time.Date(2023, 8, 14, 13, 42, 22, 291972449, time.UTC)
	if diff := cmp.Diff(want, parseOne(t, asSaved(knownUser, " "))); diff != "" {
		t.Errorf("want (-), got (+):\n%s", diff)
	}
	// The guide has lost its indentation: status may be beside the spec.
	beside := strings.Replace(asSaved(knownUser, " "), "  status:\n    is_locked", "status:\n  is_locked", 1)
	if diff := cmp.Diff(want, parseOne(t, beside)); diff != "" {
		t.Errorf("with status beside the spec: want (-), got (+):\n%s", diff)
	}
}

func TestTheKnownPreferencesLoad(t *testing.T) {
	want := &Preference{
		Header: Header{Kind: "cluster_auth_preference", Version: "v2", Metadata: Metadata{Name: "cluster-auth-preference"}},
		Spec: PreferenceSpec{Type: "local", SecondFactor: "off",
			Preference: policy.Preference{DeviceTrust: policy.DeviceTrust{Mode: "required", AutoEnroll: true}}},
	}
	if diff := cmp.Diff(want, parseOne(t, asSaved(knownAutoEnroll, " "))); diff != "" {
		t.Errorf("auto_enroll: want (-), got (+):\n%s", diff)
	}
	cert := testCertificate(t, true, 0)
	want.Spec.DeviceTrust = policy.DeviceTrust{Mode: "required", EKCertAllowedCAs: []string{cert}}
	lines := strings.Split(strings.TrimSpace(cert), "\n")
	filled := strings.Replace(asSaved(knownAllowedCAs, ""), "--snip--", strings.Join(lines[1:len(lines)-1], "\n        "), 1)
	if diff := cmp.Diff(want, parseOne(t, filled)); diff != "" {
		t.Errorf("ekcert_allowed_cas: want (-), got (+):\n%s", diff)
	}
}

func TestOnlyAuthoritiesAreAllowedCAs(t *testing.T) {
	ca, leaf := testCertificate(t, true, 0), testCertificate(t, false, 0)
	for name, row := range map[string]struct{ entry, want string }{
		"a leaf":      {leaf, "the certificate is not one of a certificate authority"},
		"for lists":   {testCertificate(t, true, x509.KeyUsageCRLSign), "the certificate authority in it may not sign certificates (its key usage has no keyCertSign)"},
		"two":         {ca + ca, "something follows after the certificate; each entry is one"},
		"no PEM":      {"MIIB", "it is not a certificate in PEM (-----BEGIN CERTIFICATE-----)"},
		"a key":       {strings.ReplaceAll(ca, "CERTIFICATE", "PRIVATE KEY"), "it is not a certificate in PEM (-----BEGIN CERTIFICATE-----)"},
		"not parsing": {string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte("x")})), "the certificate in it cannot be read"},
		"snipped":     {"-----BEGIN CERTIFICATE-----\n--snip--\n-----END CERTIFICATE-----\n", "it is not a certificate in PEM (-----BEGIN CERTIFICATE-----)"},
	} {
		p := &Preference{Header: NewHeader(KindPreference, PreferenceName)}
		p.Spec.DeviceTrust.EKCertAllowedCAs = []string{ca, row.entry}
		doc, err := MarshalJSON(p)
		if err != nil {
			t.Fatal(err)
		}
		_, err = ParseJSON(doc)
		if want := "line 1: spec.device_trust.ekcert_allowed_cas[1]: entry 2: " + row.want; err == nil || err.Error() != want {
			t.Errorf("%s: got  %v\nwant %s", name, err, want)
		}
	}
}

// testCertificate is a new certificate in PEM.
func testCertificate(t *testing.T, authority bool, usage x509.KeyUsage) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "TPM maker"},
		NotAfter: time.Date(2100, 1, 1, 0, 0, 0, 0, time.UTC), BasicConstraintsValid: true, IsCA: authority,
		KeyUsage: usage,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}
