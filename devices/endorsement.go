package devices

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"math/big"
	"slices"
	"strings"
	"time"

	"connectrpc.com/connect"
	"github.com/google/go-tpm/tpm2"

	"devicetrust/api"
	"devicetrust/api/dtv1"
	"devicetrust/resource"
	"devicetrust/store"
)

// Attestation types: what is known of a device's keys.
const (
	// attestedKey: the key alone. Any computer can make one.
	attestedKey = "tpm_ekpub"
	// attestedCert: a certificate says that it is of a TPM, and nobody said
	// who may certify that.
	attestedCert = "tpm_ekcert"
	// attestedTrusted: the certificate is of a CA in ekcert_allowed_cas.
	attestedTrusted = "tpm_ekcert_trusted"
	// attestedMacOS: no endorsement key, a key of its own alone. Any computer
	// can make one.
	attestedMacOS = "macos_key"
)

// Trust is what the cluster asks of a machine that enrolls.
type Trust struct {
	// AllowedCAs in PEM; where there is one, a TPM's certificate must be of
	// one of them.
	AllowedCAs []string
	// Stands, where not nil, is asked in the transaction that enrolls whether
	// the person who began may still, and that device: a ceremony takes up to
	// a minute. It is asked for every device of the same TPM.
	Stands func(tx *store.Tx, d resource.Device) error
	// Replaced, where not nil, is called in the transaction that enrolls a
	// device anew with the TPM that it was enrolled with, to end what the
	// enrollment before gave.
	Replaced func(tx *store.Tx, deviceID string) error
}

// endorsement is an endorsement key that was checked. The certificate, where
// there is one, is of this key, and this key is what the challenge is
// encrypted to: there is no second one.
type endorsement struct {
	key crypto.PublicKey
	der []byte // PKIX DER, as we encode it
	// attestation is one of the attestation types.
	attestation string
	// serial number of the certificate, in hex with colons; empty without one.
	serial string
}

// digest is empty for a device without a TPM.
func (e endorsement) digest() string {
	if len(e.der) == 0 {
		return ""
	}
	digest := sha256.Sum256(e.der)
	return hex.EncodeToString(digest[:])
}

// checkEndorsement takes what a device says its endorsement key is. Nothing
// that it sends is believed for the signatures on the certificate, and no
// address in it is visited.
func checkEndorsement(e *dtv1.TPMEnroll, trust Trust, now time.Time) (endorsement, error) {
	if len(e.GetEkCert()) > maxEKCertificate || len(e.GetEkKey()) > maxEKKey {
		return endorsement{}, errMalformed
	}
	allowed, err := parseAllowed(trust.AllowedCAs)
	if err != nil {
		return endorsement{}, err
	}
	var cert *x509.Certificate
	if len(e.GetEkCert()) > 0 {
		if cert, err = x509.ParseCertificate(e.GetEkCert()); err != nil {
			return endorsement{}, withDetail(api.Refuse(connect.CodeInvalidArgument, "the TPM's endorsement key certificate cannot be read"), err)
		}
	}
	checked, err := oneKey(cert, e.GetEkKey())
	if err != nil {
		return endorsement{}, err
	}
	switch {
	case allowed != nil && cert == nil:
		return endorsement{}, api.Refuse(connect.CodePermissionDenied, "the TPM has no endorsement key certificate, and this cluster asks for one of the CAs in ekcert_allowed_cas").
			WithHint("Only an administrator can let it in: by taking ekcert_allowed_cas out of cluster_auth_preference")
	case allowed != nil:
		checked.attestation = attestedTrusted
		err = verifyChain(cert, allowed, now)
	case cert != nil:
		checked.attestation = attestedCert
	default:
		checked.attestation = attestedKey
	}
	if err != nil {
		return endorsement{}, err
	}
	return checked, nil
}

// oneKey gives the one key that the certificate and the message both hold.
func oneKey(cert *x509.Certificate, der []byte) (endorsement, error) {
	var checked endorsement
	if len(der) > 0 {
		key, err := x509.ParsePKIXPublicKey(der)
		if err != nil {
			return checked, withDetail(errMalformed, fmt.Errorf("endorsement key: %w", err))
		}
		if checked, err = usableKey(key); err != nil {
			return checked, err
		}
	}
	if cert == nil {
		if checked.key == nil {
			return checked, api.Refuse(connect.CodeInvalidArgument, "the device sends no endorsement key")
		}
		return checked, nil
	}
	certified, err := usableKey(cert.PublicKey)
	if err != nil {
		return checked, err
	}
	if checked.key != nil && !bytes.Equal(checked.der, certified.der) {
		return checked, api.Refuse(connect.CodePermissionDenied, "the TPM's endorsement key certificate is that of another key")
	}
	certified.serial = colons(cert.SerialNumber)
	return certified, nil
}

// usableKey takes the kinds of key for which the challenge can be made: RSA
// 2048 and ECC P-256, which every TPM has, and ECC P-384 (TCG EK Credential
// Profile, templates L-1 and L-2, H-1 to H-3).
func usableKey(key crypto.PublicKey) (endorsement, error) {
	switch k := key.(type) {
	case *rsa.PublicKey:
		if k.N.BitLen() != 2048 || k.E != 65537 {
			return endorsement{}, unsupportedKey("RSA of %d bits with exponent %d", k.N.BitLen(), k.E)
		}
	case *ecdsa.PublicKey:
		if k.Curve != elliptic.P256() && k.Curve != elliptic.P384() {
			return endorsement{}, unsupportedKey("ECC on %s", k.Curve.Params().Name)
		}
	default:
		return endorsement{}, unsupportedKey("%T", key)
	}
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return endorsement{}, withDetail(errMalformed, err)
	}
	return endorsement{key: key, der: der}, nil
}

