package tpm

import (
	"bytes"
	"context"
	"crypto"
	"crypto/x509"
	"encoding/asn1"
	"encoding/binary"
	"errors"

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

// ekKind is one of the templates of the TCG EK Credential Profile for TPM 2.0
// (version 2.5, annex B) with its NV indices (section 2.2.1.4).
type ekKind struct {
	name string
	cert tpm2.TPMHandle
	// nonce is the index of what the manufacturer made the key with; zero for
	// the kinds of the high range, which have none.
	nonce    tpm2.TPMHandle
	template tpm2.TPMTPublic
}

// ekKinds in the order of choice. The low range, which all TPMs know, comes
// first, and in it RSA, since its certificate is the one that manufacturers
// have always shipped, and which allow-lists of their CAs are written for.
func ekKinds() []*ekKind {
	return []*ekKind{
		{"RSA 2048", 0x01c00002, 0x01c00003, tpm2.RSAEKTemplate},
		bareEK(),
		{"high-range RSA 2048", 0x01c00012, 0, highRange(tpm2.RSAEKTemplate, policyB256)},
		{"high-range ECC P-256", 0x01c00014, 0, highRange(tpm2.ECCEKTemplate, policyB256)},
		{"ECC P-384", 0x01c00016, 0, p384EK()},
	}
}

// bareEK is the key of a TPM without certificates.
func bareEK() *ekKind {
	return &ekKind{"ECC P-256", 0x01c0000a, 0x01c0000b, tpm2.ECCEKTemplate}
}

// What the templates of the high range may be used by, beside the empty
// password: TPM2_PolicyOR of the low range's policy and of one in NV (PolicyB of
// the profile).
const (
	policyB256 = "\xca\x3d\x0a\x99\xa2\xb9\x39\x06\xf7\xa3\x34\x24\x14\xef\xcf\xb3" +
		"\xa3\x85\xd4\x4c\xd1\xfd\x45\x90\x89\xd1\x9b\x50\x71\xc0\xb7\xa0"
	policyB384 = "\xb2\x6e\x7d\x28\xd1\x1a\x50\xbc\x53\xd8\x82\xbc\xf5\xfd\x3a\x1a" +
		"\x07\x41\x48\xbb\x35\xd3\xb4\xe4\xcb\x1c\x0a\xd9\xbd\xe4\x19\xca" +
		"\xcb\x47\xba\x09\x69\x96\x46\x15\x0f\x9f\xc0\x00\xf3\xf8\x0e\x12"
)

// highRange turns a template of the low range into its sibling of the high
// one: with a password, another policy, and nothing in its unique field.
func highRange(template tpm2.TPMTPublic, policy string) tpm2.TPMTPublic {
	template.ObjectAttributes.UserWithAuth = true
	template.AuthPolicy = tpm2.TPM2BDigest{Buffer: []byte(policy)}
	if template.Type == tpm2.TPMAlgRSA {
		template.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgRSA, &tpm2.TPM2BPublicKeyRSA{})
	} else {
		template.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{})
	}
	return template
}

// p384EK is template H-3, the one that swtpm_setup takes.
func p384EK() tpm2.TPMTPublic {
	template := highRange(tpm2.ECCEKTemplate, policyB384)
	template.NameAlg = tpm2.TPMAlgSHA384
	template.Parameters = tpm2.NewTPMUPublicParms(tpm2.TPMAlgECC, &tpm2.TPMSECCParms{
		Symmetric: tpm2.TPMTSymDefObject{
			Algorithm: tpm2.TPMAlgAES,
			KeyBits:   tpm2.NewTPMUSymKeyBits(tpm2.TPMAlgAES, tpm2.TPMKeyBits(256)),
			Mode:      tpm2.NewTPMUSymMode(tpm2.TPMAlgAES, tpm2.TPMAlgCFB),
		},
		CurveID: tpm2.TPMECCNistP384,
	})
	return template
}

// withNonce is the template as the manufacturer used it.
func (k *ekKind) withNonce(nonce []byte) tpm2.TPMTPublic {
	template := k.template
	switch {
	case k.nonce == 0:
	case template.Type == tpm2.TPMAlgRSA:
		template.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgRSA, &tpm2.TPM2BPublicKeyRSA{Buffer: padded(nonce, 256)})
	default:
		template.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{
			X: tpm2.TPM2BECCParameter{Buffer: padded(nonce, 32)},
			Y: tpm2.TPM2BECCParameter{Buffer: make([]byte, 32)},
		})
	}
	return template
}

