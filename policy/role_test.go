package policy

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestNewRoleRefusesWhatItCannotHoldTo(t *testing.T) {
	logins := func(l ...string) RoleSpec { return RoleSpec{Allow: RoleConditions{Logins: l}} }
	labels := func(key string, values ...string) RoleSpec {
		return RoleSpec{Deny: RoleConditions{NodeLabels: map[string]Values{key: values}}}
	}
	rule := func(kind, verb string) RoleSpec {
		return RoleSpec{Allow: RoleConditions{Rules: []APIRule{{Resources: []string{kind}, Verbs: []string{verb}}}}}
	}
	evidence := func(d EvidenceDemand) RoleSpec { return RoleSpec{Options: RoleOptions{DeviceEvidence: &d}} }
	tpm := func(manufacturer, firmware string) RoleSpec {
		return evidence(EvidenceDemand{Level: EvidenceQuote, TPMs: []TPMDemand{{manufacturer, firmware}}})
	}
	for name, row := range map[string]struct {
		spec  RoleSpec
		field string
	}{
		"an unknown mode":        {RoleSpec{Options: RoleOptions{DeviceTrustMode: "strict"}}, "options.device_trust_mode"},
		"a negative time":        {RoleSpec{Options: RoleOptions{MaxSessionTTL: -1}}, "options.max_session_ttl"},
		"a life without end":     {RoleSpec{Options: RoleOptions{MaxSessionTTL: Duration(10000 * time.Hour)}}, "options.max_session_ttl"},
		"a negative idle time":   {RoleSpec{Options: RoleOptions{ClientIdleTimeout: -1}}, "options.client_idle_timeout"},
		"fewer than no sessions": {RoleSpec{Options: RoleOptions{MaxSessions: -1}}, "options.max_sessions"},
		"an unknown lock mode":   {RoleSpec{Options: RoleOptions{Lock: "loose"}}, "options.lock"},
		"evidence of nothing":    {evidence(EvidenceDemand{TPMs: []TPMDemand{}}), "options.device_evidence"},
		"an unknown level":       {evidence(EvidenceDemand{Level: "event-log"}), "options.device_evidence.level"},
		"no level of a TPM":      {evidence(EvidenceDemand{Level: "none", TPMs: []TPMDemand{{Manufacturer: "IFX"}}}), "options.device_evidence.level"},
		"a TPM of nobody":        {tpm("", ""), "options.device_evidence.tpms[0].manufacturer"},
		"a vendor by name":       {tpm("Infineon", ""), "options.device_evidence.tpms[0].manufacturer"},
		"a vendor with a space":  {tpm("IFX ", ""), "options.device_evidence.tpms[0].manufacturer"},
		"an unprintable vendor":  {tpm("IF\x00", ""), "options.device_evidence.tpms[0].manufacturer"},
		"a vendor in lower hex":  {tpm("id:0000101a", ""), "options.device_evidence.tpms[0].manufacturer"},
		"a vendor of six digits": {tpm("id:001014", ""), "options.device_evidence.tpms[0].manufacturer"},
		"a vendor with accents":  {tpm("Né", ""), "options.device_evidence.tpms[0].manufacturer"},
		"a vendor twice": {evidence(EvidenceDemand{TPMs: []TPMDemand{{Manufacturer: "IFX", MinFirmware: "7"}, {Manufacturer: "IFX"}}}),
			"options.device_evidence.tpms[1].manufacturer"},
		"too many vendors":       {evidence(EvidenceDemand{TPMs: make([]TPMDemand, maxTPMs+1)}), "options.device_evidence.tpms"},
		"firmware in words":      {tpm("IFX", "v7"), "options.device_evidence.tpms[0].min_firmware"},
		"firmware of five parts": {tpm("IFX", "1.2.3.4.5"), "options.device_evidence.tpms[0].min_firmware"},
		"firmware with a hole":   {tpm("IFX", "7..85"), "options.device_evidence.tpms[0].min_firmware"},
		"firmware and a dot":     {tpm("IFX", "7.85."), "options.device_evidence.tpms[0].min_firmware"},
		"firmware below 0":       {tpm("IFX", "-7"), "options.device_evidence.tpms[0].min_firmware"},
		"huge firmware":          {tpm("IFX", "4294967296"), "options.device_evidence.tpms[0].min_firmware"},
		"long firmware":          {tpm("IFX", strings.Repeat("0", maxFirmware)+"7"), "options.device_evidence.tpms[0].min_firmware"},
		"every login":            {logins("*"), "allow.logins[0]"},
		"no login":               {logins(""), "allow.logins[0]"},
		"another variable":       {logins("{{external.logins}}"), "allow.logins[0]"},
		"a login of two":         {logins("dev-{{internal.logins}}"), "allow.logins[0]"},
		"too many logins":        {logins(strings.Fields(strings.Repeat("a ", maxLogins+1))...), "allow.logins"},
		"a label without values": {labels("env"), "deny.node_labels.env"},
		"an empty value":         {labels("env", ""), "deny.node_labels.env"},
		"an empty label":         {labels("", "x"), "deny.node_labels."},
		"a glob":                 {labels("env", "prod-*"), "deny.node_labels.env"},
		"a glob in the name":     {labels("e*", "prod"), "deny.node_labels.e*"},
		"a regular expression":   {labels("env", "^prod.?$"), "deny.node_labels.env"},
		"a variable as value":    {labels("env", "{{internal.env}}"), "deny.node_labels.env"},
		"all labels of a value":  {labels("*", "prod"), "deny.node_labels"},
		"control characters":     {labels("env", "a\x1b[2J"), "deny.node_labels.env"},
		"a long value":           {labels("env", strings.Repeat("x", maxText+1)), "deny.node_labels.env"},
		"all labels and another": {RoleSpec{Allow: RoleConditions{NodeLabels: map[string]Values{"*": {"*"}, "env": {"dev"}}}}, "allow.node_labels"},
		"an unknown kind":        {rule("kube_cluster", "list"), "allow.rules[0].resources"},
		"an unknown verb":        {rule("user", "readnosecrets"), "allow.rules[0].verbs"},
		"a rule without kinds":   {RoleSpec{Deny: RoleConditions{Rules: []APIRule{{Verbs: []string{"*"}}}}}, "deny.rules[0].resources"},
		"a rule without verbs":   {RoleSpec{Deny: RoleConditions{Rules: []APIRule{{Resources: []string{"*"}}}}}, "deny.rules[0].verbs"},
	} {
		t.Run(name, func(t *testing.T) {
			r, err := NewRole("r", row.spec)
			var field *FieldError
			if !errors.As(err, &field) || field.Field != row.field {
				t.Errorf("got %v, want an error about %s", err, row.field)
			}
			if r.role != nil {
				t.Error("an error came with a role")
			}
		})
	}
}

