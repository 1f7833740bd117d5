package resource

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

func TestANodeClaimsOnlyWhatItMay(t *testing.T) {
	many := map[string]string{}
	for i := range maxLabels + 1 {
		many[fmt.Sprint(i)] = ""
	}
	for name, tt := range map[string]struct {
		change func(*NodeClaims)
		want   string
	}{
		"nothing odd":             {func(*NodeClaims) {}, ""},
		"an IPv6 address":         {func(c *NodeClaims) { c.Addresses = []string{"[2001:db8::1]:22"} }, ""},
		"no host name":            {func(c *NodeClaims) { c.Hostname = "" }, ""},
		"no name":                 {func(c *NodeClaims) { c.Name = "" }, "node name"},
		"a name with a space":     {func(c *NodeClaims) { c.Name = "a b" }, "node name"},
		"a host name with a line": {func(c *NodeClaims) { c.Hostname = "a\n" }, "host name"},
		"no address":              {func(c *NodeClaims) { c.Addresses = nil }, "addresses"},
		"many addresses":          {func(c *NodeClaims) { c.Addresses = slices.Repeat(c.Addresses, maxNodeAddresses+1) }, "addresses"},
		"no port":                 {func(c *NodeClaims) { c.Addresses = []string{"a"} }, "host:port"},
		"port 0":                  {func(c *NodeClaims) { c.Addresses = []string{"a:0"} }, "host:port"},
		"a zone":                  {func(c *NodeClaims) { c.Addresses = []string{"[fe80::1%x y]:22"} }, "host:port"},
		"a version with a line":   {func(c *NodeClaims) { c.Version = "1\n" }, "version"},
		"a long label":            {func(c *NodeClaims) { c.Labels = map[string]string{"a": strings.Repeat("x", maxNodeLabel+1)} }, "label"},
		"a label with an escape":  {func(c *NodeClaims) { c.Labels = map[string]string{"a": "\x1b[2J"} }, "label"},
		"a key with a space":      {func(c *NodeClaims) { c.Labels = map[string]string{"a b": ""} }, "label"},
		"an empty key":            {func(c *NodeClaims) { c.Labels = map[string]string{"": "a"} }, "label"},
		"a stock sshd":            {func(c *NodeClaims) { c.Enforcer = EnforcerSSHD }, ""},
		"another enforcer":        {func(c *NodeClaims) { c.Enforcer = "nobody\x1b" }, "enforce"},
		"many labels":             {func(c *NodeClaims) { c.Labels = many }, "labels"},
	} {
		c := NodeClaims{Name: "server-1", Hostname: "server-1", Addresses: []string{"server-1:22"}, Labels: map[string]string{"env": "test"}}
		tt.change(&c)
		err := c.Check()
		if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
			t.Errorf("%s: %v, want %q", name, err, tt.want)
		}
	}
	if err := (NodeClaims{}).Check(); err == nil {
		t.Error("the zero value may be claimed")
	}
}
