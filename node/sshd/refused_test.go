package sshd

import (
	"errors"
	"os"
	"os/exec"
	"strings"
	"testing"

	"connectrpc.com/connect"

	"devicetrust/api"
)

// wantRefused wants a refusal with words in it and in its hint, and a machine
// that is as it was.
func (m *stock) wantRefused(name string, words, hint string) {
	m.Helper()
	before := m.tree()
	_, err := Prepare(m.Context(), m.config)
	m.unchanged(before)
	m.wantWords(name, err, words, hint)
}

func (m *stock) wantWords(name string, err error, words, hint string) {
	m.Helper()
	r, ok := errors.AsType[*api.Refusal](err)
	if !ok || r.Code != connect.CodeFailedPrecondition {
		m.Errorf("%s: %v", name, err)
		return
	}
	if !strings.Contains(r.Message, words) || !strings.Contains(r.Hint, hint) {
		m.Errorf("%s: %s\nhint: %s\nwant %q and %q", name, r.Message, r.Hint, words, hint)
	}
}

func TestAServerThatWouldNotDoIsRefusedBeforeAnythingIsChanged(t *testing.T) {
	for name, c := range map[string]struct {
		lines       string
		fault       func(m *stock)
		words, hint string
	}{
		"a configuration that sshd does not take": {
			include + "NoSuchOption yes\n", nil, "NoSuchOption", "sshd -t"},
		"no Include": {
			"", nil, "does not include", "Include "},
		"an Include of something else": {
			"Include %s/other.d/*.conf\n", nil, "does not include", "at its top"},
		"an Include for some only": {
			"Match user git\n" + include + "Match all\n", nil, "does not include", "at its top"},
		"a line that wins": {
			"AuthorizedKeysFile .ssh/authorized_keys\n" + include, nil, `AuthorizedKeysFile is not none but ".ssh/authorized_keys"`, "before its Include"},
		"another authority that wins": {
			"TrustedUserCAKeys /etc/other.pub\n" + include, nil, `TrustedUserCAKeys is not `, "Remove that line"},
		"a list that is longer than ours": {
			"AuthenticationMethods publickey password\n" + include, nil, "AuthenticationMethods is not publickey but", ""},
		"an earlier file that wins": {
			include, func(m *stock) { m.write("ssh/sshd_config.d/00-a.conf", "ExposeAuthInfo no\n", 0o644) }, "ExposeAuthInfo is not yes", ""},
		// Bug 3574 of OpenSSH 8.7 to 9.3: after one of these, even of none, ours is
		// not seen.
		"a program for keys before the Include": {
			"AuthorizedKeysCommand /bin/cat\nAuthorizedKeysCommandUser nobody\n" + include, nil, "wins over", "before its Include"},
		"a program for keys in an earlier file": {
			include, func(m *stock) {
				m.write("ssh/sshd_config.d/00-a.conf", "AuthorizedKeysCommand /bin/cat\nAuthorizedKeysCommandUser nobody\n", 0o644)
			}, "wins over", "a file before ours"},
		// The same versions take the last of these, and all others the first: who
		// upgrades sshd would have another helper.
		"another helper before the Include": {
			"AuthorizedPrincipalsCommand /bin/echo %u\nAuthorizedPrincipalsCommandUser nobody\n" + include, nil, "AuthorizedPrincipalsCommand", "before its Include"},
		"another helper in an earlier file": {
			include, func(m *stock) {
				m.write("ssh/sshd_config.d/00-a.conf", "AuthorizedPrincipalsCommand /bin/echo %u\nAuthorizedPrincipalsCommandUser nobody\n", 0o644)
			}, "AuthorizedPrincipalsCommand", "a file before ours"},
		"a Match block for root": {
			include + "Match user root\nAuthorizedKeysFile /root/.ssh/authorized_keys\nMatch all\n", nil, "for user=root", "Match block"},
		"a Match block for everybody": {
			include + "Match address 127.0.0.0/8\nRevokedKeys none\nMatch all\n", nil, "RevokedKeys is not", ""},
		"no folder for the drop-in": {
			include, func(m *stock) { must(m, os.Remove(m.ssh("sshd_config.d"))) }, "there is no folder", "install -d -m 0755"},
		"no sshd": {
			include, func(m *stock) { m.config.Server.Program = m.path("none") }, "no such file", "openssh-server"},
		"another program for sshd": {
			include, func(m *stock) { m.config.Server.Program = "/bin/true" }, "version", "--sshd"},
		"an old sshd": {
			include, func(m *stock) {
				m.write("bin/sshd", "#!/bin/sh\necho OpenSSH_8.1p1 >&2\n", 0o755)
				m.config.Server.Program = m.path("bin/sshd")
			}, "is OpenSSH 8.1, and 8.2 is needed", "Upgrade"},
		"a much older sshd": {
			include, func(m *stock) {
				m.write("bin/sshd", "#!/bin/sh\necho OpenSSH_7.9p1 >&2\n", 0o755)
				m.config.Server.Program = m.path("bin/sshd")
			}, "is OpenSSH 7.9, and 8.2 is needed", "Upgrade"},
		"a helper that others may change": {
			include, func(m *stock) { must(m, os.Chmod(m.config.Noded, 0o775)) }, "others than root may write to", "/usr/local/bin/dtnoded"},
		"a helper of somebody else": {
			include, func(m *stock) { must(m, os.Chown(m.config.Noded, 1, 0)) }, "belongs to uid 1", "/usr/local/bin/dtnoded"},
		"a helper in a folder of everybody": {
			include, func(m *stock) { must(m, os.Chmod(m.path("bin"), 0o1777)) }, "others than root may write to", "/usr/local/bin/dtnoded"},
		"a helper by way of a link in a folder of everybody": {
			include, func(m *stock) {
				must(m, os.Mkdir(m.path("tmp"), 0o755))
				must(m, os.Symlink(m.config.Noded, m.path("tmp/link")))
				must(m, os.Chmod(m.path("tmp"), 0o777))
				must(m, os.Symlink(m.path("tmp/link"), m.path("bin/link")))
				m.config.Noded = m.path("bin/link")
			}, "others than root may write to", "/usr/local/bin/dtnoded"},
		"a helper that nobody may run": {
			include, func(m *stock) { must(m, os.Chmod(m.config.Noded, 0o700)) }, "not everybody may use", ""},
		"a helper that nobody may come to": {
			include, func(m *stock) { must(m, os.Chmod(m.path("bin"), 0o700)) }, "not everybody may go through", ""},
		"a helper with a space in its path": {
			include, func(m *stock) { m.config.Noded = "/opt/d t/dtnoded" }, "is no absolute path of letters", ""},
		"a helper with sshd's own sign in its path": {
			include, func(m *stock) { m.config.Noded = "/opt/%u/dtnoded" }, "is no absolute path of letters", ""},
		"a data directory of two lines": {
			include, func(m *stock) { m.config.DataDir = "/var/lib/x\nExecStart=/tmp/y" }, "is no absolute path of letters", "--data-dir"},
		"no public half of a host key": {
			include, func(m *stock) {
				must(m, os.Remove(m.ssh("ssh_host_ed25519_key.pub")))
				must(m, os.Remove(m.ssh("ssh_host_ecdsa_key.pub")))
			}, "no host key that can be certified", "ssh-keygen"},
		"public halves that others may change": {
			include, func(m *stock) {
				must(m, os.Chmod(m.ssh("ssh_host_ed25519_key.pub"), 0o666))
				must(m, os.Chown(m.ssh("ssh_host_ecdsa_key.pub"), 1, 1))
			}, "others than root may write to", ""},
		"a configuration that nobody may come to": {
			include, func(m *stock) { must(m, os.Chmod(m.ssh(""), 0o700)) }, "as nobody", ""},
		"sshd does not run": {
			include, func(m *stock) { m.config.NoReload = false }, "no sshd runs with this configuration", "--no-reload"},
	} {
		m := newStock(t, c.lines)
		if c.fault != nil {
			c.fault(m)
		}
		m.wantRefused(name, c.words, c.hint)
	}
}