func TestNamesOfRolesAreShortAndPlain(t *testing.T) {
	for _, name := range []string{"", "a b", "a/b", "é", strings.Repeat("a", maxName+1), "a\n"} {
		if _, err := NewRole(name, RoleSpec{}); err == nil {
			t.Errorf("%q was taken", name)
		}
	}
	if _, err := NewRole(strings.Repeat("a", maxName), RoleSpec{}); err != nil {
		t.Error(err)
	}
}

func TestARoleDoesNotChangeWithItsSpec(t *testing.T) {
	spec := RoleSpec{
		Options: RoleOptions{DeviceEvidence: &EvidenceDemand{Level: EvidenceQuote, TPMs: []TPMDemand{{"IFX", "7"}}}},
		Allow:   RoleConditions{Logins: []string{"root"}, NodeLabels: map[string]Values{"env": {"dev"}}},
	}
	s := &State{Roles: map[string]Role{"r": mustRole(t, "r", spec)}}
	before := session()
	before.Subject.Roles, before.Node.Labels = []string{"r"}, map[string]string{"env": "dev"}
	spec.Allow.Logins[0], spec.Allow.NodeLabels["env"][0] = "ubuntu", "prod"
	spec.Options.DeviceEvidence.Level, spec.Options.DeviceEvidence.TPMs[0] = EvidenceKey, TPMDemand{"STM", ""}
	for _, ev := range []Evidence{{EvidenceKey, "IFX", "7"}, {EvidenceQuote, "STM", ""}, {EvidenceQuote, "IFX", "6"}} {
		before.Subject.DeviceEvidence = ev
		if d := Decide(s, before); d.Cause != CauseEvidence {
			t.Errorf("%+v: got %+v", ev, d)
		}
	}
	if got := LoginsOf(s, Subject{Roles: []string{"r"}}); !cmp.Equal(got, []string{"root"}) {
		t.Errorf("logins: got %q", got)
	}
	r := session()
	r.Subject.Roles, r.Node.Labels = []string{"r"}, map[string]string{"env": "prod"}
	if d := Decide(s, r); d.Allowed() {
		t.Errorf("got %+v", d)
	}
}

