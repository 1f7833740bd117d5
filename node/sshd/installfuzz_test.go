package sshd

import (
	"strings"
	"testing"
)

// A value is in force only where it was printed, whatever else was.
func FuzzInForce(f *testing.F) {
	f.Add("port 22\nhostcertificate /a\nhostcertificate /b\nauthorizedkeysfile none\n", "authorizedkeysfile none")
	f.Add("AuthorizedKeysFile\n \n\x00", "authorizedkeysfile none")
	f.Fuzz(func(t *testing.T, printed, want string) {
		option, value, ok := strings.Cut(want, " ")
		if !ok {
			return
		}
		wrong := overruled([]directive{{option: option, value: value}}, parseInForce(printed))
		if wrong == "" && !strings.Contains(strings.ToLower(printed), strings.ToLower(option)) {
			t.Errorf("%q is taken to hold by %q", want, printed)
		}
	})
}

// Whatever a configuration is, an Include behind a Match block is none.
func FuzzIncludes(f *testing.F) {
	const path = "/etc/ssh/sshd_config.d/00-devicetrust.conf"
	for _, text := range []string{"Include /etc/ssh/sshd_config.d/*.conf\n", "include=\"sshd_config.d/*\"", "Match all\nInclude *", "Include [", "\x00"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if found := includes([]byte("Match all\n"+text), path); found != nil {
			t.Errorf("%q includes it: %q", text, found)
		}
		for _, word := range includes([]byte(text), path) {
			if !strings.Contains(text, word) {
				t.Errorf("%q is not in %q", word, text)
			}
		}
	})
}

func TestAnIncludeIsFoundAsSSHDReadsIt(t *testing.T) {
	const path = "/etc/ssh/sshd_config.d/00-devicetrust.conf"
	for text, want := range map[string]bool{
		"Include /etc/ssh/sshd_config.d/*.conf\n":               true,
		"  include\t/etc/ssh/sshd_config.d/*.conf\r\n":          true,
		"INCLUDE=/etc/ssh/sshd_config.d/*.conf\n":               true,
		"Include \"/etc/ssh/sshd_config.d/*.conf\"\n":           true,
		"Include sshd_config.d/*\n":                             true,
		"Include /x /etc/ssh/sshd_config.d/00-*.conf\n":         true,
		"Port 22\nInclude /etc/ssh/sshd_config.d/*.conf\n":      true,
		"# Include /etc/ssh/sshd_config.d/*.conf\n":             false,
		"Include /etc/ssh/sshd_config.d/*.cfg\n":                false,
		"Include /etc/ssh/sshd_config.d/\n":                     false,
		"Match all\nInclude /etc/ssh/sshd_config.d/*.conf\n":    false,
		"match user x\nInclude /etc/ssh/sshd_config.d/*.conf\n": false,
		"": false,
	} {
		if got := includes([]byte(text), path); (got != nil) != want {
			t.Errorf("%q: %q", text, got)
		}
	}
}

func FuzzTitled(f *testing.F) {
	f.Add("sshd: /usr/sbin/sshd -D -f /etc/ssh/other [listener] 0 of 10-100 startups")
	f.Fuzz(func(t *testing.T, title string) {
		s := Server{Program: installedSSHD, Config: "/etc/ssh/other"}
		if s.titled(title) && !strings.Contains(title, s.Config) {
			t.Errorf("%q is taken for ours", title)
		}
	})
}
