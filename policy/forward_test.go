package policy

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestListsOfTargetsThatMeanNothingAreRefused(t *testing.T) {
	yes, no := true, false
	for text, good := range map[string]bool{
		"db:5432": true, "*:*": true, "*:22": true, "db:*": true, "[::1]:22": true, "/run/x": true, "/run/*": true, "/*": true,
		"": false, "db": false, ":22": false, "db:": false, "db:0": false, "db:65536": false, "db:+1": false, "db:http": false,
		"::1:22": false, "[::1]": false, "[db]:22": false, "[192.0.2.1]:22": false, "[fe80::1%eth0]:22": false, "[::1:22": false,
		"*.example.com:22": false, "db:2*": false, "d b:1": false, "db:1\n": false, "é:1": false, "host/x:1": false,
		"any": false, "none": true, "/": false, "/run/": false, "/run/*/x": false, "/run*": false, "/run/../x": false, "//run": false, "run/x": false,
		strings.Repeat("x", maxText) + ":1": false,
	} {
		for field, o := range map[string]RoleOptions{
			"options.permit_open":   {PortForwarding: &yes, PermitOpen: []string{text}},
			"options.permit_listen": {PortForwarding: &yes, PermitListen: []string{text}},
		} {
			_, err := NewRole("r", RoleSpec{Options: o})
			var wrong *FieldError
			if (err == nil) != good || err != nil && (!errors.As(err, &wrong) || wrong.Field != field+"[0]" || len(err.Error()) > 300) {
				t.Errorf("%s %q: %v", field, text, err)
			}
		}
	}
	for name, row := range map[string]struct {
		options RoleOptions
		field   string
	}{
		"nothing and something":    {RoleOptions{PortForwarding: &yes, PermitOpen: []string{"db:1", "none"}}, "options.permit_open[1]"},
		"too many":                 {RoleOptions{PortForwarding: &yes, PermitListen: make([]string, maxTargets+1)}, "options.permit_listen"},
		"narrower than not at all": {RoleOptions{PermitOpen: []string{"db:1"}}, "options.permit_open"},
		"an empty list":            {RoleOptions{PortForwarding: &yes, PermitOpen: []string{}}, "options.permit_open"},
		"narrower than no":         {RoleOptions{PortForwarding: &no, PermitListen: []string{"none"}}, "options.permit_listen"},
		"an unknown audit mode":    {RoleOptions{Audit: "off"}, "options.audit"},
	} {
		var wrong *FieldError
		if _, err := NewRole("r", RoleSpec{Options: row.options}); !errors.As(err, &wrong) || wrong.Field != row.field {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// forward is what presetState allows, and what it is about.
func forward(target Target) Request {
	r := session()
	r.Action, r.Target = Forward, target
	return r
}

func TestAForwardOfNothingIsNoQuestion(t *testing.T) {
	for _, target := range []Target{
		{}, {Kind: ToDisplay + 1}, {Kind: -1}, {Kind: ToPort}, {Kind: ToPort, Host: "db"}, {Kind: ToPort, Port: 1},
		{Kind: ToSocket}, {Kind: FromSocket, Host: "db", Port: 1},
	} {
		if d := Decide(presetState(t), forward(target)); d.Allowed() || d.Cause != CauseBadRequest {
			t.Errorf("%+v: got %+v", target, d)
		}
	}
}

func TestADenialOfAForwardNamesTheTargetAndWhatWouldChangeIt(t *testing.T) {
	yes := true
	s := presetState(t)
	s.Roles["access"] = mustRole(t, "access", RoleSpec{
		Options: RoleOptions{PortForwarding: &yes, PermitOpen: []string{"db:5432"}},
		Allow:   RoleConditions{Logins: []string{ownLogins}, NodeLabels: map[string]Values{"*": {"*"}}},
	})
	for name, o := range map[string]RoleOptions{
		"web": {PortForwarding: &yes, PermitOpen: []string{"web:*"}},
		"all": {PortForwarding: &yes, ForwardAgent: &yes},
	} {
		s.Roles[name] = mustRole(t, name, RoleSpec{Options: o})
	}
	for _, row := range []struct {
		target Target
		reason string
		want   []string
	}{
		{Target{Kind: ToPort, Host: "web", Port: 80}, `no role of user "alice" with port_forwarding lists "web:80" in permit_open`,
			[]string{`add role "all" to user "alice"`, `add role "web" to user "alice"`}},
		{Target{Kind: ToPort, Host: "::1", Port: 80}, `no role of user "alice" with port_forwarding lists "[::1]:80" in permit_open`,
			[]string{`add role "all" to user "alice"`}},
		{Target{Kind: ToSocket, Path: "/run/x"}, `no role of user "alice" with port_forwarding lists "/run/x" in permit_open`,
			[]string{`add role "all" to user "alice"`}},
		{Target{Kind: ToAgent}, `no role of user "alice" has forward_agent`, []string{`add role "all" to user "alice"`}},
		{Target{Kind: ToDisplay}, `no role of user "alice" has permit_x11_forwarding`, nil},
	} {
		d := Explain(s, forward(row.target))
		if d.Allowed() || d.Cause != CauseForwarding || d.Reason != row.reason {
			t.Errorf("%+v: got %+v", row.target, d)
		}
		if diff := cmp.Diff(row.want, d.Changes); diff != "" {
			t.Errorf("%+v: want (-), got (+):\n%s", row.target, diff)
		}
	}
	r := forward(Target{Kind: ToPort, Host: "db", Port: 5432})
	r.Subject.Roles = []string{"all"}
	if diff := cmp.Diff([]string{`add role "access" to user "alice"`}, Explain(s, r).Changes); diff != "" {
		t.Errorf("without a session: want (-), got (+):\n%s", diff)
	}
	if d := Decide(s, forward(Target{Kind: ToPort, Host: strings.Repeat("\x00", 1000), Port: 1})); len(d.Reason) > 700 || strings.ContainsRune(d.Reason, 0) {
		t.Errorf("a reason of %d bytes: %q", len(d.Reason), d.Reason)
	}
}

func TestAuditIsBestEffortOnlyWhereEveryRoleSaysSo(t *testing.T) {
	var roles []*role
	for _, audit := range []string{"best_effort", "strict", ""} {
		roles = append(roles, mustRole(t, "r", RoleSpec{Options: RoleOptions{Audit: audit}}).role)
	}
	loose, strict, unset := roles[0], roles[1], roles[2]
	for _, row := range []struct {
		roles []*role
		want  bool
	}{
		{nil, false}, {[]*role{loose}, true}, {[]*role{loose, loose}, true},
		{[]*role{strict}, false}, {[]*role{unset}, false},
		{[]*role{loose, strict}, false}, {[]*role{unset, loose}, false},
	} {
		if got := combine(row.roles); got != (Limits{BestEffortAudit: row.want}) {
			t.Errorf("%d roles: got %+v", len(row.roles), got)
		}
	}
}

// What is listed permits itself, and with it nothing in a list is a pattern but
// the asterisks that may be there.
func FuzzATargetThatIsListedPermitsItself(f *testing.F) {
	for _, text := range []string{"db:5432", "[2001:DB8::1]:22", "/run/x", "/run/*", "/*", "*:*", "none", "a:b:1", "[::ffff:192.0.2.1]:*"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		list, err := newTargets("r", "permit_open", []string{text})
		if err != nil || strings.Contains(text, anything) || text == nothing {
			return
		}
		to := Target{Kind: ToSocket, Path: text}
		if len(list.ports) > 0 {
			to = Target{Kind: ToPort, Host: list.ports[0].host, Port: list.ports[0].port}
		}
		if !list.contain(&to) {
			t.Errorf("%q does not permit %+v", text, to)
		}
		if to.Port++; to.Kind == ToPort && list.contain(&to) {
			t.Errorf("%q permits %+v", text, to)
		}
		if to.Path += "x"; to.Kind == ToSocket && list.contain(&to) {
			t.Errorf("%q permits %+v", text, to)
		}
	})
}
