package policy

import (
	"fmt"
	"testing"
)

// BenchmarkDecide: the limit is 5 µs with 20 roles (the product's promise).
func BenchmarkDecide(b *testing.B) {
	s, r := twentyRoles(b)
	b.Run("allowed", func(b *testing.B) { benchmark(b, s, r, CauseGranted) })
	r.Subject.DeviceEvidence.Level = EvidenceQuote
	b.Run("less-evidence", func(b *testing.B) { benchmark(b, s, r, CauseEvidence) })
	r.Subject.DeviceID = ""
	b.Run("no-device", func(b *testing.B) { benchmark(b, s, r, CauseTrustedDevice) })
	r.Login = "nobody"
	b.Run("not-granted", func(b *testing.B) { benchmark(b, s, r, CauseNotGranted) })
	r.Action, r.Login = SeeNode, ""
	b.Run("see-node", func(b *testing.B) { benchmark(b, s, r, CauseGranted) })
}

// One for the request, one for the roles, one for the rules: roles announce
// all that they may add.
func TestDecideAllocatesOnceForAllRules(t *testing.T) {
	s, r := twentyRoles(t)
	r.Subject.Roles = []string{"role-0", "role-2", "role-4", "role-6", "role-8"} // all of which match
	if n := testing.AllocsPerRun(100, func() { Decide(s, r) }); n > 3 {
		t.Errorf("%v allocations, want 3", n)
	}
}

func benchmark(b *testing.B, s *State, r Request, want Cause) {
	if d := Decide(s, r); d.Cause != want {
		b.Fatalf("got %+v, want %s", d, want)
	}
	b.ReportAllocs()
	for b.Loop() {
		Decide(s, r)
	}
	b.ReportMetric(5000, "limit-ns/op")
}

// twentyRoles: half of them match the node, and a device with evidence is
// demanded.
func twentyRoles(tb testing.TB) (*State, Request) {
	s, r := presetState(tb), session()
	s.Preference.DeviceTrust.Mode = ModeRequired
	r.Subject.Roles = nil
	r.Subject.DeviceEvidence = Evidence{EvidenceSecureBoot, "IFX", "7.85.4555.0"}
	r.Node.Labels = map[string]string{"env": "dev", "team": "a", "os": "linux"}
	for i := range 20 {
		name := fmt.Sprintf("role-%d", i)
		team := Values{"c", "b", "a"}
		if i%2 == 1 {
			team = Values{"x", "y"}
		}
		s.Roles[name] = mustRole(tb, name, RoleSpec{
			Options: RoleOptions{DeviceTrustMode: ModeRequired, DeviceEvidence: &EvidenceDemand{
				Level: EvidenceEventLog, TPMs: []TPMDemand{{Manufacturer: "STM"}, {Manufacturer: "IFX", MinFirmware: "7.85"}},
			}},
			Allow: RoleConditions{Logins: []string{"ubuntu", "{{internal.logins}}"}, NodeLabels: map[string]Values{"env": {"dev", "test"}, "team": team, "os": {"*"}}},
			Deny:  RoleConditions{NodeLabels: map[string]Values{"env": {"prod"}}},
		})
		r.Subject.Roles = append(r.Subject.Roles, name)
	}
	for i := range 50 {
		s.Locks = append(s.Locks, Lock{Name: fmt.Sprint(i), Target: LockTarget{User: fmt.Sprint("user-", i)}})
	}
	return s, r
}
