package devices

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"connectrpc.com/connect"
	"github.com/google/go-attestation/attest"

	"devicetrust/api"
	"devicetrust/policy"
)

// bootPCRs are 0 to 7, which the firmware and the boot loader extend, and which
// nothing resets but a restart (TCG PC Client Platform Firmware Profile,
// section 3.3.4).
const bootPCRs = 8

// secureBootPCR holds the Secure Boot variables and keys (section 3.3.4.8).
const secureBootPCR = 7

// explained is how much an event log says of PCRs 0 to 7, and why no more.
type explained struct {
	level   policy.EvidenceLevel
	reasons []string
}

func unexplained(format string, args ...any) explained {
	return explained{policy.EvidenceQuote, []string{"event log: " + fmt.Sprintf(format, args...)}}
}

func withoutSHA256() explained { return unexplained("it has no SHA-256 digests") }

// explain replays an event log against the PCRs of a quote that holds. A log is
// what anybody can write, until it is seen to end in the very values that the
// TPM signed: one that does not adds nothing. One that cannot be read is
// refused, so that nobody falls to a lower level unseen.
func explain(log []byte, quoted []attest.PCR) (explained, error) {
	if len(log) == 0 {
		return unexplained("empty"), nil
	}
	if err := checkSpecID(log); err != nil {
		return explained{}, withDetail(errEventLog, err)
	}
	if isOldLog(log) {
		return withoutSHA256(), nil
	}
	parsed, err := attest.ParseEventLog(log)
	if err != nil {
		return explained{}, withDetail(errEventLog, bounded(err))
	}
	if !slices.Contains(parsed.Algs, attest.HashSHA256) {
		return withoutSHA256(), nil
	}
	boot := quoted[:bootPCRs]
	events, err := parsed.Verify(boot)
	if replay, ok := errors.AsType[attest.ReplayError](err); ok {
		return unexplained("it does not explain %s", pcrNames(replay.InvalidPCRs)), nil
	}
	if err != nil {
		return unexplained("it cannot be replayed: %v", bounded(err)), nil
	}
	if missing := withoutEvents(boot, events); len(missing) > 0 {
		return unexplained("it has no events for %s", pcrNames(missing)), nil
	}
	if len(events) == 0 {
		return unexplained("it has no events for PCRs 0 to 7"), nil
	}
	return secureBoot(events), nil
}

var errEventLog = api.Refuse(connect.CodeInvalidArgument, "the event log of the machine's firmware cannot be read").
	WithHint("If the firmware writes a broken one, send none: DTSH_TPM_EVENT_LOG=off dtsh login")

// Offsets in the first event, which is in the old form (TCG_PCR_EVENT: PCR,
// type, SHA-1 digest, size: 32 bytes), and says in which form the others are
// (TCG_EfiSpecIDEvent; TCG PC Client Platform Firmware Profile, sections 10.2.1
// and 10.4.5.1).
const (
	atType       = 4
	atSpecID     = 32
	atAlgorithms = atSpecID + 24
	noAction     = 3 // EV_NO_ACTION
)

// checkSpecID bounds the list of algorithms, which the parser walks through for
// every digest.
func checkSpecID(log []byte) error {
	if !announced(log) || len(log) < atAlgorithms+4 {
		return nil
	}
	if n := binary.LittleEndian.Uint32(log[atAlgorithms:]); n > maxLogAlgorithms {
		return fmt.Errorf("%d digest algorithms, at most %d can be", n, maxLogAlgorithms)
	}
	return nil
}

// isOldLog tells of a log that announces the form of TPM 1.2, which the parser
// takes for a broken one of ours.
func isOldLog(log []byte) bool {
	return announced(log) && bytes.HasPrefix(log[atSpecID:], []byte("Spec ID Event0")) && !bytes.HasPrefix(log[atSpecID:], []byte("Spec ID Event03"))
}

func announced(log []byte) bool {
	return len(log) > atSpecID && binary.LittleEndian.Uint32(log[atType:]) == noAction
}

// withoutEvents gives the PCRs that were extended and that no event is of. The
// replay takes a PCR without events as it is.
func withoutEvents(pcrs []attest.PCR, events []attest.Event) (missing []int) {
	seen := map[int]bool{}
	for _, e := range events {
		seen[e.Index] = true
	}
	for _, p := range pcrs {
		if !seen[p.Index] && !bytes.Equal(p.Digest, make([]byte, len(p.Digest))) {
			missing = append(missing, p.Index)
		}
	}
	return missing
}

// secureBoot looks for what the firmware said of Secure Boot, in events that
// were replayed.
func secureBoot(events []attest.Event) explained {
	none := func(format string, args ...any) explained {
		return explained{policy.EvidenceEventLog, []string{"secure boot: " + fmt.Sprintf(format, args...)}}
	}
	state, err := attest.ParseSecurebootState(events)
	switch {
	case err != nil:
		return none("not known: %v", bounded(err))
	case !slices.ContainsFunc(events, func(e attest.Event) bool { return e.Index == secureBootPCR }):
		return none("not known: PCR %d has no events", secureBootPCR)
	case !state.Enabled:
		return none("off")
	}
	return explained{level: policy.EvidenceSecureBoot}
}

// bounded keeps of what a parser says about foreign bytes one short line.
func bounded(err error) error { return fmt.Errorf("%.200q", err.Error()) }

// pcrNames is "PCR 4, 7".
func pcrNames[N int | int64](pcrs []N) string {
	var names []string
	for _, n := range pcrs {
		names = append(names, strconv.Itoa(int(n)))
	}
	return "PCR " + strings.Join(names, ", ")
}