func unsupportedKey(format string, args ...any) error {
	return api.Refuse(connect.CodeInvalidArgument, "the endorsement key is %s: want RSA 2048, ECC P-256 or ECC P-384", fmt.Sprintf(format, args...))
}

// area is as much of the key's TPMT_PUBLIC as the challenge depends on: the
// key, the name algorithm and the cipher that the templates for keys of its
// kind agree on, be they of the low range or of the high one.
func (e endorsement) area() (*tpm2.TPMTPublic, error) {
	switch k := e.key.(type) {
	case *rsa.PublicKey:
		return &tpm2.TPMTPublic{
			Type: tpm2.TPMAlgRSA, NameAlg: tpm2.TPMAlgSHA256,
			Parameters: tpm2.NewTPMUPublicParms(tpm2.TPMAlgRSA, &tpm2.TPMSRSAParms{Symmetric: aes(128), KeyBits: 2048}),
			Unique:     tpm2.NewTPMUPublicID(tpm2.TPMAlgRSA, &tpm2.TPM2BPublicKeyRSA{Buffer: k.N.Bytes()}),
		}, nil
	case *ecdsa.PublicKey:
		curve, nameAlg, cipher := tpm2.TPMECCNistP256, tpm2.TPMAlgSHA256, aes(128)
		if k.Curve == elliptic.P384() {
			curve, nameAlg, cipher = tpm2.TPMECCNistP384, tpm2.TPMAlgSHA384, aes(256)
		}
		point, err := k.Bytes() // 4, X, Y
		if err != nil {
			return nil, withDetail(errMalformed, fmt.Errorf("endorsement key: %w", err))
		}
		half := len(point) / 2
		return &tpm2.TPMTPublic{
			Type: tpm2.TPMAlgECC, NameAlg: nameAlg,
			Parameters: tpm2.NewTPMUPublicParms(tpm2.TPMAlgECC, &tpm2.TPMSECCParms{Symmetric: cipher, CurveID: curve}),
			Unique: tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{
				X: tpm2.TPM2BECCParameter{Buffer: point[1 : 1+half]}, Y: tpm2.TPM2BECCParameter{Buffer: point[1+half:]},
			}),
		}, nil
	default:
		return nil, unsupportedKey("%T", e.key)
	}
}

func aes(bits tpm2.TPMKeyBits) tpm2.TPMTSymDefObject {
	return tpm2.TPMTSymDefObject{
		Algorithm: tpm2.TPMAlgAES,
		KeyBits:   tpm2.NewTPMUSymKeyBits(tpm2.TPMAlgAES, bits),
		Mode:      tpm2.NewTPMUSymMode(tpm2.TPMAlgAES, tpm2.TPMAlgCFB),
	}
}

func colons(n *big.Int) string {
	var pairs []string
	for _, b := range n.Bytes() {
		pairs = append(pairs, fmt.Sprintf("%02x", b))
	}
	return strings.Join(pairs, ":")
}

// parseAllowed gives nil where every TPM is welcome.
func parseAllowed(allowed []string) (*x509.CertPool, error) {
	if len(allowed) == 0 {
		return nil, nil
	}
	unusable := func(n int, format string, args ...any) error {
		return withDetail(api.Refuse(connect.CodeFailedPrecondition, "no device can be enrolled: entry %d of the cluster's ekcert_allowed_cas is not usable", n+1).
			WithHint("An administrator corrects it: dtctl edit cluster_auth_preference"), fmt.Errorf(format, args...))
	}
	pool := x509.NewCertPool()
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
			pool.AddCert(ca)
		}
	}
	return pool, nil
}

var (
	// oidSubjectAltName says which TPM it is, critically, since the subject is
	// empty, and in a form that crypto/x509 does not read.
	oidSubjectAltName = asn1.ObjectIdentifier{2, 5, 29, 17}
	// oidEKCertificate is tcg-kp-EKCertificate (TCG EK Credential Profile,
	// section 3.2.16).
	oidEKCertificate = asn1.ObjectIdentifier{2, 23, 133, 8, 1}
)

// verifyChain holds a certificate against the listed CAs, each of which is a
// root: an intermediate that is not listed is not known.
func verifyChain(cert *x509.Certificate, allowed *x509.CertPool, now time.Time) error {
	refuse := func(format string, args ...any) *api.Refusal {
		return api.Refuse(connect.CodePermissionDenied, format, args...)
	}
	if !slices.ContainsFunc(cert.UnknownExtKeyUsage, oidEKCertificate.Equal) {
		return refuse("the TPM's certificate is not one for endorsement keys")
	}
	cert.UnhandledCriticalExtensions = slices.DeleteFunc(cert.UnhandledCriticalExtensions, oidSubjectAltName.Equal)
	_, err := cert.Verify(x509.VerifyOptions{
		Roots: allowed, CurrentTime: now,
		// The usage is not one that crypto/x509 knows; it was looked at above.
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny},
	})
	if err != nil {
		return withDetail(refuse("the TPM's endorsement key certificate is not of a CA in ekcert_allowed_cas, or not valid now"), err)
	}
	return nil
}
