package sshd

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// For each example that the audit would ask about, and some more, sshd itself
// says whether the block holds.
func TestSSHDAgreesForWhomABlockIs(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	system, err := accounts(t.Context(), []string{"games", "no-such-group"})
	m.must(err)
	for _, criteria := range []string{
		"all", "User root", "User ROOT", "User root,daemon", "User r*", "User ?oot,!root", "User !root", "User *,!root",
		"User root,", `User "root"`, "User a*b*c", "Group games", "Group root,daemon", "Group *,!games", "Group no-such-group", "Group Games",
		"Host *.example.com", "Host *.EXAMPLE.com,!x.example.com", "Host h?st",
		"Address 10.0.0.0/8", "Address 10.0.0.1", "Address 10.0.0.0/8,!10.1.0.0/16", "Address !10.1.0.0/16", "Address *,!10.1.0.0/16",
		"Address 10.*", "Address 10.1.?.1", "Address fd00::/8", "Address FD00::1", "Address ::/0", "Address 0.0.0.0/0", "Address ::ffff:10.0.0.1",
		"Address fd00:*", "Address 255.255.255.255/32", "Address *", "LocalAddress 10.0.0.0/8", "LocalPort 2222", "LocalPort 22", "RDomain mgmt", "RDomain m*",
		"User root Address 10.0.0.0/8", "User root User daemon", "Group games User games LocalPort 22",
	} {
		t.Run(criteria, func(t *testing.T) {
			t.Parallel()
			c := &configFile{}
			m.must(c.parse("x", "Match "+criteria+"\nBanner /held\n", -1, nil))
			conns, err := c.connections(system)
			m.must(err)
			for _, name := range []string{"root", "games", "daemon", "abc", "axbxcx"} {
				for _, addr := range []string{"10.1.1.1", "10.0.0.1", "fd00::1", "192.0.2.1"} {
					conns = append(conns, connection{name, "x.example.com", addr, addr, "22", "", nil})
				}
			}
			file := filepath.Join(m.folder, "match-"+strings.NewReplacer("/", "_", " ", "_").Replace(criteria))
			m.must(os.WriteFile(file, []byte("HostKey "+m.path("host")+"\nMatch "+criteria+"\nBanner /held\n"), 0o600))
			for _, conn := range conns {
				if conn.groups == nil {
					if at := slices.IndexFunc(system, func(a account) bool { return a.name == conn.user }); at >= 0 {
						conn.groups = system[at].groups
					}
				}
				if strings.Contains(criteria, "RDomain") && conn.rdomain == "" {
					continue // sshd wants to be told
				}
				holds, known := c.holds(0, &conn)
				if got := held(t, m, file, &conn); got != holds || !known {
					t.Errorf("%+v: %v (%v), and sshd says %v", conn, holds, known, got)
				}
			}
		})
	}
}

func held(t *testing.T, m *machine, file string, conn *connection) bool {
	t.Helper()
	e, err := askSSHD(t.Context(), m.config.SSHD, file, conn)
	if err != nil {
		t.Fatal(err)
	}
	return e.Get("banner") == "/held"
}

func TestSSHDAgreesWhichWordsALineHas(t *testing.T) {
	m := newMachine(t)
	for _, line := range []string{
		"Banner /a", "banner\t/a", "BANNER = /a", "Banner=/a", `Banner "/a b"`, `Banner '/a b'`, `Banner /a\ b`, `Banner "/a\"b"`, `Banner /a # comment`,
		"  Banner   /a  ", `Banner "/a"b`, `Banner /a#b`, `Banner ="/a"`, `Banner "/a\\b"`, `Banner "/a\nb"`,
	} {
		keyword, words, err := splitLine(line + "\n")
		if err != nil || keyword != "banner" || len(words) != 1 {
			t.Errorf("%s: %q %q: %v", line, keyword, words, err)
			continue
		}
		for _, text := range []string{line, keyword + " " + quote(words[0])} {
			m.write("c", "HostKey "+m.path("host")+"\n"+text+"\n", 0o600)
			e, err := askSSHD(t.Context(), m.config.SSHD, m.path("c"), &connection{user: "x", host: "x", addr: anyAddress, laddr: anyAddress, lport: "22"})
			if err != nil || e.Get("banner") != words[0] {
				t.Errorf("%s: %q, and sshd says %q: %v", text, words[0], e.Get("banner"), err)
			}
		}
	}
	for _, line := range []string{"", "  # x", "#", "\n"} {
		if keyword, _, err := splitLine(line); keyword != "" || err != nil {
			t.Errorf("%q: %q: %v", line, keyword, err)
		}
	}
	for _, line := range []string{`Banner "a`, `Banner 'a`, `"Banner" a`, "= a"} {
		if keyword, words, err := splitLine(line); err == nil {
			t.Errorf("%q: %q %q", line, keyword, words)
		}
	}
}

