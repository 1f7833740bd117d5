package main

import (
	"fmt"
	"sort"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"devicetrust/client/clienttest"
)

// sortedLines: nodes are in no order.
func sortedLines(text string) string {
	lines := strings.SplitAfter(text, "\n")
	sort.Strings(lines)
	return strings.Join(lines, "")
}

// farm starts nodes with labels.
func farm(t *testing.T, c *clienttest.Cluster, names ...string) (nodes []*clienttest.Node) {
	t.Helper()
	for _, name := range names {
		n := c.StartNode(t, name, clienttest.HostCert{})
		c.Nodes = c.Nodes[:len(c.Nodes)-1]
		c.List(t, name, n.Addr, map[string]string{"env": "prod", "role": name[:2]})
		nodes = append(nodes, n)
	}
	return nodes
}

func TestManyNodesAreNamedByLabel(t *testing.T) {
	c, s := clienttest.Start(t), newSeat(t)
	s.login(c)
	farm(t, c, "web-1", "web-2", "db-1")
	for _, tt := range []struct {
		words          []string
		status         int
		stdout, stderr string
	}{
		{[]string{"root@env=prod", "echo", "hi"}, 0, "db-1: hi\nweb-1: hi\nweb-2: hi\n", "3 nodes: 3 ok, 0 failed\n"},
		{[]string{"--parallel=1", "root@env=prod,role=we", "echo", "hi"}, 0, "web-1: hi\nweb-2: hi\n", "2 nodes: 2 ok, 0 failed\n"},
		{[]string{"-l", "root", "role=db", "err", "oops"}, 0, "", "db-1: oops\n1 node: 1 ok, 0 failed\n"},
		{[]string{"root@role=we", "exit", "3"}, 3, "", "  web-1: exit status 3\n  web-2: exit status 3\n2 nodes: 0 ok, 2 failed\n"},
		{[]string{"root@role=db", "cat"}, 0, "", "1 node: 1 ok, 0 failed\n"}, // nothing comes in
		{[]string{"root@role=db", "pty"}, 0, "db-1: none\n", "1 node: 1 ok, 0 failed\n"},
		{[]string{"root@env=none", "true"}, 255, "", "ERROR: no node with the labels \"env=none\" is known to you\nList the nodes with: dtsh ls\n"},
	} {
		got := s.runs("typed\n", append([]string{"ssh"}, tt.words...)...)
		if diff := cmp.Diff([]any{tt.status, tt.stdout, sortedLines(tt.stderr)}, []any{got.status, sortedLines(got.stdout), sortedLines(got.stderr)}); diff != "" {
			t.Errorf("%q: %s", tt.words, diff)
		}
	}
	for _, line := range []string{"ssh root@env=prod", "ssh -t root@env=prod true", "ssh root@env=prod,x true", "ssh root@=prod true",
		"ssh --parallel=0 root@env=prod true", "ssh --parallel=101 root@env=prod true", "ssh Root@env=prod true",
		"ssh -N root@env=prod", "ssh -N root@env=prod true", "ssh -A root@env=prod true", "ssh -J web-1 root@env=prod true", "ssh -L 1:a:1 root@env=prod true"} {
		want(t, s.dtsh(strings.Fields(line)...), 2, "", "^ERROR: ")
	}
}

func TestEachNodeIsVerifiedAndToldOfApart(t *testing.T) {
	c, s := clienttest.Start(t), newSeat(t)
	s.login(c)
	nodes := farm(t, c, "web-1", "web-2", "web-3")
	nodes[1].Refuse, nodes[1].Hint = "login root is not granted", "Ask for it."
	nodes[2].Banner = "Welcome\r\nto web-3"
	c.List(t, "web-4", nodes[0].Addr, map[string]string{"env": "prod"}) // another answers there
	c.List(t, "web-5", "127.0.0.1:1", map[string]string{"env": "prod"})
	got := s.dtsh("ssh", "root@env=prod", "exit", "7")
	want(t, got, 255, "", `^web-3: Welcome\nweb-3: to web-3\n`)
	want(t, got, 255, "", `^5 nodes: 0 ok, 5 failed\n  web-1: exit status 7\n  web-2: access denied to root connecting to web-2:\d+: login root is not granted\n`+
		`  web-3: exit status 7\n  web-4: cannot trust web-4:\d+: .*\n  web-5: cannot reach web-5:1 at 127.0.0.1:1: connection refused\nAsk for it\.\n`)
	if len(nodes[0].Certificates()) != 1 {
		t.Error("a certificate was offered to who is not the node")
	}
}

func TestNodesOfOneNameAreToldApart(t *testing.T) {
	c, s := clienttest.Start(t), newSeat(t)
	s.login(c)
	nodes := farm(t, c, "web-1", "web-1")
	got := s.dtsh("ssh", "root@env=prod", "echo", "hi")
	lines := []string{fmt.Sprintf("web-1 (%s): hi\n", nodes[0].Addr), fmt.Sprintf("web-1 (%s): hi\n", nodes[1].Addr)}
	if want := sortedLines(strings.Join(lines, "")); sortedLines(got.stdout) != want {
		t.Errorf("%+v", got)
	}
}

func TestWhatANodeWritesIsNotAnothers(t *testing.T) {
	c, s := clienttest.Start(t), newSeat(t)
	s.login(c)
	farm(t, c, "web-1")
	want(t, s.dtsh("ssh", "root@env=prod", "echo", "x\rweb-2: all is well\nweb-2: really"), 0,
		`\Aweb-1: x\nweb-1: web-2: all is well\nweb-1: web-2: really\n\z`, "1 ok")
}
