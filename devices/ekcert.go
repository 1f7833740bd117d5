package devices

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"connectrpc.com/connect"

	"devicetrust/api"
)

// What stands in certificates of endorsement keys (TCG EK Credential Profile,
// section 3).
var (
	// oidSubjectAltName says which TPM it is, critically, since the subject is
	// empty, and in a form that crypto/x509 does not read.
	oidSubjectAltName = asn1.ObjectIdentifier{2, 5, 29, 17}
	// oidEKCertificate is tcg-kp-EKCertificate.
	oidEKCertificate = asn1.ObjectIdentifier{2, 23, 133, 8, 1}
	// oidManufacturer is tcg-at-tpmManufacturer.
	oidManufacturer = asn1.ObjectIdentifier{2, 23, 133, 2, 1}
)

// parseEKCertificate takes one certificate and nothing after it.
func parseEKCertificate(der []byte) (*x509.Certificate, error) {
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, withDetail(api.Refuse(connect.CodeInvalidArgument, "the TPM's endorsement key certificate cannot be read"), err)
	}
	return cert, nil
}

// judgeCertificate holds the certificate of an endorsement key, DER, against
// the cluster's allow-list in PEM. It gives the manufacturer, empty where the
// certificate does not say it as the profile wants it. No list allows nobody.
func judgeCertificate(der []byte, allowed []string, now time.Time) (manufacturer string, err error) {
	list, err := parseAllowed(allowed)
	if err != nil {
		return "", err
	}
	if len(der) == 0 {
		return "", api.Refuse(connect.CodePermissionDenied, "the TPM has no endorsement key certificate, and this cluster asks for one of the CAs in ekcert_allowed_cas").
			WithHint("Only an administrator can let it in: by taking ekcert_allowed_cas out of cluster_auth_preference")
	}
	cert, err := parseEKCertificate(der)
	if err != nil {
		return "", err
	}
	if err := list.verify(cert, now); err != nil {
		return "", err
	}
	// Whoever asks for a manufacturer denies the unknown one.
	manufacturer, _ = manufacturerOf(cert)
	return manufacturer, nil
}

// allowList are the CAs that may certify endorsement keys. Each is trusted for
// itself, so an intermediate may be listed alone, and the issuer must be: what
// is not on the list is not known.
type allowList []*x509.Certificate

func parseAllowed(allowed []string) (allowList, error) {
	unusable := func(n int, format string, args ...any) error {
		return withDetail(api.Refuse(connect.CodeFailedPrecondition, "no device can be enrolled: entry %d of the cluster's ekcert_allowed_cas is not usable", n+1).
			WithHint("An administrator corrects it: dtctl edit cluster_auth_preference"), fmt.Errorf(format, args...))
	}
	var list allowList
	for n, text := range allowed {
		block, rest := pem.Decode([]byte(text))
		if block == nil {
			return nil, unusable(n, "it has no PEM block")
		}
		for ; block != nil; block, rest = pem.Decode(rest) {
			ca, err := x509.ParseCertificate(block.Bytes)
			if err != nil {
				return nil, unusable(n, "%w", err)
			}
			if !ca.BasicConstraintsValid || !ca.IsCA {
				return nil, unusable(n, "%q is not a CA", ca.Subject)
			}
			list = append(list, ca)
		}
	}
	return list, nil
}

// issuersOf gives those that signed the certificate, whatever the time.
func (l allowList) issuersOf(cert *x509.Certificate) allowList {
	var issuers allowList
	for _, ca := range l {
		if string(ca.RawSubject) == string(cert.RawIssuer) && cert.CheckSignatureFrom(ca) == nil {
			issuers = append(issuers, ca)
		}
	}
	return issuers
}

