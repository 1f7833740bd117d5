package sshd

import (
	"slices"
	"strings"
)

// check is one of a setting, for each connection.
type check struct {
	code, setting string
	severity      Severity
	want          string
	// wrong tells whether the setting is; it is asked with all that sshd does.
	wrong           func(e Effective) bool
	problem, remedy string
}

const removeLine = "Remove the line, or let it come after that of 00-devicetrust.conf."

// settings holds what sshd says of each connection against what it should.
func (a *auditor) settings() {
	checks := slices.Concat(consulted(a.dir), otherMethods(), weakened(), forwarding())
	for at, w := range a.answers {
		for _, c := range checks {
			if c.wrong(w.Effective) {
				a.holds(at, Finding{
					Code: c.code, Severity: c.severity, Setting: c.setting, Value: w.All(c.setting), Want: c.want,
					Problem: c.problem, Remedy: c.remedy,
				}, nil)
			}
		}
		a.principals(at)
		a.algorithms(at)
		a.environment(at)
	}
}

// notNone, with what is not known at all.
func notNone(setting string) func(Effective) bool {
	return func(e Effective) bool { return !e.None(setting) }
}

func on(setting string) func(Effective) bool {
	return func(e Effective) bool { return e.On(setting) }
}

// consulted are what sshd asks whether a key may log in.
func consulted(dir Dir) []check {
	return []check{
		{
			"authorized-keys-file", "authorizedkeysfile", SeverityOpen, "none", notNone("authorizedkeysfile"),
			"Keys in these files log in without a certificate, a device or a lock being looked at.", removeLine,
		}, {
			"authorized-keys-command", "authorizedkeyscommand", SeverityOpen, "none", notNone("authorizedkeyscommand"),
			"Keys that this program prints log in without a certificate.", removeLine,
		}, {
			"authorized-principals-file", "authorizedprincipalsfile", SeverityOpen, "none", notNone("authorizedprincipalsfile"),
			"A certificate whose principal is in this file logs in, whatever the cluster's policy says.", removeLine,
		}, {
			"trusted-user-ca-keys", "trustedusercakeys", SeverityOpen, dir.UserCA(),
			func(e Effective) bool {
				return !e.None("trustedusercakeys") && e.Get("trustedusercakeys") != dir.UserCA()
			},
			"Certificates of other authorities than the cluster's are believed.", removeLine,
		}, {
			"no-user-ca", "trustedusercakeys", SeverityNote, dir.UserCA(),
			func(e Effective) bool { return e.None("trustedusercakeys") },
			"No certificate logs in: the cluster's authority is not believed.", "Run `dtnoded sshd install`, or remove the line.",
		}, {
			"revoked-keys", "revokedkeys", SeverityOpen, dir.KRL(),
			func(e Effective) bool { return e.Get("revokedkeys") != dir.KRL() },
			"The cluster's list of revoked certificates is not looked at.", removeLine,
		}, {
			"pubkey-authentication-off", "pubkeyauthentication", SeverityNote, "yes",
			func(e Effective) bool { return !e.On("pubkeyauthentication") },
			"No certificate logs in.", removeLine,
		}, {
			"authentication-methods", "authenticationmethods", SeverityOpen, "publickey",
			func(e Effective) bool { return !e.OnlyPublicKey() },
			"There are ways in that ask for no certificate.", removeLine,
		},
	}
}

// reachable is whether a method is on, and AuthenticationMethods lets it suffice.
func reachable(setting string, methods ...string) func(Effective) bool {
	return func(e Effective) bool { return e.On(setting) && e.Reachable(methods...) }
}

// otherMethods than publickey. `AuthenticationMethods publickey` turns all of
// them off, whatever they say (auth2.c, auth2_method_allowed).
func otherMethods() []check {
	const remedy = "Set it to no, and AuthenticationMethods to publickey."
	return []check{
		{
			"password-authentication", "passwordauthentication", SeverityOpen, "no",
			reachable("passwordauthentication", "password"),
			"A password logs in.", remedy,
		}, {
			"keyboard-interactive", "kbdinteractiveauthentication", SeverityOpen, "no",
			reachable("kbdinteractiveauthentication", "keyboard-interactive"),
			"What PAM asks for, as a password, logs in.", remedy,
		}, {
			"gssapi-authentication", "gssapiauthentication", SeverityOpen, "no",
			reachable("gssapiauthentication", "gssapi-with-mic"),
			"A Kerberos ticket logs in.", remedy,
		}, {
			"gssapi-key-exchange", "gssapikeyexchange", SeverityOpen, "no",
			reachable("gssapikeyexchange", "gssapi-keyex"),
			"A Kerberos ticket logs in.", remedy,
		}, {
			"kerberos-authentication", "kerberosauthentication", SeverityOpen, "no",
			reachable("kerberosauthentication", "password"),
			"A Kerberos password logs in.", remedy,
		}, {
			"hostbased-authentication", "hostbasedauthentication", SeverityOpen, "no",
			reachable("hostbasedauthentication", "hostbased"),
			"Whoever other machines say that they are logs in.", remedy,
		}, {
			"ignore-rhosts", "ignorerhosts", SeverityOpen, "yes",
			func(e Effective) bool {
				return e.Get("ignorerhosts") != "yes" && reachable("hostbasedauthentication", "hostbased")(e)
			},
			"People say in their own .rhosts and .shosts which machines are believed.", "Set it to yes.",
		}, {
			"permit-empty-passwords", "permitemptypasswords", SeverityOpen, "no",
			func(e Effective) bool {
				return e.On("permitemptypasswords") && e.On("passwordauthentication") && e.Reachable("none", "password")
			},
			"Accounts without a password log in with nothing.", remedy,
		}, {
			"permit-root-login", "permitrootlogin", SeverityOpen, "prohibit-password",
			func(e Effective) bool {
				return e.Get("permitrootlogin") == "yes" && e.Reachable("password", "keyboard-interactive") &&
					(e.On("passwordauthentication") || e.On("kbdinteractiveauthentication"))
			},
			"A password logs in to root.", "Set it to prohibit-password, and AuthenticationMethods to publickey.",
		},
	}
}

