package sshd

import (
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/crypto/ssh"
)

func TestEachWayAroundIsFoundAlone(t *testing.T) {
	lines := func(all ...string) func(*machine) { return func(m *machine) { m.before(all...) } }
	// Where AuthenticationMethods is any, what it then lets suffice is found, too.
	anyMethod := func(all ...string) func(*machine) {
		return lines(append([]string{"AuthenticationMethods any", "PasswordAuthentication no", "KbdInteractiveAuthentication no"}, all...)...)
	}
	for _, tt := range []struct {
		name  string
		plant func(*machine)
		want  string
	}{
		{"keys in people's files", lines("AuthorizedKeysFile .ssh/authorized_keys"), "authorized-keys-file"},
		{"principals in people's files", lines("AuthorizedPrincipalsFile .ssh/principals"), "authorized-principals-file"},
		{"other authorities", func(m *machine) {
			m.write("other.pub", string(ssh.MarshalAuthorizedKey(m.newKey().PublicKey())), 0o644)
			m.before("TrustedUserCAKeys " + m.path("other.pub"))
		}, "trusted-user-ca-keys"},
		{"no authority", lines("TrustedUserCAKeys none"), "no-user-ca"},
		{"no list of what is revoked", lines("RevokedKeys none"), "revoked-keys"},
		{"another list of what is revoked", lines("RevokedKeys /etc/ssh/revoked"), "revoked-keys"},
		{"no public keys", anyMethod("PubkeyAuthentication no"), "authentication-methods pubkey-authentication-off"},
		{"no helper", lines("Match all", "AuthorizedPrincipalsCommand none"), "principals-command"},
		{"another helper", lines("Match all", "AuthorizedPrincipalsCommand /bin/echo %u"), "principals-command"},
		{"a helper that is told less", func(m *machine) {
			m.before("Match all", "AuthorizedPrincipalsCommand "+m.config.Program+" sshd principals --dir="+string(m.dir)+" %u")
		}, "principals-command"},
		{"a helper of another folder", func(m *machine) {
			m.before("Match all", "AuthorizedPrincipalsCommand "+helperCommand("/srv/mine", m.config.Program))
		}, "principals-command"},
		{"a helper that is another program", func(m *machine) {
			m.write("evil", "#!/bin/ls\n", 0o755)
			m.before("Match all", "AuthorizedPrincipalsCommand "+helperCommand(m.dir, m.path("evil")))
		}, "principals-command"},
		{"a helper with root's rights", lines("AuthorizedPrincipalsCommandUser root"), "principals-command-user"},
		{"a helper of another account", lines("AuthorizedPrincipalsCommandUser daemon"), "principals-command-user"},
		{"any method", anyMethod(), "authentication-methods"},
		{"a password besides", lines("AuthenticationMethods publickey password", "KbdInteractiveAuthentication no"), "authentication-methods password-authentication"},
		{"a password", anyMethod("Match all", "PasswordAuthentication yes"), "authentication-methods password-authentication"},
		{"a dialogue", lines("AuthenticationMethods keyboard-interactive", "KbdInteractiveAuthentication yes"), "authentication-methods keyboard-interactive"},
		{"a Kerberos ticket", anyMethod("GSSAPIAuthentication yes"), "authentication-methods gssapi-authentication"},
		{"a Kerberos ticket for the keys", anyMethod("GSSAPIKeyExchange yes"), "authentication-methods gssapi-key-exchange"},
		{"a Kerberos password", anyMethod("KerberosAuthentication yes"), "authentication-methods kerberos-authentication"},
		{"another machine's word", anyMethod("HostbasedAuthentication yes"), "authentication-methods hostbased-authentication"},
		{"another machine's word, of people's own", anyMethod("HostbasedAuthentication yes", "IgnoreRhosts no"), "authentication-methods hostbased-authentication ignore-rhosts"},
		{"nothing", anyMethod("Match all", "PasswordAuthentication yes", "PermitEmptyPasswords yes"), "authentication-methods password-authentication permit-empty-passwords"},
		{"a password of root", lines("PermitRootLogin yes", "AuthenticationMethods any", "KbdInteractiveAuthentication no"), "authentication-methods password-authentication permit-root-login"},
		{"a network", lines("PermitTunnel yes"), "permit-tunnel"},
		{"sockets", lines("AllowStreamLocalForwarding local"), "stream-local-forwarding"},
		{"signatures of SHA-1 by an authority", lines("CASignatureAlgorithms +ssh-rsa"), "ca-signature-algorithms"},
		{"signatures of SHA-1", lines("PubkeyAcceptedAlgorithms +ssh-rsa"), "pubkey-accepted-algorithms"},
		{"certificates of SHA-1", lines("PubkeyAcceptedKeyTypes +ssh-rsa-cert-v01@openssh.com"), "pubkey-accepted-algorithms"},
		{"sessions that nobody can tell apart", lines("ExposeAuthInfo no"), "expose-auth-info"},
		{"no log", lines("LogLevel QUIET"), "log-level"},
		{"variables of people's files", lines("PermitUserEnvironment yes"), "permit-user-environment"},
		{"ports for the network", lines("GatewayPorts yes"), "gateway-ports"},
		{"files of others", lines("StrictModes no"), "strict-modes"},
		{"variables of clients", lines("AcceptEnv LANG LD_*"), "accept-env"},
		{"a variable for everybody", lines("SetEnv LD_PRELOAD=/tmp/x.so"), "set-env"},
		{"a configuration that is none", lines("Bogus yes"), "config-unreadable"},
		{"a file that includes itself", func(m *machine) { m.before("Include " + m.path("sshd_config.d/00-a.conf")) }, "config-unreadable"},
		{"an authority that the cluster does not know", func(m *machine) {
			m.must(m.dir.WriteUserCA([]ssh.PublicKey{m.authority.PublicKey(), m.newKey().PublicKey()}))
		}, "user-ca-foreign-key"},
		{"two authorities, of which it cannot be told", func(m *machine) {
			m.must(m.dir.WriteUserCA([]ssh.PublicKey{m.authority.PublicKey(), m.newKey().PublicKey()}))
			m.must(os.Remove(m.dir.State()))
		}, "krl-malformed state-unreadable user-ca-foreign-key"},
		{"an authority for some of the names", func(m *machine) {
			m.write("devicetrust/user_ca.pub", `cert-authority,principals="root" `+string(ssh.MarshalAuthorizedKey(m.authority.PublicKey())), 0o644)
		}, "state-unreadable user-ca-unreadable"},
		{"a state of another authority", func(m *machine) { m.saveState(m.newKey(), m.now) }, "state-unreadable"},
		{"no node", func(m *machine) { m.must(os.Remove(m.dir.NodeFile())) }, "state-unreadable"},
		{"an old state", func(m *machine) { m.saveState(m.authority, m.now.Add(-staleState-time.Second)) }, "state-stale"},
		{"a state for everybody to read", func(m *machine) { m.must(os.Chmod(m.dir.State(), 0o644)) }, "state-readable"},
		{"a list that is not there", func(m *machine) { m.must(os.Remove(m.dir.KRL())) }, "krl-missing"},
		{"a list of 0 bytes", func(m *machine) { m.write("devicetrust/krl", "", 0o644) }, "krl-empty"},
		{"a list that is none", func(m *machine) { m.write("devicetrust/krl", "# nothing\n", 0o644) }, "krl-malformed"},
		{"a list that was cut off", func(m *machine) { m.write("devicetrust/krl", m.krl(m.authority)[:60], 0o644) }, "krl-malformed"},
		{"a list of another cluster", func(m *machine) { m.write("devicetrust/krl", m.krl(m.newKey()), 0o644) }, "krl-malformed"},
		{"no certificate of the host", func(m *machine) {
			m.write("sshd_config.d/00-devicetrust.conf", strings.ReplaceAll(m.dropIn(), "HostCertificate", "#"), 0o644)
		}, "host-certificate"},
		{"a certificate of another host", func(m *machine) { m.certify(m.newKey().PublicKey(), m.now.Add(time.Hour)) }, "host-certificate"},
		{"a certificate of the host that has expired", func(m *machine) { m.hostKey(m.now.Add(-time.Second)) }, "host-certificate"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			m := newMachine(t)
			tt.plant(m)
			found := m.audit()
			if diff := cmp.Diff(strings.Fields(tt.want), codes(found)); diff != "" {
				t.Errorf("%s\n%+v", diff, found)
			}
			if slices.ContainsFunc(found, func(f Finding) bool { return len(f.For) > 0 }) {
				t.Errorf("it holds for everybody: %+v", found)
			}
		})
	}
}

