package node

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/pires/go-proxyproto"
)

// ParseNetworks reads IP addresses and CIDR networks.
func ParseNetworks(texts []string) ([]netip.Prefix, error) {
	networks := make([]netip.Prefix, 0, len(texts))
	for _, text := range texts {
		if addr, err := netip.ParseAddr(text); err == nil && addr.Zone() == "" {
			addr = addr.Unmap()
			networks = append(networks, netip.PrefixFrom(addr, addr.BitLen()))
			continue
		}
		network, err := netip.ParsePrefix(text)
		if err != nil || network.Addr().Is4In6() {
			return nil, fmt.Errorf("%q is neither an IP address nor a network such as 10.1.0.0/16", text)
		}
		networks = append(networks, network.Masked())
	}
	return networks, nil
}

// speaksForOthers tells whether addr is a proxy that has to say for whom it
// connects.
func (s *server) speaksForOthers(addr netip.Addr) bool {
	addr = addr.WithZone("")
	return slices.ContainsFunc(s.proxies, func(p netip.Prefix) bool { return p.Contains(addr) })
}

// introduced is a connection as SSH is to see it: behind a listed proxy with
// the addresses of the client and of what it connected to, as the PROXY
// protocol's header says (haproxy, doc/proxy-protocol.txt, versions 1 and 2).
// From a listed proxy there must be one; from anybody else none is looked for,
// for it would be that person's own word.
//
// It waits for the header as long as the login grace lasts: when that is over
// the connection is closed under it.
func (c *connection) introduced() (net.Conn, error) {
	if !c.server.speaksForOthers(c.remote.Addr()) {
		return c.net, nil
	}
	in := bufio.NewReaderSize(c.net, headerBuffer)
	header, err := proxyproto.Read(in)
	if err != nil {
		return nil, err
	}
	conn := &introducedConn{Conn: c.net, in: in, remote: c.net.RemoteAddr(), local: c.net.LocalAddr()}
	// LOCAL is the proxy itself, which looks whether we live.
	if !header.Command.IsLocal() {
		from, to, ok := header.TCPAddrs()
		if !ok || from.IP.IsUnspecified() {
			return nil, errors.New("its PROXY header is of no TCP connection")
		}
		conn.remote, conn.local = from, to
	}
	c.mu.Lock()
	c.remote, c.local = addrPort(conn.remote), addrPort(conn.local)
	c.mu.Unlock()
	if !c.pass.claim(c.remote.Addr()) {
		return nil, errCrowded
	}
	return conn, nil
}

var errCrowded = errors.New("its client has too many connections")

// introducedConn reads on where the header ended.
type introducedConn struct {
	net.Conn
	in            *bufio.Reader
	remote, local net.Addr
}

func (c *introducedConn) Read(b []byte) (int, error) { return c.in.Read(b) }
func (c *introducedConn) RemoteAddr() net.Addr       { return c.remote }
func (c *introducedConn) LocalAddr() net.Addr        { return c.local }
