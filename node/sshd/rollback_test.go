package sshd

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// failing is an sshd that does as the real one does, until the call of a number,
// which fails.
func (m *stock) failing(call int) {
	m.write("bin/sshd", fmt.Sprintf(`#!/bin/sh
n=$(($(cat %[1]s/calls 2>/dev/null || echo 0) + 1))
echo $n >%[1]s/calls
if [ $n -eq %[2]d ]; then echo "it fails at call $n" >&2; exit 255; fi
exec %[3]s "$@"
`, m.dir, call, installedSSHD), 0o755)
	m.config.Server.Program = m.path("bin/sshd")
	_ = os.Remove(m.path("calls"))
}

// Installed for the first time, and once more over what is there.
func TestWhereverSSHDRefusesTheMachineIsAsItWas(t *testing.T) {
	for _, again := range []bool{false, true} {
		m := newStock(t, include)
		if again {
			_, err := m.install()
			must(t, err)
		}
		call := 0
		for {
			call++
			if call > 100 {
				t.Fatal("it never comes to its end")
			}
			m.failing(call)
			before := m.tree()
			_, err := m.install()
			if err == nil {
				break
			}
			if !strings.Contains(err.Error(), fmt.Sprint("it fails at call ", call)) && !strings.Contains(err.Error(), "version") {
				t.Errorf("call %d: it does not say what failed: %v", call, err)
			}
			m.unchanged(before)
		}
		if call < 10 {
			t.Errorf("there were %d calls only", call)
		}
	}
}

// full mounts a disk with room for so many files more, in the place of the
// folder for the configuration and what lies beside it.
func (m *stock) full(files int) {
	m.Helper()
	kept := m.path("kept")
	must(m, os.Rename(m.ssh(""), kept))
	must(m, os.Mkdir(m.ssh(""), 0o755))
	// Its folder, those in it and the files so far have a number too.
	have := strings.Count(m.exec("find", kept), "\n")
	m.exec("mount", "-t", "tmpfs", "-o", fmt.Sprintf("mode=755,nr_inodes=%d", have+files), "dt-test", m.ssh(""))
	m.Cleanup(func() { m.exec("umount", "-l", m.ssh("")) })
	m.exec("cp", "-a", kept+"/.", m.ssh(""))
	must(m, os.RemoveAll(kept))
}

func TestWhereverTheDiskIsFullTheMachineIsAsItWas(t *testing.T) {
	var failed int
	for files := 0; ; files++ {
		m := newStock(t, include)
		if err := exec.Command("unshare", "--mount", "true").Run(); err != nil {
			t.Skip("nothing can be mounted here")
		}
		m.full(files)
		before := m.tree()
		_, err := m.install()
		if err == nil {
			break
		}
		if failed++; failed > 20 {
			t.Fatal("it never comes to its end: ", err)
		}
		if !strings.Contains(err.Error(), "no space left") {
			t.Errorf("room for %d: it does not say what failed: %v", files, err)
		}
		m.unchanged(before)
	}
	if failed < 5 {
		t.Errorf("it failed in %d places only", failed)
	}
}

func TestWhereTheServerDoesNotReloadTheMachineIsAsItWas(t *testing.T) {
	m := newStock(t, include)
	end := m.start()
	before := m.tree()
	p, err := Prepare(t.Context(), m.config)
	must(t, err)
	end()
	_, err = p.Install(t.Context(), m.joined(p.HostKey), node1().Installed)
	m.wantWords("sshd ended", err, "cannot reload sshd: no sshd runs", "as it was")
	m.unchanged(before)
}

func TestWhoeverInterruptsItFindsTheMachineAsItWas(t *testing.T) {
	m := newStock(t, include)
	before := m.tree()
	p, err := Prepare(t.Context(), m.config)
	must(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err = p.Install(ctx, m.joined(p.HostKey), node1().Installed); !strings.Contains(fmt.Sprint(err), "context canceled") {
		t.Error(err)
	}
	m.unchanged(before)
}

func TestAPublicKeyThatIsNotThatOfTheHostKeyIsRefused(t *testing.T) {
	m := newStock(t, include)
	m.exec("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", m.path("other"))
	m.exec("cp", m.path("other.pub"), m.ssh("ssh_host_ed25519_key.pub"))
	before := m.tree()
	_, err := m.install()
	m.wantWords("another key", err, "does not take its host certificate", "ssh-keygen -y")
	m.unchanged(before)
}

func TestWhatCannotBeTakenBackIsSaid(t *testing.T) {
	var c changes
	var order []string
	for _, name := range []string{"first", "second", "third"} {
		c.did(name, func() error {
			order = append(order, name)
			if name == "second" {
				return errors.New("it is stuck")
			}
			return nil
		})
	}
	err := takenBack(errors.New("it failed"), c.rollBack())
	if got := strings.Join(order, " "); got != "third second first" {
		t.Errorf("taken back in the order %s", got)
	}
	onlyChecks(t).wantWords("stuck", err, "it failed", "Not everything could be taken back, look at it before you leave: second: it is stuck")
}

// onlyChecks is only for its checks.
func onlyChecks(t *testing.T) *stock { return &stock{TB: t} }

// A file in the middle of being replaced has its second name already, or not
// yet, or has been replaced.
func TestAFileIsRestoredFromWhereverItsReplacementStopped(t *testing.T) {
	m := newStock(t, include)
	m.write("a", "before", 0o640)
	must(t, os.Chown(m.path("a"), 1, 2))
	before := m.tree()
	for name, replace := range map[string]func(){
		"not yet":  func() {},
		"written":  func() { must(t, public().Write(m.path("a"), []byte("after"))) },
		"and gone": func() { must(t, os.Remove(m.path("a"))) },
	} {
		var c changes
		must(t, c.replaces(m.path("a")))
		replace()
		if err := c.rollBack(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		m.unchanged(before)
	}
}
