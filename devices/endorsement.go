package devices

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"math/big"
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

// HasTPM tells whether d is known by its TPM, in which the keys of its logins
// may be.
func HasTPM(d resource.Device) bool {
	if d.Spec.Credential == nil {
		return false
	}
	switch d.Spec.Credential.DeviceAttestationType {
	case attestedKey, attestedCert, attestedTrusted:
		return true
	default:
		return false
	}
}

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
	// AutoOff is that of AutoTerms, asked where a token of auto-enrollment is
	// used.
	AutoOff func(tx *store.Tx) error
}

// endorsement is an endorsement key that was checked. The certificate, where
// there is one, is of this key, and this key is what the challenge is
// encrypted to: there is no second one.
type endorsement struct {
	key crypto.PublicKey
	der []byte // PKIX DER, as we encode it
	// attestation is one of the attestation types.
	attestation string
	// certificate is of the key, DER; nil without one.
	certificate []byte
	// serial number of the certificate, in hex with colons; empty without one.
	serial string
	// manufacturer is what the certificate says; empty where the certificate is
	// of nobody whom the cluster believes, or does not say it.
	manufacturer string
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
	var cert *x509.Certificate
	if len(e.GetEkCert()) > 0 {
		var err error
		if cert, err = parseEKCertificate(e.GetEkCert()); err != nil {
			return endorsement{}, err
		}
	}
	checked, err := oneKey(cert, e.GetEkKey())
	if err != nil {
		return endorsement{}, err
	}
	switch {
	case len(trust.AllowedCAs) > 0:
		checked.attestation = attestedTrusted
		checked.manufacturer, err = judgeCertificate(checked.certificate, trust.AllowedCAs, now)
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
	certified.certificate, certified.serial = cert.Raw, colons(cert.SerialNumber)
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
