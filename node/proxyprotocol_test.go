package node

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/pires/go-proxyproto"
	gossh "golang.org/x/crypto/ssh"

	"devicetrust/audit/event"
)

func behindLoopback(c *serverConfig) {
	c.proxies = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
}

// header is a version 2 header for addresses, with what the proxy says besides.
func headerV2(t testing.TB, from, to net.Addr) []byte {
	t.Helper()
	h := proxyproto.HeaderProxyFromAddrs(2, from, to)
	if err := h.SetTLVs([]proxyproto.TLV{{Type: proxyproto.PP2_TYPE_AUTHORITY, Value: []byte("ssh.example.com")}}); err != nil {
		t.Fatal(err)
	}
	wire, err := h.Format()
	if err != nil {
		t.Fatal(err)
	}
	return wire
}

func tcp(text string) *net.TCPAddr { return net.TCPAddrFromAddrPort(netip.MustParseAddrPort(text)) }

// through connects as a proxy does that writes header first.
func (n *testNode) through(header []byte) (*gossh.Client, error) {
	n.t.Helper()
	conn, err := net.Dial("tcp", n.address)
	if err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(func() { conn.Close() })
	if _, err := conn.Write(header); err != nil {
		n.t.Fatal(err)
	}
	c, channels, requests, err := gossh.NewClientConn(conn, n.address, &gossh.ClientConfig{
		User: tester, Auth: []gossh.AuthMethod{gossh.PublicKeys(n.cluster.certify(n.t, alice(), newSigner(n.t)))},
		HostKeyCallback: gossh.InsecureIgnoreHostKey(), Timeout: 10 * time.Second,
	})
	if err != nil {
		return nil, err
	}
	return gossh.NewClient(c, channels, requests), nil
}

func TestBehindAProxyTheClientsOwnAddressCounts(t *testing.T) {
	for _, tt := range []struct {
		name   string
		header []byte
		client string // SSH_CLIENT's address and port; "" is the proxy's own
		server string
	}{
		{"version 1", []byte("PROXY TCP4 192.0.2.7 198.51.100.1 4711 2222\r\n"), "192.0.2.7 4711", "198.51.100.1 2222"},
		{"version 1, IPv6", []byte("PROXY TCP6 2001:db8::7 2001:db8::1 4711 2222\r\n"), "2001:db8::7 4711", "2001:db8::1 2222"},
		{"version 1, IPv4 written as IPv6", []byte("PROXY TCP6 ::ffff:192.0.2.7 ::ffff:198.51.100.1 4711 2222\r\n"), "192.0.2.7 4711", "198.51.100.1 2222"},
		{"version 2", headerV2(t, tcp("192.0.2.7:4711"), tcp("198.51.100.1:2222")), "192.0.2.7 4711", "198.51.100.1 2222"},
		{"version 2, IPv6", headerV2(t, tcp("[2001:db8::7]:4711"), tcp("[2001:db8::1]:2222")), "2001:db8::7 4711", "2001:db8::1 2222"},
		{"version 2, the proxy itself", headerV2(t, nil, nil), "", ""},
		{"version 1, the proxy itself", []byte("PROXY UNKNOWN\r\n"), "", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			n := startNode(t, behindLoopback)
			c, err := n.through(tt.header)
			if err != nil {
				t.Fatal(err)
			}
			out, _, _ := run(t, c, `echo "$SSH_CONNECTION"; echo "$SSH_CLIENT"`)
			connection, client, _ := strings.Cut(strings.TrimSpace(out), "\n")
			if tt.client == "" {
				if !strings.HasPrefix(connection, "127.0.0.1 ") {
					t.Errorf("SSH_CONNECTION is %q, and not the proxy's", connection)
				}
				return
			}
			_, port, _ := strings.Cut(tt.server, " ")
			if connection != tt.client+" "+tt.server || client != tt.client+" "+port {
				t.Errorf("SSH_CONNECTION %q, SSH_CLIENT %q", connection, client)
			}
			host, port, _ := strings.Cut(tt.client, " ")
			if got := n.recorded(event.SessionStart).RemoteAddr; got != net.JoinHostPort(host, port) {
				t.Errorf("on record is %s", got)
			}
		})
	}
}

