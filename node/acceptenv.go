package node

import (
	"fmt"
	"path"
	"strings"
)

// acceptEnv are patterns of the variables that sessions take from clients, as
// AcceptEnv of sshd_config(5): * and ?. The zero value takes none.
type acceptEnv []string

// defaultAcceptEnv is the language of the person's terminal, as in Debian's
// sshd_config.
func defaultAcceptEnv() acceptEnv { return acceptEnv{"LANG", "LC_*"} }

// refusedEnv is never taken, whatever the patterns say: what decides which
// program runs, which code it loads or which files it believes, and what we
// say ourselves. A person with a shell can set all of it; whom a certificate
// holds to one command cannot, and must not by the way of the connection.
var refusedEnv = [...]string{
	"LD_*", "DYLD_*", "GLIBC_TUNABLES", "GCONV_PATH", "GETCONF_DIR", "LOCPATH", "NLSPATH", "MALLOC_*",
	"HOSTALIASES", "LOCALDOMAIN", "RES_OPTIONS", "RESOLV_*", "TZDIR", "TMPDIR",
	"PATH", "SHELL", "HOME", "USER", "LOGNAME", "MAIL", "MAILPATH", "TERM", "TERMINFO*", "TERMCAP", "TERMPATH",
	"BASH*", "ENV", "IFS", "PS[0-9]", "CDPATH", "FPATH", "ZDOTDIR", "SHELLOPTS", "FIGNORE", "GLOBIGNORE",
	"PROMPT_COMMAND", "INPUTRC", "HISTFILE", "XDG_*", "DBUS_*", "KRB5*", "SUDO_*", "SYSTEMD_*",
	"PYTHON*", "PERL*", "RUBY*", "GEM_*", "BUNDLE_*", "NODE_*", "NPM_*", "LUA_*", "TCL*", "PHP*",
	"CLASSPATH", "JAVA_*", "_JAVA_*", "JDK_*", "GOFLAGS", "CARGO_*", "RUSTC*",
	"EDITOR", "VISUAL", "PAGER", "MANPAGER", "LESS", "LESSOPEN", "LESSCLOSE", "LESSKEY*", "BROWSER",
	"GIT_CONFIG*", "GIT_SSH*", "GIT_EXEC_PATH", "GIT_EXTERNAL_*", "GIT_PAGER", "GIT_*EDITOR", "GIT_ASKPASS",
	"GIT_PROXY_COMMAND", "GIT_TEMPLATE_DIR", "GIT_DIR", "GIT_WORK_TREE", "RSYNC_*",
	"SSH_*", "DT_*",
}

// parseAcceptEnv refuses what would be taken from nobody: a misunderstanding
// is better heard of at the start.
func parseAcceptEnv(patterns []string) (acceptEnv, error) {
	if patterns == nil {
		return defaultAcceptEnv(), nil
	}
	if len(patterns) > maxAcceptEnv {
		return nil, fmt.Errorf("%d patterns are more than %d", len(patterns), maxAcceptEnv)
	}
	for _, p := range patterns {
		if !isEnvName(strings.NewReplacer("*", "_", "?", "_").Replace(p)) {
			return nil, fmt.Errorf("%.64q is not the name of a variable with * and ? in it", p)
		}
		if matchesAny(refusedEnv[:], p) {
			return nil, fmt.Errorf("%s is never taken from a client: it changes which program runs or what a program loads", p)
		}
	}
	return patterns, nil
}

// takes tells whether a variable of the name may come from a client.
func (a acceptEnv) takes(name string) bool {
	return isEnvName(name) && matchesAny(a, name) && !matchesAny(refusedEnv[:], name)
}

func matchesAny(patterns []string, name string) bool {
	for _, p := range patterns {
		// A name has no slash, which is all that * would not match.
		if ok, err := path.Match(p, name); ok && err == nil {
			return true
		}
	}
	return false
}

// isEnvName tells whether shells know name as a variable's (POSIX.1-2017, base
// definitions, 3.235).
func isEnvName(name string) bool {
	for i, b := range []byte(name) {
		letter := b >= 'a' && b <= 'z' || b >= 'A' && b <= 'Z' || b == '_'
		if !letter && (i == 0 || b < '0' || b > '9') {
			return false
		}
	}
	return name != "" && len(name) <= maxEnvName
}