func TestAHelperThatSSHDDoesNotSeeIsNone(t *testing.T) {
	m := newMachine(t)
	m.before("AuthorizedKeysCommand none")
	e, err := askSSHD(t.Context(), m.config.SSHD, m.config.SSHDConfig, &connection{user: anyUser, host: anyHost, addr: anyAddress, laddr: anyAddress, lport: anyPort})
	m.must(err)
	if !e.None("authorizedprincipalscommand") {
		t.Skip("this version of OpenSSH, 9.4 or later, sees it (bug 3574)")
	}
	found := m.audit()
	if len(found) != 1 || found[0].Code != "principals-command" || found[0].File != DropIn(m.config.SSHDConfig) ||
		!strings.Contains(found[0].Problem, "AuthorizedKeysCommand") {
		t.Errorf("%+v", found)
	}
}

// What a Match block gives to some is found, with whom it is for and where.
func TestWhatHoldsForSomeIsFound(t *testing.T) {
	t.Parallel()
	const keys = "AuthorizedKeysFile .ssh/authorized_keys"
	for name, tt := range map[string]struct {
		lines []string
		line  int // of the first file; the match is the line before
	}{
		"a user":                       {[]string{"Match User daemon", keys}, 2},
		"a user who is not there":      {[]string{"Match User nobody-here", keys}, 2},
		"a quoted user":                {[]string{`Match User "daemon"`, keys}, 2},
		"users of a pattern":           {[]string{"Match User ops-*,!ops-eve", keys}, 2},
		"all but one":                  {[]string{"Match User *,!root,!somebody-else", keys}, 2},
		"a group":                      {[]string{"Match Group games", keys}, 2},
		"a group that is not there":    {[]string{"Match Group no-such-group", keys}, 2},
		"an address":                   {[]string{"Match Address 10.9.8.7", keys}, 2},
		"a network":                    {[]string{"Match Address 10.0.0.0/8,!10.1.0.0/16", keys}, 2},
		"what others leave of it":      {[]string{"Match Address 10.0.0.0/9", "AuthorizedKeysFile none", "Match Address 10.128.0.0/10", "AuthorizedKeysFile none", "Match Address 10.0.0.0/8", keys}, 6},
		"an IPv6 network":              {[]string{"Match Address fd00::/8", keys}, 2},
		"addresses of a pattern":       {[]string{"Match Address 192.168.*", keys}, 2},
		"a host":                       {[]string{"Match Host *.Example.com", keys}, 2},
		"an address here":              {[]string{"Match LocalAddress 10.0.0.1", keys}, 2},
		"a port":                       {[]string{"Match LocalPort 2222", keys}, 2},
		"a routing domain":             {[]string{"Match RDomain mgmt", keys}, 2},
		"a user of a network":          {[]string{"Match User root Address 10.0.0.0/8", keys}, 2},
		"one whom an earlier one lets": {[]string{"Match User daemon", "X11Forwarding no", "Match User daemon,bin", keys}, 4},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := newMachine(t)
			m.before(tt.lines...)
			found := m.audit()
			text := strings.ReplaceAll(strings.TrimPrefix(tt.lines[tt.line-2], "Match "), `"`, "")
			if len(found) != 1 || found[0].Code != "authorized-keys-file" || !slices.Equal(found[0].For, []string{text}) ||
				found[0].File != m.path("sshd_config.d/00-a.conf") || found[0].Line != tt.line {
				t.Errorf("%+v", found)
			}
		})
	}
}

