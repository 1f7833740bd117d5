package node

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Search paths as Debian's sshd has them (pathnames.h).
const (
	userPath = "/usr/local/bin:/usr/bin:/bin:/usr/games"
	rootPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
)

// environment is made from nothing: what this process was started with is no
// business of the session's.
func (s *session) environment() []string {
	acc, id := s.admit.account, s.admit.identity
	path := userPath
	if acc.uid == 0 {
		path = rootPath
	}
	env := append([]string{}, s.env...)
	env = append(env,
		"USER="+acc.name, "LOGNAME="+acc.name, "HOME="+acc.home, "PATH="+path, "SHELL="+acc.shell,
		"MAIL=/var/mail/"+acc.name,
	)
	from, to := s.conn.remote, s.conn.local
	env = append(env,
		fmt.Sprintf("SSH_CLIENT=%s %d %d", from.Addr(), from.Port(), to.Port()),
		fmt.Sprintf("SSH_CONNECTION=%s %d %s %d", from.Addr(), from.Port(), to.Addr(), to.Port()),
	)
	if s.terminal != nil {
		env = append(env, "SSH_TTY="+s.terminal.name)
		if s.request.term != "" {
			env = append(env, "TERM="+s.request.term)
		}
	}
	env = append(env, "DT_USER="+id.User, "DT_ROLES="+strings.Join(id.Roles, ","))
	if id.Device.Trusted() {
		env = append(env, "DT_DEVICE_ID="+id.Device.ID, "DT_DEVICE_ASSET_TAG="+id.Device.AssetTag)
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
