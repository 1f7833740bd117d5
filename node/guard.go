package node

import (
	"net/netip"
	"sync"
)

// guard counts connections: all, those that nobody has been admitted on, and
// those of one address.
type guard struct {
	limits limits

	mu         sync.Mutex
	all        int
	strangers  int
	perAddress map[netip.Prefix]int // strangers only
}

func newGuard(l limits) *guard {
	return &guard{limits: l, perAddress: map[netip.Prefix]int{}}
}

// enter counts a new connection, or is nil where there is no room for it.
func (g *guard) enter(from netip.Addr) *pass {
	net := network(from)
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.all >= g.limits.connections || g.strangers >= g.limits.unauthenticated ||
		g.perAddress[net] >= g.limits.unauthenticatedPerAddress {
		return nil
	}
	g.all++
	g.strangers++
	g.perAddress[net]++
	return &pass{guard: g, net: net, stranger: true}
}

// network is what one stranger is taken to hold: an IPv4 address, or an IPv6
// /64, the least that a site is given (RFC 6177).
func network(a netip.Addr) netip.Prefix {
	a = a.Unmap().WithZone("")
	bits := a.BitLen()
	if a.Is6() {
		bits = 64
	}
	p, err := a.Prefix(bits)
	if err != nil {
		return netip.Prefix{} // all that have no address count as one
	}
	return p
}

// pass is one connection's place in the count.
type pass struct {
	guard *guard
	net   netip.Prefix

	// guarded by guard.mu
	stranger, left bool
}

// admit: it is no stranger's any more.
func (p *pass) admit() {
	p.guard.mu.Lock()
	defer p.guard.mu.Unlock()
	p.admitLocked()
}

func (p *pass) admitLocked() {
	if !p.stranger {
		return
	}
	p.stranger = false
	p.guard.strangers--
	if p.guard.perAddress[p.net]--; p.guard.perAddress[p.net] == 0 {
		delete(p.guard.perAddress, p.net)
	}
}

// leave gives the place back.
func (p *pass) leave() {
	p.guard.mu.Lock()
	defer p.guard.mu.Unlock()
	if p.left {
		return
	}
	p.left = true
	p.admitLocked()
	p.guard.all--
}
