package devices

import (
	"bytes"
	"crypto"
	"errors"
	"fmt"

	"connectrpc.com/connect"
	"github.com/google/go-attestation/attest"
	"github.com/google/go-tpm/legacy/tpm2"

	"devicetrust/api"
	"devicetrust/api/dtv1"
	"devicetrust/policy"
)

// pcrCount: a quote covers all PCRs of the SHA-256 bank (TCG PC Client
// Platform TPM Profile, section 4.6).
const pcrCount = 24

// generated marks what a TPM made itself, which a restricted key signs and
// nothing else (TPM_GENERATED_VALUE, TPM 2.0 Part 2, section 6.2).
const generated = 0xff544347

var errQuote = api.Refuse(connect.CodePermissionDenied, "the TPM's quote does not hold").
	WithHint("Try again; if it stays so, enroll the device again")

// measured is what a device proved of itself. The zero value is nothing.
type measured struct {
	level policy.EvidenceLevel
	// notes say why it is no higher, one line each.
	notes []string
	// quoted is nil where no TPM signed.
	quoted *quoted
}

// quoted is a quote that holds, with all that is needed to see it again.
type quoted struct {
	akPublic, nonce  []byte
	quote, signature []byte
	pcrs             []attest.PCR
	eventLog         []byte
	counters         counters
}

// reasons are what the audit record says of it.
func (m measured) reasons() []string {
	return append([]string{"evidence: " + string(m.level)}, m.notes...)
}

// verifyQuote holds a device's platform against the attestation key: one quote,
// fresh by its nonce, over all SHA-256 PCRs with the values that were sent. Its
// event log is replayed against those.
func verifyQuote(akPublic []byte, platform *dtv1.TPMPlatform, nonce []byte) (measured, error) {
	if len(nonce) == 0 {
		return measured{}, errors.New("devices: no nonce to hold a quote against")
	}
	if len(platform.GetEventLog()) > maxEventLog {
		return measured{}, api.Refuse(connect.CodeInvalidArgument, "the event log has more than %d bytes", maxEventLog)
	}
	quotes := platform.GetQuotes()
	if len(quotes) != 1 {
		return measured{}, withDetail(errQuote, fmt.Errorf("%d quotes, want 1", len(quotes)))
	}
	quote := attest.Quote{Quote: quotes[0].GetQuote(), Signature: quotes[0].GetSignature()}
	if len(quote.Quote) > maxStructure || len(quote.Signature) > maxStructure {
		return measured{}, errMalformed
	}
	pcrs, err := rebuildPCRs(platform.GetPcrs())
	if err != nil {
		return measured{}, withDetail(errQuote, err)
	}
	data, err := checkQuoted(quote.Quote, nonce)
	if err != nil {
		return measured{}, withDetail(errQuote, err)
	}
	key, err := attest.ParseAKPublic(akPublic)
	if err != nil {
		return measured{}, fmt.Errorf("devices: stored attestation key: %w", err)
	}
	if err := key.Verify(quote, pcrs, nonce); err != nil {
		return measured{}, withDetail(errQuote, err)
	}
	e, err := explain(platform.GetEventLog(), pcrs)
	if err != nil {
		return measured{}, err
	}
	return measured{level: e.level, notes: e.reasons, quoted: &quoted{
		akPublic: akPublic, nonce: nonce, quote: quote.Quote, signature: quote.Signature, pcrs: pcrs,
		eventLog: platform.GetEventLog(), counters: countersOf(data, akPublic),
	}}, nil
}

// rebuildPCRs makes the list anew: go-attestation takes the last of two values
// for one PCR and then calls both verified.
func rebuildPCRs(sent []*dtv1.TPMPCR) ([]attest.PCR, error) {
	if len(sent) != pcrCount {
		return nil, fmt.Errorf("%d PCRs, want %d", len(sent), pcrCount)
	}
	pcrs := make([]attest.PCR, pcrCount)
	for _, p := range sent {
		index := int(p.GetIndex())
		switch {
		case index < 0 || index >= pcrCount:
			return nil, fmt.Errorf("PCR %d", index)
		case pcrs[index].Digest != nil:
			return nil, fmt.Errorf("PCR %d twice", index)
		case tpm2.Algorithm(p.GetDigestAlg()) != tpm2.AlgSHA256 || p.GetDigestAlg() > 0xffff || len(p.GetDigest()) != crypto.SHA256.Size():
			return nil, fmt.Errorf("PCR %d is not of the SHA-256 bank", index)
		}
		pcrs[index] = attest.PCR{Index: index, Digest: p.GetDigest(), DigestAlg: crypto.SHA256}
	}
	return pcrs, nil
}

// checkQuoted looks at what was signed: a quote, made by a TPM, for this
// nonce, over exactly the PCRs that are wanted.
func checkQuoted(quoted, nonce []byte) (*tpm2.AttestationData, error) {
	data, err := tpm2.DecodeAttestationData(quoted)
	if err != nil {
		return nil, err
	}
	switch {
	case data.Magic != generated || data.Type != tpm2.TagAttestQuote || data.AttestedQuoteInfo == nil:
		return nil, fmt.Errorf("magic %#x and type %#x are not of a quote", data.Magic, uint16(data.Type))
	case !bytes.Equal(data.ExtraData, nonce):
		return nil, errors.New("it is for another challenge")
	case data.AttestedQuoteInfo.PCRSelection.Hash != tpm2.AlgSHA256:
		return nil, fmt.Errorf("it is over bank %v, want SHA-256", data.AttestedQuoteInfo.PCRSelection.Hash)
	}
	// The decoder gives the PCRs in the order of their bits, so a list of 24
	// that ends with 23 is all of them.
	covered := data.AttestedQuoteInfo.PCRSelection.PCRs
	if len(covered) != pcrCount || covered[pcrCount-1] != pcrCount-1 {
		return nil, fmt.Errorf("it covers PCRs %v, want 0 to %d", covered, pcrCount-1)
	}
	return data, nil
}
