package node

import (
	"math/rand/v2"
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
	dropped    uint64               // connections that there was no room for, so far
	perAddress map[netip.Prefix]int // strangers only
}

func newGuard(l limits) *guard {
	return &guard{limits: l, perAddress: map[netip.Prefix]int{}}
}

// enter counts a new connection, or is nil where there is no room for it. One
// whose client is not known yet comes from the zero Addr, and is not counted as
// anybody's until it is claimed.
func (g *guard) enter(from netip.Addr) *pass {
	g.mu.Lock()
	defer g.mu.Unlock()
	p := &pass{guard: g, stranger: true}
	if !g.roomLocked() {
		g.dropped++
		return nil
	}
	if from.IsValid() && !p.claimLocked(from) {
		return nil
	}
	g.all++
	g.strangers++
	return p
}

// claim counts the connection as one of an address, once; it is false where
// that has too many, or is none, and the connection one that is dropped.
func (p *pass) claim(from netip.Addr) bool {
	p.guard.mu.Lock()
	defer p.guard.mu.Unlock()
	return p.claimLocked(from)
}

func (p *pass) claimLocked(from netip.Addr) bool {
	net := network(from)
	if !net.IsValid() || p.net.IsValid() || p.guard.perAddress[net] >= p.guard.limits.unauthenticatedPerAddress {
		p.guard.dropped++
		return false
	}
	p.net = net
	p.guard.perAddress[net]++
	return true
}

// roomLocked tells whether there is room for one more, whosever it is.
func (g *guard) roomLocked() bool {
	return g.all < g.limits.connections && rand.IntN(100) >= g.limits.dropPercent(g.strangers)
}

// dropPercent is how many of 100 new connections are dropped where there are
// so many strangers, as with sshd's MaxStartups (sshd.c,
// should_drop_connection): none, then dropRate of them, then ever more. Who
// holds many places so does not keep all others out: each of their attempts
// has its chance.
func (l limits) dropPercent(strangers int) int {
	switch {
	case strangers >= l.unauthenticated:
		return 100
	case strangers < l.dropFrom:
		return 0
	default:
		return l.dropRate + (100-l.dropRate)*(strangers-l.dropFrom)/(l.unauthenticated-l.dropFrom)
	}
}

// count gives how many connections somebody was admitted on, on how many
// nobody yet, and how many were dropped.
func (g *guard) count() (admitted, strangers int, dropped uint64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.all - g.strangers, g.strangers, g.dropped
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
		return netip.Prefix{} // it has no address
	}
	return p
}

// pass is one connection's place in the count.
type pass struct {
	guard *guard

	// guarded by guard.mu
	net            netip.Prefix // the zero Prefix until it is claimed
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
	if !p.net.IsValid() {
		return
	}
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