func TestABlockInAnIncludedFileIsFoundWhereItStands(t *testing.T) {
	m := newMachine(t)
	m.write("more", "Match Address 10.0.0.0/8\n\nPermitTunnel yes\n", 0o644)
	m.after("Match User root", "Include "+m.path("more"), "X11Forwarding no", "Match User root Address 127.0.0.1", "PermitTunnel yes")
	found := m.audit()
	if len(found) != 2 || !slices.Equal(found[0].For, []string{"User root, and Address 10.0.0.0/8"}) || found[0].File != m.path("more") || found[0].Line != 3 ||
		!slices.Equal(found[1].For, []string{"User root Address 127.0.0.1"}) {
		t.Errorf("%+v", found)
	}
}

func TestKeysOfAProgramAreFound(t *testing.T) {
	m := newMachine(t)
	m.before("Match User *", "AuthorizedKeysCommand /usr/bin/keys", "AuthorizedKeysCommandUser nobody")
	found := m.audit()
	if len(found) != 1 || found[0].Code != "authorized-keys-command" || found[0].Line != 2 {
		t.Errorf("%+v", found)
	}
}

func TestWhatHoldsForAllButSomeIsSaidOfEverybody(t *testing.T) {
	m := newMachine(t)
	m.before("AuthorizedKeysFile .ssh/authorized_keys", "Match User root", "AuthorizedKeysFile none")
	found := m.audit()
	if len(found) != 1 || len(found[0].For) != 0 || found[0].Line != 1 {
		t.Errorf("%+v", found)
	}
}
