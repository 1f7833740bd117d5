package policy

import "fmt"

// decideForward: may the session's connection be used for more?
func (e *evaluation) decideForward() Decision {
	d := e.decideSession()
	if !d.Allowed() {
		return d
	}
	option, given := "port_forwarding", d.Limits.PortForwarding
	switch e.request.Target.Kind {
	case ToAgent:
		option, given = "forward_agent", d.Limits.AgentForwarding
	case ToDisplay:
		option, given = "permit_x11_forwarding", d.Limits.X11Forwarding
	default: // ports and sockets
	}
	if !given {
		return e.deny(CauseForwarding, fmt.Sprintf("no role of user %.128q has %s", e.request.Subject.User, option))
	}
	return d
}
