package devices

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-attestation/attest"
	"github.com/google/go-tpm/tpm2"
	"google.golang.org/protobuf/proto"

	"devicetrust/api/dtv1"
	"devicetrust/devices/tpm/tpmtest"
	"devicetrust/store/storetest"
)

func TestAnAttestationKeyHasExactlyTheAttributesOfARestrictedSigningKey(t *testing.T) {
	good := newSoftKey(t, nil)
	if _, err := checkKey(good.public); err != nil {
		t.Fatalf("as our machines make it: %v", err)
	}
	// objectAttributes follow the type and the name algorithm (TPM 2.0 Part 2,
	// section 12.2.4).
	const offset = 4
	for bit := range 32 {
		flipped := &softKey{good.signer, bytes.Clone(good.public)}
		attributes := binary.BigEndian.Uint32(flipped.public[offset:]) ^ 1<<bit
		binary.BigEndian.PutUint32(flipped.public[offset:], attributes)
		_, err := checkKey(flipped.public)
		if err == nil {
			t.Errorf("attributes %#08x were taken", attributes)
			continue
		}
		wantRefusal(t, err, "not a restricted signing key")
	}
}

func TestAnAttestationKeyOfAWeakFormIsRefused(t *testing.T) {
	// go-tpm does not write this scheme; it stands after the type, the name
	// algorithm, the attributes, the empty policy and the symmetric algorithm.
	schnorr := newSoftKey(t, nil)
	binary.BigEndian.PutUint16(schnorr.public[12:], uint16(tpm2.TPMAlgECSchnorr))
	for _, test := range []struct {
		name string
		key  *softKey
		want string // empty: it is taken
	}{
		{"ECDSA P-256", newSoftKey(t, nil), ""},
		{"ECDSA P-384", newSoftKeyOn(t, elliptic.P384(), func(a *tpm2.TPMTPublic) {
			a.Parameters = eccParms(tpm2.TPMECCNistP384, tpm2.TPMAlgECDSA, tpm2.TPMAlgSHA384)
		}), ""},
		{"RSA 2048", newSoftRSAKey(t, 2048, tpm2.TPMAlgRSASSA), ""},
		{"RSA 1024", newSoftRSAKey(t, 1024, tpm2.TPMAlgRSASSA), "RSA of 1024 bits"},
		{"RSA PSS", newSoftRSAKey(t, 2048, tpm2.TPMAlgRSAPSS), "scheme is not RSASSA"},
		{"RSA without a scheme", newSoftRSAKey(t, 2048, tpm2.TPMAlgNull), "scheme is not RSASSA"},
		{"ECDSA without a scheme", newSoftKey(t, func(a *tpm2.TPMTPublic) {
			a.Parameters = eccParms(tpm2.TPMECCNistP256, tpm2.TPMAlgNull, 0)
		}), "scheme is not ECDSA"},
		{"EC-Schnorr", schnorr, "scheme is not ECDSA"},
		{"ECDSA with SHA-1", newSoftKey(t, func(a *tpm2.TPMTPublic) {
			a.Parameters = eccParms(tpm2.TPMECCNistP256, tpm2.TPMAlgECDSA, tpm2.TPMAlgSHA1)
		}), "scheme is not ECDSA with SHA-256"},
		{"P-224", newSoftKeyOn(t, elliptic.P224(), func(a *tpm2.TPMTPublic) {
			a.Parameters = eccParms(tpm2.TPMECCNistP224, tpm2.TPMAlgECDSA, tpm2.TPMAlgSHA256)
		}), "curve"},
		{"a point that is not on the curve", newSoftKeyOn(t, elliptic.P224(), nil), "not on the curve"},
		{"a name with SHA-1", newSoftKey(t, func(a *tpm2.TPMTPublic) { a.NameAlg = tpm2.TPMAlgSHA1 }), "name algorithm"},
		{"no name", newSoftKey(t, func(a *tpm2.TPMTPublic) { a.NameAlg = tpm2.TPMAlgNull }), "name algorithm"},
		{"nothing", &softKey{}, "malformed"},
		{"a long one", &softKey{public: make([]byte, maxStructure+1)}, "malformed"},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := checkKey(test.key.public)
			if test.want == "" {
				if err != nil {
					t.Fatal(err)
				}
				digest := sha256.Sum256(test.key.public)
				if got.credentialID != hex.EncodeToString(digest[:]) {
					t.Errorf("credential ID %s", got.credentialID)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want %q in it", err, test.want)
			}
		})
	}
}

