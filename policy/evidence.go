package policy

// Evidence is what a device proved of itself in the ceremony that its
// certificate comes from. The zero value is nothing.
type Evidence struct {
	Level EvidenceLevel
	// TPMManufacturer is a vendor ID of the TCG's registry ("IFX"), from a
	// certificate of a CA that the cluster lists; TPMFirmware the dotted
	// version that the TPM signed. Empty is unknown.
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
