package policy

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
)

// evidenceDemands is a checked EvidenceDemand with the rules that it adds to a
// decision.
type evidenceDemands struct {
	level                           EvidenceLevel
	tpms                            []tpmDemand // none: any
	met, noDevice, tooLow, otherTPM *Rule
}

// tpmDemand is a checked TPMDemand.
type tpmDemand struct {
	manufacturer string
	minFirmware  string // "": any
	oldest       firmware
	title        string // IFX (firmware 7.85 or later)
}

// newEvidenceDemands checks the option of the role; without one there is none.
func newEvidenceDemands(role string, spec *EvidenceDemand) (*evidenceDemands, error) {
	const field = "options.device_evidence"
	if spec == nil {
		return nil, nil
	}
	if spec.Level == EvidenceNone && len(spec.TPMs) == 0 {
		return nil, fieldError(field, "it asks for nothing; set level, tpms or both")
	}
	if spec.Level != EvidenceNone && spec.Level.rank() == 0 {
		return nil, fieldError(field+".level", "%.64q is not one of key, quote, event_log, secure_boot", spec.Level)
	}
	if len(spec.TPMs) > maxTPMs {
		return nil, fieldError(field+".tpms", "%d TPMs are more than %d", len(spec.TPMs), maxTPMs)
	}
	d := &evidenceDemands{level: spec.Level}
	for i, t := range spec.TPMs {
		at := fmt.Sprintf("%s.tpms[%d]", field, i)
		checked, err := newTPMDemand(at, t)
		if err != nil {
			return nil, err
		}
		if slices.ContainsFunc(d.tpms, func(t tpmDemand) bool { return t.manufacturer == checked.manufacturer }) {
			return nil, fieldError(at+".manufacturer", "%q is there twice", t.Manufacturer)
		}
		d.tpms = append(d.tpms, checked)
	}
	d.makeRules(source(role, field))
	return d, nil
}

func (d *evidenceDemands) makeRules(source string) {
	var wanted []string
	if d.level != EvidenceNone {
		wanted = append(wanted, "evidence "+d.level.title())
	}
	if len(d.tpms) > 0 {
		wanted = append(wanted, tpmTitles(d.tpms))
	}
	demanded := "a trusted device with " + strings.Join(wanted, " and ") + " is demanded, and "
	d.met = &Rule{RuleRequire, source, demanded + "there is one"}
	d.noDevice = &Rule{RuleRequire, source, demanded + "there is no device"}
	d.tooLow = &Rule{RuleRequire, source, demanded + "the device gave less evidence"}
	d.otherTPM = &Rule{RuleRequire, source, demanded + "the device's TPM is none of those"}
}

// vendorPattern: a vendor ID has four bytes (TCG TPM Vendor ID Registry), of
// which those at the end may be blank and are not written. Where they are no
// text, as of many virtual TPMs, it is written as certificates do (TCG EK
// Credential Profile, section 3.1.2).
var vendorPattern = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`^([!-~]{1,4}|id:[0-9A-F]{8})$`)
})

func newTPMDemand(field string, spec TPMDemand) (tpmDemand, error) {
	m := spec.Manufacturer
	if !vendorPattern().MatchString(m) {
		return tpmDemand{}, fieldError(field+".manufacturer", "%.64q is not a vendor ID: 1 to 4 characters such as IFX, or eight digits such as id:00001014", m)
	}
	d := tpmDemand{manufacturer: m, minFirmware: spec.MinFirmware, title: m}
	if d.minFirmware == "" {
		return d, nil
	}
	var ok bool
	if d.oldest, ok = parseFirmware(d.minFirmware); !ok {
		return tpmDemand{}, fieldError(field+".min_firmware", "%.64q is not a version such as 7.85: up to %d numbers with dots", d.minFirmware, len(d.oldest))
	}
	d.title += " (firmware " + d.minFirmware + " or later)"
	return d, nil
}

// firmware is a version by its numbers; those that are not written are 0.
type firmware [4]uint32

// parseFirmware reads numbers with dots between them.
func parseFirmware(s string) (f firmware, ok bool) {
	if len(s) > maxFirmware {
		return firmware{}, false
	}
	for i := range f {
		part, rest, more := strings.Cut(s, ".")
		n, err := strconv.ParseUint(part, 10, 32)
		if err != nil {
			return firmware{}, false
		}
		f[i] = uint32(n)
		if !more {
			return f, true
		}
		s = rest
	}
	return firmware{}, false
}

// tpmTitles is "a TPM of A, B or C".
func tpmTitles(tpms []tpmDemand) string {
	titles := make([]string, len(tpms))
	for i := range tpms {
		titles[i] = tpms[i].title
	}
	last := len(titles) - 1
	if last == 0 {
		return "a TPM of " + titles[0]
	}
	return "a TPM of " + strings.Join(titles[:last], ", ") + " or " + titles[last]
}

// match tells whether d's manufacturer made the TPM of ev, with firmware that
// is new enough. What is not known matches nothing.
func (d *tpmDemand) match(ev *Evidence) bool {
	if ev.TPMManufacturer != d.manufacturer {
		return false
	}
	if d.minFirmware == "" {
		return true
	}
	has, ok := parseFirmware(ev.TPMFirmware)
	return ok && slices.Compare(has[:], d.oldest[:]) >= 0
}

// tpmMet tells whether the TPM of ev is one of those that d wants.
func (d *evidenceDemands) tpmMet(ev *Evidence) bool {
	return len(d.tpms) == 0 || slices.ContainsFunc(d.tpms, func(t tpmDemand) bool { return t.match(ev) })
}

// checkEvidence gives CauseUnknown where the subject meets d.
func (e *evaluation) checkEvidence(d *evidenceDemands) Cause {
	sub := &e.request.Subject
	switch ev := &sub.DeviceEvidence; {
	case !sub.trusted():
		e.tookPart(d.noDevice)
		return CauseTrustedDevice
	case ev.Level.rank() < d.level.rank():
		e.tookPart(d.tooLow)
		return CauseEvidence
	case !d.tpmMet(ev):
		e.tookPart(d.otherTPM)
		return CauseEvidence
	}
	e.tookPart(d.met)
	return CauseUnknown
}

// evidenceReason is the sentence for CauseEvidence: about the highest level
// that a role demands here or, where that is given, about the TPM.
func (e *evaluation) evidenceReason() string {
	ev := &e.request.Subject.DeviceEvidence
	if want := highestLevel(e.here); ev.Level.rank() < want.rank() {
		return fmt.Sprintf("access to resource requires a device with evidence %s, and this one gave %s", want.title(), ev.Level.title())
	}
	for _, r := range e.here {
		if r.evidence != nil && !r.evidence.tpmMet(ev) {
			return fmt.Sprintf("access to resource requires a device with %s, and this one's is %s", tpmTitles(r.evidence.tpms), ev.tpmTitle())
		}
	}
	return "access to resource requires a device with evidence" // not reached: one of them was not met
}

func highestLevel(roles []*role) EvidenceLevel {
	highest := EvidenceNone
	for _, r := range roles {
		if r.evidence != nil && r.evidence.level.rank() > highest.rank() {
			highest = r.evidence.level
		}
	}
	return highest
}