// The proof of creation says nothing of a TPM; the activation does.
func TestAKeyMadeInSoftwarePassesAllButTheActivation(t *testing.T) {
	w, m := newWorld(t, storetest.Open(t)), newMachine(t)
	soft := newSoftKey(t, nil)
	p := soft.parameters(t)
	parameters := attest.ActivationParameters{AK: attest.AttestationParameters{
		Public: p.Public, CreateData: p.CreateData, CreateAttestation: p.CreateAttestation, CreateSignature: p.CreateSignature,
	}}
	if err := parameters.CheckAKParameters(); err != nil {
		t.Fatalf("the test's key is not good enough: %v", err)
	}
	challenged := false
	err := w.enrollWith(t, m, enrollment{
		token: w.register(t, m).Token,
		onInit: func(i *dtv1.EnrollInit) {
			digest := sha256.Sum256(soft.public)
			i.CredentialId, i.Tpm.AttestationParameters = hex.EncodeToString(digest[:]), p
		},
		onChallenge: func(*dtv1.TPMEnrollChallenge) { challenged = true },
	})
	if err == nil || !challenged {
		t.Errorf("challenged: %t, then %v", challenged, err)
	}
	if d := w.device(t, testTag); d.Spec.Credential != nil {
		t.Error("the device was enrolled")
	}
}

// What we accept is what the field makes, not only what our own half does:
// other programs make RSA keys.
func TestAMachineWithAnotherImplementationAndRSAKeys(t *testing.T) {
	maker := newCA(t, "maker", nil)
	w, m := newWorld(t, storetest.Open(t)), newMachine(t, tpmtest.Certificate{CA: maker, RSA: true, Persist: true})
	token := w.register(t, m).Token
	o := newOther(t, m)
	if err := w.enrollOther(t, m, o, enrollment{token: token, trust: Trust{AllowedCAs: pemOf(maker)}}); err != nil {
		t.Fatal(err)
	}
	if got := w.device(t, testTag).Spec.Credential.DeviceAttestationType; got != attestedTrusted {
		t.Errorf("attestation %s", got)
	}
}

// go-attestation makes a key under the storage key, as our own half did once:
// its quotes would hide how often the machine was started.
func TestAnAttestationKeyUnderTheStorageKeyIsRefused(t *testing.T) {
	w, m := newWorld(t, storetest.Open(t)), newMachine(t)
	chip, err := attest.OpenTPM(&attest.OpenConfig{CommandChannel: commandChannel{dialTPM(t, m)}})
	if err != nil {
		t.Fatal(err)
	}
	ak, err := chip.NewAK(&attest.AKConfig{Algorithm: attest.ECDSA})
	if err != nil {
		t.Fatal(err)
	}
	p := ak.AttestationParameters()
	ak.Close(chip)
	chip.Close()
	challenged := false
	err = w.enrollWith(t, m, enrollment{
		token: w.register(t, m).Token,
		onInit: func(i *dtv1.EnrollInit) {
			digest := sha256.Sum256(p.Public)
			i.CredentialId = hex.EncodeToString(digest[:])
			i.Tpm.AttestationParameters = &dtv1.TPMAttestationParameters{
				Public: p.Public, CreateData: p.CreateData, CreateAttestation: p.CreateAttestation, CreateSignature: p.CreateSignature,
			}
		},
		onChallenge: func(*dtv1.TPMEnrollChallenge) { challenged = true },
	})
	wantRefusal(t, err, "not in the endorsement hierarchy")
	if challenged {
		t.Error("it was challenged all the same")
	}
}

