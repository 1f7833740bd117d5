package devices

import (
	"crypto/sha256"
	"encoding/hex"
	"testing"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
	"google.golang.org/protobuf/proto"

	"devicetrust/api"
	"devicetrust/api/dtv1"
	"devicetrust/devices/tpm/tpmtest"
	"devicetrust/identity"
	"devicetrust/store/storetest"
)

// other is a machine's half that makes RSA keys, and unlike our own keeps one
// attestation key for several enrollments, as an attacker could.
type other struct {
	chip   transport.TPM
	ekCert []byte
	ak     *tpm2.CreatePrimaryResponse
	proof  *tpm2.CertifyCreationResponse
}

func (o *other) key() tpm2.NamedHandle {
	return tpm2.NamedHandle{Handle: o.ak.ObjectHandle, Name: o.ak.Name}
}

// newOther wants a TPM with its RSA endorsement key at the persistent handle.
func newOther(t testing.TB, m *machine) *other {
	t.Helper()
	conn := dialTPM(t, m)
	t.Cleanup(func() { conn.Close() })
	o := &other{chip: transport.FromReadWriter(conn), ekCert: m.chip.EKCertificate}
	template := goodArea()
	template.Type = tpm2.TPMAlgRSA
	template.Parameters = tpm2.NewTPMUPublicParms(tpm2.TPMAlgRSA, &tpm2.TPMSRSAParms{KeyBits: 2048, Scheme: tpm2.TPMTRSAScheme{
		Scheme:  tpm2.TPMAlgRSASSA,
		Details: tpm2.NewTPMUAsymScheme(tpm2.TPMAlgRSASSA, &tpm2.TPMSSigSchemeRSASSA{HashAlg: tpm2.TPMAlgSHA256}),
	}})
	template.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgRSA, &tpm2.TPM2BPublicKeyRSA{})
	var err error
	if o.ak, err = (tpm2.CreatePrimary{PrimaryHandle: tpm2.TPMRHEndorsement, InPublic: tpm2.New2B(template)}).Execute(o.chip); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { tpm2.FlushContext{FlushHandle: o.ak.ObjectHandle}.Execute(o.chip) })
	if o.proof, err = (tpm2.CertifyCreation{
		SignHandle: o.key(), ObjectHandle: o.key(), CreationHash: o.ak.CreationHash, CreationTicket: o.ak.CreationTicket,
		InScheme: tpm2.TPMTSigScheme{Scheme: tpm2.TPMAlgNull},
	}).Execute(o.chip); err != nil {
		t.Fatal(err)
	}
	return o
}

func (o *other) init(token string, data *dtv1.DeviceData) *dtv1.EnrollInit {
	digest := sha256.Sum256(o.ak.OutPublic.Bytes())
	return &dtv1.EnrollInit{
		Token: token, CredentialId: hex.EncodeToString(digest[:]), DeviceData: data,
		Tpm: &dtv1.TPMEnroll{EkCert: o.ekCert, AttestationParameters: &dtv1.TPMAttestationParameters{
			Public: o.ak.OutPublic.Bytes(), CreateData: o.ak.CreationData.Bytes(),
			CreateAttestation: o.proof.CertifyInfo.Bytes(), CreateSignature: tpm2.Marshal(o.proof.Signature),
		}},
	}
}

func (o *other) answer(c *dtv1.TPMEnrollChallenge) (*dtv1.TPMEnrollChallengeResponse, error) {
	secret, err := o.activate(c.GetEncryptedCredential())
	if err != nil {
		return nil, err
	}
	credential := sha256.Sum256(o.ak.OutPublic.Bytes())
	nonce := identity.EnrollNonce(identity.EnrollBinding{
		Challenge: c.GetNonce(), Cluster: testCluster, User: alice, CredentialID: hex.EncodeToString(credential[:]),
	})
	platform, err := quotedBy(o.chip, o.key(), nonce)
	if err != nil {
		return nil, err
	}
	return &dtv1.TPMEnrollChallengeResponse{ActivatedSecret: secret, Platform: platform}, nil
}

// quotedBy is a platform that the key quotes.
func quotedBy(chip transport.TPM, key tpm2.NamedHandle, nonce [32]byte) (*dtv1.TPMPlatform, error) {
	selection := tpm2.TPMLPCRSelection{PCRSelections: []tpm2.TPMSPCRSelection{{Hash: tpm2.TPMAlgSHA256, PCRSelect: []byte{0xff, 0xff, 0xff}}}}
	quote, err := tpm2.Quote{
		SignHandle: key, QualifyingData: tpm2.TPM2BData{Buffer: nonce[:]},
		InScheme: tpm2.TPMTSigScheme{Scheme: tpm2.TPMAlgNull}, PCRSelect: selection,
	}.Execute(chip)
	if err != nil {
		return nil, err
	}
	platform := &dtv1.TPMPlatform{Quotes: []*dtv1.TPMQuote{{Quote: quote.Quoted.Bytes(), Signature: tpm2.Marshal(quote.Signature)}}}
	for n := range pcrCount {
		selection.PCRSelections[0].PCRSelect = tpm2.PCClientCompatible.PCRs(uint(n))
		one, err := tpm2.PCRRead{PCRSelectionIn: selection}.Execute(chip)
		if err != nil {
			return nil, err
		}
		platform.Pcrs = append(platform.Pcrs, &dtv1.TPMPCR{Index: int32(n), Digest: one.PCRValues.Digests[0].Buffer, DigestAlg: uint32(tpm2.TPMAlgSHA256)})
	}
	return platform, nil
}

