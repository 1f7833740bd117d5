package sshd

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

func TestUninstallingGivesBackEveryByte(t *testing.T) {
	m := newStock(t, include)
	m.start()
	before := m.tree()
	if _, err := m.install(); err != nil {
		t.Fatal(err)
	}
	m.eventually("it shows its host certificate", m.certified)
	done, err := Uninstall(t.Context(), m.config)
	if err != nil || done.Nothing || !done.Reloaded || done.Kept != "" || done.Node == nil || *done.Node != node1() {
		t.Errorf("%+v: %v", done, err)
	}
	m.unchanged(before)
	m.eventually("it asks for passwords again", m.asksPasswords)
	done, err = Uninstall(t.Context(), m.config)
	if err != nil || !done.Nothing {
		t.Errorf("once more: %+v: %v", done, err)
	}
	m.unchanged(before)
}

func TestWhatARunThatWasKilledLeftIsTakenAwayToo(t *testing.T) {
	m := newStock(t, include)
	before := m.tree()
	_, err := m.install()
	must(t, err)
	for _, name := range []string{".krl.123", ".state.newest.before", ".node.json.9"} {
		m.write("ssh/devicetrust/"+name, "x", 0o600)
	}
	m.config.NoReload = false
	if done, err := Uninstall(t.Context(), m.config); err != nil || done.Kept != "" {
		t.Errorf("%+v: %v", done, err)
	}
	m.unchanged(before)
}

// The running sshd would let nobody in without the revocation list.
func TestTheFolderStaysUntilTheServerHasReloaded(t *testing.T) {
	m := newStock(t, include)
	m.start()
	_, err := m.install()
	must(t, err)
	m.config.NoReload = true
	done, err := Uninstall(t.Context(), m.config)
	if err != nil || done.Kept != m.ssh("devicetrust") || done.Reloaded {
		t.Errorf("%+v: %v", done, err)
	}
	if !isThere(m.ssh("devicetrust/krl")) || isThere(DropIn(m.config.Server.Config)) {
		t.Error("it has not done what it says")
	}
	m.config.NoReload = false
	done, err = Uninstall(t.Context(), m.config)
	if err != nil || done.Kept != "" || !done.Reloaded || isThere(m.ssh("devicetrust")) {
		t.Errorf("once more: %+v: %v", done, err)
	}
}

func TestWhatIsNotOursStaysWhenAllElseIsTakenAway(t *testing.T) {
	m := newStock(t, include)
	_, err := m.install()
	must(t, err)
	m.write("ssh/devicetrust/notes", "mine", 0o644)
	m.config.NoReload = false
	done, err := Uninstall(t.Context(), m.config)
	if err != nil || done.Kept != m.ssh("devicetrust") {
		t.Errorf("%+v: %v", done, err)
	}
	entries, err := os.ReadDir(m.ssh("devicetrust"))
	if err != nil || len(entries) != 1 || entries[0].Name() != "notes" {
		t.Errorf("it has %v: %v", entries, err)
	}
	// And it is nobody's by now.
	if done, err := Uninstall(t.Context(), m.config); err != nil || !done.Nothing {
		t.Errorf("once more: %+v: %v", done, err)
	}
}

func TestWhereUninstallingFailsAllStaysInForce(t *testing.T) {
	t.Run("sshd does not take the rest", func(t *testing.T) {
		m := newStock(t, include)
		_, err := m.install()
		must(t, err)
		m.config.NoReload = false
		m.failing(2) // the first is before
		installed := m.tree()
		_, err = Uninstall(t.Context(), m.config)
		m.wantWords("at call 2", err, "without our part", "as it was")
		m.unchanged(installed)
	})
	t.Run("a broken configuration is not ours to mend", func(t *testing.T) {
		m := newStock(t, include)
		_, err := m.install()
		must(t, err)
		m.write("ssh/sshd_config.d/99-broken.conf", "NoSuchOption yes\n", 0o644)
		installed := m.tree()
		_, err = Uninstall(t.Context(), m.config)
		m.wantWords("broken", err, "with our part and without", "as it was")
		m.unchanged(installed)
	})
	t.Run("sshd is not told apart", func(t *testing.T) {
		m := newStock(t, include)
		m.start()
		_, err := m.install()
		must(t, err)
		must(t, os.Remove(m.ssh("sshd.pid")))
		installed := m.tree()
		_, err = Uninstall(t.Context(), m.config)
		m.wantWords("no PidFile", err, "cannot reload sshd", "")
		m.unchanged(installed)
	})
	for name, plant := range map[string]func(m *stock){
		"a link for the drop-in": func(m *stock) {
			must(t, os.Rename(DropIn(m.config.Server.Config), m.path("mine")))
			must(t, os.Symlink(m.path("mine"), DropIn(m.config.Server.Config)))
		},
		"a drop-in that we have not written": func(m *stock) { m.write("ssh/sshd_config.d/00-devicetrust.conf", "# mine\n", 0o644) },
		"a folder that a group may write to": func(m *stock) { must(t, os.Chmod(m.ssh("devicetrust"), 0o775)) },
	} {
		m := newStock(t, include)
		_, err := m.install()
		must(t, err)
		plant(m)
		planted := m.tree()
		if done, err := Uninstall(t.Context(), m.config); err == nil {
			t.Errorf("%s: %+v", name, done)
		}
		m.unchanged(planted)
	}
}