// weakened is what lets somebody in nowhere.
func weakened() []check {
	return []check{
		{
			"expose-auth-info", "exposeauthinfo", SeverityNote, "yes",
			func(e Effective) bool { return !e.On("exposeauthinfo") },
			"Which certificate a session came with is not known: sessions are not cut when it is revoked.", removeLine,
		}, {
			"log-level", "loglevel", SeverityNote, "INFO",
			func(e Effective) bool {
				return slices.Contains([]string{"SILENT", "QUIET", "FATAL", "ERROR"}, e.Get("loglevel"))
			},
			"Logins are not in the log.", "Set it to INFO or VERBOSE.",
		}, {
			"gateway-ports", "gatewayports", SeverityNote, "no",
			func(e Effective) bool { return e.Get("gatewayports") == "yes" && !e.On("disableforwarding") },
			"Ports that are forwarded from here are open to the network where the client asked for none but this machine.", "Set it to no.",
		}, {
			"permit-user-environment", "permituserenvironment", SeverityNote, "no", on("permituserenvironment"),
			"People's own files set variables that change which code runs in their sessions, before a command that is forced.", "Set it to no.",
		}, {
			"strict-modes", "strictmodes", SeverityNote, "yes",
			func(e Effective) bool { return !e.On("strictmodes") },
			"Files that others may write are believed, where such files are consulted.", "Set it to yes.",
		},
	}
}

// forwarding that certificates and roles cannot narrow: `restrict` and permitopen
// in what the helper prints do not hold for it.
func forwarding() []check {
	return []check{
		{
			"permit-tunnel", "permittunnel", SeverityOpen, "no",
			func(e Effective) bool { return e.On("permittunnel") && !e.On("disableforwarding") },
			"Networks are joined whatever the roles say of forwarding.", "Set it to no.",
		}, {
			"stream-local-forwarding", "allowstreamlocalforwarding", SeverityOpen, "no",
			func(e Effective) bool {
				return !slices.Contains([]string{"no", ""}, e.Get("allowstreamlocalforwarding")) && !e.On("disableforwarding")
			},
			"Sockets are forwarded to whatever permit_open of the roles says.", removeLine,
		},
	}
}

// weak algorithms are those that rest on SHA-1 or DSA.
var weak = map[string]bool{
	"ssh-rsa": true, "ssh-dss": true,
	"ssh-rsa-cert-v01@openssh.com": true, "ssh-dss-cert-v01@openssh.com": true,
}

func (a *auditor) algorithms(at int) {
	for _, c := range []struct{ code, setting, problem string }{
		{"ca-signature-algorithms", "casignaturealgorithms", "Certificates that were signed with SHA-1 or DSA, which can be forged, are believed."},
		{"pubkey-accepted-algorithms", "pubkeyacceptedalgorithms", "Signatures with SHA-1 or DSA, which can be forged, log in."},
	} {
		var found []string
		for name := range strings.SplitSeq(a.answers[at].All(c.setting), ",") {
			if weak[name] {
				found = append(found, name)
			}
		}
		if len(found) > 0 {
			a.holds(at, Finding{
				Code: c.code, Severity: SeverityOpen, Setting: c.setting, Value: strings.Join(found, ","), Want: "none of these",
				Problem: c.problem, Remedy: "Remove the line: OpenSSH's own list has none of them.",
			}, nil)
		}
	}
}

// loaders are variables that decide which code a shell or program runs.
var loaders = []string{"LD_PRELOAD", "LD_LIBRARY_PATH", "LD_AUDIT", "BASH_ENV", "ENV", "PATH", "SHELLOPTS", "PYTHONPATH", "PERL5OPT"}

func (a *auditor) environment(at int) {
	for _, pattern := range strings.Fields(a.answers[at].All("acceptenv")) {
		if slices.ContainsFunc(loaders, func(v string) bool { return matchPattern(v, pattern) }) {
			a.holds(at, Finding{
				Code: "accept-env", Severity: SeverityNote, Setting: "acceptenv", Value: pattern, Want: "LANG LC_*",
				Problem: "Clients set variables that change which code runs, before a command that is forced.", Remedy: "Name the variables that are needed.",
			}, func(args []string) bool { return slices.Contains(args, pattern) })
		}
	}
	for _, pair := range a.answers[at].Effective["setenv"] {
		if name, _, _ := strings.Cut(pair, "="); slices.Contains(loaders, name) && name != "PATH" {
			a.holds(at, Finding{
				Code: "set-env", Severity: SeverityNote, Setting: "setenv", Value: pair, Want: "no such variable",
				Problem: "Each session runs the code that this names.", Remedy: "Remove it, unless it is meant.",
			}, func(args []string) bool {
				return slices.ContainsFunc(args, func(arg string) bool { return strings.HasPrefix(arg, name+"=") })
			})
		}
	}
}
