package authd

import (
	"net"
	"net/netip"
	"sync"
)

// shares bounds what callers take of something: in total, for each place, and
// for each site. The zero value gives nothing.
type shares struct {
	total, place, site int64 // the most

	mu    sync.Mutex
	taken int64
	of    map[netip.Prefix]int64
}

func (s *shares) take(from netip.Prefix, n int64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	site := siteOf(from)
	if s.taken+n > s.total || s.of[from]+n > s.place || site.IsValid() && s.of[site]+n > s.site {
		return false
	}
	s.addLocked(from, site, n)
	return true
}

func (s *shares) give(from netip.Prefix, n int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.addLocked(from, siteOf(from), -n)
}

func (s *shares) addLocked(from, site netip.Prefix, n int64) {
	if s.of == nil {
		s.of = map[netip.Prefix]int64{}
	}
	s.taken += n
	s.of[from] += n
	if site.IsValid() {
		s.of[site] += n
	}
	for _, p := range []netip.Prefix{from, site} {
		if s.of[p] == 0 {
			delete(s.of, p)
		}
	}
}

// place is where a connection comes from.
func place(remote net.Addr) netip.Prefix {
	a, ok := remote.(*net.TCPAddr)
	if !ok {
		return netip.Prefix{}
	}
	return placeOf(a.AddrPort().Addr())
}

// placeOf is the address; of IPv6 the /64, in which a host chooses freely
// (RFC 4291 section 2.5.1).
func placeOf(addr netip.Addr) netip.Prefix {
	addr = addr.Unmap().WithZone("")
	bits := 32
	if addr.Is6() {
		bits = 64
	}
	p, err := addr.Prefix(bits)
	if err != nil {
		return netip.Prefix{}
	}
	return p
}

// siteOf is the /48 of an IPv6 place, which one customer may be given as a
// whole (RFC 6177 section 2); IPv4 has none.
func siteOf(place netip.Prefix) netip.Prefix {
	if !place.IsValid() || !place.Addr().Is6() {
		return netip.Prefix{}
	}
	p, err := place.Addr().Prefix(48)
	if err != nil {
		return netip.Prefix{}
	}
	return p
}
