package tpmtest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/hex"
	"fmt"
	"math/big"
	"strings"
	"time"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
)

// Certificate is an endorsement key certificate to be.
type Certificate struct {
	// CA signs it.
	CA *CA
	// RSA makes it one of the RSA 2048 key, P384 of the ECC P-384 key, else it
	// is of the ECC P-256 key.
	RSA, P384 bool
	// HighRange makes it one of the newer templates, as that for P-384 always is.
	HighRange bool
	// NotAfter is in ten years where it is zero.
	NotAfter time.Time
	// Of is the key to certify in place of the TPM's own.
	Of crypto.PublicKey
	// NotForEK leaves out the extended key usage that makes a certificate one
	// of an endorsement key.
	NotForEK bool
	// Critical is a critical extension more, where there is one.
	Critical asn1.ObjectIdentifier
	// Persist also puts the key at its persistent handle.
	Persist bool
}

// CA is a manufacturer's certificate authority.
type CA struct {
	Certificate *x509.Certificate
	key         *ecdsa.PrivateKey
}

// NewCA makes a root; with a parent, an intermediate under it.
func NewCA(name string, parent *CA) (*CA, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber:          serial(),
		Subject:               pkix.Name{CommonName: name},
		NotBefore:             time.Now().Add(-time.Hour),
		NotAfter:              time.Now().AddDate(20, 0, 0),
		IsCA:                  true,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	if parent == nil {
		parent = &CA{template, key}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent.Certificate, key.Public(), parent.key)
	if err != nil {
		return nil, err
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	return &CA{cert, key}, nil
}

func serial() *big.Int {
	n, _ := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 100))
	return n.Add(n, big.NewInt(1))
}

// Object identifiers of the TCG EK Credential Profile, section 3.
var (
	oidEKCertificate  = asn1.ObjectIdentifier{2, 23, 133, 8, 1}
	oidSubjectAltName = asn1.ObjectIdentifier{2, 5, 29, 17}
	oidTPMVendor      = asn1.ObjectIdentifier{2, 23, 133, 2, 1}
	oidTPMModel       = asn1.ObjectIdentifier{2, 23, 133, 2, 2}
	oidTPMVersion     = asn1.ObjectIdentifier{2, 23, 133, 2, 3}
)

// Issue makes the certificate of an endorsement key: the subject is empty and
// a critical alternative name says what the TPM is, as the profile wants it.
func (ca *CA) Issue(public crypto.PublicKey, c Certificate) ([]byte, error) {
	name := pkix.RDNSequence{{
		{Type: oidTPMVendor, Value: "id:49424D00"},
		{Type: oidTPMModel, Value: "swtpm"},
		{Type: oidTPMVersion, Value: "id:20191023"},
	}}
	directoryName, err := asn1.Marshal(name)
	if err != nil {
		return nil, err
	}
	// GeneralName ::= directoryName [4] EXPLICIT Name
	san, err := asn1.Marshal([]asn1.RawValue{{Class: asn1.ClassContextSpecific, Tag: 4, IsCompound: true, Bytes: directoryName}})
	if err != nil {
		return nil, err
	}
	usage := x509.KeyUsageKeyAgreement
	if c.RSA {
		usage = x509.KeyUsageKeyEncipherment
	}
	template := &x509.Certificate{
		SerialNumber:          serial(),
		NotBefore:             time.Now().AddDate(-1, 0, 0),
		NotAfter:              time.Now().AddDate(10, 0, 0),
		BasicConstraintsValid: true,
		KeyUsage:              usage,
		UnknownExtKeyUsage:    []asn1.ObjectIdentifier{oidEKCertificate},
		ExtraExtensions:       []pkix.Extension{{Id: oidSubjectAltName, Critical: true, Value: san}},
	}
	if !c.NotAfter.IsZero() {
		template.NotAfter = c.NotAfter
	}
	if c.Critical != nil {
		template.ExtraExtensions = append(template.ExtraExtensions, pkix.Extension{Id: c.Critical, Critical: true, Value: []byte{5, 0}})
	}
	if c.NotForEK {
		template.UnknownExtKeyUsage = nil
	}
	return x509.CreateCertificate(rand.Reader, template, ca.Certificate, public, ca.key)
}

// Manufacture makes the endorsement key in the TPM at address and writes its
// certificate to where such certificates are (TCG EK Credential Profile,
// section 2.2.1.4), replacing the one that is there. It gives the certificate.
func Manufacture(address string, c Certificate) (der []byte, err error) {
	template, index, persistent := c.kind()
	err = onTPM(address, func(tpm transport.TPM) error {
		ek, err := tpm2.CreatePrimary{PrimaryHandle: tpm2.TPMRHEndorsement, InPublic: tpm2.New2B(template)}.Execute(tpm)
		if err != nil {
			return fmt.Errorf("make the endorsement key: %w", err)
		}
		defer tpm2.FlushContext{FlushHandle: ek.ObjectHandle}.Execute(tpm)
		if c.Persist {
			if _, err := (tpm2.EvictControl{
				Auth:             tpm2.TPMRHOwner,
				ObjectHandle:     tpm2.NamedHandle{Handle: ek.ObjectHandle, Name: ek.Name},
				PersistentHandle: persistent,
			}).Execute(tpm); err != nil {
				return fmt.Errorf("persist the endorsement key: %w", err)
			}
		}
		public := c.Of
		if public == nil {
			area, err := ek.OutPublic.Contents()
			if err != nil {
				return err
			}
			if public, err = tpm2.Pub(*area); err != nil {
				return err
			}
		}
		if der, err = c.CA.Issue(public, c); err != nil {
			return err
		}
		return writeNV(tpm, index, der)
	})
	return der, err
}

