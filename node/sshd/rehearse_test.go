package sshd

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Whoever starts sshd at that moment is not to find a drop-in whose files are
// not there.
func TestTheDropInIsTriedWhereNoSSHDReadsIt(t *testing.T) {
	m := newStock(t, include)
	t.Setenv("TMPDIR", m.path("bin")) // where nothing is to be left
	m.write("bin/sshd", fmt.Sprintf(`#!/bin/sh
echo "$*" >>%[1]s/calls
if [ -e %[2]s ] || [ -e %[3]s ]; then echo "it is there: $*" >>%[1]s/calls; fi
exec %[4]s "$@"
`, m.dir, DropIn(m.config.Server.Config), DirOf(m.config.Server.Config), installedSSHD), 0o755)
	m.config.Server.Program = m.path("bin/sshd")
	before := m.tree()
	p, err := Prepare(t.Context(), m.config)
	must(t, err)
	p.Close()
	m.unchanged(before)
	if asked := m.asked(); strings.Contains(asked, "it is there") || strings.Count(asked, "/dtnoded-sshd-") != 1+len(connections) {
		t.Errorf("sshd was asked %s", asked)
	}
}

// The files of the others win, or do not, as they will.
func TestTheRehearsalIsWithAllThatSSHDWillRead(t *testing.T) {
	for name, wins := range map[string]bool{"00-a.conf": true, "10-b.conf": false, "00-devicetrust.conf.old": false, ".hidden.conf": false} {
		m := newStock(t, include)
		m.write("ssh/sshd_config.d/"+name, "ExposeAuthInfo no\n", 0o644)
		p, err := Prepare(t.Context(), m.config)
		if err == nil {
			p.Close()
		}
		if (err != nil) != wins {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestTwoDoNotInstallAtOnce(t *testing.T) {
	m := newStock(t, include)
	p, err := Prepare(t.Context(), m.config)
	must(t, err)
	m.wantRefused("a second one", "somebody else is about to change", "Wait")
	_, err = Uninstall(t.Context(), m.config)
	m.wantWords("one that takes it away", err, "somebody else is about to change", "Wait")
	p.Close()
	if _, err := m.install(); err != nil {
		t.Error(err)
	}
}

func TestWhereNothingCanBeWrittenTheTokenIsNotSpent(t *testing.T) {
	m := newStock(t, include)
	confs := m.ssh("sshd_config.d")
	m.exec("mount", "--bind", confs, confs)
	t.Cleanup(func() { m.exec("umount", "-l", confs) })
	m.exec("mount", "-o", "remount,bind,ro", confs)
	m.wantRefused("read only", "read-only file system", "Nothing was changed")
	if left, err := filepath.Glob(filepath.Join(os.TempDir(), "dtnoded-sshd-*")); err != nil || len(left) > 0 {
		t.Errorf("left %q: %v", left, err)
	}
}

func TestOneErrorStaysTheOneThatItIs(t *testing.T) {
	first, second := errors.New("first"), errors.New("second")
	if _, joined := withError(first, nil).(interface{ Unwrap() []error }); joined || withError(nil, nil) != nil || !errors.Is(withError(nil, second), second) || !errors.Is(withError(first, second), first) {
		t.Error("it does not")
	}
}
