package policy

import (
	"fmt"
	"slices"
	"strings"
)

// ownLogins is the variable that stands for the user's trait "logins".
const (
	ownLogins  = "{{internal.logins}}"
	loginTrait = "logins"
)

// logins is a checked list of logins. The zero value contains none.
type logins struct {
	own   bool // {{internal.logins}}
	named []string
	// among and notAmong are the rules where it contains the login and where
	// not; shown that where it makes a node visible.
	among, notAmong, shown *Rule
}

// newLogins checks spec; where it contains a login, it has the effect.
func newLogins(effect RuleEffect, source, field string, spec []string) (logins, error) {
	if len(spec) > maxLogins {
		return logins{}, fieldError(field, "%d logins are more than %d", len(spec), maxLogins)
	}
	l := logins{
		among:    &Rule{effect, source, "the login is among them"},
		notAmong: &Rule{RuleSkip, source, "the login is not among them"},
		shown:    &Rule{effect, source, "it grants a login on the node"},
	}
	for i, login := range spec {
		field := fmt.Sprintf("%s[%d]", field, i)
		switch {
		case login == ownLogins:
			l.own = true
		case strings.ContainsAny(login, "{}"):
			return logins{}, fieldError(field, "%.64q is not supported; the only variable is %s", login, ownLogins)
		case login == "", strings.Contains(login, anything):
			return logins{}, fieldError(field, "%.64q is not a login; name each one", login)
		default:
			l.named = append(l.named, login)
		}
	}
	return l, nil
}

// contain tells whether login is among them for a user with the traits.
func (l *logins) contain(login string, traits map[string][]string) bool {
	return slices.Contains(l.named, login) || l.own && slices.Contains(traits[loginTrait], login)
}

// match is contain, with the rule that says so.
func (l *logins) match(login string, traits map[string][]string) (bool, *Rule) {
	if l.contain(login, traits) {
		return true, l.among
	}
	return false, l.notAmong
}

// none tells whether l contains no login whatsoever.
func (l *logins) none() bool { return !l.own && len(l.named) == 0 }

// list is all of them for a user with the traits.
func (l *logins) list(traits map[string][]string) []string {
	if l.own {
		return slices.Concat(l.named, traits[loginTrait])
	}
	return l.named
}

// LoginsOf gives the logins that the subject's roles grant on any node at
// all, sorted: what a certificate may name. Roles that s does not have grant
// none.
func LoginsOf(s *State, sub Subject) []string {
	var granted []string
	roles := s.rolesOf(sub)
	for _, r := range roles {
		if r.deny.labels.all {
			return nil
		}
		if !r.allow.labels.none() {
			granted = append(granted, r.allow.logins.list(sub.Traits)...)
		}
	}
	granted = slices.DeleteFunc(granted, func(login string) bool { return denied(roles, login, sub.Traits) })
	slices.Sort(granted)
	return slices.Compact(granted)
}

// denied tells whether one of the roles forbids login.
func denied(roles []*role, login string, traits map[string][]string) bool {
	return slices.ContainsFunc(roles, func(r *role) bool { return r.deny.logins.contain(login, traits) })
}