// systemctl is one that writes down what it is asked, and fails at the word.
func (m *stock) systemctl(failing string) {
	must(m, os.MkdirAll(m.path("booted"), 0o755))
	m.write("bin/systemctl", fmt.Sprintf(`#!/bin/sh
echo "$*" >>%s/calls
case "$*" in %s*) echo "it fails" >&2; exit 1;; esac
`, m.dir, failing), 0o755)
}

func (m *stock) asked() string {
	text, err := os.ReadFile(m.path("calls"))
	must(m, err)
	must(m, os.Remove(m.path("calls")))
	return strings.ReplaceAll(strings.TrimSpace(string(text)), "\n", ", ")
}

func TestTheSideCarIsAServiceWhereSystemdRuns(t *testing.T) {
	m := newStock(t, include)
	m.systemctl("nothing")
	before := m.tree()
	report, err := m.install()
	if err != nil || report.Service != "dtnoded-sshd.service" {
		t.Fatalf("%+v: %v", report, err)
	}
	if got, want := m.asked(), "daemon-reload, enable dtnoded-sshd.service, restart dtnoded-sshd.service"; got != want {
		t.Errorf("systemctl was asked %s, want %s", got, want)
	}
	text, err := os.ReadFile(m.path("systemd/dtnoded-sshd.service"))
	if err != nil || !strings.Contains(string(text), "ExecStart="+m.config.Noded+" sshd sync --sshd-config="+m.config.Server.Config+" --data-dir="+m.config.DataDir+"\n") {
		t.Errorf("%s: %v", text, err)
	}
	m.config.NoReload = false
	done, err := Uninstall(t.Context(), m.config)
	if err != nil || done.Service != "dtnoded-sshd.service" {
		t.Errorf("%+v: %v", done, err)
	}
	if got, want := m.asked(), "disable --now dtnoded-sshd.service, daemon-reload"; got != want {
		t.Errorf("systemctl was asked %s, want %s", got, want)
	}
	m.unchanged(before)
}

func TestAServiceThatDoesNotStartTakesAllBack(t *testing.T) {
	for failing, want := range map[string]string{
		"daemon-reload": "daemon-reload, daemon-reload",
		"enable":        "daemon-reload, enable dtnoded-sshd.service, disable --now dtnoded-sshd.service, daemon-reload",
		"restart":       "daemon-reload, enable dtnoded-sshd.service, restart dtnoded-sshd.service, disable --now dtnoded-sshd.service, daemon-reload",
	} {
		m := newStock(t, include)
		m.start()
		m.systemctl(failing)
		before := m.tree()
		_, err := m.install()
		m.wantWords(failing, err, "cannot start the service", "")
		if got := m.asked(); got != want {
			t.Errorf("%s: systemctl was asked %s, want %s", failing, got, want)
		}
		m.unchanged(before)
		m.eventually("it asks for passwords again", m.asksPasswords)
	}
}

func TestTheServiceThatIsPackagedIsTheOneThatIsMade(t *testing.T) {
	text, err := os.ReadFile("../../packaging/systemd/dtnoded-sshd.service")
	must(t, err)
	want := unitText(Installation{
		Server: Server{Config: "/etc/ssh/sshd_config"}, Noded: "/usr/local/bin/dtnoded", DataDir: "/var/lib/dtnoded",
	})
	if string(text) != want {
		t.Errorf("it is\n%s, want\n%s", text, want)
	}
	// What is gone is made again (Kept), which takes a folder above that can be
	// written to: sshd lets nobody in without it.
	if !strings.Contains(want, "\nReadWritePaths=/etc/ssh /var/lib/dtnoded\n") {
		t.Error("it could not make its folder again")
	}
}

// A service for another configuration than the one that is taken away.
func TestTheServiceOfAnotherServerStays(t *testing.T) {
	m := newStock(t, include)
	m.systemctl("nothing")
	_, err := m.install()
	must(t, err)
	_ = m.asked()
	other := m.config.Server
	other.Config = "/etc/ssh/other"
	m.write("systemd/dtnoded-sshd.service", unitText(Installation{Server: other, Noded: m.config.Noded, DataDir: "/x"}), 0o644)
	m.wantRefused("another's", "of another sshd", "uninstall")
	m.config.NoReload = false
	done, err := Uninstall(t.Context(), m.config)
	if err != nil || done.Service != "" || !isThere(m.path("systemd/dtnoded-sshd.service")) {
		t.Errorf("%+v: %v", done, err)
	}
}
