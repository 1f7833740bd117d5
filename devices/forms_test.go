package devices

import (
	"bytes"
	"crypto/rsa"
	"crypto/x509"
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"

	"devicetrust/api/dtv1"
)

// oddNumber of that many bits, which an RSA key could have for a modulus: who
// only sends a key needs no factors.
func oddNumber(bits int) *big.Int {
	n := new(big.Int).Lsh(big.NewInt(1), uint(bits))
	return n.Sub(n, big.NewInt(1))
}

// rsaArea is the public area of an attestation key as our machines make it,
// but for what change does to its parameters.
func rsaArea(n *big.Int, change func(*tpm2.TPMSRSAParms)) []byte {
	p := &tpm2.TPMSRSAParms{KeyBits: 2048}
	p.Scheme.Scheme = tpm2.TPMAlgRSASSA
	p.Scheme.Details = tpm2.NewTPMUAsymScheme(tpm2.TPMAlgRSASSA, &tpm2.TPMSSigSchemeRSASSA{HashAlg: tpm2.TPMAlgSHA256})
	change(p)
	area := goodArea()
	area.Type = tpm2.TPMAlgRSA
	area.Parameters = tpm2.NewTPMUPublicParms(tpm2.TPMAlgRSA, p)
	area.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgRSA, &tpm2.TPM2BPublicKeyRSA{Buffer: n.Bytes()})
	return tpm2.Marshal(area)
}

func TestAnRSAAttestationKeyOfAnOddFormIsRefused(t *testing.T) {
	for name, test := range map[string]struct {
		public []byte
		want   string // empty: it is taken
	}{
		"as our machines make it": {rsaArea(oddNumber(2048), func(*tpm2.TPMSRSAParms) {}), ""},
		"with the exponent named": {rsaArea(oddNumber(2048), func(p *tpm2.TPMSRSAParms) { p.Exponent = 65537 }), ""},
		"with exponent 3":         {rsaArea(oddNumber(2048), func(p *tpm2.TPMSRSAParms) { p.Exponent = 3 }), "exponent 3"},
		"with exponent 1":         {rsaArea(oddNumber(2048), func(p *tpm2.TPMSRSAParms) { p.Exponent = 1 }), "exponent 1"},
		"of the most bits":        {rsaArea(oddNumber(maxRSABits), func(*tpm2.TPMSRSAParms) {}), ""},
		"of more bits":            {rsaArea(oddNumber(maxRSABits+1), func(*tpm2.TPMSRSAParms) {}), "RSA of 4097 bits"},
		"for SHA-1": {rsaArea(oddNumber(2048), func(p *tpm2.TPMSRSAParms) {
			p.Scheme.Details = tpm2.NewTPMUAsymScheme(tpm2.TPMAlgRSASSA, &tpm2.TPMSSigSchemeRSASSA{HashAlg: tpm2.TPMAlgSHA1})
		}), "scheme is not RSASSA with SHA-256"},
		"with a symmetric algorithm": {rsaArea(oddNumber(2048), func(p *tpm2.TPMSRSAParms) {
			p.Symmetric = tpm2.TPMTSymDefObject{
				Algorithm: tpm2.TPMAlgAES,
				KeyBits:   tpm2.NewTPMUSymKeyBits(tpm2.TPMAlgAES, tpm2.TPMKeyBits(128)),
				Mode:      tpm2.NewTPMUSymMode(tpm2.TPMAlgAES, tpm2.TPMAlgCFB),
			}
		}), "scheme is not RSASSA"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := checkKey(test.public)
			if test.want == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			wantRefusal(t, err, "not a restricted signing key")
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want %q in it", err, test.want)
			}
		})
	}
}

