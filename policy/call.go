package policy

import "fmt"

// decideCall: may the subject do the verb on the kind of resource? Devices
// are not asked for: an enrolling person must reach the API.
func (e *evaluation) decideCall() Decision {
	kind, verb := e.request.Resource, e.request.Verb
	var denies, allows *role
	for _, r := range e.roles {
		match, rule := r.deny.rules.match(kind, verb)
		e.tookPart(rule)
		if match && denies == nil {
			denies = r
		}
	}
	if denies != nil {
		return e.deny(CauseDenied, fmt.Sprintf("role %q denies %q on kind %q", denies.name, verb, kind))
	}
	for _, r := range e.roles {
		match, rule := r.allow.rules.match(kind, verb)
		e.tookPart(rule)
		if match && allows == nil {
			allows = r
		}
	}
	if allows == nil {
		return e.deny(CauseNotGranted, fmt.Sprintf("no role of user %.128q allows %q on kind %q", e.request.Subject.User, verb, kind))
	}
	return e.allow(allows.granted)
}
