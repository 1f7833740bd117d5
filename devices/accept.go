package devices

import (
	"bytes"
	"context"
	"fmt"
	"strconv"

	"connectrpc.com/connect"

	"devicetrust/api"
	"devicetrust/audit/event"
	"devicetrust/resource"
	"devicetrust/store"
)

// Accept takes what a device last showed as what it should show, and lets it in
// again where it was frozen. changes say what is different from before, one
// line each. It is refused where the device is not enrolled or has shown
// nothing that still verifies (CodeFailedPrecondition).
func (i *Inventory) Accept(ctx context.Context, actor string, ref Ref) (device resource.Device, changes []string, err error) {
	err = i.db.Write(ctx, func(tx *store.Tx) error {
		if device, err = i.Get(tx, ref); err != nil {
			return err
		}
		m, err := lastShown(tx, device)
		if err != nil {
			return err
		}
		now := i.instant()
		baseline := baselineOf(m.quoted, now)
		changes = differences(device.Spec, baseline)
		device.Spec.Baseline, device.Spec.Frozen, device.Spec.UpdateTime = baseline, nil, now
		if device.Spec.Evidence != nil {
			device.Spec.Evidence.ChangedPCRs = nil
		}
		if err := update(tx, &device); err != nil {
			return err
		}
		_, err = i.log.Record(tx, event.Event{Type: event.DeviceAccept, User: actor, Success: true, Device: described(device), Reasons: changes})
		return err
	})
	return device, changes, err
}

// lastShown is the newest evidence of an enrolled device, verified again with
// the key that it is enrolled with.
func lastShown(tx *store.Tx, d resource.Device) (measured, error) {
	if d.Spec.EnrollStatus != resource.Enrolled || d.Spec.Credential == nil {
		return measured{}, api.Refuse(connect.CodeFailedPrecondition, "device %s is not enrolled, so it has shown nothing", label(d)).
			WithHint("Give it a token: dtctl devices enroll --device-id=%s", d.Metadata.Name)
	}
	last, err := latest(tx, d.Metadata.Name, "")
	if err != nil {
		return measured{}, err
	}
	if last == nil {
		return measured{}, api.Refuse(connect.CodeFailedPrecondition, "device %s: no evidence of it is kept", label(d)).
			WithHint("It shows some at its next login with a TPM")
	}
	return last.verify(d)
}

// verify holds evidence against the key that the device is enrolled with now.
func (e *evidence) verify(d resource.Device) (measured, error) {
	if c := d.Spec.Credential; c == nil || !bytes.Equal(e.document.AKPublic, c.TPMAKPublic) {
		return measured{}, api.Refuse(connect.CodeFailedPrecondition, "device %s: what it last showed is not signed by the key that it is enrolled with", label(d))
	}
	m, err := e.document.verify()
	if err != nil {
		return measured{}, withDetail(api.Refuse(connect.CodeFailedPrecondition, "device %s: the evidence that is kept does not hold", label(d)), err)
	}
	return m, nil
}

// differences between what a device should have shown and what it shall show
// from now on. The clock always differs.
func differences(s resource.DeviceSpec, b *resource.DeviceBaseline) (changes []string) {
	if s.Frozen != nil {
		changes = append(changes, "frozen: "+s.Frozen.Reason)
	}
	before := s.Baseline
	if before == nil {
		return append(changes, "it had no baseline")
	}
	for n := range pcrCount {
		name := strconv.Itoa(n)
		if before.PCRs[name] != b.PCRs[name] {
			changes = append(changes, fmt.Sprintf("PCR %d: %s → %s", n, short(before.PCRs[name]), short(b.PCRs[name])))
		}
	}
	for _, c := range []struct {
		what     string
		from, to any
	}{
		{"reset count", before.ResetCount, b.ResetCount},
		{"restart count", before.RestartCount, b.RestartCount},
		{"firmware version", before.Firmware, b.Firmware},
	} {
		if c.from != c.to {
			changes = append(changes, fmt.Sprintf("%s: %v → %v", c.what, c.from, c.to))
		}
	}
	return changes
}

// short is the beginning of a PCR, for people.
func short(digest string) string {
	if len(digest) < 12 {
		return "unknown"
	}
	return digest[:12]
}