func TestWhatSomebodyElsePutInOurPlaceIsRefusedAndStays(t *testing.T) {
	for name, c := range map[string]struct {
		fault func(m *stock)
		words string
	}{
		"a link for the folder": {func(m *stock) {
			must(m, os.Mkdir(m.path("elsewhere"), 0o755))
			must(m, os.Symlink(m.path("elsewhere"), m.ssh("devicetrust")))
		}, "is not what dtnoded makes there"},
		"a file for the folder": {func(m *stock) { m.write("ssh/devicetrust", "", 0o644) }, "is not what dtnoded makes there"},
		"a folder that a group may write to": {func(m *stock) {
			must(m, os.Mkdir(m.ssh("devicetrust"), 0o755))
			must(m, os.Chmod(m.ssh("devicetrust"), 0o775))
		}, "others than root may write to"},
		"a folder of somebody's": {func(m *stock) {
			must(m, os.Mkdir(m.ssh("devicetrust"), 0o755))
			must(m, os.Chown(m.ssh("devicetrust"), 1, 1))
		}, "belongs to uid 1"},
		"a folder with other things in it": {func(m *stock) {
			must(m, os.Mkdir(m.ssh("devicetrust"), 0o755))
			m.write("ssh/devicetrust/notes", "", 0o644)
		}, "dtnoded has not made it"},
		"a link for a file in the folder": {func(m *stock) {
			must(m, os.Mkdir(m.ssh("devicetrust"), 0o755))
			must(m, os.Symlink("/etc/passwd", m.ssh("devicetrust/krl")))
		}, "is not what dtnoded makes there"},
		"a pipe for a file in the folder": {func(m *stock) {
			must(m, os.Mkdir(m.ssh("devicetrust"), 0o755))
			must(m, exec.Command("mkfifo", m.ssh("devicetrust/state")).Run())
		}, "is not what dtnoded makes there"},
		"a file in the folder that others may write": {func(m *stock) {
			must(m, os.Mkdir(m.ssh("devicetrust"), 0o755))
			m.write("ssh/devicetrust/user_ca.pub", "", 0o666)
		}, "others than root may write to"},
		"a link for the drop-in": {func(m *stock) {
			m.write("mine", marker, 0o644)
			must(m, os.Symlink(m.path("mine"), DropIn(m.config.Server.Config)))
		}, "is not what dtnoded makes there"},
		"a drop-in of somebody's": {func(m *stock) {
			m.write("ssh/sshd_config.d/00-devicetrust.conf", marker, 0o644)
			must(m, os.Chown(DropIn(m.config.Server.Config), 1, 1))
		}, "belongs to uid 1"},
		"a drop-in that we have not written": {func(m *stock) {
			m.write("ssh/sshd_config.d/00-devicetrust.conf", "# mine\n", 0o644)
		}, "dtnoded has not written it"},
		"a link where a file is set aside": {func(m *stock) {
			must(m, os.Symlink("/etc/passwd", aside(DropIn(m.config.Server.Config))))
		}, "is not what dtnoded makes there"},
		"a link for the folder of drop-ins": {func(m *stock) {
			must(m, os.Rename(m.ssh("sshd_config.d"), m.path("confs")))
			must(m, os.Symlink(m.path("confs"), m.ssh("sshd_config.d")))
		}, "is not what dtnoded makes there"},
		"a folder above that everybody may write to": {func(m *stock) { must(m, os.Chmod(m.ssh(""), 0o1777)) }, "others than root may write to"},
		"a node's file that is none": {func(m *stock) {
			must(m, os.Mkdir(m.ssh("devicetrust"), 0o755))
			m.write("ssh/devicetrust/node.json", "{}", 0o644)
		}, "node.json"},
	} {
		m := newStock(t, include)
		c.fault(m)
		m.wantRefused(name, c.words, "")
	}
}

