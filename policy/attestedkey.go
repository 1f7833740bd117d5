package policy

// ReasonAttestedKey is what people are told who have a trusted device, and a key
// that is not proved to be in its TPM.
const ReasonAttestedKey = "access to resource requires a key that is in the TPM of a trusted device"

// keyDemand is the option require_attested_key with the rules that it adds to
// a decision.
type keyDemand struct{ met, noDevice, elsewhere *Rule }

// newKeyDemand gives nil where the role asks for nothing.
func newKeyDemand(role string, required *bool) *keyDemand {
	if !isTrue(required) {
		return nil
	}
	source := source(role, "options.require_attested_key")
	const demanded = "a key in the TPM of a trusted device is demanded, and "
	return &keyDemand{
		met:       &Rule{RuleRequire, source, demanded + "it is there"},
		noDevice:  &Rule{RuleRequire, source, demanded + "there is no device"},
		elsewhere: &Rule{RuleRequire, source, demanded + "the certificate's is not proved to be there"},
	}
}

// checkKey gives CauseUnknown where the subject meets d. Without all of a device
// there is no TPM in which the key could be.
func (e *evaluation) checkKey(d *keyDemand) Cause {
	switch sub := &e.request.Subject; {
	case !sub.trusted():
		e.tookPart(d.noDevice)
		return CauseTrustedDevice
	case !sub.KeyAttested:
		e.tookPart(d.elsewhere)
		return CauseAttestedKey
	}
	e.tookPart(d.met)
	return CauseUnknown
}
