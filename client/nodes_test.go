package client

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"devicetrust/api"
	"devicetrust/client/clienttest"
)

func connected(t *testing.T, p *Profile) *Conn {
	t.Helper()
	conn, err := Dial(p, options())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(conn.Close)
	return conn
}

func TestNodesAreListedByNameAndLabel(t *testing.T) {
	c := clienttest.Start(t)
	c.List(t, "web-2", "127.0.0.1:1", map[string]string{"env": "prod", "role": "web"})
	c.List(t, "web-1", "127.0.0.1:2", map[string]string{"env": "test", "role": "web"})
	c.List(t, "db-1", "127.0.0.1:3", map[string]string{"env": "prod"})
	conn := connected(t, loggedIn(t, c, newHome(t), nil))
	for words, want := range map[string]string{
		"": "db-1 web-1 web-2", "env=prod": "db-1 web-2", "env=prod role=web": "web-2", "env=": "", "none=x": "",
	} {
		labels, err := ParseLabels(strings.Fields(words))
		if err != nil {
			t.Fatal(err)
		}
		nodes, err := conn.Nodes(t.Context(), labels)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, n := range nodes {
			got = append(got, n.Spec.Hostname)
		}
		if strings.Join(got, " ") != want {
			t.Errorf("%q: %q, want %q", words, got, want)
		}
	}
	for _, word := range []string{"env", "=x", ""} {
		if _, err := ParseLabels([]string{word}); err == nil {
			t.Errorf("%q is taken for a label", word)
		}
	}
	c.Nodes = append(c.Nodes, []byte("garbage"))
	if _, err := conn.Nodes(t.Context(), nil); err == nil {
		t.Error("garbage is taken for a node")
	}
}

func TestATargetIsANodeOrAnAddress(t *testing.T) {
	c := clienttest.Start(t)
	c.List(t, "web-1", "10.0.0.1:3022", nil)
	c.List(t, "twin", "10.0.0.2:3022", nil)
	c.List(t, "twin", "10.0.0.3:3022", nil)
	c.List(t, "lost", "", nil)
	c.List(t, "odd", "-oProxyCommand=x:3022", nil)
	conn := connected(t, loggedIn(t, c, newHome(t), nil))
	at := func(shown, address, name string) Target {
		return Target{Shown: shown, Addresses: []string{address}, Name: name, Listed: name == "web-1"}
	}
	for _, tt := range []struct {
		host, port string
		want       Target
		err        string
	}{
		{"web-1", "", at("web-1:3022", "10.0.0.1:3022", "web-1"), ""},
		{"WEB-1", "", at("web-1:3022", "10.0.0.1:3022", "web-1"), ""},
		{"00000000-0000-4000-8000-000000000000", "", at("web-1:3022", "10.0.0.1:3022", "web-1"), ""},
		{"web-1", "22", at("web-1:22", "10.0.0.1:22", "web-1"), ""},
		{"10.9.9.9:22", "", at("10.9.9.9:22", "10.9.9.9:22", "10.9.9.9"), ""},
		{"[::1]:22", "", at("[::1]:22", "[::1]:22", "::1"), ""},
		{"10.9.9.9", "22", at("10.9.9.9:22", "10.9.9.9:22", "10.9.9.9"), ""},
		{"::1", "22", at("[::1]:22", "[::1]:22", "::1"), ""},
		{"elsewhere", "22", at("elsewhere:22", "elsewhere:22", "elsewhere"), ""},
		{"elsewhere", "", Target{}, `no node "elsewhere"`},
		{"twin", "", Target{}, "10.0.0.2:3022, 10.0.0.3:3022"},
		{"lost", "", Target{}, "no address"},
		{"odd", "", Target{}, "no address"},
		{"web-1:ssh", "", Target{}, "not a node's name"},
		{"a b", "22", Target{}, `no node "a b"`},
	} {
		got, err := conn.Resolve(t.Context(), tt.host, tt.port)
		if diff := cmp.Diff(tt.want, got); diff != "" {
			t.Errorf("%s %s: %s", tt.host, tt.port, diff)
		}
		if tt.err == "" && err == nil {
			continue
		}
		if r, ok := errors.AsType[*api.Refusal](err); tt.err == "" || !ok || !strings.Contains(r.Message, tt.err) {
			t.Errorf("%s %s: error %v, want %q", tt.host, tt.port, err, tt.err)
		}
	}
}

func TestAnAddressNeedsNoCluster(t *testing.T) {
	c := clienttest.Start(t)
	conn := connected(t, loggedIn(t, c, newHome(t), nil))
	c.Stop()
	for _, a := range [][2]string{{"10.9.9.9:22", ""}, {"10.9.9.9", "22"}, {"::1", "22"}} {
		if _, err := conn.Resolve(t.Context(), a[0], a[1]); err != nil {
			t.Errorf("%q: %v", a, err)
		}
	}
	_, err := conn.Resolve(t.Context(), "web-1", "")
	if r, ok := errors.AsType[*api.Refusal](err); !ok || !strings.Contains(r.Message, c.Proxy) || !strings.Contains(r.Hint, "HOST:PORT") {
		t.Errorf("error %v", err)
	}
}
