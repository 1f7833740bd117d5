package policy

import (
	"fmt"
	"slices"
)

// decideSession: may the subject open a session as the login on the node?
func (e *evaluation) decideSession() Decision {
	r := e.request
	// 6. Deny wins, whatever else is allowed.
	if denies := e.denies(r.Login); denies != nil {
		return e.deny(CauseDenied, fmt.Sprintf("role %q denies login %.64q on node %.128q", denies.name, r.Login, r.Node.title()))
	}
	// 7. One role must allow both the node and the login.
	allows := e.allows(r.Login)
	if allows == nil {
		return e.deny(CauseNotGranted, fmt.Sprintf("no role of user %.128q allows login %.64q on node %.128q", r.Subject.User, r.Login, r.Node.title()))
	}
	// 8. The certificate must name the login: roles may have changed since.
	if r.Subject.Principals != nil && !slices.Contains(r.Subject.Principals, r.Login) {
		e.tookPart(&Rule{RuleDeny, "principals of the certificate", "the login is not among them"})
		return e.deny(CausePrincipal, fmt.Sprintf("the certificate does not name login %.64q", r.Login))
	}
	// 9. The strictest of the modes that apply must be met, and every demand
	// for evidence or for a key in a TPM.
	if cause := e.checkDevice(); cause != CauseUnknown {
		return e.deny(cause, e.deviceReason(cause))
	}
	// 10. What is known must be new enough, where a role or the cluster says so.
	stale, no := e.checkStaleness()
	if no != nil {
		return *no
	}
	d := e.allow(allows.granted)
	d.Limits.StaleAfter = stale
	return d
}

// decideSight: may the subject know of the node? Devices are not asked for,
// so that a person learns why a session is refused. A role that grants no
// login on the node does not show it either.
func (e *evaluation) decideSight() Decision {
	if denies := e.denies(""); denies != nil {
		return e.deny(CauseDenied, fmt.Sprintf("role %q denies node %.128q", denies.name, e.request.Node.title()))
	}
	for _, r := range e.roles {
		if ok, _ := r.allow.labels.match(e.request.Node.Labels); !ok {
			continue
		}
		traits := e.request.Subject.Traits
		for _, login := range r.allow.logins.list(traits) {
			if !denied(e.roles, login, traits) {
				e.tookPart(r.allow.logins.shown)
				return e.allow(r.granted)
			}
		}
	}
	return e.deny(CauseNotGranted, fmt.Sprintf("no role of user %.128q allows a login on node %.128q", e.request.Subject.User, e.request.Node.title()))
}

// denies gives the first role that keeps the subject from the node or, where
// there is one, from the login; the others that do are among the rules too.
func (e *evaluation) denies(login string) *role {
	var first *role
	for _, r := range e.roles {
		node, rule := r.deny.labels.match(e.request.Node.Labels)
		e.tookPart(rule)
		barred := false
		if login != "" && !r.deny.logins.none() {
			barred, rule = r.deny.logins.match(login, e.request.Subject.Traits)
			e.tookPart(rule)
		}
		if first == nil && (node || barred) {
			first = r
		}
	}
	return first
}

// allows gives the first role that allows the login on the node, and fills
// e.here.
func (e *evaluation) allows(login string) *role {
	var first *role
	for _, r := range e.roles {
		node, rule := r.allow.labels.match(e.request.Node.Labels)
		if !node {
			e.tookPart(rule)
			continue
		}
		e.here = append(e.here, r)
		match, rule := r.allow.logins.match(login, e.request.Subject.Traits)
		e.tookPart(rule)
		if match && first == nil {
			first = r
		}
	}
	return first
}

// title is how people call n.
func (n *Node) title() string {
	if n.Name != "" {
		return n.Name
	}
	return n.ID
}
