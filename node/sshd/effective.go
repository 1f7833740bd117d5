package sshd

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
)

// Effective is what sshd would do with one connection, as `sshd -T -C` says it:
// for each keyword, in lower case, the rest of its lines. Paths and patterns are
// not quoted there.
type Effective map[string][]string

// needed are the keywords without which it is not known what sshd does. GSSAPI
// and Kerberos are missing where sshd was built without them.
var needed = []string{
	"authenticationmethods", "authorizedkeyscommand", "authorizedkeysfile", "authorizedprincipalscommand",
	"authorizedprincipalscommanduser", "authorizedprincipalsfile", "hostbasedauthentication",
	"kbdinteractiveauthentication", "passwordauthentication", "permitemptypasswords", "pubkeyauthentication",
	"revokedkeys", "trustedusercakeys",
}

// ParseEffective reads what `sshd -T` printed. A line that is none, or a keyword
// without which nothing is known that is missing, is an error.
func ParseEffective(out []byte) (Effective, error) {
	if len(out) > maxEffective {
		return nil, fmt.Errorf("sshd -T printed more than %d bytes", maxEffective)
	}
	e, lines := Effective{}, 0
	for line := range bytes.Lines(out) {
		text := strings.TrimSuffix(string(line), "\n")
		if text == "" {
			continue
		}
		if lines++; lines > maxSettings {
			return nil, fmt.Errorf("sshd -T printed more than %d lines", maxSettings)
		}
		keyword, value, _ := strings.Cut(text, " ")
		if !isKeyword(keyword) || strings.ContainsFunc(value, isControl) {
			return nil, fmt.Errorf("sshd -T printed %.80q, which is no setting", text)
		}
		e[keyword] = append(e[keyword], strings.TrimSpace(value))
	}
	for _, keyword := range needed {
		if len(e[keyword]) == 0 {
			return nil, fmt.Errorf("sshd -T says nothing of %s", keyword)
		}
	}
	return e, nil
}

func isKeyword(s string) bool {
	return s != "" && !strings.ContainsFunc(s, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < '0' || r > '9')
	})
}

func isControl(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f }

// Get is the value of the keyword, its first one; empty where it has none.
func (e Effective) Get(keyword string) string {
	if len(e[keyword]) == 0 {
		return ""
	}
	return e[keyword][0]
}

// All are the keyword's values in one.
func (e Effective) All(keyword string) string { return strings.Join(e[keyword], " ") }

// On tells whether the keyword says yes. What says neither yes nor no, as a
// value of a later version, is taken for yes where that is the worse.
func (e Effective) On(keyword string) bool {
	v := e.Get(keyword)
	return v != "" && v != "no"
}

// None tells whether the keyword's file or command is none: what is not there
// is not none.
func (e Effective) None(keyword string) bool { return e.Get(keyword) == "none" }

// Reachable tells whether one of methods may let somebody in without a
// certificate's key: any method may where AuthenticationMethods is any, else the
// alternatives that lack publickey.
func (e Effective) Reachable(methods ...string) bool {
	for _, alternative := range strings.Fields(e.All("authenticationmethods")) {
		if alternative == "any" {
			return true
		}
		var with bool
		var names []string
		for part := range strings.SplitSeq(alternative, ",") {
			name, _, _ := strings.Cut(part, ":") // keyboard-interactive:pam
			names = append(names, name)
			with = with || name == "publickey"
		}
		if !with && slices.ContainsFunc(names, func(n string) bool { return slices.Contains(methods, n) }) {
			return true
		}
	}
	return false
}

// OnlyPublicKey tells whether each way in that AuthenticationMethods names asks
// for a key.
func (e Effective) OnlyPublicKey() bool {
	alternatives := strings.Fields(e.All("authenticationmethods"))
	for _, alternative := range alternatives {
		if !slices.Contains(strings.Split(alternative, ","), "publickey") {
			return false
		}
	}
	return len(alternatives) > 0
}
