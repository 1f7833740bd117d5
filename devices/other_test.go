package devices

import (
	"crypto/sha256"
	"encoding/hex"
	"testing"

	"github.com/google/go-attestation/attest"
	"github.com/google/go-tpm/tpm2"
	"google.golang.org/protobuf/proto"

	"devicetrust/api"
	"devicetrust/api/dtv1"
	"devicetrust/devices/tpm/tpmtest"
	"devicetrust/store/storetest"
)

// other is go-attestation as a machine's half. Unlike our own it keeps one
// attestation key for several enrollments, as an attacker could.
type other struct {
	chip *attest.TPM
	ak   *attest.AK
	ek   attest.EK
}

func newOther(t testing.TB, m *machine) *other {
	t.Helper()
	chip, err := attest.OpenTPM(&attest.OpenConfig{CommandChannel: commandChannel{dialTPM(t, m)}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { chip.Close() })
	ak, err := chip.NewAK(&attest.AKConfig{Algorithm: attest.RSA})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ak.Close(chip) })
	eks, err := chip.EKs()
	if err != nil {
		t.Fatal(err)
	}
	return &other{chip, ak, eks[0]}
}

func (o *other) init(token string, data *dtv1.DeviceData) *dtv1.EnrollInit {
	p := o.ak.AttestationParameters()
	digest := sha256.Sum256(p.Public)
	return &dtv1.EnrollInit{
		Token: token, CredentialId: hex.EncodeToString(digest[:]), DeviceData: data,
		Tpm: &dtv1.TPMEnroll{EkCert: o.ek.Certificate.Raw, AttestationParameters: &dtv1.TPMAttestationParameters{
			Public: p.Public, CreateData: p.CreateData, CreateAttestation: p.CreateAttestation, CreateSignature: p.CreateSignature,
		}},
	}
}

func (o *other) answer(c *dtv1.TPMEnrollChallenge) (*dtv1.TPMEnrollChallengeResponse, error) {
	secret, err := o.ak.ActivateCredentialWithEK(o.chip, attest.EncryptedCredential{
		Credential: c.EncryptedCredential.Credential, Secret: c.EncryptedCredential.Secret,
	}, o.ek)
	if err != nil {
		return nil, err
	}
	quote, err := o.ak.Quote(o.chip, c.Nonce, attest.HashSHA256)
	if err != nil {
		return nil, err
	}
	pcrs, err := o.chip.PCRs(attest.HashSHA256)
	if err != nil {
		return nil, err
	}
	platform := &dtv1.TPMPlatform{Quotes: []*dtv1.TPMQuote{{Quote: quote.Quote, Signature: quote.Signature}}}
	for _, pcr := range pcrs {
		platform.Pcrs = append(platform.Pcrs, &dtv1.TPMPCR{Index: int32(pcr.Index), Digest: pcr.Digest, DigestAlg: uint32(tpm2.TPMAlgSHA256)})
	}
	return &dtv1.TPMEnrollChallengeResponse{ActivatedSecret: secret, Platform: platform}, nil
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
