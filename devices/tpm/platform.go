package tpm

import (
	"bytes"
	"crypto/sha256"

	"connectrpc.com/connect"
	"github.com/google/go-tpm/tpm2"

	"devicetrust/api"
	"devicetrust/api/dtv1"
)

// pcrCount: TCG PC Client Platform TPM Profile, section 4.6.
const pcrCount = 24

// platform quotes all SHA-256 PCRs over the nonce: one quote, since a
// signature is the slowest thing that a login asks of a chip. The event log
// goes along.
func (t *TPM) platform(ak *attestationKey, nonce, eventLog []byte) (*dtv1.TPMPlatform, error) {
	for range quoteAttempts {
		quote, covered, err := t.quote(ak, nonce)
		if err != nil {
			return nil, err
		}
		pcrs, err := t.readPCRs()
		if err != nil {
			return nil, err
		}
		digest := sha256.New()
		for _, pcr := range pcrs {
			digest.Write(pcr.Digest)
		}
		if bytes.Equal(digest.Sum(nil), covered) {
			return &dtv1.TPMPlatform{
				Quotes: []*dtv1.TPMQuote{quote}, Pcrs: pcrs, EventLog: eventLog,
			}, nil
		}
	}
	return nil, api.Refuse(connect.CodeUnavailable, "the TPM's PCRs change faster than they can be read").WithHint("Try again.")
}

func allPCRs() []uint {
	all := make([]uint, pcrCount)
	for i := range all {
		all[i] = uint(i)
	}
	return all
}

func selection(pcrs []uint) tpm2.TPMLPCRSelection {
	return tpm2.TPMLPCRSelection{PCRSelections: []tpm2.TPMSPCRSelection{{
		Hash: tpm2.TPMAlgSHA256, PCRSelect: tpm2.PCClientCompatible.PCRs(pcrs...),
	}}}
}

// quote gives the signed structure and the digest of PCR values in it.
func (t *TPM) quote(ak *attestationKey, nonce []byte) (*dtv1.TPMQuote, []byte, error) {
	rsp, err := tpm2.Quote{
		SignHandle:     ak.handle,
		QualifyingData: tpm2.TPM2BData{Buffer: nonce},
		InScheme:       tpm2.TPMTSigScheme{Scheme: tpm2.TPMAlgNull},
		PCRSelect:      selection(allPCRs()),
	}.Execute(t.ch)
	if err != nil {
		return nil, nil, failedTo("quote its PCRs", err)
	}
	attest, err := rsp.Quoted.Contents()
	if err != nil {
		return nil, nil, failedTo("quote its PCRs", err)
	}
	info, err := attest.Attested.Quote()
	if err != nil {
		return nil, nil, failedTo("quote its PCRs", err)
	}
	return &dtv1.TPMQuote{Quote: rsp.Quoted.Bytes(), Signature: tpm2.Marshal(rsp.Signature)}, info.PCRDigest.Buffer, nil
}

// readPCRs gives the SHA-256 bank in the order of its indices. The TPM answers
// with as many as it likes, mostly eight.
func (t *TPM) readPCRs() ([]*dtv1.TPMPCR, error) {
	var pcrs []*dtv1.TPMPCR
	for todo := allPCRs(); len(todo) > 0; todo = todo[len(todo)-(pcrCount-len(pcrs)):] {
		rsp, err := tpm2.PCRRead{PCRSelectionIn: selection(todo)}.Execute(t.ch)
		if err != nil {
			return nil, failedTo("read its PCRs", err)
		}
		got := rsp.PCRValues.Digests
		if len(got) == 0 || len(got) > len(todo) {
			return nil, api.Refuse(connect.CodeFailedPrecondition, "the TPM has no SHA-256 bank of 24 PCRs").
				WithHint("Turn that bank on in the firmware settings.")
		}
		for i, digest := range got {
			pcrs = append(pcrs, &dtv1.TPMPCR{
				Index: int32(todo[i]), Digest: digest.Buffer, DigestAlg: uint32(tpm2.TPMAlgSHA256),
			})
		}
	}
	return pcrs, nil
}
