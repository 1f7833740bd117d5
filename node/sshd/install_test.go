package sshd

import (
	"bytes"
	"log/slog"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/crypto/ssh"
)

func TestAStockServerIsJoinedAndFollowsItsConfiguration(t *testing.T) {
	m := newStock(t, include)
	m.start()
	if m.certified() || !m.asksPasswords() {
		t.Fatal("it was ours before")
	}
	report, err := m.install()
	if err != nil {
		t.Fatal(err)
	}
	want := Report{DropIn: m.ssh("sshd_config.d/00-devicetrust.conf"), Dir: Dir(m.ssh("devicetrust")), Reloaded: true}
	if diff := cmp.Diff(want, report); diff != "" {
		t.Error(diff)
	}
	m.eventually("it shows its host certificate", m.certified)
	if m.asksPasswords() {
		t.Error("it asks for passwords")
	}
	d := report.Dir
	if n, err := d.ReadNode(); err != nil || n != node1() {
		t.Errorf("it is %+v: %v", n, err)
	}
	if keys, err := d.ReadUserCA(); err != nil || len(keys) != 1 || !bytes.Equal(keys[0].Marshal(), m.ca.PublicKey().Marshal()) {
		t.Errorf("it believes %v: %v", keys, err)
	}
	for path, mode := range map[string]os.FileMode{
		string(d): os.ModeDir | 0o755, d.UserCA(): 0o644, d.KRL(): 0o644, d.NodeFile(): 0o644,
		d.HostCertificate("ed25519"): 0o644, report.DropIn: 0o644,
	} {
		if info, err := os.Lstat(path); err != nil || info.Mode() != mode {
			t.Errorf("%s is %v, want %v: %v", path, info.Mode(), mode, err)
		}
	}
	for name := range m.tree() {
		if strings.Contains(name, "/.") {
			t.Errorf("%s was left behind", name)
		}
	}
}

// Every line is there for a reason, and each is looked for where sshd prints
// what it follows.
func TestEveryLineOfTheDropInIsInForce(t *testing.T) {
	m := newStock(t, include)
	if _, err := m.install(); err != nil {
		t.Fatal(err)
	}
	f, err := m.config.Server.settings(t.Context(), "user=root,host=localhost,addr=127.0.0.1")
	if err != nil {
		t.Fatal(err)
	}
	dir := m.ssh("devicetrust")
	for option, want := range map[string]string{
		"trustedusercakeys":               dir + "/user_ca.pub",
		"authorizedprincipalscommand":     m.config.Noded + " sshd principals --dir=" + dir + " %u %t %k %T %K %F %f %i %s",
		"authorizedprincipalscommanduser": "nobody",
		"authorizedprincipalsfile":        "none",
		"authorizedkeysfile":              "none",
		"authorizedkeyscommand":           "none",
		"authenticationmethods":           "publickey",
		"revokedkeys":                     dir + "/krl",
		"hostcertificate":                 dir + "/ssh_host_ed25519_key-cert.pub",
		"exposeauthinfo":                  "yes",
		"allowstreamlocalforwarding":      "no",
	} {
		if got := f.one(option); got != want {
			t.Errorf("%s is %q, want %q", option, got, want)
		}
	}
	text, err := os.ReadFile(m.ssh("sshd_config.d/00-devicetrust.conf"))
	if err != nil {
		t.Fatal(err)
	}
	if got, want := strings.Count(string(text), "\n# "), 11; got != want {
		t.Errorf("%d lines have a reason, want %d:\n%s", got, want, text)
	}
}