func padded(b []byte, size int) []byte {
	out := make([]byte, size)
	copy(out, b)
	return out
}

// EKPublicDER gives the public half of the TPM's endorsement key (PKIX DER):
// the one of the manufacturer's first certificate in the order of ekKinds,
// else, in a TPM without certificates, the ECC P-256 key. It is the same every
// time, and reading it never makes the TPM look for an RSA key.
func (t *TPM) EKPublicDER(ctx context.Context) ([]byte, error) {
	release, err := t.hold(ctx)
	if err != nil {
		return nil, err
	}
	defer release()
	ek, err := t.endorsementKeyLocked()
	if err != nil {
		return nil, fault(ctx, err)
	}
	return ek.der, nil
}

// endorsementKeyLocked chooses as EKPublicDER says.
func (t *TPM) endorsementKeyLocked() (*endorsementKey, error) {
	for _, kind := range ekKinds() {
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
	loaded, der, err := t.createEK(bareEK())
	if err != nil {
		return nil, err
	}
	t.flush(loaded.handle.Handle)
	return &endorsementKey{kind: loaded.kind, der: der}, nil
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

// loadedEK is an endorsement key whose private half is in the TPM.
type loadedEK struct {
	kind   *ekKind
	handle tpm2.NamedHandle
}

// authorized is the key with what its template asks for before it is used: the
// empty password, or TPM2_PolicySecret(TPM_RH_ENDORSEMENT) with the empty
// password that the hierarchy has unless somebody set another.
func (ek loadedEK) authorized() tpm2.AuthHandle {
	auth := tpm2.PasswordAuth(nil)
	if !ek.kind.template.ObjectAttributes.UserWithAuth {
		auth = tpm2.Policy(tpm2.TPMAlgSHA256, 16, ekPolicy)
	}
	return tpm2.AuthHandle{Handle: ek.handle.Handle, Name: ek.handle.Name, Auth: auth}
}

func ekPolicy(tpm transport.TPM, session tpm2.TPMISHPolicy, nonce tpm2.TPM2BNonce) error {
	_, err := tpm2.PolicySecret{AuthHandle: tpm2.TPMRHEndorsement, PolicySession: session, NonceTPM: nonce}.Execute(tpm)
	return err
}

// loadEK makes the private half usable. A persistent copy is used where there
// is one, since making an RSA key again can take a chip half a minute. A TPM
// whose own key is not that of its certificate gives its own: the server
// compares the two.
func (t *TPM) loadEK(ek *endorsementKey) (loaded loadedEK, release func(), err error) {
	persistent, err := t.handles(firstPersistentEK)
	if err != nil {
		return loaded, nil, err
	}
	for _, handle := range persistent {
		if handle>>8 != firstPersistentEK>>8 {
			continue // the range of endorsement keys ends at 0x810100ff
		}
		public, name, der, err := t.readPublic(handle)
		if err == nil && bytes.Equal(der, ek.der) && bytes.Equal(public.AuthPolicy.Buffer, ek.kind.template.AuthPolicy.Buffer) {
			return loadedEK{ek.kind, tpm2.NamedHandle{Handle: handle, Name: name}}, func() {}, nil
		}
	}
	loaded, der, err := t.createEK(ek.kind)
	if err != nil {
		return loaded, nil, err
	}
	ek.der = der
	return loaded, func() { t.flush(loaded.handle.Handle) }, nil
}

func (t *TPM) createEK(kind *ekKind) (loaded loadedEK, der []byte, err error) {
	var nonce []byte
	if kind.nonce != 0 {
		if nonce, err = t.readNV(kind.nonce, 256); err != nil {
			return loaded, nil, failedTo("read what its endorsement key is made with", err)
		}
	}
	rsp, err := tpm2.CreatePrimary{
		PrimaryHandle: tpm2.TPMRHEndorsement,
		InPublic:      tpm2.New2B(kind.withNonce(nonce)),
	}.Execute(t.ch)
	if err != nil {
		return loaded, nil, failedTo("make the "+kind.name+" endorsement key", err)
	}
	public, err := rsp.OutPublic.Contents()
	if err == nil {
		der, err = publicDER(public)
	}
	if err != nil {
		t.flush(rsp.ObjectHandle)
		return loaded, nil, failedTo("make the "+kind.name+" endorsement key", err)
	}
	return loadedEK{kind, tpm2.NamedHandle{Handle: rsp.ObjectHandle, Name: rsp.Name}}, der, nil
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