func TestAnECCAttestationKeyThatAlsoEncryptsIsRefused(t *testing.T) {
	for name, change := range map[string]func(*tpm2.TPMSECCParms){
		"with a symmetric algorithm": func(p *tpm2.TPMSECCParms) {
			p.Symmetric = tpm2.TPMTSymDefObject{
				Algorithm: tpm2.TPMAlgAES,
				KeyBits:   tpm2.NewTPMUSymKeyBits(tpm2.TPMAlgAES, tpm2.TPMKeyBits(128)),
				Mode:      tpm2.NewTPMUSymMode(tpm2.TPMAlgAES, tpm2.TPMAlgCFB),
			}
		},
		"with a key derivation": func(p *tpm2.TPMSECCParms) {
			p.KDF = tpm2.TPMTKDFScheme{
				Scheme:  tpm2.TPMAlgKDF2,
				Details: tpm2.NewTPMUKDFScheme(tpm2.TPMAlgKDF2, &tpm2.TPMSKDFSchemeKDF2{HashAlg: tpm2.TPMAlgSHA256}),
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			key := newSoftKey(t, func(a *tpm2.TPMTPublic) {
				p, err := a.Parameters.ECCDetail()
				if err != nil {
					t.Fatal(err)
				}
				change(p)
				a.Parameters = tpm2.NewTPMUPublicParms(tpm2.TPMAlgECC, p)
			})
			_, err := checkKey(key.public)
			wantRefusal(t, err, "not a restricted signing key")
			if err == nil || !strings.Contains(err.Error(), "scheme is not ECDSA") {
				t.Errorf("got %v", err)
			}
		})
	}
}

func ekDER(t *testing.T, bits, exponent int) []byte {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(&rsa.PublicKey{N: oddNumber(bits), E: exponent})
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func TestAnRSAEndorsementKeyOfAnotherExponentIsRefused(t *testing.T) {
	if _, err := checkEndorsement(&dtv1.TPMEnroll{EkKey: ekDER(t, 2048, 65537)}, Trust{}, time.Now()); err != nil {
		t.Errorf("as TPMs have it: %v", err)
	}
	for _, exponent := range []int{1, 3, 65539} {
		_, err := checkEndorsement(&dtv1.TPMEnroll{EkKey: ekDER(t, 2048, exponent)}, Trust{}, time.Now())
		wantRefusal(t, err, "RSA of 2048 bits with exponent")
	}
}

// What is longer than any honest one is not parsed: were it, the refusal would
// say something else.
func TestWhatIsTooLongIsNotParsed(t *testing.T) {
	long := ekDER(t, 16*maxEKKey, 65537)
	_, err := checkEndorsement(&dtv1.TPMEnroll{EkKey: long}, Trust{}, time.Now())
	wantRefusal(t, err, "attestation is malformed")

	key, nonce := newSoftKey(t, nil), []byte("nonce")
	checked, err := checkKey(key.public)
	if err != nil {
		t.Fatal(err)
	}
	padding := make([]byte, maxStructure)
	for name, lengthen := range map[string]func(*dtv1.TPMQuote){
		"the quote":           func(q *dtv1.TPMQuote) { q.Quote = append(q.Quote, padding...) },
		"a quote's signature": func(q *dtv1.TPMQuote) { q.Signature = append(q.Signature, padding...) },
	} {
		p := key.platform(t, softQuote{nonce: nonce})
		lengthen(p.Quotes[0])
		if _, err := verifyQuote(key.public, p, nonce); err == nil {
			t.Errorf("%s was parsed", name)
		} else {
			wantRefusal(t, err, "attestation is malformed")
		}
	}
	if err := checkCreation(checked, key.parameters(t)); err != nil {
		t.Fatalf("what is not too long: %v", err)
	}
	for name, lengthen := range map[string]func(*dtv1.TPMAttestationParameters){
		"the creation data":    func(p *dtv1.TPMAttestationParameters) { p.CreateData = append(p.CreateData, padding...) },
		"the creation's proof": func(p *dtv1.TPMAttestationParameters) { p.CreateAttestation = append(p.CreateAttestation, padding...) },
		"the proof's signature": func(p *dtv1.TPMAttestationParameters) {
			p.CreateSignature = append(bytes.Clone(p.CreateSignature), padding...)
		},
	} {
		p := key.parameters(t)
		lengthen(p)
		if err := checkCreation(checked, p); err == nil {
			t.Errorf("%s was parsed", name)
		} else {
			wantRefusal(t, err, "attestation is malformed")
		}
	}
}