// kind gives the template of the key, the NV index of its certificate and the
// key's persistent handle (TCG EK Credential Profile, version 2.5, section
// 2.2.1.4 and annex B).
func (c Certificate) kind() (template tpm2.TPMTPublic, index, persistent tpm2.TPMHandle) {
	switch {
	case c.P384:
		template = highRange(tpm2.ECCEKTemplate, policyB384)
		template.NameAlg = tpm2.TPMAlgSHA384
		template.Parameters = tpm2.NewTPMUPublicParms(tpm2.TPMAlgECC, &tpm2.TPMSECCParms{
			CurveID: tpm2.TPMECCNistP384,
			Symmetric: tpm2.TPMTSymDefObject{
				Algorithm: tpm2.TPMAlgAES,
				KeyBits:   tpm2.NewTPMUSymKeyBits(tpm2.TPMAlgAES, tpm2.TPMKeyBits(256)),
				Mode:      tpm2.NewTPMUSymMode(tpm2.TPMAlgAES, tpm2.TPMAlgCFB),
			},
		})
		return template, 0x01c00016, 0x81010016
	case c.RSA && c.HighRange:
		return highRange(tpm2.RSAEKTemplate, policyB256), 0x01c00012, 0x81010012
	case c.RSA:
		return tpm2.RSAEKTemplate, 0x01c00002, 0x81010001
	case c.HighRange:
		return highRange(tpm2.ECCEKTemplate, policyB256), 0x01c00014, 0x81010014
	default:
		return tpm2.ECCEKTemplate, 0x01c0000a, 0x81010002
	}
}

// The high range's policies, as far as a manufacturer writes them down.
const (
	policyB256 = "ca3d0a99a2b93906f7a3342414efcfb3a385d44cd1fd459089d19b5071c0b7a0"
	policyB384 = "b26e7d28d11a50bc53d882bcf5fd3a1a074148bb35d3b4e4cb1c0ad9bde419cacb47ba09699646150f9fc000f3f80e12"
)

func highRange(template tpm2.TPMTPublic, policy string) tpm2.TPMTPublic {
	digest, _ := hex.DecodeString(policy) // it is one
	template.ObjectAttributes.UserWithAuth = true
	template.AuthPolicy = tpm2.TPM2BDigest{Buffer: digest}
	template.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{})
	if template.Type == tpm2.TPMAlgRSA {
		template.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgRSA, &tpm2.TPM2BPublicKeyRSA{})
	}
	return template
}

// writeNV defines the index with the attributes of section 2.2.1.4: of the
// platform, so that TPM2_Clear leaves it, and readable by everybody.
func writeNV(tpm transport.TPM, index tpm2.TPMHandle, data []byte) error {
	if _, err := (tpm2.NVReadPublic{NVIndex: index}).Execute(tpm); err == nil {
		if err := removeNV(tpm, index); err != nil {
			return err
		}
	}
	if _, err := (tpm2.NVDefineSpace{
		AuthHandle: tpm2.TPMRHPlatform,
		PublicInfo: tpm2.New2B(tpm2.TPMSNVPublic{
			NVIndex: index,
			NameAlg: tpm2.TPMAlgSHA256,
			Attributes: tpm2.TPMANV{
				PPWrite: true, PPRead: true, OwnerRead: true, AuthRead: true,
				NoDA: true, PlatformCreate: true, NT: tpm2.TPMNTOrdinary,
			},
			DataSize: uint16(len(data)),
		}),
	}).Execute(tpm); err != nil {
		return fmt.Errorf("define NV index %#x: %w", uint32(index), err)
	}
	for offset := 0; offset < len(data); offset += 512 {
		area, err := (tpm2.NVReadPublic{NVIndex: index}).Execute(tpm)
		if err != nil {
			return err
		}
		if _, err := (tpm2.NVWrite{
			AuthHandle: tpm2.TPMRHPlatform,
			NVIndex:    tpm2.NamedHandle{Handle: index, Name: area.NVName},
			Data:       tpm2.TPM2BMaxNVBuffer{Buffer: data[offset:min(offset+512, len(data))]},
			Offset:     uint16(offset),
		}).Execute(tpm); err != nil {
			return fmt.Errorf("write NV index %#x: %w", uint32(index), err)
		}
	}
	return nil
}

func cutAddress(address string) (network, path string, ok bool) {
	network, path, _ = strings.Cut(address, ":")
	return network, path, path != "" && (network == "unix" || network == "tcp")
}
