package devices

import (
	"context"
	"errors"
	"fmt"

	"connectrpc.com/connect"

	"devicetrust/api"
	"devicetrust/api/dtv1"
	"devicetrust/policy"
	"devicetrust/resource"
	"devicetrust/store"
)

// Evaluation is what a policy makes of what a device has shown. The zero value
// does not pass.
type Evaluation struct {
	Device resource.Device
	Passes bool
	Level  policy.EvidenceLevel
	// Reasons say why it does not pass, or what is worth knowing; one line
	// each.
	Reasons []string
}

// Evaluate holds the evidence that is kept of enrolled devices against trust,
// and gives each to yield, by ID; ref names one, the zero value all of them. It
// changes nothing, and holds no transaction while yield runs.
func (i *Inventory) Evaluate(ctx context.Context, ref Ref, trust policy.DeviceTrust, yield func(Evaluation) error) error {
	if _, err := parseAllowed(trust.EKCertAllowedCAs); err != nil {
		return err
	}
	last := ""
	for {
		var page []subject
		err := i.db.Read(ctx, func(tx *store.Tx) (err error) {
			if ref != (Ref{}) {
				page, err = i.oneSubject(tx, ref)
			} else {
				page, err = subjectsAfter(tx, last)
			}
			return err
		})
		if err != nil {
			return err
		}
		for _, s := range page {
			last = max(last, s.device.Metadata.Name)
			if err := yield(i.evaluate(s, trust)); err != nil {
				return err
			}
		}
		if ref != (Ref{}) || len(page) < evaluated {
			return nil
		}
	}
}

// subject is a device that is evaluated, with what is kept of it.
type subject struct {
	device resource.Device
	// enrolled and last are nil where none is kept.
	enrolled, last *evidence
}

func (i *Inventory) oneSubject(tx *store.Tx, ref Ref) ([]subject, error) {
	d, err := i.Get(tx, ref)
	if err != nil {
		return nil, err
	}
	if d.Spec.EnrollStatus != resource.Enrolled {
		return nil, api.Refuse(connect.CodeFailedPrecondition, "device %s is not enrolled", label(d))
	}
	s, err := subjectOf(tx, d)
	return []subject{s}, err
}

func subjectsAfter(tx *store.Tx, id string) (page []subject, err error) {
	var found []resource.Device
	err = scan(tx, `enroll_status = $1 AND id > $2 ORDER BY id LIMIT $3`, []any{resource.Enrolled, id, evaluated},
		func(d resource.Device, _ int) bool {
			found = append(found, d)
			return true
		})
	if err != nil {
		return nil, err
	}
	for _, d := range found {
		s, err := subjectOf(tx, d)
		if err != nil {
			return nil, err
		}
		page = append(page, s)
	}
	return page, nil
}

func subjectOf(tx *store.Tx, d resource.Device) (s subject, err error) {
	s.device = d
	if s.enrolled, err = latest(tx, d.Metadata.Name, toEnroll); err != nil {
		return subject{}, err
	}
	s.last, err = latest(tx, d.Metadata.Name, "")
	return s, err
}

// evaluate looks at everything, so that what is said is all that is wrong.
func (i *Inventory) evaluate(s subject, trust policy.DeviceTrust) Evaluation {
	e := Evaluation{Device: s.device}
	var faults, notes []string
	blame := func(err error) {
		if err != nil {
			faults = append(faults, reasonOf(err))
		}
	}
	if f := s.device.Spec.Frozen; f != nil {
		blame(errors.New("frozen: " + f.Reason))
	}
	if c := s.device.Spec.Credential; c != nil && c.DeviceAttestationType == attestedMacOS {
		// It has no TPM, and nothing more can be known of it.
		e.Level = policy.EvidenceKey
		blame(macAllowed(trust.EKCertAllowedCAs))
	} else {
		blame(i.evaluateEndorsement(s, trust))
		m, err := evaluateQuote(s)
		blame(err)
		if err == nil {
			note, fault := evaluatePCRs(s, m, trust)
			blame(fault)
			e.Level, notes = m.level, append(note, m.notes...)
		}
	}
	e.Passes, e.Reasons = len(faults) == 0 && e.Level != policy.EvidenceNone, append(faults, notes...)
	return e
}

// evaluatePCRs gives a change as a fault where the policy enforces PCRs, as an
// unknown one does.
func evaluatePCRs(s subject, m measured, trust policy.DeviceTrust) (note []string, fault error) {
	changed := changedPCRs(s.device.Spec.Baseline, m.quoted.pcrs, comparedPCRs(trust))
	if len(changed) == 0 {
		return nil, nil
	}
	text := pcrNames(changed) + " changed"
	if s.device.Spec.Baseline == nil {
		text = noBaseline
	}
	if enforces(trust.PCRPolicy) {
		return nil, errors.New(text)
	}
	return []string{text}, nil
}

// evaluateEndorsement judges the endorsement key as if the device enrolled now.
func (i *Inventory) evaluateEndorsement(s subject, trust policy.DeviceTrust) error {
	if len(trust.EKCertAllowedCAs) == 0 {
		return nil
	}
	if s.enrolled == nil {
		return errors.New("the endorsement key certificate was not kept when it enrolled")
	}
	d := s.enrolled.document
	ek, err := guard(func() (endorsement, error) {
		return checkEndorsement(&dtv1.TPMEnroll{EkCert: d.EKCertificate, EkKey: d.EKKey}, Trust{AllowedCAs: trust.EKCertAllowedCAs}, i.now())
	})
	if err != nil {
		return err
	}
	if c := s.device.Spec.Credential; c == nil || c.TPMEKKeyDigest != ek.digest() {
		return errors.New("the endorsement key that was kept is not the one that it is enrolled with")
	}
	return nil
}

func evaluateQuote(s subject) (measured, error) {
	if s.last == nil {
		return measured{}, errors.New("no evidence of it is kept")
	}
	return s.last.verify(s.device)
}

// reasonOf is one line without hints.
func reasonOf(err error) string {
	if r, ok := errors.AsType[*api.Refusal](err); ok {
		return r.Message
	}
	return fmt.Sprint(err)
}
