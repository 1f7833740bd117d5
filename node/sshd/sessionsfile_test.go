package sshd

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

func TestOnlyAPersonsOwnFileIsReadForSSHDs(t *testing.T) {
	dir, err := os.MkdirTemp(authInfoDir, authInfoPrefix)
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	n := 0
	path := func() string {
		n++
		p := filepath.Join(authInfoDir, fmt.Sprintf("%stest-%d-%d", authInfoPrefix, os.Getpid(), n))
		t.Cleanup(func() { os.Remove(p) })
		return p
	}
	me := uint32(os.Geteuid())
	mine := path()
	if err := os.WriteFile(mine, []byte("password\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if text, _, err := readAuthInfo(mine, me); err != nil || string(text) != "password\n" {
		t.Errorf("%q %v", text, err)
	}
	link, pipe, large := path(), path(), path()
	for _, err := range []error{os.Symlink(mine, link), unix.Mkfifo(pipe, 0o600), os.WriteFile(large, make([]byte, maxAuthInfo+1), 0o600)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	for name, row := range map[string]struct {
		path  string
		owner uint32
	}{
		"somebody else's": {mine, me + 1}, "a link": {link, me}, "a pipe": {pipe, me}, "a folder": {dir, me}, "too large": {large, me},
		"elsewhere": {"/etc/passwd", me}, "by a way around": {authInfoDir + "/" + authInfoPrefix + "/../../etc/passwd", me}, "none": {"", me},
	} {
		if text, _, err := readAuthInfo(row.path, row.owner); err == nil {
			t.Errorf("%s: %.40q", name, text)
		}
	}
}

func TestASignalIsForOneProcessAndNotForItsNumber(t *testing.T) {
	cmd := exec.Command("sleep", "100")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { defer close(ended); _ = cmd.Wait() }()
	p := proc("/proc")
	one, ok := p.one(cmd.Process.Pid)
	if !ok {
		t.Fatal("it has ended")
	}
	other := one.Process
	other.Start--
	if err := p.signal(other, unix.SIGKILL); err == nil || !p.lives(one.Process) {
		t.Errorf("what has its number now was signalled: %v", err)
	}
	if err := p.signal(one.Process, unix.SIGKILL); err != nil {
		t.Error(err)
	}
	<-ended
}

// Anybody may fill the folder with files that have the name of sshd's.
func TestOthersFilesCrowdNoneOfAPersonsOut(t *testing.T) {
	f, err := os.CreateTemp(authInfoDir, authInfoPrefix)
	must(t, err)
	t.Cleanup(func() { os.Remove(f.Name()) })
	f.Close()
	own := uint32(os.Getuid())
	if !slices.Contains(authInfos(own), f.Name()) {
		t.Error("one's own is not found")
	}
	if found := authInfos(own + 12345); slices.Contains(found, f.Name()) {
		t.Error("that of another is found")
	}
}
