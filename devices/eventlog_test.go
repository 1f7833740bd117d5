package devices

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"slices"
	"strings"
	"testing"

	"devicetrust/api"
	"devicetrust/api/dtv1"
	"devicetrust/audit/event"
	"devicetrust/policy"
	"devicetrust/store/storetest"
)

func TestAnEventLogCountsForWhatItExplains(t *testing.T) {
	secure, open := uefi(t, true), uefi(t, false)
	clone := func(fw *firmware) *firmware { return &firmware{measured: slices.Clone(fw.measured)} }
	other := clone(secure)
	other.measured[len(other.measured)-1].data = []byte("boot loader 2")
	// Software can extend PCRs further, and write what it likes beside it.
	forged := clone(open)
	forged.measured = append(forged.measured, measurement{7, evVariableConfig, variable("SecureBoot", []byte{1}), nil})
	claimed := clone(open)
	claimed.measured[1].digest = claimed.measured[1].sum()
	claimed.measured[1].data = variable("SecureBoot", []byte{1})
	silent7 := clone(secure)
	silent7.measured = withoutPCR(silent7.measured, 7)
	silent4 := clone(secure)
	silent4.measured = withoutPCR(silent4.measured, 4)
	sha1Only := clone(secure)
	sha1Only.sha1 = true
	old := bytes.Replace(secure.log(), []byte("Spec ID Event03"), []byte("Spec ID Event02"), 1)
	nothing := (&firmware{}).pcrs()

	for _, test := range []struct {
		name string
		log  []byte
		pcrs *firmware
		want policy.EvidenceLevel
		why  string
	}{
		{"all of it, with Secure Boot on", secure.log(), secure, policy.EvidenceSecureBoot, ""},
		{"all of it, with Secure Boot off", open.log(), open, policy.EvidenceEventLog, "secure boot: off"},
		{"the log of another boot loader", other.log(), secure, policy.EvidenceQuote, "does not explain PCR 4"},
		{"the log of another setting", secure.log(), open, policy.EvidenceQuote, "it does not explain PCR 7"},
		{"a setting that was measured later", forged.log(), forged, policy.EvidenceEventLog, "duplicate EFI variable"},
		{"a setting that is not what was measured", claimed.log(), claimed, policy.EvidenceEventLog, "invalid digest for variable"},
		{"nothing of PCR 4", silent4.log(), secure, policy.EvidenceQuote, "no events for PCR 4"},
		{"nothing of PCR 7", silent7.log(), secure, policy.EvidenceQuote, "no events for PCR 7"},
		{"nothing of PCR 7, which was not extended", silent7.log(), silent7, policy.EvidenceEventLog, "PCR 7 has no events"},
		{"no events at all", specID(0x000b), secure, policy.EvidenceQuote, "no events for PCR 0, 1, 2, 3, 4, 5, 6, 7"},
		{"no events, and nothing extended", specID(0x000b), nil, policy.EvidenceQuote, "no events for PCRs 0 to 7"},
		{"SHA-1 digests", sha1Only.log(), secure, policy.EvidenceQuote, "no SHA-256 digests"},
		{"the form of TPM 1.2", old, secure, policy.EvidenceQuote, "no SHA-256 digests"},
		{"no log", nil, secure, policy.EvidenceQuote, "empty"},
	} {
		t.Run(test.name, func(t *testing.T) {
			pcrs := nothing
			if test.pcrs != nil {
				pcrs = test.pcrs.pcrs()
			}
			got, err := explain(test.log, pcrs)
			if err != nil {
				t.Fatal(err)
			}
			reasons := strings.Join(got.reasons, "; ")
			if got.level != test.want || !strings.Contains(reasons, test.why) || test.why == "" && reasons != "" {
				t.Errorf("%q, %q; want %q, %q", got.level, reasons, test.want, test.why)
			}
		})
	}
}

func withoutPCR(all []measurement, pcr uint32) (some []measurement) {
	for _, m := range all {
		if m.pcr != pcr {
			some = append(some, m)
		}
	}
	return some
}

