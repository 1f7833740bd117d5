package policy

import (
	"fmt"
	"strconv"
)

// demand is what a mode asks of a subject, the strictest last.
type demand int

const (
	demandUnknown demand = iota // denies
	demandNothing
	demandOfHumans
	demandOfAll
)

func (m Mode) demand() demand {
	switch m {
	case ModeUnset, ModeOff, ModeOptional:
		return demandNothing
	case ModeRequiredForHumans:
		return demandOfHumans
	case ModeRequired:
		return demandOfAll
	default:
		return demandUnknown
	}
}

// CheckMode refuses a mode that nobody knows; an unset one is fine.
func CheckMode(m Mode) error {
	if m.demand() == demandUnknown {
		return fmt.Errorf("%.64q is not one of off, optional, required, required-for-humans", m)
	}
	return nil
}

// demands is a mode with the rules that it adds to a decision.
type demands struct {
	mode                        Mode
	nothing, ofBot, met, failed *Rule
}

func newDemands(source string, m Mode) demands {
	return demands{
		mode:    m,
		nothing: &Rule{RuleSkip, source, "no device is demanded"},
		ofBot:   &Rule{RuleSkip, source, "a trusted device is demanded of humans only"},
		met:     &Rule{RuleRequire, source, "a trusted device is demanded, and there is one"},
		failed:  &Rule{RuleRequire, source, "a trusted device is demanded, and there is none"},
	}
}

// clusterDemands are those of the cluster's mode, without the mode.
var clusterDemands = newDemands("cluster_auth_preference device_trust.mode", ModeUnset)

// checkDevice holds the subject to the cluster's mode, and to the mode, the
// evidence and the key of every role that allows the node, whether or not it
// grants the login. It gives CauseUnknown where the subject passes.
func (e *evaluation) checkDevice() Cause {
	cluster := clusterDemands
	cluster.mode = e.state.Preference.DeviceTrust.Mode
	cause := e.checkMode(&cluster)
	for _, r := range e.here {
		if r.demands.mode != ModeUnset {
			cause = worse(cause, e.checkMode(&r.demands))
		}
		if r.evidence != nil {
			cause = worse(cause, e.checkEvidence(r.evidence))
		}
		if r.key != nil {
			cause = worse(cause, e.checkKey(r.key))
		}
	}
	return cause
}

func (e *evaluation) checkMode(d *demands) Cause {
	sub := &e.request.Subject
	switch d.mode.demand() {
	case demandNothing:
		e.tookPart(d.nothing)
		return CauseUnknown
	case demandOfHumans:
		if sub.Bot {
			e.tookPart(d.ofBot)
			return CauseUnknown
		}
	case demandOfAll:
	default:
		e.tookPart(&Rule{RuleDeny, d.failed.Source, "the mode " + strconv.Quote(string(d.mode)) + " is unknown"})
		return CauseUnknownMode
	}
	if !sub.trusted() {
		e.tookPart(d.failed)
		return CauseTrustedDevice
	}
	e.tookPart(d.met)
	return CauseUnknown
}

// worse of two outcomes: a mode that nobody understands cannot be met, a
// demand for a device can, and what a device proves, and of which key, is asked
// where there is one.
func worse(a, b Cause) Cause {
	for _, c := range [...]Cause{CauseUnknownMode, CauseTrustedDevice, CauseEvidence, CauseAttestedKey} {
		if a == c || b == c {
			return c
		}
	}
	return CauseUnknown
}

// trusted tells whether the subject has a device: all of it, or it has none.
func (s *Subject) trusted() bool {
	return s.DeviceID != "" && s.DeviceAssetTag != "" && s.DeviceCredentialID != ""
}

// DemandersOf names what asks the subject for a trusted device on any node at
// all: the cluster, and roles. What an unknown mode asks for nobody can meet.
func DemandersOf(s *State, sub Subject) (names []string) {
	demands := func(m Mode) bool {
		d := m.demand()
		return d == demandUnknown || d == demandOfAll || d == demandOfHumans && !sub.Bot
	}
	if demands(s.Preference.DeviceTrust.Mode) {
		names = append(names, "the cluster")
	}
	for _, r := range s.rolesOf(sub) {
		if demands(r.demands.mode) || r.evidence != nil || r.key != nil {
			names = append(names, "role "+r.name)
		}
	}
	return names
}

func (e *evaluation) deviceReason(c Cause) string {
	switch c {
	case CauseTrustedDevice:
		return ReasonTrustedDevice
	case CauseEvidence:
		return e.evidenceReason()
	case CauseAttestedKey:
		return ReasonAttestedKey
	default:
		return "the cluster's device trust mode is unknown here, so nobody is let in"
	}
}
