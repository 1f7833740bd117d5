package tpm

import (
	"bytes"
	"context"
	"crypto"
	"crypto/x509"
	"encoding/asn1"
	"encoding/binary"
	"errors"
	"slices"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
)

// endorsementKey is the key that the manufacturer burned in: the TPM's
// identity. It only decrypts, so it signs nothing and answers activation.
type endorsementKey struct {
	kind *ekKind
	// cert is the manufacturer's certificate, DER; nil where there is none.
	cert []byte
	// der is the public key, PKIX DER.
	der []byte
}

// ekKind is one of the two templates that all TPMs know (TCG EK Credential
// Profile for TPM 2.0, templates L-1 and L-2) with its NV indices (section
// 2.2.1.4).
type ekKind struct {
	name        string
	cert, nonce tpm2.TPMHandle
	template    func(nonce []byte) tpm2.TPMTPublic
}

var (
	rsaEK = &ekKind{"RSA 2048", 0x01c00002, 0x01c00003, func(nonce []byte) tpm2.TPMTPublic {
		template := tpm2.RSAEKTemplate
		template.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgRSA, &tpm2.TPM2BPublicKeyRSA{Buffer: padded(nonce, 256)})
		return template
	}}
	eccEK = &ekKind{"ECC P-256", 0x01c0000a, 0x01c0000b, func(nonce []byte) tpm2.TPMTPublic {
		template := tpm2.ECCEKTemplate
		template.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{
			X: tpm2.TPM2BECCParameter{Buffer: padded(nonce, 32)},
			Y: tpm2.TPM2BECCParameter{Buffer: make([]byte, 32)},
		})
		return template
	}}
)

func padded(b []byte, size int) []byte {
	out := make([]byte, size)
	copy(out, b)
	return out
}

// EKPublicDER gives the public half of the TPM's endorsement key (PKIX DER):
// the one of the manufacturer's RSA certificate, else of its ECC certificate,
// else, in a TPM without certificates, the ECC P-256 key. It is the same every
// time, and reading it never makes the TPM look for an RSA key.
func (t *TPM) EKPublicDER(ctx context.Context) ([]byte, error) {
	defer t.hold(ctx)()
	ek, err := t.endorsementKeyLocked()
	if err != nil {
		return nil, fault(ctx, err)
	}
	return ek.der, nil
}

// endorsementKeyLocked chooses as EKPublicDER says. RSA comes first since its
// certificate is the one that manufacturers have always shipped, and which
// allow-lists of their CAs are written for.
func (t *TPM) endorsementKeyLocked() (*endorsementKey, error) {
	for _, kind := range []*ekKind{rsaEK, eccEK} {
		cert, err := t.readEKCertificate(kind.cert)
		if err != nil {
			return nil, err
		}
		if cert == nil {
			continue
		}
		der, err := x509.MarshalPKIXPublicKey(cert.PublicKey)
		if err != nil {
			continue // of a kind that we cannot use
		}
		return &endorsementKey{kind: kind, cert: cert.Raw, der: der}, nil
	}
	h, der, err := t.createEK(eccEK)
	if err != nil {
		return nil, err
	}
	t.flush(h.Handle)
	return &endorsementKey{kind: eccEK, der: der}, nil
}

// readEKCertificate gives nil where the index is empty or holds what is no
// certificate: the key is then used without one.
func (t *TPM) readEKCertificate(index tpm2.TPMHandle) (*x509.Certificate, error) {
	raw, err := t.readNV(index, maxEKCertificate)
	if err != nil {
		return nil, failedTo("read the certificate of its endorsement key", err)
	}
	cert, err := x509.ParseCertificate(unwrapCertificate(raw))
	if err != nil {
		return nil, nil //nolint:nilerr,nilnil // no certificate is an answer
	}
	return cert, nil
}

// unwrapCertificate takes off the header that some manufacturers put before a
// certificate (TCG PC Client Implementation for TPM 1.2, section 7.3.2: tag
// 0x1001, type 0, length) and what follows it where the index is larger.
func unwrapCertificate(raw []byte) []byte {
	if len(raw) > 5 && bytes.HasPrefix(raw, []byte{0x10, 0x01, 0x00}) {
		n := int(binary.BigEndian.Uint16(raw[3:]))
		raw = raw[5:min(5+n, len(raw))]
	}
	var cert asn1.RawValue
	if _, err := asn1.Unmarshal(raw, &cert); err != nil {
		return nil
	}
	return cert.FullBytes
}

