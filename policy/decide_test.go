package policy

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var now = time.Date(2026, 2, 3, 4, 5, 6, 0, time.UTC)

func mustRole(t testing.TB, name string, spec RoleSpec) Role {
	t.Helper()
	r, err := NewRole(name, spec)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// presetState is the policy of a new cluster.
func presetState(t testing.TB) *State {
	t.Helper()
	s := &State{Roles: map[string]Role{}, Preference: Preference{DeviceTrust: DeviceTrust{Mode: ModeOptional}}}
	for _, p := range Presets() {
		s.Roles[p.Name] = mustRole(t, p.Name, p.Spec)
	}
	return s
}

// session is one that presetState allows.
func session() Request {
	return Request{
		Action: OpenSession, Login: "root", Node: Node{ID: "1", Name: "web"}, Now: now,
		Subject: Subject{
			User: "alice", Roles: []string{"access"}, Traits: map[string][]string{"logins": {"root"}},
			Principals: []string{"root"}, Serial: 7,
			DeviceID: "d", DeviceAssetTag: "t", DeviceCredentialID: "c",
		},
	}
}

func TestTheZeroValueDenies(t *testing.T) {
	for name, row := range map[string]struct {
		state   func(*State) *State
		request func(*Request)
		want    Cause
	}{
		"nothing at all":            {func(*State) *State { return nil }, func(r *Request) { *r = Request{} }, CauseBadRequest},
		"no state":                  {func(*State) *State { return nil }, nil, CauseNoState},
		"no state, local admin":     {func(*State) *State { return nil }, localAdmin(CallAPI), CauseNoState},
		"an empty state":            {func(*State) *State { return &State{} }, nil, CauseNoState},
		"no action":                 {nil, func(r *Request) { r.Action = NoAction }, CauseBadRequest},
		"an unknown action":         {nil, func(r *Request) { r.Action = 99 }, CauseBadRequest},
		"nobody":                    {nil, func(r *Request) { r.Subject.User = "" }, CauseBadRequest},
		"no login":                  {nil, func(r *Request) { r.Login = "" }, CauseBadRequest},
		"no node":                   {nil, func(r *Request) { r.Node = Node{} }, CauseBadRequest},
		"no serial":                 {nil, func(r *Request) { r.Subject.Serial = 0 }, CauseBadRequest},
		"no roles":                  {nil, func(r *Request) { r.Subject.Roles = nil }, CauseNotGranted},
		"no roles, to log in":       {nil, func(r *Request) { r.Action, r.Subject.Roles = LogIn, nil }, CauseNotGranted},
		"a role that is not there":  {nil, func(r *Request) { r.Subject.Roles = []string{"access", "gone"} }, CauseUnknownRole},
		"a role that nobody made":   {func(s *State) *State { s.Roles["access"] = Role{}; return s }, nil, CauseUnknownRole},
		"a role by another name":    {func(s *State) *State { s.Roles["access"] = s.Roles["editor"]; return s }, nil, CauseUnknownRole},
		"no traits":                 {nil, func(r *Request) { r.Subject.Traits = nil }, CauseNotGranted},
		"empty principals":          {nil, func(r *Request) { r.Subject.Principals = []string{} }, CausePrincipal},
		"an unknown mode":           {func(s *State) *State { s.Preference.DeviceTrust.Mode = "strange"; return s }, nil, CauseUnknownMode},
		"a lock that targets none":  {func(s *State) *State { s.Locks = []Lock{{}}; return s }, nil, CauseLocked},
		"a verb that is not there":  {nil, call("user", "rotate"), CauseBadRequest},
		"a kind that is not there":  {nil, call("*", "list"), CauseBadRequest},
		"a call without a rule":     {nil, call("user", "list"), CauseNotGranted},
		"the local admin on a node": {nil, localAdmin(OpenSession), CauseNotGranted},
	} {
		t.Run(name, func(t *testing.T) {
			s, r := presetState(t), session()
			if row.state != nil {
				s = row.state(s)
			}
			if row.request != nil {
				row.request(&r)
			}
			d := Decide(s, r)
			if d.Allowed() || d.Cause != row.want {
				t.Errorf("got %v because of %q (%s), want a denial because of %q", d.Effect, d.Cause, d.Reason, row.want)
			}
			if d.Reason == "" || strings.ContainsRune(d.Reason, '\n') {
				t.Errorf("reason %q is not one line", d.Reason)
			}
			if d.Limits != (Limits{}) {
				t.Errorf("a denial came with limits: %+v", d.Limits)
			}
		})
	}
}

func localAdmin(a Action) func(*Request) {
	return func(r *Request) {
		r.Action, r.Resource, r.Verb = a, "role", "delete"
		r.Subject = Subject{User: "os:root", LocalAdmin: true}
	}
}

func call(kind, verb string) func(*Request) {
	return func(r *Request) { r.Action, r.Resource, r.Verb = CallAPI, kind, verb }
}

func TestWhatShouldBeAllowedIs(t *testing.T) {
	for name, row := range map[string]struct {
		state   func(*State)
		request func(*Request)
	}{
		"a session":                               {nil, nil},
		"a session that policy is asked about":    {nil, func(r *Request) { r.Subject.Principals, r.Subject.Serial = nil, 0 }},
		"a login":                                 {nil, func(r *Request) { r.Action = LogIn }},
		"the local admin calls":                   {nil, localAdmin(CallAPI)},
		"the local admin calls, no role is left":  {func(s *State) { clear(s.Roles) }, localAdmin(CallAPI)},
		"the local admin lists nodes":             {nil, localAdmin(SeeNode)},
		"an expired lock":                         {func(s *State) { s.Locks = []Lock{{Target: LockTarget{User: "alice"}, Expires: now}} }, nil},
		"another's lock":                          {func(s *State) { s.Locks = []Lock{{Target: LockTarget{User: "bob"}}} }, nil},
		"a lock of which one half does not match": {func(s *State) { s.Locks = []Lock{{Target: LockTarget{User: "alice", Login: "ubuntu"}}} }, nil},
		"another certificate is revoked":          {func(s *State) { s.Revoked = RevokedOnly(8, "") }, nil},
		"a locked node is still shown": {func(s *State) { s.Locks = []Lock{{Target: LockTarget{Node: "web"}}} },
			func(r *Request) { r.Action = SeeNode }},
		"the API does not want a device": {func(s *State) { s.Preference.DeviceTrust.Mode = ModeRequired }, func(r *Request) {
			call("device", "enroll")(r)
			r.Subject.Roles, r.Subject.DeviceID = []string{"device-enroll", "require-trusted-device"}, ""
		}},
	} {
		t.Run(name, func(t *testing.T) {
			s, r := presetState(t), session()
			if row.state != nil {
				row.state(s)
			}
			if row.request != nil {
				row.request(&r)
			}
			if d := Explain(s, r); !d.Allowed() || d.Cause != CauseGranted || len(d.Changes) > 0 {
				t.Errorf("got %+v, want an allow", d)
			}
		})
	}
}

// Each field of the device, one at a time: two thirds of a device are none.
func TestADeviceIsAllOfItOrNone(t *testing.T) {
	for _, mode := range []Mode{ModeRequired, ModeRequiredForHumans} {
		s := presetState(t)
		s.Preference.DeviceTrust.Mode = mode
		if d := Decide(s, session()); !d.Allowed() {
			t.Errorf("%s, with a device: got %+v, want an allow", mode, d)
		}
		for name, drop := range map[string]func(*Subject){
			"no ID":            func(s *Subject) { s.DeviceID = "" },
			"no asset tag":     func(s *Subject) { s.DeviceAssetTag = "" },
			"no credential ID": func(s *Subject) { s.DeviceCredentialID = "" },
		} {
			r := session()
			drop(&r.Subject)
			d := Decide(s, r)
			if d.Allowed() || d.Cause != CauseTrustedDevice || d.Reason != "access to resource requires a trusted device" {
				t.Errorf("%s, %s: got %+v", mode, name, d)
			}
		}
	}
}

func TestLocksNameWhomTheyKeepOutAndWhy(t *testing.T) {
	for name, row := range map[string]struct {
		target LockTarget
		want   string
	}{
		"user":   {LockTarget{User: "alice"}, `lock targeting user "alice" is in force: away`},
		"role":   {LockTarget{Role: "access"}, `lock targeting role "access" is in force: away`},
		"login":  {LockTarget{Login: "root"}, `lock targeting login "root" is in force: away`},
		"device": {LockTarget{Device: "d"}, `lock targeting device "d" is in force: away`},
		"node":   {LockTarget{Node: "web"}, `lock targeting node "web" is in force: away`},
		"nodeID": {LockTarget{Node: "1"}, `lock targeting node "1" is in force: away`},
		"two":    {LockTarget{User: "alice", Node: "web"}, `lock targeting user "alice", node "web" is in force: away`},
	} {
		t.Run(name, func(t *testing.T) {
			s := presetState(t)
			s.Locks = []Lock{{Name: "a-lock", Target: row.target, Message: "away", Expires: now.Add(time.Nanosecond)}}
			d := Explain(s, session())
			if d.Allowed() || d.Cause != CauseLocked || d.Reason != row.want {
				t.Errorf("got %+v, want %q", d, row.want)
			}
			if diff := cmp.Diff([]string{`remove lock "a-lock"`}, d.Changes); diff != "" {
				t.Errorf("changes: want (-), got (+):\n%s", diff)
			}
			login := session()
			login.Action = LogIn
			aboutSession := row.target.Login != "" || row.target.Node != ""
			if d := Decide(s, login); d.Allowed() != aboutSession {
				t.Errorf("login: got %+v", d)
			}
		})
	}
}

// Each change, made, must lead in; the golden vectors say which are named.
func TestADenialSaysWhatWouldChangeIt(t *testing.T) {
	noDevice := func(r *Request) { r.Subject.DeviceID = "" }
	wants := func(s *State, r *Request, name string, d EvidenceDemand) {
		s.Roles[name] = mustRole(t, name, RoleSpec{
			Options: RoleOptions{DeviceEvidence: &d}, Allow: RoleConditions{NodeLabels: map[string]Values{"*": {"*"}}},
		})
		r.Subject.Roles = append(r.Subject.Roles, name)
	}
	measured := func(s *State, r *Request) { wants(s, r, "measured", EvidenceDemand{Level: EvidenceEventLog}) }
	chips := func(s *State, r *Request, level EvidenceLevel) {
		wants(s, r, "chips", EvidenceDemand{Level: level, TPMs: []TPMDemand{{"IFX", "7.85"}, {"STM", ""}}})
	}
	yes := true
	attested := func(s *State, r *Request) {
		s.Roles["attested"] = mustRole(t, "attested", RoleSpec{
			Options: RoleOptions{RequireAttestedKey: &yes}, Allow: RoleConditions{NodeLabels: map[string]Values{"*": {"*"}}},
		})
		r.Subject.Roles = append(r.Subject.Roles, "attested")
	}
	demand := func(s *State, r *Request) { s.Preference.DeviceTrust.Mode = ModeRequired; noDevice(r) }
	for name, row := range map[string]struct {
		change func(*State, *Request)
		want   []string
	}{
		"no device":     {demand, []string{"log in from an enrolled device"}},
		"revoked":       {func(s *State, _ *Request) { s.Revoked = RevokedOnly(7, "") }, []string{"log in again"}},
		"an old login":  {func(_ *State, r *Request) { r.Subject.Principals = []string{"ubuntu"} }, []string{"log in again"}},
		"unknown mode":  {func(s *State, _ *Request) { s.Preference.DeviceTrust.Mode = "x" }, []string{"set device_trust.mode in cluster_auth_preference to one that exists"}},
		"a lost role":   {func(_ *State, r *Request) { r.Subject.Roles = []string{"gone", "access"} }, []string{"log in again without it"}},
		"only the role": {func(_ *State, r *Request) { r.Subject.Roles = []string{"gone"} }, nil},
		"another login": {func(_ *State, r *Request) { r.Login = "ubuntu" }, []string{`add "ubuntu" to the logins of user "alice"`}},
		"another role":  {func(_ *State, r *Request) { r.Subject.Roles = []string{"editor"} }, []string{`add role "access" to user "alice"`}},
		"a role and a device": {func(s *State, r *Request) { demand(s, r); r.Subject.Roles = []string{"editor"} },
			[]string{`add role "access" to user "alice", and log in from an enrolled device`}},
		"a call": {func(_ *State, r *Request) { call("device", "create")(r) },
			[]string{`add role "device-admin" to user "alice"`, `add role "editor" to user "alice"`}},
		"a role that denies": {func(s *State, r *Request) {
			s.Roles["no-root"] = mustRole(t, "no-root", RoleSpec{Deny: RoleConditions{Logins: []string{"root"}}})
			r.Subject.Roles = append(r.Subject.Roles, "no-root")
		}, []string{`take role "no-root" from user "alice"`}},
		"the only role denies": {func(s *State, r *Request) {
			s.Roles["no-root"] = mustRole(t, "no-root", RoleSpec{Deny: RoleConditions{Logins: []string{"root"}}})
			r.Subject.Roles = []string{"no-root"}
		}, nil},
		"less evidence":          {measured, []string{`log in from an enrolled device with evidence "event_log"`}},
		"no device, no evidence": {func(s *State, r *Request) { measured(s, r); noDevice(r) }, []string{`log in from an enrolled device with evidence "event_log"`}},
		"another TPM": {func(s *State, r *Request) { chips(s, r, EvidenceNone) },
			[]string{"log in from an enrolled device with a TPM of IFX (firmware 7.85 or later)", "log in from an enrolled device with a TPM of STM"}},
		"evidence and another TPM": {func(s *State, r *Request) { measured(s, r); chips(s, r, EvidenceKey) },
			[]string{`log in from an enrolled device with evidence "event_log" and a TPM of IFX (firmware 7.85 or later)`,
				`log in from an enrolled device with evidence "event_log" and a TPM of STM`}},
		// What only one of them is content with is no way out.
		"TPMs of two roles": {func(s *State, r *Request) {
			chips(s, r, EvidenceNone)
			wants(s, r, "newer", EvidenceDemand{TPMs: []TPMDemand{{"NTC", ""}, {"IFX", "7.90.1"}}})
		}, []string{"log in from an enrolled device with a TPM of IFX (firmware 7.90.1 or later)"}},
		"TPMs that exclude each other": {func(s *State, r *Request) {
			chips(s, r, EvidenceNone)
			wants(s, r, "other", EvidenceDemand{TPMs: []TPMDemand{{"NTC", ""}}})
		}, nil},
		"any firmware and a known one": {func(s *State, r *Request) {
			wants(s, r, "any", EvidenceDemand{TPMs: []TPMDemand{{"IFX", ""}}})
			wants(s, r, "known", EvidenceDemand{TPMs: []TPMDemand{{"IFX", "0"}}})
		}, []string{"log in from an enrolled device with a TPM of IFX (firmware 0 or later)"}},
		"many TPMs": {func(s *State, r *Request) {
			wants(s, r, "many", EvidenceDemand{TPMs: []TPMDemand{{"A", ""}, {"B", ""}, {"C", ""}, {"D", ""}}})
		}, []string{"log in from an enrolled device with a TPM of A", "log in from an enrolled device with a TPM of B", "log in from an enrolled device with a TPM of C"}},
		"a role and evidence": {func(s *State, r *Request) { measured(s, r); r.Subject.Roles = []string{"measured"} },
			[]string{`add role "access" to user "alice", and log in from an enrolled device with evidence "event_log"`}},
		"a key that is not attested": {attested, []string{"log in without --key=software from an enrolled device with a TPM"}},
		"no device for a key": {func(s *State, r *Request) { attested(s, r); noDevice(r) },
			[]string{"log in without --key=software from an enrolled device with a TPM"}},
		"a key and evidence": {func(s *State, r *Request) { measured(s, r); attested(s, r) },
			[]string{`log in without --key=software from an enrolled device with evidence "event_log" and a TPM`}},
		"a key and another TPM": {func(s *State, r *Request) { chips(s, r, EvidenceQuote); attested(s, r) },
			[]string{`log in without --key=software from an enrolled device with evidence "quote" and a TPM of IFX (firmware 7.85 or later)`,
				`log in without --key=software from an enrolled device with evidence "quote" and a TPM of STM`}},
		"a role and a key": {func(s *State, r *Request) { attested(s, r); r.Subject.Roles = []string{"attested"} },
			[]string{`add role "access" to user "alice", and log in without --key=software from an enrolled device with a TPM`}},
		"a forward without the key": {func(s *State, r *Request) {
			attested(s, r)
			r.Action, r.Target = Forward, Target{Kind: ToPort, Host: "db", Port: 5432}
		}, []string{"log in without --key=software from an enrolled device with a TPM"}},
		"a bad question": {func(_ *State, r *Request) { r.Login = "" }, nil},
		"two locks": {func(s *State, _ *Request) {
			s.Locks = []Lock{{Name: "a", Target: LockTarget{User: "alice"}}, {Name: "b", Target: LockTarget{Role: "access"}}}
		}, []string{`remove lock "a" and "b"`}},
	} {
		t.Run(name, func(t *testing.T) {
			s, r := presetState(t), session()
			row.change(s, &r)
			d := Explain(s, r)
			if d.Allowed() {
				t.Fatalf("got %+v, want a denial", d)
			}
			if diff := cmp.Diff(row.want, d.Changes); diff != "" {
				t.Errorf("want (-), got (+):\n%s", diff)
			}
		})
	}
}

func TestChangesAreFew(t *testing.T) {
	s, r := presetState(t), session()
	for i := range 20 {
		name := fmt.Sprintf("role-%02d", i)
		s.Roles[name] = mustRole(t, name, RoleSpec{Allow: RoleConditions{Logins: []string{"x"}, NodeLabels: map[string]Values{"*": {"*"}}}})
	}
	r.Login, r.Subject.Roles = "x", []string{"editor"}
	want := []string{`add role "role-00" to user "alice"`, `add role "role-01" to user "alice"`, `add role "role-02" to user "alice"`}
	if diff := cmp.Diff(want, Explain(s, r).Changes); diff != "" {
		t.Errorf("want (-), got (+):\n%s", diff)
	}
}

func TestWhoAsksForATrustedDeviceIsNamed(t *testing.T) {
	s := presetState(t)
	s.Roles["measured"] = mustRole(t, "measured", RoleSpec{Options: RoleOptions{DeviceEvidence: &EvidenceDemand{Level: EvidenceKey}}})
	yes, no := true, false
	s.Roles["attested"] = mustRole(t, "attested", RoleSpec{Options: RoleOptions{RequireAttestedKey: &yes}})
	s.Roles["unattested"] = mustRole(t, "unattested", RoleSpec{Options: RoleOptions{RequireAttestedKey: &no}})
	sub := Subject{User: "alice", Roles: []string{"access", "require-trusted-device", "unknown"}}
	for name, row := range map[string]struct {
		mode Mode
		sub  Subject
		want []string
	}{
		"a role":                 {ModeOptional, sub, []string{"role require-trusted-device"}},
		"a role, by evidence":    {ModeOff, Subject{Roles: []string{"measured"}}, []string{"role measured"}},
		"a role, by the key":     {ModeOff, Subject{Roles: []string{"attested", "unattested"}}, []string{"role attested"}},
		"nobody":                 {ModeOff, Subject{Roles: []string{"access"}}, nil},
		"the cluster":            {ModeRequired, Subject{}, []string{"the cluster"}},
		"the cluster, of people": {ModeRequiredForHumans, Subject{Bot: true}, nil},
		"an unknown mode":        {"x", Subject{Bot: true}, []string{"the cluster"}},
	} {
		s.Preference.DeviceTrust.Mode = row.mode
		if diff := cmp.Diff(row.want, DemandersOf(s, row.sub)); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}