func TestTheProofOfCreationSaysTheEndorsementHierarchyAndNothingElse(t *testing.T) {
	key := newSoftKey(t, nil)
	checked, err := checkKey(key.public)
	if err != nil {
		t.Fatal(err)
	}
	if err := checkCreation(checked, key.parameters(t)); err != nil {
		t.Fatalf("a right one: %v", err)
	}
	named := func(handle uint32) tpm2.TPM2BName {
		return tpm2.TPM2BName{Buffer: binary.BigEndian.AppendUint32(nil, handle)}
	}
	for _, test := range []struct {
		name   string
		change func(*tpm2.TPMSCreationData)
	}{
		{"the owner hierarchy", func(d *tpm2.TPMSCreationData) {
			d.ParentName, d.ParentQualifiedName = named(0x40000001), named(0x40000001)
		}},
		{"the platform hierarchy", func(d *tpm2.TPMSCreationData) {
			d.ParentName, d.ParentQualifiedName = named(0x4000000c), named(0x4000000c)
		}},
		{"the null hierarchy", func(d *tpm2.TPMSCreationData) {
			d.ParentName, d.ParentQualifiedName = named(0x40000007), named(0x40000007)
		}},
		{"no parent", func(d *tpm2.TPMSCreationData) {
			d.ParentName, d.ParentQualifiedName = tpm2.TPM2BName{}, tpm2.TPM2BName{}
		}},
		{"a key as its parent", func(d *tpm2.TPMSCreationData) {
			d.ParentNameAlg, d.ParentName = tpm2.TPMAlgSHA256, tpm2.TPM2BName{Buffer: key.name()}
		}},
		{"another parent than its qualified name says", func(d *tpm2.TPMSCreationData) { d.ParentQualifiedName = named(0x40000001) }},
		{"another qualified name than its parent says", func(d *tpm2.TPMSCreationData) { d.ParentName = named(0x40000001) }},
		{"a name algorithm of the parent", func(d *tpm2.TPMSCreationData) { d.ParentNameAlg = tpm2.TPMAlgSHA256 }},
	} {
		data := primaryCreation()
		test.change(&data)
		err := checkCreation(checked, key.certify(t, tpm2.Marshal(data)))
		if err == nil {
			t.Errorf("%s: it was taken", test.name)
			continue
		}
		wantRefusal(t, err, "not in the endorsement hierarchy")
	}
	trailing := key.certify(t, append(tpm2.Marshal(primaryCreation()), 0))
	wantRefusal(t, checkCreation(checked, trailing), "malformed")

	// No bit of what was certified may be another.
	right := key.parameters(t)
	for bit := range 8 * len(right.CreateData) {
		flipped := proto.CloneOf(right)
		flipped.CreateData[bit/8] ^= 1 << (bit % 8)
		if err := checkCreation(checked, flipped); err == nil {
			t.Errorf("bit %d of the creation data was flipped, and it was taken", bit)
		}
	}
}

