package devices

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"testing"

	"github.com/google/go-tpm/tpm2"

	"devicetrust/api/dtv1"
)

// softKey is an attestation key without a TPM: what an attacker's program can
// make. It says of itself whatever the test wants, and signs it.
type softKey struct {
	signer crypto.Signer
	public []byte // TPMT_PUBLIC
}

// goodArea is the public area of a key as our machines make it.
func goodArea() tpm2.TPMTPublic {
	return tpm2.TPMTPublic{
		Type: tpm2.TPMAlgECC, NameAlg: tpm2.TPMAlgSHA256,
		ObjectAttributes: tpm2.TPMAObject{
			FixedTPM: true, FixedParent: true, SensitiveDataOrigin: true,
			UserWithAuth: true, NoDA: true, Restricted: true, SignEncrypt: true,
		},
		Parameters: tpm2.NewTPMUPublicParms(tpm2.TPMAlgECC, &tpm2.TPMSECCParms{
			Scheme: tpm2.TPMTECCScheme{
				Scheme:  tpm2.TPMAlgECDSA,
				Details: tpm2.NewTPMUAsymScheme(tpm2.TPMAlgECDSA, &tpm2.TPMSSigSchemeECDSA{HashAlg: tpm2.TPMAlgSHA256}),
			},
			CurveID: tpm2.TPMECCNistP256,
		}),
	}
}

// eccParms changes the parameters of a key on another curve, or with another
// scheme.
func eccParms(curve tpm2.TPMECCCurve, scheme tpm2.TPMAlgID, hash tpm2.TPMAlgID) tpm2.TPMUPublicParms {
	p := &tpm2.TPMSECCParms{CurveID: curve}
	p.Scheme.Scheme = scheme
	if scheme == tpm2.TPMAlgECDSA {
		p.Scheme.Details = tpm2.NewTPMUAsymScheme(scheme, &tpm2.TPMSSigSchemeECDSA{HashAlg: hash})
	}
	return tpm2.NewTPMUPublicParms(tpm2.TPMAlgECC, p)
}

// newSoftKey makes a key; change, where not nil, changes what it says of
// itself.
func newSoftKey(t testing.TB, change func(*tpm2.TPMTPublic)) *softKey {
	t.Helper()
	return newSoftKeyOn(t, elliptic.P256(), change)
}

func newSoftKeyOn(t testing.TB, curve elliptic.Curve, change func(*tpm2.TPMTPublic)) *softKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	area := goodArea()
	point, err := key.PublicKey.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	half := (len(point) - 1) / 2
	area.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{
		X: tpm2.TPM2BECCParameter{Buffer: point[1 : 1+half]}, Y: tpm2.TPM2BECCParameter{Buffer: point[1+half:]},
	})
	if change != nil {
		change(&area)
	}
	return &softKey{key, tpm2.Marshal(area)}
}

func newSoftRSAKey(t testing.TB, bits int, scheme tpm2.TPMAlgID) *softKey {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, bits)
	if err != nil {
		t.Fatal(err)
	}
	area := goodArea()
	area.Type = tpm2.TPMAlgRSA
	parms := &tpm2.TPMSRSAParms{KeyBits: tpm2.TPMKeyBits(bits)}
	parms.Scheme.Scheme = scheme
	switch scheme {
	case tpm2.TPMAlgRSASSA:
		parms.Scheme.Details = tpm2.NewTPMUAsymScheme(scheme, &tpm2.TPMSSigSchemeRSASSA{HashAlg: tpm2.TPMAlgSHA256})
	case tpm2.TPMAlgRSAPSS:
		parms.Scheme.Details = tpm2.NewTPMUAsymScheme(scheme, &tpm2.TPMSSigSchemeRSAPSS{HashAlg: tpm2.TPMAlgSHA256})
	}
	area.Parameters = tpm2.NewTPMUPublicParms(tpm2.TPMAlgRSA, parms)
	area.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgRSA, &tpm2.TPM2BPublicKeyRSA{Buffer: key.N.Bytes()})
	return &softKey{key, tpm2.Marshal(area)}
}

// name of the key: the algorithm and the digest of its public area.
func (k *softKey) name() []byte {
	digest := sha256.Sum256(k.public)
	return append([]byte{0x00, 0x0b}, digest[:]...)
}

func (k *softKey) sign(t testing.TB, message []byte) []byte {
	t.Helper()
	digest := sha256.Sum256(message)
	if key, ok := k.signer.(*rsa.PrivateKey); ok {
		signature, err := rsa.SignPKCS1v15(rand.Reader, key, crypto.SHA256, digest[:])
		if err != nil {
			t.Fatal(err)
		}
		return tpm2.Marshal(tpm2.TPMTSignature{
			SigAlg: tpm2.TPMAlgRSASSA,
			Signature: tpm2.NewTPMUSignature(tpm2.TPMAlgRSASSA, &tpm2.TPMSSignatureRSA{
				Hash: tpm2.TPMAlgSHA256, Sig: tpm2.TPM2BPublicKeyRSA{Buffer: signature},
			}),
		})
	}
	r, s, err := ecdsa.Sign(rand.Reader, k.signer.(*ecdsa.PrivateKey), digest[:])
	if err != nil {
		t.Fatal(err)
	}
	return tpm2.Marshal(tpm2.TPMTSignature{
		SigAlg: tpm2.TPMAlgECDSA,
		Signature: tpm2.NewTPMUSignature(tpm2.TPMAlgECDSA, &tpm2.TPMSSignatureECC{
			Hash: tpm2.TPMAlgSHA256, SignatureR: tpm2.TPM2BECCParameter{Buffer: r.Bytes()}, SignatureS: tpm2.TPM2BECCParameter{Buffer: s.Bytes()},
		}),
	})
}

