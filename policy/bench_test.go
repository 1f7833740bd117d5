package policy

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"
)

// BenchmarkDecide: the limit is 5 µs with 20 roles (the product's promise).
func BenchmarkDecide(b *testing.B) {
	s, r := twentyRoles(b)
	b.Run("allowed", func(b *testing.B) { benchmark(b, s, r, CauseGranted) })
	r.Subject.KeyAttested = false
	b.Run("software-key", func(b *testing.B) { benchmark(b, s, r, CauseAttestedKey) })
	r.Subject.DeviceEvidence.Level = EvidenceQuote
	b.Run("less-evidence", func(b *testing.B) { benchmark(b, s, r, CauseEvidence) })
	r.Subject.DeviceID = ""
	b.Run("no-device", func(b *testing.B) { benchmark(b, s, r, CauseTrustedDevice) })
	r.Login = "nobody"
	b.Run("not-granted", func(b *testing.B) { benchmark(b, s, r, CauseNotGranted) })
	r.Action, r.Login = SeeNode, ""
	b.Run("see-node", func(b *testing.B) { benchmark(b, s, r, CauseGranted) })
}

// BenchmarkDecideRevoked is the same decision where 100,000 serials anywhere
// among a million are revoked, over that where none is: the limit is 1.1. The
// two take turns, for certificates from all over the list, and the fastest turn
// of each counts: what else the machine does only adds to it.
func BenchmarkDecideRevoked(b *testing.B) {
	none, r := twentyRoles(b)
	many := *none
	random := rand.New(rand.NewPCG(1, 2))
	var revoked []Revocation
	for serial := uint64(1); len(revoked) < 100_000; serial += 2 + random.Uint64N(18) {
		revoked = append(revoked, Revocation{First: serial, Last: serial, Reason: "logged out"})
	}
	var err error
	if many.Revoked, err = NewRevocations(revoked...); err != nil {
		b.Fatal(err)
	}
	serials := make([]uint64, 200)
	for i := range serials {
		serials[i] = revoked[random.IntN(len(revoked))].Last + 1
	}
	fastest := map[*State]time.Duration{none: time.Hour, &many: time.Hour}
	for b.Loop() {
		for _, s := range []*State{none, &many} {
			began := time.Now()
			for _, r.Subject.Serial = range serials {
				if d := Decide(s, r); d.Cause != CauseGranted {
					b.Fatalf("got %+v", d)
				}
			}
			fastest[s] = min(fastest[s], time.Since(began))
		}
	}
	b.ReportMetric(float64(fastest[&many])/float64(fastest[none]), "x_none")
	b.ReportMetric(1.1, "limit-x_none")
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

// twentyRoles: half of them match the node, and a device with evidence and a key
// in its TPM is demanded.
func twentyRoles(tb testing.TB) (*State, Request) {
	s, r := presetState(tb), session()
	s.Preference.DeviceTrust.Mode = ModeRequired
	yes := true
	r.Subject.Roles, r.Subject.KeyAttested = nil, true
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
			}, RequireAttestedKey: &yes},
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
