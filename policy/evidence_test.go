package policy

import (
	"fmt"
	"testing"
)

func TestARefusalForEvidenceSaysWhatIsAskedAndWhatWasGiven(t *testing.T) {
	tpms := []TPMDemand{{"IFX", "7.85"}, {"INTC", ""}, {"STM", ""}}
	for name, row := range map[string]struct {
		demands []EvidenceDemand
		given   Evidence
		want    string
	}{
		"less": {[]EvidenceDemand{{Level: EvidenceEventLog}}, Evidence{Level: EvidenceQuote},
			`access to resource requires a device with evidence "event_log", and this one gave "quote"`},
		"none": {[]EvidenceDemand{{Level: EvidenceKey}}, Evidence{},
			`access to resource requires a device with evidence "key", and this one gave none`},
		"what nobody has heard of": {[]EvidenceDemand{{Level: EvidenceKey}}, Evidence{Level: "x\ny"},
			`access to resource requires a device with evidence "key", and this one gave none`},
		"the highest that is asked": {[]EvidenceDemand{{TPMs: tpms}, {Level: EvidenceQuote}, {Level: EvidenceSecureBoot}, {Level: EvidenceEventLog}}, Evidence{Level: EvidenceKey},
			`access to resource requires a device with evidence "secure_boot", and this one gave "key"`},
		"no TPM": {[]EvidenceDemand{{TPMs: tpms}}, Evidence{Level: EvidenceSecureBoot},
			`access to resource requires a device with a TPM of IFX (firmware 7.85 or later), INTC or STM, and this one's is of an unknown manufacturer`},
		"another TPM": {[]EvidenceDemand{{TPMs: tpms[:1]}}, Evidence{TPMManufacturer: "NTC", TPMFirmware: "7.2.3.1"},
			`access to resource requires a device with a TPM of IFX (firmware 7.85 or later), and this one's is of "NTC" with firmware "7.2.3.1"`},
		"old firmware": {[]EvidenceDemand{{TPMs: tpms[1:]}, {TPMs: tpms[:1]}}, Evidence{TPMManufacturer: "INTC"},
			`access to resource requires a device with a TPM of IFX (firmware 7.85 or later), and this one's is of "INTC" with unknown firmware`},
		"any firmware that is known": {[]EvidenceDemand{{TPMs: []TPMDemand{{"IFX", "0"}}}}, Evidence{TPMManufacturer: "IFX"},
			`access to resource requires a device with a TPM of IFX (firmware 0 or later), and this one's is of "IFX" with unknown firmware`},
		"what cannot be printed": {[]EvidenceDemand{{TPMs: tpms[2:]}}, Evidence{TPMManufacturer: "A\x1b[2", TPMFirmware: "1\n2"},
			`access to resource requires a device with a TPM of STM, and this one's is of "A\x1b[2" with firmware "1\n2"`},
	} {
		t.Run(name, func(t *testing.T) {
			s, r := presetState(t), session()
			for i, d := range row.demands {
				role := string(rune('a' + i))
				s.Roles[role] = mustRole(t, role, RoleSpec{
					Options: RoleOptions{DeviceEvidence: &d}, Allow: RoleConditions{NodeLabels: map[string]Values{"*": {"*"}}},
				})
				r.Subject.Roles = append(r.Subject.Roles, role)
			}
			r.Subject.DeviceEvidence = row.given
			d := Decide(s, r)
			if d.Allowed() || d.Cause != CauseEvidence || d.Reason != row.want {
				t.Errorf("got %s because of %q\nwant %s", d.Reason, d.Cause, row.want)
			}
		})
	}
}

// Firmware is what a peer's TPM says: what is no version is no match.
func TestFirmwareIsNumbersWithDots(t *testing.T) {
	for _, text := range []string{"", ".", "7.", ".7", "7..8", "7.x", "+7", "7 ", "0x7", "1_0", "1.2.3.4.5", "4294967296", "٧"} {
		if f, ok := parseFirmware(text); ok {
			t.Errorf("%q was read as %d", text, f)
		}
	}
	for text, want := range map[string]firmware{
		"0": {}, "7.85": {7, 85}, "7.085": {7, 85}, "4294967295.4294967295.4294967295.4294967295": {1<<32 - 1, 1<<32 - 1, 1<<32 - 1, 1<<32 - 1},
	} {
		if f, ok := parseFirmware(text); !ok || f != want {
			t.Errorf("%q: got %d, %t, want %d", text, f, ok, want)
		}
	}
}

// FuzzFirmware: what is read is the same with all its numbers written.
func FuzzFirmware(f *testing.F) {
	for _, text := range []string{"7.85", "007", "1.2.3.4", "4294967296", "..", "1.2.3.4."} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		v, ok := parseFirmware(text)
		if !ok {
			if v != (firmware{}) {
				t.Errorf("%q is no version, and came with %d", text, v)
			}
			return
		}
		if again, ok := parseFirmware(fmt.Sprintf("%d.%d.%d.%d", v[0], v[1], v[2], v[3])); !ok || again != v {
			t.Errorf("%q was read as %d, and then as %d", text, v, again)
		}
	})
}