// readNV gives nil where there is no such index.
func (t *TPM) readNV(index tpm2.TPMHandle, limit int) ([]byte, error) {
	public, err := tpm2.NVReadPublic{NVIndex: index}.Execute(t.ch)
	if errors.Is(err, tpm2.TPMRCHandle) || errors.Is(err, tpm2.TPMRCReferenceH0) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	area, err := public.NVPublic.Contents()
	if err != nil {
		return nil, err
	}
	size := int(area.DataSize)
	if size > limit || !area.Attributes.Written || !area.Attributes.AuthRead {
		return nil, nil
	}
	var data []byte
	for len(data) < size {
		rsp, err := tpm2.NVRead{
			AuthHandle: tpm2.AuthHandle{Handle: index, Name: public.NVName, Auth: tpm2.PasswordAuth(nil)},
			NVIndex:    tpm2.NamedHandle{Handle: index, Name: public.NVName},
			Size:       uint16(min(nvChunk, size-len(data))),
			Offset:     uint16(len(data)),
		}.Execute(t.ch)
		if err != nil {
			return nil, err
		}
		if len(rsp.Data.Buffer) == 0 {
			return nil, errors.New("the TPM gives no more data")
		}
		data = append(data, rsp.Data.Buffer...)
	}
	return data, nil
}

// loadEK makes the private half usable. A persistent copy is used where there
// is one, since making an RSA key again can take a chip half a minute. A TPM
// whose own key is not that of its certificate gives its own: the server
// compares the two.
func (t *TPM) loadEK(ek *endorsementKey) (h tpm2.NamedHandle, release func(), err error) {
	persistent, err := t.handles(firstPersistentEK)
	if err != nil {
		return h, nil, err
	}
	for _, handle := range persistent {
		if handle>>8 != firstPersistentEK>>8 {
			continue // the range of endorsement keys ends at 0x810100ff
		}
		public, name, der, err := t.readPublic(handle)
		if err == nil && bytes.Equal(der, ek.der) && slices.Equal(public.AuthPolicy.Buffer, tpm2.RSAEKTemplate.AuthPolicy.Buffer) {
			return tpm2.NamedHandle{Handle: handle, Name: name}, func() {}, nil
		}
	}
	h, der, err := t.createEK(ek.kind)
	if err != nil {
		return h, nil, err
	}
	ek.der = der
	return h, func() { t.flush(h.Handle) }, nil
}

func (t *TPM) createEK(kind *ekKind) (h tpm2.NamedHandle, der []byte, err error) {
	nonce, err := t.readNV(kind.nonce, 256)
	if err != nil {
		return h, nil, failedTo("read what its endorsement key is made with", err)
	}
	rsp, err := tpm2.CreatePrimary{
		PrimaryHandle: tpm2.TPMRHEndorsement,
		InPublic:      tpm2.New2B(kind.template(nonce)),
	}.Execute(t.ch)
	if err != nil {
		return h, nil, failedTo("make the "+kind.name+" endorsement key", err)
	}
	public, err := rsp.OutPublic.Contents()
	if err == nil {
		der, err = publicDER(public)
	}
	if err != nil {
		t.flush(rsp.ObjectHandle)
		return h, nil, failedTo("make the "+kind.name+" endorsement key", err)
	}
	return tpm2.NamedHandle{Handle: rsp.ObjectHandle, Name: rsp.Name}, der, nil
}

func (t *TPM) readPublic(handle tpm2.TPMHandle) (*tpm2.TPMTPublic, tpm2.TPM2BName, []byte, error) {
	rsp, err := tpm2.ReadPublic{ObjectHandle: handle}.Execute(t.ch)
	if err != nil {
		return nil, tpm2.TPM2BName{}, nil, err
	}
	public, err := rsp.OutPublic.Contents()
	if err != nil {
		return nil, tpm2.TPM2BName{}, nil, err
	}
	der, err := publicDER(public)
	return public, rsp.Name, der, err
}

func publicDER(public *tpm2.TPMTPublic) ([]byte, error) {
	var key crypto.PublicKey
	key, err := tpm2.Pub(*public)
	if err != nil {
		return nil, err
	}
	return x509.MarshalPKIXPublicKey(key)
}

// ekPolicy is what the templates ask for before the key is used:
// TPM2_PolicySecret(TPM_RH_ENDORSEMENT), with the empty password that the
// hierarchy has unless somebody set another.
func ekPolicy(tpm transport.TPM, session tpm2.TPMISHPolicy, nonce tpm2.TPM2BNonce) error {
	_, err := tpm2.PolicySecret{AuthHandle: tpm2.TPMRHEndorsement, PolicySession: session, NonceTPM: nonce}.Execute(tpm)
	return err
}
