package policy

import (
	"fmt"
	"slices"
	"strconv"
)

// Decide answers r by s. It never fails: what it cannot decide, it denies,
// and says so in the Decision.
func Decide(s *State, r Request) Decision {
	e := evaluation{state: s, request: &r}
	return e.decide()
}

// Explain is Decide with what would turn a denial into an allow in Changes.
// Looking for that takes several more decisions, which those who only let in
// or refuse do not want.
func Explain(s *State, r Request) Decision {
	d := Decide(s, r)
	if !d.Allowed() {
		d.Changes = changes(s, r, d)
	}
	return d
}

// evaluation is one question on its way to its answer.
type evaluation struct {
	state   *State
	request *Request
	roles   []*role // the subject's
	here    []*role // those whose allow.node_labels match the node
	rules   []*Rule
	quiet   bool // no rules are wanted
}

func (e *evaluation) decide() Decision {
	// 1. Is it a question?
	if problem := e.request.problem(); problem != "" {
		return e.deny(CauseBadRequest, problem)
	}
	// 2. Is there a policy?
	sub := &e.request.Subject
	if e.state == nil || len(e.state.Roles) == 0 && !sub.LocalAdmin {
		return e.deny(CauseNoState, "there is no policy to decide by")
	}
	if sub.LocalAdmin {
		return e.decideLocalAdmin()
	}
	// 3. Is the certificate still good?
	if revoked, is := e.state.Revoked.Find(sub.Serial); is {
		e.tookPart(&Rule{RuleDeny, "revocation list", "the certificate is on it"})
		return e.deny(CauseRevoked, revoked.reason(sub.Serial))
	}
	// 4. Is somebody or something locked?
	if locks := e.locks(); len(locks) > 0 {
		return e.deny(CauseLocked, locks[0].reason())
	}
	// 5. Are the roles known?
	if unknown, ok := e.findRoles(); !ok {
		return e.denyUnknownRole(unknown)
	}
	switch e.request.Action {
	case LogIn:
		return e.allow("every role of the user exists")
	case CallAPI:
		return e.decideCall()
	case SeeNode:
		return e.decideSight()
	case OpenSession:
		return e.decideSession()
	case Forward:
		return e.decideForward()
	default: // problem has refused it
		return e.deny(CauseBadRequest, "the action is unknown")
	}
}

// problem says what is missing in r; "" where nothing is.
func (r *Request) problem() string {
	sub := &r.Subject
	if sub.User == "" {
		return "it is not known who asks"
	}
	if sub.Principals != nil && sub.Serial == 0 {
		return "the certificate has no serial, so it could not be revoked"
	}
	switch r.Action {
	case LogIn:
		return ""
	case CallAPI:
		if !slices.Contains(kinds, r.Resource) || !slices.Contains(verbs, r.Verb) {
			return fmt.Sprintf("there is no verb %.64q on kind %.64q", r.Verb, r.Resource)
		}
		return ""
	case SeeNode, OpenSession, Forward:
		if r.Node.ID == "" && r.Node.Name == "" {
			return "it is not known which node is asked for"
		}
		if r.Action != SeeNode && r.Login == "" {
			return "no login was asked for"
		}
		if r.Action == Forward {
			return r.Target.problem()
		}
		return ""
	default:
		return "the action is unknown"
	}
}

// problem says what is missing in t; "" where nothing is.
func (t *Target) problem() string {
	switch t.Kind {
	case ToPort:
		if t.Host == "" || t.Port == 0 {
			return "it is not known which host and port are asked for"
		}
		return ""
	case ToSocket, FromSocket:
		if t.Path == "" {
			return "it is not known which socket is asked for"
		}
		return ""
	case FromPort, ToAgent, ToDisplay:
		return ""
	default:
		return "it is not known what is to be forwarded"
	}
}

func (e *evaluation) decideLocalAdmin() Decision {
	const source = "the control plane's own machine"
	if e.request.Action == OpenSession || e.request.Action == Forward {
		e.tookPart(&Rule{RuleDeny, source, "its administrator has no login on nodes"})
		return e.deny(CauseNotGranted, "the administrator of the control plane's machine has no login on nodes")
	}
	e.tookPart(&Rule{RuleAllow, source, "its administrator may call everything"})
	return e.allow("granted to the administrator of the control plane's machine")
}

// findRoles fills e.roles, or gives the first role that is not known; "" is
// that there is none at all.
func (e *evaluation) findRoles() (unknown string, ok bool) {
	names := e.request.Subject.Roles
	if len(names) == 0 {
		return "", false
	}
	// One allocation for two lists.
	both := make([]*role, 2*len(names))
	e.roles, e.here = both[:0:len(names)], both[len(names):len(names)]
	rules := 2 // of the cluster's mode, and of how new locks have to be
	for _, name := range names {
		r := e.state.Roles[name]
		if r.role == nil || r.name != name {
			return name, false
		}
		e.roles = append(e.roles, r.role)
		rules += r.rules
	}
	if !e.quiet {
		e.rules = make([]*Rule, 0, rules)
	}
	return "", true
}

func (e *evaluation) denyUnknownRole(name string) Decision {
	if name == "" {
		return e.deny(CauseNotGranted, fmt.Sprintf("user %.128q has no role", e.request.Subject.User))
	}
	e.tookPart(&Rule{RuleDeny, "role " + strconv.Quote(name), "it does not exist"})
	return e.deny(CauseUnknownRole, fmt.Sprintf("role %.64q no longer exists; log in again", name))
}

// rolesOf gives the roles of sub that s has.
func (s *State) rolesOf(sub Subject) []*role {
	if s == nil {
		return nil
	}
	var roles []*role
	for _, name := range sub.Roles {
		if r := s.Roles[name]; r.role != nil && r.name == name {
			roles = append(roles, r.role)
		}
	}
	return roles
}

// tookPart adds r to the rules; nil is none.
func (e *evaluation) tookPart(r *Rule) {
	if r != nil && !e.quiet {
		e.rules = append(e.rules, r)
	}
}

func (e *evaluation) deny(cause Cause, reason string) Decision {
	return Decision{Effect: Deny, Cause: cause, Reason: reason, Rules: e.rules}
}

func (e *evaluation) allow(reason string) Decision {
	return Decision{Effect: Allow, Cause: CauseGranted, Reason: reason, Rules: e.rules, Limits: combine(e.roles)}
}