func TestARunningServerIsFoundByWhatItRunsAndNotByAName(t *testing.T) {
	s := Server{Program: installedSSHD, Config: "/etc/ssh/sshd_config"}
	for title, want := range map[string]bool{
		"sshd: /usr/sbin/sshd -D [listener] 0 of 10-100 startups":                         true,
		"sshd: /usr/sbin/sshd -D [listener] 0 of 10-100 startups\x00\x00\x00":             true,
		"sshd: /usr/sbin/sshd -D -f /etc/ssh/sshd_config [listener] 0 of 10-100 startups": true,
		"sshd: /usr/sbin/sshd -f/etc/ssh/sshd_config -D [listener] 0 of 10-100 startups":  true,
		"sshd: /usr/sbin/sshd -D -f /etc/ssh/other [listener] 0 of 10-100 startups":       false,
		"sshd: /usr/sbin/sshd -D -f/etc/ssh/other [listener] 0 of 10-100 startups":        false,
		"sshd: alice [priv]":       false,
		"sshd: alice@pts/0":        false,
		"/usr/sbin/sshd\x00-D\x00": false,
		"":                         false,
	} {
		if got := s.titled(title); got != want {
			t.Errorf("%q: %v", title, got)
		}
	}
	m := newStock(t, include)
	end := m.start()
	f, err := m.config.Server.settings(t.Context(), "")
	must(t, err)
	if _, err := m.config.Server.listening(f); err != nil {
		t.Error(err)
	}
	// A number that another process has by now.
	m.write("ssh/sshd.pid", "1\n", 0o644)
	if l, err := m.config.Server.listening(f); err == nil || errors.Is(err, errNotRunning) {
		t.Errorf("found %v: %v", l, err)
	}
	end()
	if l, err := m.config.Server.listening(f); !errors.Is(err, errNotRunning) {
		t.Errorf("of none found %v: %v", l, err)
	}
}