func TestAConnectionWithoutAProperHeaderIsClosed(t *testing.T) {
	n := startNode(t, behindLoopback)
	unix := &net.UnixAddr{Net: "unix", Name: "/run/x"}
	tooLong := headerV2(t, tcp("192.0.2.7:1"), tcp("192.0.2.8:2"))
	binary.BigEndian.PutUint16(tooLong[14:], 0xffff)
	for name, header := range map[string][]byte{
		"none":               nil,
		"a UNIX socket":      headerV2(t, unix, unix),
		"UDP":                headerV2(t, &net.UDPAddr{IP: net.IPv4(192, 0, 2, 7), Port: 1}, &net.UDPAddr{IP: net.IPv4(192, 0, 2, 8), Port: 1}),
		"no address":         []byte("PROXY TCP4 0.0.0.0 192.0.2.8 1 2\r\n"),
		"not an address":     []byte("PROXY TCP4 somewhere 192.0.2.8 1 2\r\n"),
		"a zone":             []byte("PROXY TCP6 fe80::1%lo 2001:db8::1 1 2\r\n"),
		"a line without end": bytes.Repeat([]byte("PROXY "), 100),
		"much besides":       tooLong,
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := n.through(header); err == nil {
				t.Error("it is let in")
			}
		})
	}
	eventually(t, "it is logged", func() bool { return strings.Count(n.log.String(), "a proxy's connection is closed") == 8 })
}

