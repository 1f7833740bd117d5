package devices

import (
	"bytes"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"connectrpc.com/connect"
	"github.com/google/go-tpm/legacy/tpm2"

	"devicetrust/api"
	"devicetrust/audit/event"
	"devicetrust/resource"
	"devicetrust/store"
)

// counters are what a TPM counts and signs with each quote (TPMS_CLOCK_INFO,
// TPM 2.0 Part 2, section 10.11.1). On one chip they only grow, until it is
// cleared.
type counters struct {
	// reset counts the starts, restart the resumptions since the last one.
	reset, restart int64
	// clock, in milliseconds, grows while neither changes; across starts it
	// may go back, since it is seldom written down.
	clock int64
	// firmware is a dotted version.
	firmware string
}

// countersOf takes them from what a key of the endorsement hierarchy signed, in
// which they are the true ones (TPM 2.0 Part 1, section 36.7). Keys that were
// enrolled before they had to be there see other ones, each its own: none are
// taken from them, or a new key of the same TPM would look like a step back.
func countersOf(data *tpm2.AttestationData, akPublic []byte) counters {
	if !isPrimary(data.QualifiedSigner.Digest, akPublic) {
		return counters{}
	}
	return counters{
		reset: int64(data.ClockInfo.ResetCount), restart: int64(data.ClockInfo.RestartCount),
		clock:    int64(data.ClockInfo.Clock &^ (1 << 63)), // 292 million years
		firmware: dotted(data.FirmwareVersion),
	}
}

// isPrimary tells whether signer is the qualified name of a primary key in the
// endorsement hierarchy with that TPMT_PUBLIC (TPM 2.0 Part 1, section 16).
func isPrimary(signer *tpm2.HashValue, public []byte) bool {
	if signer == nil {
		return false
	}
	name, err := nameOf(signer.Alg, public)
	if err != nil {
		return false
	}
	want, err := nameOf(signer.Alg, slices.Concat(inEndorsementHierarchy, name))
	return err == nil && bytes.Equal(want[2:], signer.Value) // both begin with the algorithm
}

// dotted is a firmware version as people write it: TPM_PT_FIRMWARE_VERSION_1
// and _2, each in two halves.
func dotted(v uint64) string {
	return fmt.Sprintf("%d.%d.%d.%d", v>>48, v>>32&0xffff, v>>16&0xffff, v&0xffff)
}

// undotted reads a dotted version; ok is false for what is none.
func undotted(text string) (v uint64, ok bool) {
	parts := strings.Split(text, ".")
	if len(parts) != 4 {
		return 0, false
	}
	for _, p := range parts {
		n, err := strconv.ParseUint(p, 10, 16)
		if err != nil {
			return 0, false
		}
		v = v<<16 | n
	}
	return v, true
}

// before orders two readings of one chip in time.
func (c counters) before(other counters) bool {
	if c.reset != other.reset {
		return c.reset < other.reset
	}
	if c.restart != other.restart {
		return c.restart < other.restart
	}
	return c.clock < other.clock
}

// wentBack says in which way c is of before then; empty where it is not.
func (c counters) wentBack(then counters) string {
	older, okOlder := undotted(c.firmware)
	newer, okNewer := undotted(then.firmware)
	back := func(what string, from, to any) string {
		return fmt.Sprintf("the %s of its TPM went back from %v to %v", what, from, to)
	}
	switch {
	case c.reset < then.reset:
		return back("reset count", then.reset, c.reset)
	case c.reset == then.reset && c.restart < then.restart:
		return back("restart count", then.restart, c.restart)
	case c.reset == then.reset && c.restart == then.restart && c.clock < then.clock:
		return back("clock (ms)", then.clock, c.clock)
	case okOlder && okNewer && older < newer:
		return back("firmware version", then.firmware, c.firmware)
	}
	return ""
}

func baselineCounters(b *resource.DeviceBaseline) counters {
	return counters{b.ResetCount, b.RestartCount, b.ClockMillis, b.Firmware}
}

// advance takes a later reading into a baseline. Two logins at the same time
// may be recorded in either order.
func advance(b *resource.DeviceBaseline, c counters) {
	if baselineCounters(b).before(c) {
		b.ResetCount, b.RestartCount, b.ClockMillis = c.reset, c.restart, c.clock
	}
	known, _ := undotted(b.Firmware)
	if seen, ok := undotted(c.firmware); ok && known <= seen {
		b.Firmware = c.firmware
	}
}

// discontinuity says how a reading is of before what was known of the device
// when it was challenged, and of before what is known now: a login at the same
// time may have brought a later one in, and an administrator have accepted an
// earlier one.
func discontinuity(challenged, now *resource.DeviceBaseline, c counters) string {
	if challenged == nil || now == nil || c.wentBack(baselineCounters(now)) == "" {
		return ""
	}
	return c.wentBack(baselineCounters(challenged))
}

// freeze stops trusting a device and ends what its machine was given, until an
// administrator accepts it.
func (i *Inventory) freeze(tx *store.Tx, d *resource.Device, why string, now time.Time, by event.Event, end func(tx *store.Tx, id string) error) error {
	d.Spec.Frozen = &resource.DeviceFreeze{Time: now, Reason: why}
	all, err := machineOf(tx, *d)
	if err != nil {
		return err
	}
	for _, one := range all {
		if err := i.end(tx, one.Metadata.Name, end); err != nil {
			return err
		}
	}
	by.Type, by.Success, by.Reasons = event.DeviceFreeze, true, []string{why}
	_, err = i.log.Record(tx, by)
	return err
}

// withTPM gives d and the other devices of the TPM with that endorsement key:
// the same machine under other operating systems. Of an empty digest there is d
// alone.
func withTPM(tx *store.Tx, d resource.Device, ekDigest string) ([]resource.Device, error) {
	same, err := find(tx, `ek_digest = $1 AND ek_digest <> '' AND id <> $2`, ekDigest, d.Metadata.Name)
	return append(same, d), err
}

// machineOf gives an enrolled device and the others of its TPM.
func machineOf(tx *store.Tx, d resource.Device) ([]resource.Device, error) {
	if d.Spec.Credential == nil {
		return []resource.Device{d}, nil
	}
	return withTPM(tx, d, d.Spec.Credential.TPMEKKeyDigest)
}

// machineNotFrozen refuses d where it is frozen, under whichever system: who
// has a copy of a machine has all of them.
func machineNotFrozen(tx *store.Tx, d resource.Device) error {
	all, err := machineOf(tx, d)
	if err != nil {
		return err
	}
	for _, one := range all {
		if err := notFrozen(one); err != nil {
			return err
		}
	}
	return nil
}

// notFrozen refuses a device whose TPM went back in time.
func notFrozen(d resource.Device) error {
	if d.Spec.Frozen == nil {
		return nil
	}
	return errFrozen(d, d.Spec.Frozen.Reason)
}

func errFrozen(d resource.Device, why string) *api.Refusal {
	return api.Refuse(connect.CodeFailedPrecondition, "device %s is frozen: %s, as when a virtual TPM is copied or rolled back", d.Spec.AssetTag, why).
		WithHint("An administrator who knows why (the TPM was cleared, its firmware is an older one again) lets it in: dtctl devices accept %s", d.Metadata.Name)
}
