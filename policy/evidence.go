package policy

import (
	"fmt"
	"strconv"
)

// Evidence is what a device proved of itself in the ceremony that its
// certificate comes from. The zero value is nothing.
type Evidence struct {
	Level EvidenceLevel
	// TPMManufacturer is a vendor ID of the TCG's registry ("IFX", or
	// "id:00001014" where it is no text), from a certificate of a CA that the
	// cluster lists; TPMFirmware the dotted version that the TPM signed. Empty
	// is unknown.
	TPMManufacturer, TPMFirmware string
}

// EvidenceLevel says how much of a machine was proved; each level includes
// those before it. An unknown one is none.
type EvidenceLevel string

// The levels, the lowest first.
const (
	// EvidenceNone: there was no ceremony.
	EvidenceNone EvidenceLevel = ""
	// EvidenceKey: a key that the device is known by signed.
	EvidenceKey EvidenceLevel = "key"
	// EvidenceQuote: a TPM signed its PCRs.
	EvidenceQuote EvidenceLevel = "quote"
	// EvidenceEventLog: an event log explains how PCRs 0 to 7 came to be.
	EvidenceEventLog EvidenceLevel = "event_log"
	// EvidenceSecureBoot: and it says that Secure Boot was on.
	EvidenceSecureBoot EvidenceLevel = "secure_boot"
)

// rank orders the levels; 0 is none.
func (l EvidenceLevel) rank() int {
	switch l {
	case EvidenceKey:
		return 1
	case EvidenceQuote:
		return 2
	case EvidenceEventLog:
		return 3
	case EvidenceSecureBoot:
		return 4
	default:
		return 0
	}
}

// title is l in a sentence.
func (l EvidenceLevel) title() string {
	if l.rank() == 0 {
		return "none"
	}
	return strconv.Quote(string(l))
}

// tpmTitle is the TPM of ev in a sentence.
func (ev *Evidence) tpmTitle() string {
	if ev.TPMManufacturer == "" {
		return "of an unknown manufacturer"
	}
	if ev.TPMFirmware == "" {
		return fmt.Sprintf("of %.16q with unknown firmware", ev.TPMManufacturer)
	}
	return fmt.Sprintf("of %.16q with firmware %.64q", ev.TPMManufacturer, ev.TPMFirmware)
}
