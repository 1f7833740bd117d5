package policy

import "time"

// combine gives the options of all of a subject's roles together.
func combine(roles []*role) Limits {
	all := Limits{BestEffortAudit: len(roles) > 0}
	for _, r := range roles {
		l := &r.limits
		all.MaxSessionTTL = smallest(all.MaxSessionTTL, l.MaxSessionTTL)
		all.IdleTimeout = smallest(all.IdleTimeout, l.IdleTimeout)
		all.MaxSessions = smallest(all.MaxSessions, l.MaxSessions)
		all.PortForwarding = all.PortForwarding || l.PortForwarding
		all.AgentForwarding = all.AgentForwarding || l.AgentForwarding
		all.X11Forwarding = all.X11Forwarding || l.X11Forwarding
		all.DisconnectExpiredCert = all.DisconnectExpiredCert || l.DisconnectExpiredCert
		all.PinSourceIP = all.PinSourceIP || l.PinSourceIP
		all.AttestedKey = all.AttestedKey || l.AttestedKey
		// Only where all agree: it lets go what every other option demands.
		all.BestEffortAudit = all.BestEffortAudit && l.BestEffortAudit
	}
	return all
}

// smallest of two where 0 is no limit.
func smallest[N int64 | time.Duration](a, b N) N {
	if a == 0 || b != 0 && b < a {
		return b
	}
	return a
}
