package node

import (
	"strings"
	"testing"

	gossh "golang.org/x/crypto/ssh"

	"devicetrust/identity"
	"devicetrust/node/sockets"
	"devicetrust/policy"
)

func directTCP(host string, port uint32) []byte {
	return gossh.Marshal(struct {
		Host string
		Port uint32
		From string
		At   uint32
	}{host, port, "127.0.0.1", 1})
}

func hostPort(host string, port uint32) []byte {
	return gossh.Marshal(struct {
		Host string
		Port uint32
	}{host, port})
}

func onePath(path string) []byte { return gossh.Marshal(struct{ Path string }{path}) }

func TestWhatIsToBeForwardedIsReadAsItWasAskedFor(t *testing.T) {
	for name, row := range map[string]struct {
		parse   func([]byte) (policy.Target, error)
		payload []byte
		want    policy.Target // the zero value: refused
	}{
		"a host":              {parseDirectTCP, directTCP("db.example.com", 5432), policy.Target{Kind: policy.ToPort, Host: "db.example.com", Port: 5432}},
		"an IPv6 address":     {parseDirectTCP, directTCP("::1", 1), policy.Target{Kind: policy.ToPort, Host: "::1", Port: 1}},
		"no host":             {parseDirectTCP, directTCP("", 1), policy.Target{}},
		"port 0":              {parseDirectTCP, directTCP("h", 0), policy.Target{}},
		"port 65536":          {parseDirectTCP, directTCP("h", 65536), policy.Target{}},
		"a port that wraps":   {parseDirectTCP, directTCP("h", 1<<16+22), policy.Target{}},
		"a host with a space": {parseDirectTCP, directTCP("h h", 1), policy.Target{}},
		"a long host":         {parseDirectTCP, directTCP(strings.Repeat("h", 256), 1), policy.Target{}},
		"nothing":             {parseDirectTCP, nil, policy.Target{}},
		"an endless string":   {parseDirectTCP, []byte("\xff\xff\xff\xfch"), policy.Target{}},
		"more at the end":     {parseDirectTCP, append(directTCP("h", 1), 0), policy.Target{}},

		"any port":            {parseListen, hostPort("localhost", 0), policy.Target{Kind: policy.FromPort, Host: "localhost"}},
		"every address":       {parseListen, hostPort("", 80), policy.Target{Kind: policy.FromPort, Port: 80}},
		"listen at 65536":     {parseListen, hostPort("", 65536), policy.Target{}},
		"listen at nothing":   {parseListen, nil, policy.Target{}},
		"a listener and more": {parseListen, append(hostPort("", 80), 0), policy.Target{}},

		"a socket": {parseDirectSocket, gossh.Marshal(struct {
			P, R string
			N    uint32
		}{"/run/x", "", 0}), policy.Target{Kind: policy.ToSocket, Path: "/run/x"}},
		"no socket": {parseDirectSocket, gossh.Marshal(struct {
			P, R string
			N    uint32
		}{"", "", 0}), policy.Target{}},
		"half a socket":   {parseDirectSocket, onePath("/run/x"), policy.Target{}},
		"a path":          {parseListenSocket, onePath("/run/x"), policy.Target{Kind: policy.FromSocket, Path: "/run/x"}},
		"a relative path": {parseListenSocket, onePath("run/x"), policy.Target{}},
		"no file's path":  {parseListenSocket, onePath("@x"), policy.Target{}},
		"a path with NUL": {parseListenSocket, onePath("/x\x00y"), policy.Target{}},
		"a long path":     {parseListenSocket, onePath("/" + strings.Repeat("x", 107)), policy.Target{}},
	} {
		got, err := row.parse(row.payload)
		if got != row.want || (err == nil) != (row.want != policy.Target{}) {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
		if err != nil && strings.ContainsAny(err.Error(), "\x00\n") {
			t.Errorf("%s: %q", name, err)
		}
	}
}

func TestADisplayIsReadAsItWasAskedFor(t *testing.T) {
	got, err := parseX11(goodX11())
	if err != nil || got.single || got.display.Protocol != "MIT-MAGIC-COOKIE-1" || len(got.display.Cookie) != 32 {
		t.Errorf("%+v, %v", got, err)
	}
	for _, bad := range [][]byte{nil, goodX11()[1:], append(goodX11(), 0), []byte("\x00\xff\xff\xff\xff")} {
		if got, err := parseX11(bad); err == nil {
			t.Errorf("%+v", got)
		}
	}
}

// The rows are those of sshd_config(5), GatewayPorts.
func TestPortsAreOnLoopbackUnlessTheNodeSaysOtherwise(t *testing.T) {
	for _, row := range []struct {
		setting    GatewayPorts
		asked, got string
	}{
		{"", "", "localhost"}, {"", "*", "localhost"}, {"", "0.0.0.0", "localhost"}, {"", "192.0.2.1", "localhost"}, {"", "localhost", "localhost"},
		{"", "127.0.0.1", "127.0.0.1"}, {"", "::1", "::1"}, {"no", "0.0.0.0", "localhost"}, {"nonsense", "0.0.0.0", "localhost"},
		{"yes", "localhost", ""}, {"yes", "192.0.2.1", ""}, {"yes", "", ""},
		{"clientspecified", "", ""}, {"clientspecified", "*", ""}, {"clientspecified", "localhost", "localhost"},
		{"clientspecified", "192.0.2.1", "192.0.2.1"}, {"clientspecified", "127.0.0.1", "127.0.0.1"},
	} {
		s := &server{gatewayPorts: row.setting}
		at := s.bindAddress(policy.Target{Kind: policy.FromPort, Host: row.asked, Port: 80})
		if at != (sockets.Address{Host: row.got, Port: 80}) {
			t.Errorf("%q, %q: %+v", row.setting, row.asked, at)
		}
	}
}

func TestTheCertificateOfAnotherPermissionDoesNotForward(t *testing.T) {
	everything := identity.Permit{PTY: true, PortForwarding: true, AgentForwarding: true, X11Forwarding: true}
	for kind := policy.NoTarget; kind <= policy.ToDisplay+1; kind++ {
		with, without := &admission{}, &admission{}
		with.identity.Permit, without.identity.Permit = everything, everything
		switch kind {
		case policy.ToAgent:
			without.identity.Permit.AgentForwarding = false
		case policy.ToDisplay:
			without.identity.Permit.X11Forwarding = false
		default:
			without.identity.Permit.PortForwarding = false
		}
		known := kind > policy.NoTarget && kind <= policy.ToDisplay
		if got := notPermitted(with, kind); (got == "") != known {
			t.Errorf("%d with: %q", kind, got)
		}
		if got := notPermitted(without, kind); got == "" {
			t.Errorf("%d without is permitted", kind)
		}
	}
}

func TestLowPortsAreForRoot(t *testing.T) {
	for _, row := range []struct {
		port, uid uint32
		want      bool
	}{{1023, 1000, false}, {1024, 1000, true}, {0, 1000, true}, {1023, 0, true}} {
		err := checkPrivileged(policy.Target{Kind: policy.FromPort, Port: uint16(row.port)}, account{uid: row.uid})
		if (err == nil) != row.want {
			t.Errorf("%+v: %v", row, err)
		}
	}
}

// FuzzForwardRequests: as FuzzRequests.
func FuzzForwardRequests(f *testing.F) {
	f.Add(directTCP("localhost", 80))
	f.Add(hostPort("", 0))
	f.Add(onePath("/run/x"))
	f.Add(goodX11())
	f.Add([]byte("\xff\xff\xff\xfcx"))
	f.Fuzz(func(t *testing.T, payload []byte) {
		for _, parse := range []func([]byte) (policy.Target, error){parseDirectTCP, parseDirectSocket, parseListen, parseListenSocket} {
			target, err := parse(payload)
			if err != nil {
				if target != (policy.Target{}) {
					t.Errorf("%v, and %+v", err, target)
				}
				continue
			}
			if target.Path != "" && sockets.CheckPath(target.Path) != nil || sockets.CheckHost(target.Host) != nil || target.Kind == policy.NoTarget {
				t.Errorf("%+v", target)
			}
		}
		if x, err := parseX11(payload); err == nil && x.display.Check() != nil {
			t.Errorf("%+v", x)
		}
	})
}
