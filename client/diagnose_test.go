package client

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"devicetrust/api/dtv1"
	"devicetrust/client/clienttest"
	"devicetrust/devices/tpm/tpmtest"
)

func TestWhoMayNotOpenTheTPMIsToldHowToBeAllowed(t *testing.T) {
	const device, rule = "/dev/tpmrm0", `KERNEL=="tpmrm[0-9]*", TAG+="uaccess"`
	for name, row := range map[string]struct {
		access access
		want   []string
		not    string
	}{
		"nothing is known":        {access{}, nil, "udev"},
		"a group, and not in it":  {access{device, "alice", "tss", true, false}, []string{"usermod -aG tss alice", "log in to the machine again", rule, rulesFile}, "GROUP="},
		"in it since the session": {access{device, "alice", "tss", true, true}, []string{"is in it now: log in to the machine again"}, "usermod"},
		"another group":           {access{device, "alice", "security", false, false}, []string{"usermod -aG security alice"}, "tss"},
		"root's own, with tss":    {access{device, "alice", "", true, false}, []string{rule + `, GROUP="tss", MODE="0660"`, "usermod -aG tss alice"}, ""},
		"root's own, without tss": {access{device, "alice", "", false, false}, []string{rule, "there is no group tss"}, "usermod"},
	} {
		got := row.access.remedy()
		for _, want := range row.want {
			if !strings.Contains(got, want) {
				t.Errorf("%s: %q, want %q in it", name, got, want)
			}
		}
		if row.not != "" && strings.Contains(got, row.not) || strings.Contains(got, "\n") {
			t.Errorf("%s: %q", name, got)
		}
	}
}

// states are those of a diagnosis by name.
func states(all []*dtv1.Finding) map[string]dtv1.Finding_State {
	out := map[string]dtv1.Finding_State{}
	for _, f := range all {
		out[f.GetName()] = f.GetState()
	}
	return out
}

func TestADiagnosisGoesAsFarAsItCan(t *testing.T) {
	const good, fault, note = dtv1.Finding_STATE_OK, dtv1.Finding_STATE_FAULT, dtv1.Finding_STATE_NOTE
	dmi := t.TempDir()
	if err := os.WriteFile(filepath.Join(dmi, "product_serial"), []byte("C00AA0AAAA0A"), 0o600); err != nil {
		t.Fatal(err)
	}
	c, h := clienttest.Start(t), newHome(t)
	c.Findings = []*dtv1.Finding{{Name: "registered", State: fault, Detail: "no", Remedy: "add it"}}
	diagnose := func(address string, p *Profile) []*dtv1.Finding {
		m := &Machine{Home: h, DMIDir: dmi, Chip: NewChip(address), Now: time.Now}
		return m.Diagnose(t.Context(), p, options())
	}
	check := func(name string, got []*dtv1.Finding, want map[string]dtv1.Finding_State) {
		t.Helper()
		if diff := cmp.Diff(want, states(got)); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
		for _, f := range got {
			if f.GetState() == fault && f.GetRemedy() == "" || strings.Contains(f.GetDetail()+f.GetRemedy(), "\n") {
				t.Errorf("%s: %v has no remedy of one line", name, f)
			}
		}
	}
	check("no TPM, no cluster", diagnose(filepath.Join(dmi, "none"), nil), map[string]dtv1.Finding_State{
		"tpm": fault, "asset_tag": good, "login": fault, "enrollment": note, "key": note, "login_key": note, "cluster": note, "certificate": note,
	})
	chip := tpmtest.Start(t).Address
	p := loggedIn(t, c, h, nil)
	check("logged in", diagnose(chip, p), map[string]dtv1.Finding_State{
		"tpm": good, "asset_tag": good, "login": good, "enrollment": fault, "key": note, "login_key": good, "cluster": good, "registered": fault, "certificate": fault,
	})
	p = loggedIn(t, c, h, clienttest.Prove)
	if got := states(diagnose(chip, p)); got["certificate"] != good {
		t.Errorf("of a trusted login: %v", got)
	}
	if asked := c.Diagnosed(); asked == nil || asked.GetDevice().GetAssetTag() != "C00AA0AAAA0A" {
		t.Errorf("the server was asked %v", asked)
	}
}

func TestADiagnosisTellsOfKeysOfAnotherTPM(t *testing.T) {
	c, h := clienttest.Start(t), newHome(t)
	m, _ := enrolledMachine(t, h)
	p := loggedIn(t, c, h, m.Prove)
	if got := states(m.Diagnose(t.Context(), p, options())); got["login_key"] != dtv1.Finding_STATE_OK || got["certificate"] != dtv1.Finding_STATE_OK {
		t.Errorf("on the machine: %v", got)
	}
	m.Chip = NewChip(tpmtest.Start(t).Address)
	defer m.Chip.Close()
	for _, f := range m.Diagnose(t.Context(), p, options()) {
		switch f.GetName() {
		case "login_key":
			if f.GetState() != dtv1.Finding_STATE_FAULT || !strings.Contains(f.GetRemedy(), "dtsh login") {
				t.Errorf("%v", f)
			}
		case "cluster", "certificate":
			if f.GetState() != dtv1.Finding_STATE_NOTE {
				t.Errorf("%v", f)
			}
		}
	}
}