func TestAnEventLogThatCannotBeReadIsRefused(t *testing.T) {
	fw := uefi(t, true)
	log := fw.log()
	many := make([]uint16, maxLogAlgorithms+1)
	for i := range many {
		many[i] = 0x000b
	}
	unknown := bytes.Clone(log)
	binary.LittleEndian.PutUint16(unknown[len(specID(0x000b))+12:], 0x4242)
	for name, bad := range map[string][]byte{
		"cut off":               log[:len(log)-1],
		"cut off in a digest":   log[:len(specID(0x000b))+20],
		"cut off at once":       log[:10],
		"something else":        []byte("anything that is not an event log"),
		"an unknown algorithm":  unknown,
		"too many algorithms":   specID(many...),
		"something follows":     append(bytes.Clone(log), 1),
		"an event without end":  append(bytes.Clone(log), 4, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff),
		"digests without end":   append(bytes.Clone(log), 4, 0, 0, 0, 4, 0, 0, 0, 0xff, 0xff, 0xff, 0xff),
		"a version of its own":  bytes.Replace(log, []byte("Event03"), []byte("Event99"), 1),
		"no more than one type": {0, 0, 0, 0, 3, 0, 0, 0},
	} {
		_, err := explain(bad, fw.pcrs())
		wantRefusal(t, err, "event log")
		var r *api.Refusal
		if errors.As(err, &r) && !strings.Contains(r.Hint, "DTSH_TPM_EVENT_LOG=off") {
			t.Errorf("%s: the hint is %q", name, r.Hint)
		}
	}
}

func TestALoginIsOfTheLevelThatItsEventLogProves(t *testing.T) {
	w, m, fw := newWorld(t, storetest.Open(t)), newMachine(t), uefi(t, true)
	fw.boot(t, m)
	sendLog := func(log []byte) func(*dtv1.TPMPlatform) {
		return func(p *dtv1.TPMPlatform) { p.EventLog = log }
	}
	token := w.register(t, m).Token
	if err := w.enrollWith(t, m, enrollment{token: token, onAnswer: func(a *dtv1.TPMEnrollChallengeResponse) { a.Platform.EventLog = fw.log() }}); err != nil {
		t.Fatal(err)
	}
	if e := w.device(t, testTag).Spec.Evidence; e == nil || e.Level != "secure_boot" || e.TPMFirmware == "" || len(e.Reasons) > 0 {
		t.Errorf("after the enrollment: %+v", e)
	}

	v, err := w.loginWith(t, m, login{onAnswer: sendLog(fw.log())})
	if err != nil {
		t.Fatal(err)
	}
	if got := v.Evidence(); got.Level != "secure_boot" || !strings.HasPrefix(got.TPMFirmware, "8217.4131.") {
		t.Errorf("evidence %+v", got)
	}
	v, err = w.loginWith(t, m, login{})
	if err != nil || v.Evidence().Level != "quote" {
		t.Errorf("without a log: %+v, %v", v.Evidence(), err)
	}
	if e := w.lastEvent(t, event.DeviceAuthenticate); strings.Join(e.Reasons, "; ") != "evidence: quote; event log: empty" {
		t.Errorf("the record says %q", e.Reasons)
	}
	digest := sha256.Sum256([]byte("something else"))
	extend(t, m, 4, digest[:])
	v, err = w.loginWith(t, m, login{onAnswer: sendLog(fw.log())})
	if err != nil || v.Evidence().Level != "quote" {
		t.Errorf("with the log of another start: %+v, %v", v.Evidence(), err)
	}
	if e := w.device(t, testTag).Spec.Evidence; len(e.Reasons) != 1 || e.Reasons[0] != "event log: it does not explain PCR 4" {
		t.Errorf("evidence %+v", e)
	}
	_, err = w.loginWith(t, m, login{onAnswer: sendLog(fw.log()[:100])})
	wantRefusal(t, err, "event log")
	if e := w.lastEvent(t, event.DeviceAuthenticate); e.Success {
		t.Errorf("a log that cannot be read was let in: %+v", e)
	}
}

// FuzzEventLog holds any log against PCRs that nothing was measured into, and
// against those of one firmware: neither shall it end the server, nor shall a
// log count that does not end in the values of the TPM.
func FuzzEventLog(f *testing.F) {
	fw := uefi(f, true)
	log := fw.log()
	f.Add(log)
	f.Add(uefi(f, false).log())
	f.Add(log[:200])
	f.Add(specID(0x000b, 0x0004))
	f.Add([]byte{})
	empty := (&firmware{}).pcrs()
	pcrs := fw.pcrs()
	pcrs[4].Digest = bytes.Repeat([]byte{7}, 32) // what no log can explain
	f.Fuzz(func(t *testing.T, log []byte) {
		if len(log) > maxEventLog {
			return
		}
		for _, quoted := range [][]byte{empty[4].Digest, pcrs[4].Digest} {
			set := empty
			if quoted[0] != 0 {
				set = pcrs
			}
			got, err := guard(func() (explained, error) { return explain(log, set) })
			var r *api.Refusal
			if err != nil && !errors.As(err, &r) {
				t.Errorf("not a refusal: %v", err)
			}
			if err == nil && (got.level != policy.EvidenceQuote || len(got.reasons) != 1 || len(got.reasons[0]) > 1000 || strings.ContainsRune(got.reasons[0], '\n')) {
				t.Errorf("%+v", got)
			}
		}
	})
}