func TestAQuoteMustBeOfAllPCRsForThisNonce(t *testing.T) {
	key, rsaKey := newSoftKey(t, nil), newSoftRSAKey(t, 2048, tpm2.TPMAlgRSASSA)
	nonce := bytes.Repeat([]byte{7}, 32)
	right := softQuote{nonce: nonce}
	for _, k := range []*softKey{key, rsaKey} {
		if _, err := verifyQuote(k.public, k.platform(t, right), nonce); err != nil {
			t.Fatalf("a right quote: %v", err)
		}
	}
	if _, err := verifyQuote(key.public, rsaKey.platform(t, right), nonce); err == nil {
		t.Error("an ECDSA key verified an RSA quote")
	}
	if _, err := verifyQuote(key.public, newSoftKey(t, nil).platform(t, right), nonce); err == nil {
		t.Error("a quote of another key was verified")
	}
	if _, err := verifyQuote(key.public, key.platform(t, softQuote{}), nil); err == nil {
		t.Error("no nonce was verified")
	}
	proofOfCreation := key.platform(t, right)
	created := key.parameters(t)
	proofOfCreation.Quotes[0] = &dtv1.TPMQuote{Quote: created.CreateAttestation, Signature: created.CreateSignature}
	if _, err := verifyQuote(key.public, proofOfCreation, nonce); err == nil {
		t.Error("a proof of creation was taken for a quote")
	}
	if _, err := checkQuoted(created.CreateAttestation, nil); err == nil || !strings.Contains(err.Error(), "not of a quote") {
		t.Errorf("a proof of creation: %v", err)
	}
	for name, q := range map[string]softQuote{
		"another nonce":            {nonce: bytes.Repeat([]byte{8}, 32)},
		"the nonce and more":       {nonce: append(bytes.Clone(nonce), 0)},
		"no nonce":                 {},
		"not made by a TPM":        {nonce: nonce, magic: 1 << 24},
		"the SHA-1 bank":           {nonce: nonce, bank: tpm2.TPMAlgSHA1},
		"the SHA-384 bank":         {nonce: nonce, bank: tpm2.TPMAlgSHA384},
		"no PCRs":                  {nonce: nonce, selected: []byte{0, 0, 0}},
		"the first eight PCRs":     {nonce: nonce, selected: []byte{0xff, 0, 0}},
		"all but one PCR":          {nonce: nonce, selected: []byte{0xff, 0xfe, 0xff}},
		"the bank named twice":     {nonce: nonce, banks: 1},
		"more PCRs than there are": {nonce: nonce, selected: []byte{0xff, 0xff, 0xff, 0x01}},
	} {
		p := key.platform(t, q)
		if _, err := verifyQuote(key.public, p, nonce); err == nil {
			t.Errorf("%s: it was verified", name)
		} else {
			wantRefusal(t, err, "quote does not hold")
		}
		// go-attestation looks at some of it as well; we do not rely on that.
		if _, err := checkQuoted(p.Quotes[0].Quote, nonce); err == nil {
			t.Errorf("%s: our own look did not see it", name)
		}
	}
}

// go-attestation v0.6.4 calls both of two values for one PCR verified.
func TestAListOfPCRsIsRebuiltFromEachOnce(t *testing.T) {
	key, nonce := newSoftKey(t, nil), []byte("nonce")
	p := key.platform(t, softQuote{nonce: nonce})
	forged := proto.CloneOf(p.Pcrs[7])
	forged.Digest[0] = 1
	for name, pcrs := range map[string][]*dtv1.TPMPCR{
		"none but one missing":  p.Pcrs[:23],
		"before the quoted one": append([]*dtv1.TPMPCR{forged}, p.Pcrs...),
		"after the quoted one":  append(append([]*dtv1.TPMPCR{}, p.Pcrs...), forged),
		"in place of another":   append(append([]*dtv1.TPMPCR{}, p.Pcrs[:23]...), forged),
		"of a PCR below 0":      append(append([]*dtv1.TPMPCR{}, p.Pcrs[:23]...), &dtv1.TPMPCR{Index: -1, Digest: forged.Digest, DigestAlg: 11}),
		"of a PCR above 23":     append(append([]*dtv1.TPMPCR{}, p.Pcrs[:23]...), &dtv1.TPMPCR{Index: 24, Digest: forged.Digest, DigestAlg: 11}),
	} {
		if _, err := rebuildPCRs(pcrs); err == nil {
			t.Errorf("%s: it was taken", name)
		}
	}
}

func TestEndorsementKeysOfOtherKindsAreRefused(t *testing.T) {
	p521, err := ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der := func(key any) []byte {
		der, err := x509.MarshalPKIXPublicKey(key)
		if err != nil {
			t.Fatal(err)
		}
		return der
	}
	for name, e := range map[string]*dtv1.TPMEnroll{
		"ECC on P-521":      {EkKey: der(p521.Public())},
		"RSA of 1024 bits":  {EkKey: der(newSoftRSAKey(t, 1024, tpm2.TPMAlgRSASSA).signer.Public())},
		"malformed":         {EkKey: []byte("garbage")},
		"no endorsement":    {},
		"cannot be read":    {EkCert: []byte("garbage")},
		"attestation is ma": {EkCert: make([]byte, maxEKCertificate+1)},
	} {
		_, err := checkEndorsement(e, Trust{}, time.Now())
		wantRefusal(t, err, name)
	}
	if _, err := checkEndorsement(nil, Trust{}, time.Now()); err == nil {
		t.Error("nothing was taken")
	}
}

