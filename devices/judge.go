package devices

import (
	"time"

	"connectrpc.com/connect"

	"devicetrust/api"
	"devicetrust/policy"
	"devicetrust/resource"
	"devicetrust/store"
)

// judgement is what comes of what a device showed.
type judgement struct {
	// refused is nil where the device is let in.
	refused *api.Refusal
	// notes are for the record, warnings for the person.
	notes, warnings []string
}

// judge holds what a device showed against what it should show, and keeps it:
// first whether its TPM went back in time, then whether its PCRs have changed.
func (a *authenticating) judge(tx *store.Tx, d *resource.Device, m measured, now time.Time) (j judgement, err error) {
	var trust policy.DeviceTrust
	if a.demands.Trust != nil {
		if trust, err = a.demands.Trust(tx); err != nil {
			return judgement{}, err
		}
	}
	manufacturer := ""
	if d.Spec.Evidence != nil {
		manufacturer = d.Spec.Evidence.TPMManufacturer
	}
	d.Spec.Evidence = shown(m, manufacturer, now)
	if m.quoted == nil {
		return judgement{}, nil
	}
	if why := discontinuity(a.device.Spec.Baseline, d.Spec.Baseline, m.quoted.counters); why != "" {
		j = judgement{refused: errFrozen(*d, why), notes: []string{why}}
		err = a.freeze(tx, d, why, now, a.event(true, ""), a.demands.Frozen)
	} else {
		j = a.comparePCRs(d, m.quoted, trust, now)
	}
	if err != nil {
		return judgement{}, err
	}
	kept := evidenceOf(toLogIn, a.binding.User, m, now)
	kept.accepted = j.refused == nil
	return j, keep(tx, d.Metadata.Name, kept)
}

// comparePCRs says what the cluster's policy makes of PCRs that are not as in
// the baseline. A device that was enrolled before there were baselines gets
// one, unless the policy lets in nothing that was not accepted.
func (a *authenticating) comparePCRs(d *resource.Device, q *quoted, trust policy.DeviceTrust, now time.Time) (j judgement) {
	enforce := enforces(trust.PCRPolicy)
	if d.Spec.Baseline != nil {
		advance(d.Spec.Baseline, q.counters)
	} else if !enforce {
		d.Spec.Baseline = baselineOf(q, now)
	}
	changed := changedPCRs(d.Spec.Baseline, q.pcrs, comparedPCRs(trust))
	d.Spec.Evidence.ChangedPCRs = changed
	if len(changed) == 0 || !enforce && trust.PCRPolicy != policy.PCRPolicyWarn {
		return judgement{}
	}
	text := pcrNames(changed) + " changed"
	if d.Spec.Baseline == nil { // which only a strict policy leaves
		text = noBaseline
	}
	j.notes = []string{text}
	if enforce {
		j.refused = errPCRs(*d, text)
	} else {
		j.warnings = []string{text + " since this device was enrolled or last accepted"}
	}
	return j
}

// enforces is true of a policy that is not known, too.
func enforces(p policy.PCRPolicy) bool {
	switch p {
	case policy.PCRPolicyUnset, policy.PCRPolicyOff, policy.PCRPolicyWarn:
		return false
	default:
		return true
	}
}

// noBaseline is said of a device that was enrolled before there were any:
// nothing is known to have changed.
const noBaseline = "how it should start is not known"

func errPCRs(d resource.Device, text string) *api.Refusal {
	if d.Spec.Baseline == nil {
		return api.Refuse(connect.CodeFailedPrecondition, "device %s: %s", d.Spec.AssetTag, text).
			WithHint("An administrator accepts what it has shown now: dtctl devices accept %s", d.Metadata.Name)
	}
	return api.Refuse(connect.CodeFailedPrecondition, "device %s did not start as it should: %s", d.Spec.AssetTag, text).
		WithHint("After an update of its firmware or boot loader that is known, an administrator accepts it: dtctl devices accept %s", d.Metadata.Name)
}
