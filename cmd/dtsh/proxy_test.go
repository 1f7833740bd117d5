package main

import (
	"net"
	"strings"
	"testing"

	"devicetrust/client/clienttest"
)

func TestAProxyReachesANodeByEachOfItsNames(t *testing.T) {
	c, s := clienttest.Start(t), newSeat(t)
	s.login(c)
	node := c.StartNode(t, "web-1", clienttest.HostCert{})
	_, port, _ := net.SplitHostPort(node.Addr)
	id := "00000000-0000-4000-8000-000000000000"
	for _, address := range []string{
		"web-1", "web-1:22", "root@web-1:22", "no/login@ofours@web-1:22", "WEB-1:22", "web-1.example:22", id, id + ":22",
		"root@web-1:" + port, node.Addr, "root@" + node.Addr, "[127.0.0.1]:" + port,
	} {
		// What a node says first; then it hangs up, as nothing comes in.
		want(t, s.dtsh("proxy", "ssh", address), 0, `^SSH-2\.0-`, "")
	}
}

func TestAProxyRefusesWhatIsNoNode(t *testing.T) {
	c, s := clienttest.Start(t), newSeat(t)
	want(t, s.dtsh("proxy", "ssh", "web-1:22"), 1, "", `^ERROR: not logged in`)
	s.login(c)
	c.StartNode(t, "web-1", clienttest.HostCert{})
	for address, text := range map[string]string{
		"web-2:22":      `no node "web-2" is known to you`,
		"web-1:1":       `cannot reach web-1:1 at 127\.0\.0\.1:1: connection refused`,
		"127.0.0.1:1":   `cannot reach 127\.0\.0\.1:1`,
		"[::1]:1":       `cannot reach \[::1\]:1`,
		"root@::1:1":    `cannot reach \[::1\]:1`,
		"$(id):22":      `no node "\$\(id\)"`,
		"$(id):2200":    `no node "\$\(id\)"`,
		"-oX=y:2200":    `no node "-oX=y"`,
		"web-1:ssh":     `does not name a node`,
		"web-1:0":       `does not name a node`,
		"web-1:65536":   `does not name a node`,
		"web-1:":        `does not name a node`,
		"root@":         `does not name a node`,
		"a:b:22":        `does not name a node`,
		"web-1\n:22":    `no node "web-1\\\\?n"`,
		"root@web-1:-1": `does not name a node`,
	} {
		want(t, s.dtsh("proxy", "ssh", "--", address), 1, "", `^ERROR: .*`+text)
	}
	for _, line := range []string{"proxy bogus", "proxy ssh", "proxy ssh a b"} {
		want(t, s.dtsh(strings.Fields(line)...), 2, "", "^ERROR: |^Usage")
	}
}