func TestWhoIsNoListedProxyCannotSayWhoTheyAre(t *testing.T) {
	n := startNode(t, func(c *serverConfig) { c.proxies = []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")} })
	// SSH skips lines before the version (RFC 4253 section 4.2 lets servers
	// send some, and x/crypto both sides), so it is no fault; nor is it believed.
	if c, err := n.through([]byte("PROXY TCP4 192.0.2.7 198.51.100.1 4711 2222\r\n")); err == nil {
		if out, _, _ := run(t, c, "echo $SSH_CLIENT"); !strings.HasPrefix(out, "127.0.0.1 ") {
			t.Errorf("SSH_CLIENT is %q", out)
		}
		if e := n.recorded(event.SessionStart); !strings.HasPrefix(e.RemoteAddr, "127.0.0.1:") {
			t.Errorf("on record is %s", e.RemoteAddr)
		}
	}
	if _, err := n.dial(tester, n.cluster.certify(t, alice(), newSigner(t))); err != nil {
		t.Errorf("without one: %v", err)
	}
}

func TestAProxyThatDoesNotSayWhoItIsForHoldsUpNobody(t *testing.T) {
	n := startNode(t, behindLoopback, func(c *serverConfig) { c.limits.loginGrace = 2 * time.Second })
	slow, err := net.Dial("tcp", n.address)
	if err != nil {
		t.Fatal(err)
	}
	defer slow.Close()
	slow.Write([]byte("PR"))
	if _, err := n.through([]byte("PROXY TCP4 192.0.2.7 198.51.100.1 4711 2222\r\n")); err != nil {
		t.Errorf("somebody else meanwhile: %v", err)
	}
	slow.SetReadDeadline(time.Now().Add(10 * time.Second))
	if _, err := slow.Read(make([]byte, 1)); !errors.Is(err, io.EOF) && !strings.Contains(fmt.Sprint(err), "reset") {
		t.Errorf("after the login grace: %v", err)
	}
	eventually(t, "its place is free", func() bool {
		n.guard.mu.Lock()
		defer n.guard.mu.Unlock()
		return n.guard.strangers == 0
	})
}

func TestBehindAProxyEachClientHasItsOwnBound(t *testing.T) {
	n := startNode(t, behindLoopback, func(c *serverConfig) { c.limits.unauthenticatedPerAddress = 2 })
	// open leaves a connection unauthenticated, and tells whether SSH greets it.
	open := func(client string) bool {
		conn, err := net.Dial("tcp", n.address)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		fmt.Fprintf(conn, "PROXY TCP4 %s 198.51.100.1 4711 2222\r\nSSH-2.0-test\r\n", client)
		conn.SetReadDeadline(time.Now().Add(10 * time.Second))
		said := make([]byte, len("SSH-2.0-"))
		_, err = io.ReadFull(conn, said)
		if !strings.HasPrefix(exceeded, string(said)) && string(said) != "SSH-2.0-" {
			t.Errorf("%s is told %q, %v", client, said, err)
		}
		return string(said) == "SSH-2.0-"
	}
	for i, tt := range []struct {
		client string
		want   bool
	}{{"192.0.2.1", true}, {"192.0.2.1", true}, {"192.0.2.1", false}, {"192.0.2.2", true}, {"192.0.2.3", true}} {
		if got := open(tt.client); got != tt.want {
			t.Errorf("%d: %s is greeted: %t", i, tt.client, got)
		}
	}
	if _, _, dropped := n.guard.count(); dropped != 1 {
		t.Errorf("%d are counted as dropped, not one", dropped)
	}
}

func TestNetworksAreAddressesAndCIDRs(t *testing.T) {
	for text, want := range map[string]string{
		"192.0.2.1": "192.0.2.1/32", "::ffff:192.0.2.1": "192.0.2.1/32", "10.1.2.3/8": "10.0.0.0/8",
		"2001:db8::1": "2001:db8::1/128", "2001:db8::/32": "2001:db8::/32",
		"": "", "lb.example.com": "", "10.0.0.0/33": "", "fe80::1%eth0": "", "::ffff:10.0.0.0/104": "",
	} {
		got, err := ParseNetworks([]string{text})
		switch {
		case want == "" && err == nil:
			t.Errorf("%q is %v", text, got)
		case want != "" && (err != nil || got[0].String() != want):
			t.Errorf("%q is %v, %v", text, got, err)
		}
	}
}

// Nothing that comes in place of a header ends the node, or makes an address.
func FuzzProxyHeader(f *testing.F) {
	f.Add([]byte("PROXY TCP4 192.0.2.7 198.51.100.1 4711 2222\r\nSSH-2.0-x\r\n"))
	f.Add([]byte("PROXY UNKNOWN\r\n"))
	f.Add(headerV2(f, tcp("[2001:db8::7]:4711"), tcp("[2001:db8::1]:2222")))
	f.Add(headerV2(f, nil, nil))
	f.Add(headerV2(f, &net.UnixAddr{Net: "unix", Name: "a"}, &net.UnixAddr{Net: "unix", Name: "b"}))
	f.Fuzz(func(t *testing.T, data []byte) {
		here, there := net.Pipe()
		go func() {
			there.Write(data)
			there.Close()
		}()
		defer here.Close()
		s := &server{
			log: quiet(), now: time.Now, metrics: newMetrics(), limits: defaultLimits(), guard: newGuard(defaultLimits()), ctx: t.Context(),
			proxies: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")},
		}
		proxy := &addressed{here, tcp("192.0.2.1:5")}
		c := s.newConnection(proxy, s.guard.enter(netip.Addr{}))
		defer c.cancel()
		conn, err := c.introduced()
		if err != nil {
			return
		}
		if addrPort(conn.RemoteAddr()) != c.remote || !c.remote.Addr().IsValid() || c.remote.Addr().Is4In6() || c.remote.Addr().IsUnspecified() {
			t.Errorf("%v of %q", c.remote, data)
		}
		if rest, err := io.ReadAll(conn); err != nil || !bytes.HasSuffix(data, rest) {
			t.Errorf("left is %q, %v", rest, err)
		}
	})
}

type addressed struct {
	net.Conn
	from net.Addr
}

func (a *addressed) RemoteAddr() net.Addr { return a.from }