// parameters is a proof of creation that holds, as far as it can be seen.
func (k *softKey) parameters(t testing.TB) *dtv1.TPMAttestationParameters {
	t.Helper()
	return k.certify(t, tpm2.Marshal(primaryCreation()))
}

// primaryCreation is the creation data of a primary key in the endorsement
// hierarchy.
func primaryCreation() tpm2.TPMSCreationData {
	return tpm2.TPMSCreationData{
		PCRSelect:           tpm2.TPMLPCRSelection{PCRSelections: []tpm2.TPMSPCRSelection{{Hash: tpm2.TPMAlgSHA256, PCRSelect: []byte{0, 0, 0}}}},
		PCRDigest:           tpm2.TPM2BDigest{Buffer: make([]byte, 32)},
		ParentNameAlg:       tpm2.TPMAlgNull,
		ParentName:          tpm2.TPM2BName{Buffer: inEndorsementHierarchy},
		ParentQualifiedName: tpm2.TPM2BName{Buffer: inEndorsementHierarchy},
	}
}

// certify says of the key that it was made as data tells.
func (k *softKey) certify(t testing.TB, data []byte) *dtv1.TPMAttestationParameters {
	t.Helper()
	hash := sha256.Sum256(data)
	attestation := tpm2.Marshal(tpm2.TPMSAttest{
		Magic: tpm2.TPMGeneratedValue, Type: tpm2.TPMSTAttestCreation,
		QualifiedSigner: tpm2.TPM2BName{Buffer: k.name()},
		Attested: tpm2.NewTPMUAttest(tpm2.TPMSTAttestCreation, &tpm2.TPMSCreationInfo{
			ObjectName: tpm2.TPM2BName{Buffer: k.name()}, CreationHash: tpm2.TPM2BDigest{Buffer: hash[:]},
		}),
	})
	return &dtv1.TPMAttestationParameters{
		Public: k.public, CreateData: data, CreateAttestation: attestation, CreateSignature: k.sign(t, attestation),
	}
}

// softQuote is what a softKey quotes; the zero value of a field is what is
// right.
type softQuote struct {
	nonce    []byte
	bank     tpm2.TPMAlgID
	selected []byte // the bits of the PCRs
	magic    tpm2.TPMGenerated
	banks    int // how often the bank is listed
	clock    tpm2.TPMSClockInfo
}

// platform is a machine's answer with 24 PCRs of zeros.
func (k *softKey) platform(t testing.TB, q softQuote) *dtv1.TPMPlatform {
	t.Helper()
	if q.bank == 0 {
		q.bank = tpm2.TPMAlgSHA256
	}
	if q.selected == nil {
		q.selected = []byte{0xff, 0xff, 0xff}
	}
	if q.magic == 0 {
		q.magic = tpm2.TPMGeneratedValue
	}
	p := &dtv1.TPMPlatform{}
	all, covered := sha256.New(), 0
	for n := range pcrCount {
		pcr := &dtv1.TPMPCR{Index: int32(n), Digest: make([]byte, 32), DigestAlg: uint32(tpm2.TPMAlgSHA256)}
		p.Pcrs = append(p.Pcrs, pcr)
		if q.selected[n/8]>>(n%8)&1 == 1 {
			all.Write(pcr.Digest)
			covered++
		}
	}
	selection := tpm2.TPMSPCRSelection{Hash: q.bank, PCRSelect: q.selected}
	list := tpm2.TPMLPCRSelection{PCRSelections: []tpm2.TPMSPCRSelection{selection}}
	for range q.banks {
		list.PCRSelections = append(list.PCRSelections, selection)
	}
	quoted := tpm2.Marshal(tpm2.TPMSAttest{
		Magic: tpm2.TPMGeneratedValue, Type: tpm2.TPMSTAttestQuote,
		QualifiedSigner: tpm2.TPM2BName{Buffer: k.name()},
		ExtraData:       tpm2.TPM2BData{Buffer: q.nonce},
		ClockInfo:       q.clock,
		Attested: tpm2.NewTPMUAttest(tpm2.TPMSTAttestQuote, &tpm2.TPMSQuoteInfo{
			PCRSelect: list, PCRDigest: tpm2.TPM2BDigest{Buffer: all.Sum(nil)},
		}),
	})
	quoted[0] = byte(q.magic >> 24) // Marshal knows only the right one
	p.Quotes = []*dtv1.TPMQuote{{Quote: quoted, Signature: k.sign(t, quoted)}}
	return p
}
