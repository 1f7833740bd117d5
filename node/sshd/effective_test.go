package sshd

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func printed(lines ...string) string {
	var b strings.Builder
	for _, keyword := range needed {
		b.WriteString(keyword + " no\n")
	}
	return b.String() + strings.Join(lines, "\n") + "\n"
}

func TestWhatSSHDPrintsIsReadStrictly(t *testing.T) {
	e, err := ParseEffective([]byte(printed("acceptenv A", "acceptenv B C", "banner /a b  ", "permitopen", "x11forwarding yes")))
	if err != nil {
		t.Fatal(err)
	}
	if e.All("acceptenv") != "A B C" || e.Get("banner") != "/a b" || !e.On("x11forwarding") || e.On("permitopen") || e.On("none") || e.On("usepam") {
		t.Errorf("%+v", e)
	}
	for name, text := range map[string]string{
		"nothing":                    "",
		"no setting":                 printed("ERROR: x"),
		"a capital letter":           printed("Banner x"),
		"a control character":        printed("banner a\x1b[2J"),
		"a return":                   printed("banner a\r"),
		"a line that begins empty":   printed(" x"),
		"too many lines":             printed(strings.Repeat("a b\n", maxSettings)),
		"too many bytes":             printed("banner " + strings.Repeat("x", maxEffective)),
		"no AuthorizedKeysFile":      strings.Replace(printed(), "authorizedkeysfile no\n", "", 1),
		"no AuthenticationMethods":   strings.Replace(printed(), "authenticationmethods no\n", "", 1),
		"no PasswordAuthentication":  strings.Replace(printed(), "passwordauthentication no\n", "", 1),
		"a keyword with other signs": printed("x-y z"),
	} {
		if e, err := ParseEffective([]byte(text)); err == nil {
			t.Errorf("%s: %+v", name, e)
		}
	}
}

func TestWhichMethodsSuffice(t *testing.T) {
	for _, tt := range []struct {
		methods, method string
		reachable, only bool
	}{
		{"publickey", "password", false, true},
		{"any", "password", true, false},
		{"publickey,password", "password", false, true},
		{"publickey password", "password", true, false},
		{"password,keyboard-interactive:pam", "keyboard-interactive", true, false},
		{"publickey,publickey publickey,password", "password", false, true},
		{"password", "hostbased", false, false},
		{"none", "password", false, false},
	} {
		e := Effective{"authenticationmethods": {tt.methods}}
		if e.Reachable(tt.method) != tt.reachable || e.OnlyPublicKey() != tt.only {
			t.Errorf("%s: %s: %v, %v", tt.methods, tt.method, e.Reachable(tt.method), e.OnlyPublicKey())
		}
	}
	if (Effective{}).OnlyPublicKey() {
		t.Error("what is not known passes for publickey")
	}
}

func TestAnOldOrOtherServerIsFound(t *testing.T) {
	for text, want := range map[string]string{"OpenSSH_8.1p1": "openssh-too-old", "OpenSSH_8.2p1": "", "Dropbear v2022.83": "openssh-unknown"} {
		m := newMachine(t)
		m.write("old", "#!/bin/sh\necho '"+text+"' >&2\nexit 1\n", 0o755)
		a := &auditor{AuditConfig: AuditConfig{SSHD: m.path("old")}}
		a.version(t.Context())
		if diff := cmp.Diff(want, strings.Join(codes(a.findings), " ")); diff != "" {
			t.Errorf("%s: %s", text, diff)
		}
	}
}

func FuzzEffective(f *testing.F) {
	f.Add([]byte(printed("acceptenv A", "authenticationmethods any", "casignaturealgorithms ssh-rsa")))
	f.Add([]byte("port 22\n"))
	f.Fuzz(func(t *testing.T, out []byte) {
		e, err := ParseEffective(out)
		if err != nil {
			return
		}
		for keyword, values := range e {
			if !isKeyword(keyword) || strings.ContainsAny(strings.Join(values, ""), "\n\r\x1b\x00") {
				t.Errorf("%q: %q", keyword, values)
			}
		}
		for _, keyword := range needed {
			if len(e[keyword]) == 0 {
				t.Errorf("nothing is known of %s", keyword)
			}
		}
		e.Reachable("password")
		e.OnlyPublicKey()
	})
}