func TestLoginsAreThoseGrantedSomewhereAndForbiddenNowhere(t *testing.T) {
	everywhere := map[string]Values{"*": {"*"}}
	s := &State{Roles: map[string]Role{
		"own":     mustRole(t, "own", RoleSpec{Allow: RoleConditions{Logins: []string{"{{internal.logins}}", "deploy"}, NodeLabels: everywhere}}),
		"dev":     mustRole(t, "dev", RoleSpec{Allow: RoleConditions{Logins: []string{"dev", "deploy"}, NodeLabels: map[string]Values{"env": {"dev"}}}}),
		"nowhere": mustRole(t, "nowhere", RoleSpec{Allow: RoleConditions{Logins: []string{"ghost"}}}),
		"no-root": mustRole(t, "no-root", RoleSpec{Deny: RoleConditions{Logins: []string{"root"}}}),
		"no-own":  mustRole(t, "no-own", RoleSpec{Deny: RoleConditions{Logins: []string{"{{internal.logins}}"}}}),
		"no-node": mustRole(t, "no-node", RoleSpec{Deny: RoleConditions{NodeLabels: everywhere}}),
	}}
	traits := map[string][]string{"logins": {"root", "alice"}}
	for name, row := range map[string]struct {
		roles []string
		want  []string
	}{
		"none":                     {nil, nil},
		"the user's own":           {[]string{"own"}, []string{"alice", "deploy", "root"}},
		"several, once and sorted": {[]string{"own", "dev"}, []string{"alice", "deploy", "dev", "root"}},
		"a role without nodes":     {[]string{"nowhere"}, nil},
		"one forbidden":            {[]string{"own", "no-root"}, []string{"alice", "deploy"}},
		"the user's own forbidden": {[]string{"own", "no-own"}, []string{"deploy"}},
		"every node forbidden":     {[]string{"own", "no-node"}, nil},
		"a role that is gone":      {[]string{"gone", "dev"}, []string{"deploy", "dev"}},
	} {
		got := LoginsOf(s, Subject{Roles: row.roles, Traits: traits})
		if len(got)+len(row.want) > 0 && !cmp.Equal(got, row.want) {
			t.Errorf("%s: got %q, want %q", name, got, row.want)
		}
	}
	if got := LoginsOf(nil, Subject{Roles: []string{"own"}, Traits: traits}); got != nil {
		t.Errorf("without a policy: got %q", got)
	}
	if want := []string{"root", "alice"}; !cmp.Equal(traits["logins"], want) {
		t.Errorf("the traits were changed to %q", traits["logins"])
	}
}

func TestTheShortestTimeTheSmallestCountEveryDemand(t *testing.T) {
	yes, no := true, false
	s := &State{Roles: map[string]Role{
		"none": mustRole(t, "none", RoleSpec{}),
		"long": mustRole(t, "long", RoleSpec{Options: RoleOptions{MaxSessionTTL: Duration(20 * time.Hour), ClientIdleTimeout: Duration(time.Hour), MaxSessions: 9, PortForwarding: &yes, PinSourceIP: &no}}),
		"tight": mustRole(t, "tight", RoleSpec{Options: RoleOptions{
			MaxSessionTTL: Duration(time.Hour), ClientIdleTimeout: Duration(time.Minute), MaxSessions: 2,
			PortForwarding: &no, PinSourceIP: &yes, DisconnectExpiredCert: &yes, Lock: "strict",
		}}),
	}}
	if got := combine(s.rolesOf(Subject{Roles: []string{"none"}})); got != (Limits{}) {
		t.Errorf("no options: got %+v", got)
	}
	want := Limits{
		MaxSessionTTL: time.Hour, IdleTimeout: time.Minute, MaxSessions: 2,
		PortForwarding: true, PinSourceIP: true, DisconnectExpiredCert: true,
	}
	for _, roles := range [][]string{{"long", "none", "tight"}, {"tight", "none", "long"}} {
		if diff := cmp.Diff(want, combine(s.rolesOf(Subject{Roles: roles}))); diff != "" {
			t.Errorf("%q: want (-), got (+):\n%s", roles, diff)
		}
	}
}