// verify takes a certificate of an endorsement key that a listed CA issued,
// both valid now.
func (l allowList) verify(cert *x509.Certificate, now time.Time) error {
	refuse := func(format string, args ...any) *api.Refusal {
		return api.Refuse(connect.CodePermissionDenied, format, args...)
	}
	if !slices.ContainsFunc(cert.UnknownExtKeyUsage, oidEKCertificate.Equal) {
		return refuse("the TPM's certificate is not one for endorsement keys")
	}
	issuers := l.issuersOf(cert)
	if len(issuers) == 0 {
		return withDetail(refuse("the TPM's endorsement key certificate is issued by %.128q, which is not in ekcert_allowed_cas", cert.Issuer.String()).
			WithHint("An administrator who trusts that CA adds its certificate: dtctl edit cluster_auth_preference"),
			fmt.Errorf("issuer %.1024q, authority key %x, serial %s", cert.Issuer.String(), cert.AuthorityKeyId, colons(cert.SerialNumber)))
	}
	if !isValidAt(cert, now) {
		return refuse("the TPM's endorsement key certificate is valid %s, and not now", validity(cert))
	}
	if !slices.ContainsFunc(issuers, func(ca *x509.Certificate) bool { return isValidAt(ca, now) }) {
		return refuse("the CA in ekcert_allowed_cas that issued the TPM's endorsement key certificate, %.128q, is valid %s, and not now", issuers[0].Subject.String(), validity(issuers[0])).
			WithHint("An administrator puts the maker's present one in its place: dtctl edit cluster_auth_preference")
	}
	roots := x509.NewCertPool()
	for _, ca := range issuers {
		roots.AddCert(ca)
	}
	cert.UnhandledCriticalExtensions = slices.DeleteFunc(cert.UnhandledCriticalExtensions, oidSubjectAltName.Equal)
	_, err := cert.Verify(x509.VerifyOptions{
		Roots: roots, CurrentTime: now,
		// The usage is not one that crypto/x509 knows; it was looked at above.
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny},
	})
	if err != nil {
		return withDetail(refuse("the TPM's endorsement key certificate does not hold"), err)
	}
	return nil
}

func isValidAt(c *x509.Certificate, now time.Time) bool {
	return !now.Before(c.NotBefore) && !now.After(c.NotAfter)
}

func validity(c *x509.Certificate) string {
	return fmt.Sprintf("from %s to %s", c.NotBefore.UTC().Format(time.RFC3339), c.NotAfter.UTC().Format(time.RFC3339))
}

// manufacturerOf reads who made the TPM from the alternative name (TCG EK
// Credential Profile, section 3): a directory name with exactly one value
// "id:" and the vendor ID in eight hex digits. Where that is text (TCG TPM
// Vendor ID Registry), such as IFX, it gives the text, else the value.
func manufacturerOf(cert *x509.Certificate) (string, error) {
	var found []string
	for _, e := range cert.Extensions {
		if !e.Id.Equal(oidSubjectAltName) {
			continue
		}
		names, err := directoryNames(e.Value)
		if err != nil {
			return "", err
		}
		for _, attribute := range slices.Concat(names...) {
			for _, a := range attribute {
				if !a.Type.Equal(oidManufacturer) {
					continue
				}
				value, ok := a.Value.(string)
				if !ok {
					return "", fmt.Errorf("the manufacturer is a %T", a.Value)
				}
				found = append(found, value)
			}
		}
	}
	if len(found) != 1 {
		return "", fmt.Errorf("%d manufacturers, want 1", len(found))
	}
	return vendor(found[0])
}

// directoryNames gives those of a SubjectAltName (RFC 5280, section 4.2.1.6).
func directoryNames(san []byte) ([]pkix.RDNSequence, error) {
	var general []asn1.RawValue
	if rest, err := asn1.Unmarshal(san, &general); err != nil {
		return nil, err
	} else if len(rest) > 0 {
		return nil, errors.New("something follows the alternative name")
	}
	var names []pkix.RDNSequence
	for _, g := range general {
		if g.Class != asn1.ClassContextSpecific || g.Tag != 4 {
			continue
		}
		var name pkix.RDNSequence
		if rest, err := asn1.Unmarshal(g.Bytes, &name); err != nil {
			return nil, err
		} else if len(rest) > 0 {
			return nil, errors.New("something follows the directory name")
		}
		names = append(names, name)
	}
	return names, nil
}

func vendor(value string) (string, error) {
	digits, isID := strings.CutPrefix(value, "id:")
	id, err := hex.DecodeString(digits)
	if !isID || err != nil || len(id) != 4 {
		return "", fmt.Errorf("the manufacturer %.64q is not id: and eight hex digits", value)
	}
	text := strings.TrimRight(string(id), " \x00")
	if text == "" || strings.ContainsFunc(text, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return "id:" + strings.ToUpper(digits), nil
	}
	return text, nil
}
