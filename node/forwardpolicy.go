package node

import (
	"net"
	"strconv"

	"devicetrust/audit/event"
	"devicetrust/policy"
)

// permitHint is that of a denial by the certificate, which has what roles
// allowed when it was issued.
const permitHint = "Log in again, once a role allows it: dtsh login"

// mayForward tells why target may not be forwarded, or nil. Both the
// certificate and policy have to allow it, and the certificate to be current:
// each connection is begun anew.
func (s *server) mayForward(a *admission, target policy.Target) *refusal {
	if s.expired(a) {
		return &refusal{identity: a.identity, reason: expiredReason}
	}
	if reason := notPermitted(a, target.Kind); reason != "" {
		return &refusal{identity: a.identity, reason: reason, hint: permitHint}
	}
	return s.mayStillForward(a, target)
}

// mayStillForward is what policy says of what is forwarded already. A
// certificate that has ended ends nothing by itself (disconnect_expired_cert).
func (s *server) mayStillForward(a *admission, target policy.Target) *refusal {
	_, no := s.ask(a, policy.Request{Action: policy.Forward, Target: target})
	return no
}

func notPermitted(a *admission, kind policy.TargetKind) string {
	permit := a.identity.Permit
	switch kind {
	case policy.ToPort, policy.FromPort, policy.ToSocket, policy.FromSocket:
		if permit.PortForwarding {
			return ""
		}
		return "the certificate does not permit port forwarding"
	case policy.ToAgent:
		if permit.AgentForwarding {
			return ""
		}
		return "the certificate does not permit agent forwarding"
	case policy.ToDisplay:
		if permit.X11Forwarding {
			return ""
		}
		return "the certificate does not permit X11 forwarding"
	default:
		return "it is not known what is to be forwarded"
	}
}

// line is no as a client shows it that shows one line.
func (no *refusal) line() string {
	if no.hint == "" {
		return plain(no.reason)
	}
	return plain(no.reason + ". " + no.hint)
}

// Actions of a port event.
const (
	connectAction = "connect"
	listenAction  = "listen"
	acceptAction  = "accept"
)

// portEvent is about a connection to target or, where it is listened on, about
// the listener.
func portEvent(target policy.Target) event.Event {
	e := event.Event{Type: event.Port, Action: connectAction, Addr: addressOf(target)}
	if target.Kind == policy.FromPort || target.Kind == policy.FromSocket {
		e.Action = listenAction
	}
	return e
}

// addressOf is HOST:PORT, or a path.
func addressOf(target policy.Target) string {
	if target.Path != "" {
		return target.Path
	}
	return net.JoinHostPort(target.Host, strconv.Itoa(int(target.Port)))
}

// about fills in who and from where. What no session asks for is the
// connection's, which is a session of its own to the record.
func (c *connection) about(e event.Event, a *admission) event.Event {
	if e.SessionID == "" {
		e.SessionID = c.forwards.id
	}
	return about(e, a.identity, a.login, c.remote)
}

// recordForward writes down what is about to happen, which may only where there
// is no error.
func (c *connection) recordForward(a *admission, e event.Event) error {
	e.Success = true
	return c.server.recordFor(a, c.about(e, a))
}

// refuseForward notes that e does not happen.
func (c *connection) refuseForward(a *admission, no *refusal, e event.Event) {
	c.server.log.Info("forwarding refused", "user", a.identity.User, "login", a.login, "remote", c.remote,
		"event", e.Type, "action", e.Action, "addr", e.Addr, "reason", no.reason, "details", no.details)
	if e.SessionID == "" {
		e.SessionID = c.forwards.id
	}
	c.server.recordRefused(c, a.login, no, e)
}
