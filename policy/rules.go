package policy

import (
	"fmt"
	"slices"
	"strings"
)

// verbs and kinds are all that rules may name and calls may ask for. What is
// not here is refused: a rule that names it would not mean what it says.
var (
	verbs = []string{"list", "read", "create", "update", "delete", "enroll"}
	kinds = []string{
		"user", "role", "device", "cluster_auth_preference", "lock",
		"token", "node", "cert_authority", "event",
	}
)

// apiRule is a checked APIRule.
type apiRule struct {
	kinds, verbs []string
	allKinds     bool
	allVerbs     bool
}

// apiRules is a checked list of rules. The zero value is about nothing.
type apiRules struct {
	rules []apiRule
	// among and notAmong are the Rules where it is about the call and where
	// it is not.
	among, notAmong *Rule
}

// newRules checks spec; where it is about a call, it has the effect.
func newRules(effect RuleEffect, source, field string, spec []APIRule) (apiRules, error) {
	if len(spec) > maxRules {
		return apiRules{}, fieldError(field, "%d rules are more than %d", len(spec), maxRules)
	}
	checked := apiRules{
		among:    &Rule{effect, source, "the call is among them"},
		notAmong: &Rule{RuleSkip, source, "the call is not among them"},
	}
	for i, rule := range spec {
		at := fmt.Sprintf("%s[%d]", field, i)
		if err := checkNames(at+".resources", "kind of resource", rule.Resources, kinds); err != nil {
			return apiRules{}, err
		}
		if err := checkNames(at+".verbs", "verb", rule.Verbs, verbs); err != nil {
			return apiRules{}, err
		}
		checked.rules = append(checked.rules, apiRule{
			kinds: slices.Clone(rule.Resources), allKinds: slices.Contains(rule.Resources, anything),
			verbs: slices.Clone(rule.Verbs), allVerbs: slices.Contains(rule.Verbs, anything),
		})
	}
	return checked, nil
}

func checkNames(field, what string, names, known []string) error {
	if len(names) == 0 {
		return fieldError(field, "at least one %s is needed", what)
	}
	for _, name := range names {
		if name != anything && !slices.Contains(known, name) {
			return fieldError(field, "%.64q is not a %s; there are %s and *", name, what, strings.Join(known, ", "))
		}
	}
	return nil
}

// match tells whether one of them is about verb on kind, and the Rule that
// says so; nil where there are none.
func (a *apiRules) match(kind, verb string) (bool, *Rule) {
	for i := range a.rules {
		r := &a.rules[i]
		if (r.allKinds || slices.Contains(r.kinds, kind)) && (r.allVerbs || slices.Contains(r.verbs, verb)) {
			return true, a.among
		}
	}
	if len(a.rules) == 0 {
		return false, nil
	}
	return false, a.notAmong
}