func TestAPanicInAParserEndsTheCeremonyOnly(t *testing.T) {
	_, err := guard(func() (int, error) {
		var none []int
		return none[3], nil
	})
	wantRefusal(t, err, "malformed")
	if !strings.Contains(err.Error(), "index out of range") {
		t.Errorf("the record would not say why: %v", err)
	}
}

func TestSeatsAreBounded(t *testing.T) {
	s := newSeats()
	var leave []func()
	for range maxPerUser {
		l, err := s.take(alice)
		if err != nil {
			t.Fatal(err)
		}
		leave = append(leave, l)
	}
	_, err := s.take(alice)
	wantRefusal(t, err, "too many")
	l, err := s.take(bob)
	if err != nil {
		t.Errorf("one user's ceremonies keep another out: %v", err)
	}
	l()
	for _, l := range leave {
		l()
	}
	for n := range maxCeremonies {
		if _, err := s.take(fmt.Sprint("user", n)); err != nil {
			t.Fatal(err)
		}
	}
	_, err = s.take(bob)
	wantRefusal(t, err, "too many")
}

func FuzzEnrollInit(f *testing.F) {
	key := newSoftKey(f, nil)
	ek, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		f.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(ek.Public())
	if err != nil {
		f.Fatal(err)
	}
	maker := newCA(f, "maker", nil)
	cert, err := maker.Issue(ek.Public(), tpmtest.Certificate{})
	if err != nil {
		f.Fatal(err)
	}
	for _, k := range []*softKey{key, newSoftRSAKey(f, 2048, tpm2.TPMAlgRSASSA)} {
		p := k.parameters(f)
		f.Add(cert, der, p.Public, p.CreateData, p.CreateAttestation, p.CreateSignature)
	}
	trust := Trust{AllowedCAs: pemOf(maker)}
	f.Fuzz(func(t *testing.T, cert, der, public, data, attestation, signature []byte) {
		// Not under guard: what panics is to be found.
		if _, err := checkEndorsement(&dtv1.TPMEnroll{EkCert: cert, EkKey: der}, trust, time.Now()); err == nil && len(cert) == 0 {
			t.Error("no certificate was taken")
		}
		checked, err := checkKey(public)
		if err != nil {
			return // as in a ceremony
		}
		err = checkCreation(checked, &dtv1.TPMAttestationParameters{
			Public: public, CreateData: data, CreateAttestation: attestation, CreateSignature: signature,
		})
		if err == nil {
			challengeKey(endorsement{key: ek.Public()}, checked)
		}
	})
}

func FuzzQuote(f *testing.F) {
	keys := []*softKey{newSoftKey(f, nil), newSoftRSAKey(f, 2048, tpm2.TPMAlgRSASSA)}
	nonce := []byte("nonce")
	for n, k := range keys {
		p := k.platform(f, softQuote{nonce: nonce})
		f.Add(n == 1, p.Quotes[0].Quote, p.Quotes[0].Signature, p.Pcrs[0].Digest, int32(0), uint32(11))
	}
	f.Fuzz(func(t *testing.T, rsa bool, quote, signature, digest []byte, index int32, alg uint32) {
		k := keys[0]
		if rsa {
			k = keys[1]
		}
		p := k.platform(t, softQuote{nonce: nonce})
		p.Quotes[0].Quote, p.Quotes[0].Signature = quote, signature
		p.Pcrs[0] = &dtv1.TPMPCR{Index: index, Digest: digest, DigestAlg: alg}
		// The nonce is another, so nothing that can be made from the seeds holds.
		if _, err := verifyQuote(k.public, p, []byte("another")); err == nil {
			t.Error("it was verified")
		}
	})
}

// limitVerify is what the verification of a login's quote may cost.
const limitVerify = 500 * time.Microsecond

func BenchmarkVerifyLoginQuote(b *testing.B) {
	key, nonce := newSoftKey(b, nil), bytes.Repeat([]byte{7}, 32)
	p := key.platform(b, softQuote{nonce: nonce})
	b.ReportAllocs()
	for b.Loop() {
		if _, err := guard(func() (measured, error) { return verifyQuote(key.public, p, nonce) }); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(limitVerify.Nanoseconds()), "limit-ns/op")
}