func TestInstallingAgainRepairs(t *testing.T) {
	m := newStock(t, include)
	m.start()
	if _, err := m.install(); err != nil {
		t.Fatal(err)
	}
	whole := contents(m.tree())
	d := DirOf(m.config.Server.Config)
	if err := os.Remove(d.KRL()); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(d.UserCA(), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(DropIn(m.config.Server.Config), []byte(marker), 0o600); err != nil {
		t.Fatal(err)
	}
	p, err := Prepare(t.Context(), m.config)
	if err != nil {
		t.Fatal(err)
	}
	if p.Before == nil || *p.Before != node1() {
		t.Errorf("it was %+v", p.Before)
	}
	if _, err := p.Install(t.Context(), m.joined(p.HostKey), node1().Installed.Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(whole, contents(m.tree())); diff != "" {
		t.Error(diff)
	}
	m.eventually("it shows its host certificate", m.certified)
}

func contents(tree map[string]entry) map[string]string {
	out := map[string]string{}
	for name, e := range tree {
		out[name] = e.Mode.String() + " " + e.Content
	}
	return out
}

func TestTheHostKeyThatIsCertifiedIsTheBestOne(t *testing.T) {
	for name, c := range map[string]struct {
		without []string
		want    string
	}{
		"Ed25519 where there is one": {nil, ssh.KeyAlgoED25519},
		"ECDSA else":                 {[]string{"ssh_host_ed25519_key.pub"}, ssh.KeyAlgoECDSA256},
	} {
		m := newStock(t, include)
		for _, file := range c.without {
			must(t, os.Remove(m.ssh(file)))
		}
		p, err := Prepare(t.Context(), m.config)
		if err != nil || p.HostKey.Type() != c.want {
			t.Errorf("%s: %v: %v", name, p, err)
		}
	}
}

func TestWhatTheClusterGaveIsLookedAtBeforeAnythingIsDone(t *testing.T) {
	m := newStock(t, include)
	p, err := Prepare(t.Context(), m.config)
	must(t, err)
	before := m.tree()
	for name, c := range map[string]struct {
		fault func(*Joined)
		words string
	}{
		"no authority":                    {func(j *Joined) { j.UserAuthorities = nil }, "named no user authority"},
		"an empty revocation list":        {func(j *Joined) { j.KRL = []byte{} }, "krl"},
		"no certificate":                  {func(j *Joined) { j.HostCertificate = nil }, "is not for sshd's key"},
		"a certificate for another key":   {func(j *Joined) { *j = m.joined(newKey(t, 9).PublicKey()) }, "is not for sshd's key"},
		"a certificate of a person's":     {func(j *Joined) { j.HostCertificate.CertType = ssh.UserCert }, "is not for sshd's key"},
		"a node of no cluster":            {func(j *Joined) { j.Cluster = "" }, "cannot fill"},
		"an ID that leads somewhere else": {func(j *Joined) { j.NodeID = "../x" }, "cannot fill"},
	} {
		j := m.joined(p.HostKey)
		c.fault(&j)
		if _, err := p.Install(t.Context(), j, node1().Installed); err == nil || !strings.Contains(err.Error(), c.words) {
			t.Errorf("%s: %v, want %q", name, err, c.words)
		}
		m.unchanged(before)
	}
}

func TestASettingWithASecondValueIsNotInForce(t *testing.T) {
	lines := []directive{{option: "AuthorizedKeysFile", value: "none"}}
	for printed, in := range map[string]bool{
		"authorizedkeysfile none\n":                           true,
		"authorizedkeysfile none\nauthorizedkeysfile other\n": false,
		"authorizedkeysfile other\n":                          false,
		"authorizedkeysfile\n":                                false,
		"":                                                    false,
	} {
		if got := overruled(lines, parseInForce(printed)) == ""; got != in {
			t.Errorf("%q: %v", printed, got)
		}
	}
}

func TestAVersionIsRead(t *testing.T) {
	major, minor, err := Server{Program: installedSSHD}.version(t.Context())
	if err != nil || major < leastMajor {
		t.Errorf("%d.%d: %v", major, minor, err)
	}
	if _, _, err := (Server{Program: "/bin/true"}).version(t.Context()); err == nil {
		t.Error("/bin/true has a version of OpenSSH")
	}
}

// Those who come in before that, come in by what sshd's own configuration says.
func TestItIsKnownWhetherSSHDFollowsOurPart(t *testing.T) {
	m := newStock(t, include)
	defer m.start()()
	w, err := Open(t.Context(), Settings{Config: m.config.Server.Config, AuthLog: m.path("none"), Now: time.Now, Log: slog.New(slog.DiscardHandler), blind: true})
	must(t, err)
	obeyed := func(want bool, when string) {
		t.Helper()
		if _, listening, err := w.Look(); err != nil || !listening {
			t.Fatal(listening, err)
		}
		if w.Obeyed(t.Context()) != want {
			t.Errorf("%s: %v", when, !want)
		}
	}
	obeyed(false, "before anything is installed")
	m.config.NoReload = true
	_, err = m.install()
	must(t, err)
	obeyed(false, "before it is reloaded")
	f, err := m.config.Server.settings(t.Context(), "")
	must(t, err)
	l, err := m.config.Server.listening(f)
	must(t, err)
	must(t, l.reload(t.Context(), m.config.Server))
	obeyed(true, "when it is")
	must(t, os.Chtimes(DropIn(m.config.Server.Config), time.Now(), time.Now().Add(time.Hour)))
	obeyed(true, "when it was")
	must(t, os.Remove(DropIn(m.config.Server.Config)))
	obeyed(false, "without our part")
}

// OpenSSH 8.7 to 9.3 do not see the helper after a line about a program for keys
// (servconf.c, bug 3574), and none that is added after both.
func TestTheHelperIsNamedBeforeTheProgramForKeys(t *testing.T) {
	var options []string
	for _, l := range dropInLines("/etc/ssh/devicetrust", "/usr/local/bin/dtnoded", "ed25519") {
		options = append(options, l.option)
	}
	helper, keys := slices.Index(options, "AuthorizedPrincipalsCommand"), slices.Index(options, "AuthorizedKeysCommand")
	if helper < 0 || keys < helper {
		t.Errorf("%q", options)
	}
}