func TestIncludeFindsWhatSSHDFinds(t *testing.T) {
	m := newMachine(t)
	m.must(os.Mkdir(m.path("more"), 0o755))
	for i, name := range []string{"b.conf", "a.conf", ".hidden.conf", "c.txt", "!.conf"} {
		m.write("more/"+name, fmt.Sprintf("AcceptEnv V%d\n", i), 0o644)
	}
	for _, pattern := range []string{"*.conf", ".*.conf", "[ab].conf", "[!a].conf", "?.conf", "none.conf", "b.conf", "b.conf\" \"" + m.path("more/c.txt")} {
		m.write("c", "HostKey "+m.path("host")+"\nInclude \""+m.path("more/"+pattern)+"\"\n", 0o600)
		c, err := readConfig(m.path("c"))
		m.must(err)
		var ours []string
		for _, l := range c.lines[1:] {
			ours = append(ours, l.args...)
		}
		e, err := askSSHD(t.Context(), m.config.SSHD, m.path("c"), &connection{user: "x", host: "x", addr: anyAddress, laddr: anyAddress, lport: "22"})
		m.must(err)
		if diff := cmp.Diff(strings.Join(ours, " "), e.All("acceptenv")); diff != "" {
			t.Errorf("%s: %s", pattern, diff)
		}
	}
}

func TestTheConfigurationIsBounded(t *testing.T) {
	m := newMachine(t)
	var blocks strings.Builder
	for i := range maxBlocks + 1 {
		fmt.Fprintf(&blocks, "Match User u%d\n", i)
	}
	m.write("cycle", "Include "+m.path("cycle")+"\n", 0o644)
	m.write("wide", strings.Repeat("Include "+m.path("empty")+"\n", maxConfigFiles+1), 0o644)
	m.write("empty", "", 0o644)
	m.write("blocks", blocks.String(), 0o644)
	m.write("lines", strings.Repeat("A b\n", maxConfigLines+1), 0o644)
	m.write("long", strings.Repeat("#\n", maxConfigFile), 0o644)
	for name, want := range map[string]string{
		"cycle": "deeper than 16", "wide": "includes more than", "blocks": "Match blocks", "lines": "more than 50000 lines", "long": "more than 1048576 bytes",
		"none": "no such file", "sshd_config.d": "no regular file",
	} {
		if _, err := readConfig(m.path(name)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: want %q, got %v", name, want, err)
		}
	}
}

func TestMoreCombinationsThanCanBeAskedAreSaid(t *testing.T) {
	m := newMachine(t)
	var lines []string
	for i := range 40 {
		lines = append(lines, fmt.Sprintf("Match User u%d", i), "MaxSessions 5", fmt.Sprintf("Match Host h%d", i), "MaxSessions 5",
			fmt.Sprintf("Match Address 10.%d.0.0/16", i), "MaxSessions 5", fmt.Sprintf("Match LocalPort %d", i+100), "MaxSessions 5")
	}
	lines = append(lines, "Match Host h1", "PermitTunnel yes")
	m.before(lines...)
	if diff := cmp.Diff([]string{"config-unreadable", "permit-tunnel"}, codes(m.audit())); diff != "" {
		t.Error(diff)
	}
}

func TestAccountsAreReadWithTheirGroups(t *testing.T) {
	const passwd = "root:x:0:0:root:/root:/bin/bash\nbob:x:1000:1000::/home/bob:/bin/sh\nbad line\nbob:x:0:0::/:/bin/sh\n+::::::\n"
	const group = "root:x:0:\nbob:x:1000:\nwheel:x:10:bob,eve\nwheel:x:10:bob\nbad\n"
	got, err := parseAccounts(passwd, group)
	want := []account{{"bob", []string{"wheel", "bob"}}, {"eve", []string{"wheel"}}, {"root", []string{"root"}}}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(account{})); diff != "" || err != nil {
		t.Error(err, diff)
	}
}

func FuzzMatch(f *testing.F) {
	for _, seed := range []string{
		"Match User a,!b Group c\nX y\nMatch all\n", "Match Address 10.0.0.0/8,!10.1.0.0/16,192.168.* LocalPort 22\nA \"b c\"\n",
		"Match Host *.x rdomain ?\n", "Match\nMatch User\nMatch user=x invalid-user\nMatch exec \"/bin/true\"\n", "Include /etc/x\n# c\n",
		"Match Address ::/0 LocalAddress 255.255.255.255/0\n",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		c := &configFile{}
		if err := c.parse("x", text, -1, func(string, int) error { return nil }); err != nil {
			return
		}
		conns, err := c.connections([]account{{"root", []string{"root"}}})
		if err != nil {
			return
		}
		if len(conns) == 0 || len(conns) > maxAsked {
			t.Errorf("%d connections", len(conns))
		}
		for _, conn := range conns {
			if strings.Count(conn.spec(), ",") > 5 || strings.ContainsAny(conn.spec(), " \n\x00") {
				t.Errorf("sshd would take this for another: %q", conn.spec())
			}
		}
		again := &configFile{}
		for at := range c.blocks {
			if err := again.parse("x", c.asIf(at), -1, nil); err != nil {
				t.Errorf("block %d is written as %q: %v", at, c.asIf(at), err)
			}
		}
	})
}
