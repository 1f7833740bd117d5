package policy

import (
	"cmp"
	"slices"
)

// PortForwards are the hosts and ports that a subject's roles permit
// forwarding to and from, for a server that is told them once and does not ask
// at each: sshd. Sockets are not among them. The zero value is none.
type PortForwards struct {
	// Open may be connected to (ToPort), Listen listened on (FromPort).
	Open, Listen Ports
}

// Ports are all that there are, or those that are listed. The zero value is
// none.
type Ports struct {
	All    bool
	Listed []HostPort
}

// HostPort is a target. Host is in lower case and an address as netip writes
// it; "*" is every host, Port 0 every port.
type HostPort struct {
	Host string
	Port uint16
}

// PortForwards are those of sub, as Decide would answer about each of them were
// it asked for a Forward. Whether sub may open a session, without which there is
// no forwarding, is not among what it tells. Where a role is not known they are
// none.
func (s *State) PortForwards(sub Subject) PortForwards {
	if s == nil {
		return PortForwards{}
	}
	e := evaluation{state: s, request: &Request{Subject: sub}, quiet: true}
	if _, known := e.findRoles(); !known {
		return PortForwards{}
	}
	var all PortForwards
	for _, r := range e.roles {
		if r.forwards.ports == nil {
			continue
		}
		all.Open.add(&r.forwards.open)
		all.Listen.add(&r.forwards.listen)
	}
	all.Open.tidy()
	all.Listen.tidy()
	return all
}

func (p *Ports) add(t *targets) {
	p.All = p.All || !t.listed
	for _, one := range t.ports {
		p.Listed = append(p.Listed, HostPort{one.host, one.port})
	}
}

// tidy gives them an order, whichever the roles are in.
func (p *Ports) tidy() {
	if p.All {
		p.Listed = nil
		return
	}
	slices.SortFunc(p.Listed, func(a, b HostPort) int {
		return cmp.Or(cmp.Compare(a.Host, b.Host), cmp.Compare(a.Port, b.Port))
	})
	p.Listed = slices.Compact(p.Listed)
}
