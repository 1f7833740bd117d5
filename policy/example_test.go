package policy_test

import (
	"fmt"
	"time"

	"devicetrust/policy"
)

func ExampleDecide() {
	state := &policy.State{Roles: map[string]policy.Role{}}
	for _, p := range policy.Presets() {
		role, err := policy.NewRole(p.Name, p.Spec)
		if err != nil {
			fmt.Println(err)
			return
		}
		state.Roles[p.Name] = role
	}
	request := policy.Request{
		Action: policy.OpenSession,
		Subject: policy.Subject{
			User:   "alice",
			Roles:  []string{"access", "require-trusted-device"},
			Traits: map[string][]string{"logins": {"root"}},
		},
		Login: "root",
		Node:  policy.Node{Name: "web"},
		Now:   time.Date(2026, 2, 3, 4, 5, 6, 0, time.UTC),
	}
	decision := policy.Explain(state, request)
	fmt.Println(decision.Allowed(), decision.Reason)
	for _, r := range decision.Rules {
		fmt.Printf("%s: %s: %s\n", r.Effect, r.Source, r.Detail)
	}
	fmt.Println(decision.Changes)
	// Output:
	// false access to resource requires a trusted device
	// allow: role "access" allow.logins: the login is among them
	// skip: role "require-trusted-device" allow.logins: the login is not among them
	// skip: cluster_auth_preference device_trust.mode: no device is demanded
	// require: role "require-trusted-device" options.device_trust_mode: a trusted device is demanded, and there is none
	// [log in from an enrolled device]
}