func (o *other) activate(c *dtv1.TPMEncryptedCredential) ([]byte, error) {
	const persistent tpm2.TPMHandle = 0x81010001
	ek, err := tpm2.ReadPublic{ObjectHandle: persistent}.Execute(o.chip)
	if err != nil {
		return nil, err
	}
	blob, err := tpm2.Unmarshal[tpm2.TPM2BIDObject](c.GetCredential())
	if err != nil {
		return nil, err
	}
	seed, err := tpm2.Unmarshal[tpm2.TPM2BEncryptedSecret](c.GetSecret())
	if err != nil {
		return nil, err
	}
	policy := func(tpm transport.TPM, session tpm2.TPMISHPolicy, nonce tpm2.TPM2BNonce) error {
		_, err := tpm2.PolicySecret{AuthHandle: tpm2.TPMRHEndorsement, PolicySession: session, NonceTPM: nonce}.Execute(tpm)
		return err
	}
	rsp, err := tpm2.ActivateCredential{
		ActivateHandle: o.key(),
		KeyHandle:      tpm2.AuthHandle{Handle: persistent, Name: ek.Name, Auth: tpm2.Policy(tpm2.TPMAlgSHA256, 16, policy)},
		CredentialBlob: *blob, Secret: *seed,
	}.Execute(o.chip)
	if err != nil {
		return nil, err
	}
	return rsp.CertInfo.Buffer, nil
}

// enrollOther is enrollWith by the other half; of e it takes the token, the
// trust and onAnswer.
func (w *world) enrollOther(t testing.TB, m *machine, o *other, e enrollment) error {
	t.Helper()
	_, err := converse(t,
		func(s *serverEnd[dtv1.EnrollDeviceRequest, dtv1.EnrollDeviceResponse]) error {
			return w.Inventory.Enroll(t.Context(), alice, testAddr, e.trust, s)
		},
		func(s *clientEnd[dtv1.EnrollDeviceRequest, dtv1.EnrollDeviceResponse]) (any, error) {
			s.Send(&dtv1.EnrollDeviceRequest{Payload: &dtv1.EnrollDeviceRequest_Init{Init: o.init(e.token, m.data)}})
			msg, err := s.Receive()
			if err != nil {
				return nil, err
			}
			answer, err := o.answer(msg.GetTpmChallenge())
			if err != nil {
				return nil, err
			}
			if e.onAnswer != nil {
				e.onAnswer(answer)
			}
			s.Send(&dtv1.EnrollDeviceRequest{Payload: &dtv1.EnrollDeviceRequest_TpmChallengeResponse{TpmChallengeResponse: answer}})
			return s.Receive()
		})
	if err != nil {
		return api.FromWire(err)
	}
	return nil
}

// The key is the same in both ceremonies, so that only their nonces and
// secrets tell them apart.
func TestTheAnswersOfAnEnrollmentAreGoodForNoOther(t *testing.T) {
	w, m := newWorld(t, storetest.Open(t)), newMachine(t, tpmtest.Certificate{CA: newCA(t, "maker", nil), RSA: true, Persist: true})
	o := newOther(t, m)
	var first *dtv1.TPMEnrollChallengeResponse
	err := w.enrollOther(t, m, o, enrollment{token: w.register(t, m).Token, onAnswer: func(a *dtv1.TPMEnrollChallengeResponse) { first = proto.CloneOf(a) }})
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name   string
		replay func(*dtv1.TPMEnrollChallengeResponse)
		want   string // empty: it is enrolled
	}{
		{"the quote", func(a *dtv1.TPMEnrollChallengeResponse) { a.Platform = first.Platform }, "quote does not hold"},
		{"the secret", func(a *dtv1.TPMEnrollChallengeResponse) { a.ActivatedSecret = first.ActivatedSecret }, "could not decrypt"},
		{"nothing", func(*dtv1.TPMEnrollChallengeResponse) {}, ""},
	} {
		token, err := w.CreateToken(t.Context(), admin, Ref{AssetTag: testTag}, 0)
		if err != nil {
			t.Fatal(err)
		}
		err = w.enrollOther(t, m, o, enrollment{token: token.Token, onAnswer: test.replay})
		if test.want != "" {
			wantRefusal(t, err, test.want)
		} else if err != nil {
			t.Errorf("%s replayed: %v", test.name, err)
		}
	}
}

// A machine with two operating systems is two devices; one key for both would
// be that of neither.
func TestTwoSystemsOfAMachineDoNotShareAKey(t *testing.T) {
	w, m := newWorld(t, storetest.Open(t)), newMachine(t, tpmtest.Certificate{CA: newCA(t, "maker", nil), RSA: true, Persist: true})
	o := newOther(t, m)
	if err := w.enrollOther(t, m, o, enrollment{token: w.register(t, m).Token}); err != nil {
		t.Fatal(err)
	}
	m.data.OsType = "windows"
	wantRefusal(t, w.enrollOther(t, m, o, enrollment{token: w.register(t, m).Token}), "enrolled already, as device PF2ABCDE/linux")
}
