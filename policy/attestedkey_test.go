package policy

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestARefusalForWantOfAnAttestedKeySaysWhatIsAsked(t *testing.T) {
	yes := true
	s, r := presetState(t), session()
	s.Roles["attested"] = mustRole(t, "attested", RoleSpec{
		Options: RoleOptions{RequireAttestedKey: &yes}, Allow: RoleConditions{NodeLabels: map[string]Values{"*": {"*"}}},
	})
	r.Subject.Roles = append(r.Subject.Roles, "attested")
	demand := func(detail string) Rule {
		return Rule{RuleRequire, `role "attested" options.require_attested_key`, "a key in the TPM of a trusted device is demanded, and " + detail}
	}
	for name, row := range map[string]struct {
		change func(*Subject)
		cause  Cause
		reason string
		rule   Rule
	}{
		"a software key": {func(*Subject) {}, CauseAttestedKey,
			"access to resource requires a key that is in the TPM of a trusted device", demand("the certificate's is not proved to be there")},
		"no device": {func(sub *Subject) { sub.DeviceID, sub.KeyAttested = "", true }, CauseTrustedDevice,
			"access to resource requires a trusted device", demand("there is no device")},
		"a key in the TPM": {func(sub *Subject) { sub.KeyAttested = true }, CauseGranted,
			`granted by role "access"`, demand("it is there")},
	} {
		r := r
		row.change(&r.Subject)
		d := Decide(s, r)
		if d.Cause != row.cause || d.Reason != row.reason || d.Allowed() != (row.cause == CauseGranted) {
			t.Errorf("%s: got %s because of %q", name, d.Reason, d.Cause)
		}
		if diff := cmp.Diff(row.rule, *d.Rules[len(d.Rules)-1]); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

// Who issues certificates asks by the limits, before it is known for which node.
func TestTheLimitsSayThatOneOfTheRolesDemandsAnAttestedKey(t *testing.T) {
	yes, no := true, false
	s := presetState(t)
	s.Roles["attested"] = mustRole(t, "attested", RoleSpec{Options: RoleOptions{RequireAttestedKey: &yes}})
	s.Roles["lenient"] = mustRole(t, "lenient", RoleSpec{Options: RoleOptions{RequireAttestedKey: &no}})
	for _, row := range []struct {
		roles []string
		want  bool
	}{{[]string{"access"}, false}, {[]string{"access", "lenient"}, false}, {[]string{"attested", "lenient", "access"}, true}} {
		d := Decide(s, Request{Action: LogIn, Subject: Subject{User: "alice", Roles: row.roles}, Now: now})
		if !d.Allowed() || d.Limits.AttestedKey != row.want {
			t.Errorf("%q: got %+v", row.roles, d)
		}
	}
}
