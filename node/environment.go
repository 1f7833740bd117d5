package node

import (
	"fmt"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// Search paths as Debian's sshd has them (pathnames.h).
const (
	userPath = "/usr/local/bin:/usr/bin:/bin:/usr/games"
	rootPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
)

// environment is made from nothing: what this process was started with is no
// business of the session's. What comes later counts: the client's, the
// machine's, ours.
func (s *session) environment(t task) []string {
	acc, id := s.admit.account, s.admit.identity
	var env variables
	env.add(s.env)
	path := userPath
	if acc.uid == 0 {
		path = rootPath
	}
	env.set("PATH", path)
	site, err := s.conn.server.logins.files.siteEnvironment()
	if err != nil {
		s.conn.server.log.Warn("not all of the machine's environment is the session's", "sid", s.id, "error", err)
	}
	env.add(site)
	env.set("USER", acc.name)
	env.set("LOGNAME", acc.name)
	env.set("HOME", acc.home)
	env.set("SHELL", acc.shell)
	env.set("MAIL", "/var/mail/"+acc.name)
	from, to := s.conn.remote, s.conn.local
	env.set("SSH_CLIENT", fmt.Sprintf("%s %d %d", from.Addr(), from.Port(), to.Port()))
	env.set("SSH_CONNECTION", fmt.Sprintf("%s %d %s %d", from.Addr(), from.Port(), to.Addr(), to.Port()))
	if s.admit.identity.ForceCommand != "" && t.asked != "" {
		env.set("SSH_ORIGINAL_COMMAND", t.asked)
	}
	if s.terminal != nil {
		env.set("SSH_TTY", s.terminal.name)
		if s.request.term != "" {
			env.set("TERM", s.request.term)
		}
	}
	env.set("DT_USER", id.User)
	env.set("DT_ROLES", strings.Join(id.Roles, ","))
	env.set("DT_SESSION_ID", s.id)
	env.set("DT_LOGIN_EXPIRES", id.ValidBefore.UTC().Format(time.RFC3339))
	env.add(s.forwardEnvironment())
	if id.Device.Trusted() {
		env.set("DT_DEVICE_ID", id.Device.ID)
		env.set("DT_DEVICE_ASSET_TAG", id.Device.AssetTag)
		env.set("DT_DEVICE_CREDENTIAL_ID", id.Device.CredentialID)
	}
	return env
}

// maxPlain is a line that still fits on a few lines of a terminal.
const maxPlain = 1000

// plain is text as one line without anything that a terminal acts on.
func plain(text string) string {
	if len(text) > maxPlain {
		text = strings.ToValidUTF8(text[:maxPlain], "") + "…"
	}
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\n' || r == '\t':
			return ' '
		case r == utf8.RuneError || unicode.IsControl(r) || unicode.Is(unicode.Bidi_Control, r):
			return '?'
		}
		return r
	}, strings.TrimSpace(text))
}
