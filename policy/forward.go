package policy

import "fmt"

// decideForward: may the session's connection be used for more? As with all
// options, every role of the subject counts, whichever node is asked for.
func (e *evaluation) decideForward() Decision {
	d := e.decideSession()
	if !d.Allowed() {
		return d
	}
	// 11. One role must have the option, and the target among those it lists.
	target := &e.request.Target
	given, permitted := false, false
	for _, r := range e.roles {
		rule := r.forwards.of(target.Kind)
		if rule == nil {
			continue
		}
		given = true
		e.tookPart(rule)
		match, listed := r.forwards.match(target)
		e.tookPart(listed)
		permitted = permitted || match
	}
	option, list := optionOf(target.Kind)
	switch {
	case !given:
		return e.deny(CauseForwarding, fmt.Sprintf("no role of user %.128q has %s", e.request.Subject.User, option))
	case !permitted:
		return e.deny(CauseForwarding, fmt.Sprintf(
			"no role of user %.128q with %s lists %.128q in %s", e.request.Subject.User, option, target.title(), list))
	}
	d.Rules = e.rules
	return d
}

// optionOf gives the option of roles that is about kind, and the one that
// narrows it.
func optionOf(kind TargetKind) (option, list string) {
	switch kind {
	case ToAgent:
		return "forward_agent", ""
	case ToDisplay:
		return "permit_x11_forwarding", ""
	case FromPort, FromSocket:
		return "port_forwarding", "permit_listen"
	default: // ToPort, ToSocket; problem has refused others
		return "port_forwarding", "permit_open"
	}
}

// forwards is what a role permits of forwarding. The zero value is nothing.
type forwards struct {
	// The rules where the role has the option; nil where it has not.
	ports, agent, display *Rule
	open, listen          targets
}

// newForwards checks the options of the role. Lists that narrow what the role
// does not give are an error: nothing would come of them, and whoever wrote
// them meant something. So are empty ones, which read as nothing, and would be
// everything once they were stored.
func newForwards(role string, o RoleOptions) (f forwards, err error) {
	rule := func(kind TargetKind, given *bool) *Rule {
		option, _ := optionOf(kind)
		if !isTrue(given) {
			return nil
		}
		return &Rule{RuleAllow, source(role, "options."+option), "it is given"}
	}
	f.ports, f.agent, f.display = rule(ToPort, o.PortForwarding), rule(ToAgent, o.ForwardAgent), rule(ToDisplay, o.PermitX11Forwarding)
	for _, list := range []struct {
		option  string
		spec    []string
		checked *targets
	}{{"permit_open", o.PermitOpen, &f.open}, {"permit_listen", o.PermitListen, &f.listen}} {
		if list.spec != nil && len(list.spec) == 0 {
			return forwards{}, fieldError("options."+list.option, "it is empty; to permit nothing, list %s", nothing)
		}
		if len(list.spec) > 0 && f.ports == nil {
			return forwards{}, fieldError("options."+list.option, "it narrows port_forwarding, which the role does not give")
		}
		if *list.checked, err = newTargets(role, list.option, list.spec); err != nil {
			return forwards{}, err
		}
	}
	return f, nil
}

// of is the rule by which targets of the kind are given; nil where they are not.
func (f *forwards) of(kind TargetKind) *Rule {
	switch kind {
	case ToPort, FromPort, ToSocket, FromSocket:
		return f.ports
	case ToAgent:
		return f.agent
	case ToDisplay:
		return f.display
	default:
		return nil
	}
}

// match tells whether to is among the targets listed, which the option has to
// be given for, and the Rule that says so; nil where there is no list.
func (f *forwards) match(to *Target) (bool, *Rule) {
	switch to.Kind {
	case ToPort, ToSocket:
		return f.open.match(to)
	case FromPort, FromSocket:
		return f.listen.match(to)
	default:
		return true, nil
	}
}

// permit tells whether the role alone permits to.
func (f *forwards) permit(to *Target) bool {
	match, _ := f.match(to)
	return match && f.of(to.Kind) != nil
}
