package sshd

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// run makes the files by which the system would show a process that started at
// the time.
func (m *machine) running(pid int, program, cmdline string, at time.Time) {
	m.t.Helper()
	folder := filepath.Join(m.config.Proc, strconv.Itoa(pid))
	m.must(os.MkdirAll(folder, 0o755))
	m.must(os.Symlink(program, filepath.Join(folder, "exe")))
	m.must(os.WriteFile(filepath.Join(folder, "cmdline"), []byte(cmdline), 0o644))
	ticks := at.Sub(time.Unix(1_700_000_000, 0)).Milliseconds() / 10
	m.must(os.WriteFile(filepath.Join(m.config.Proc, "stat"), []byte("cpu 1 2\nbtime 1700000000\n"), 0o644))
	m.must(os.WriteFile(filepath.Join(folder, "stat"),
		[]byte(strconv.Itoa(pid)+" (a) b) S 1"+strings.Repeat(" 0", 17)+" "+strconv.FormatInt(ticks, 10)+" 0\n"), 0o644))
}

func TestWhatRunsIsHeldAgainstTheConfiguration(t *testing.T) {
	later := time.Now().Add(time.Hour)
	listener := func(args string) string { return "sshd: " + args + " [listener] 0 of 10-100 startups\x00\x00" }
	for _, tt := range []struct {
		name string
		run  func(*machine)
		want string
	}{
		{"sshd", func(m *machine) {
			m.running(10, m.config.SSHD, listener("/usr/sbin/sshd -D -f "+m.config.SSHDConfig), later)
		}, ""},
		{"sshd before it has a title", func(m *machine) {
			m.running(10, m.config.SSHD, "/usr/sbin/sshd\x00-f\x00"+m.config.SSHDConfig+"\x00", later)
		}, ""},
		{"sshd that was updated since", func(m *machine) {
			m.running(10, m.config.SSHD+" (deleted)", listener("/usr/sbin/sshd -D -f"+m.config.SSHDConfig), later)
		}, ""},
		{"a session", func(m *machine) { m.running(10, m.config.SSHD, "sshd: root@pts/0\x00", later) }, ""},
		{"a client", func(m *machine) { m.running(10, "/usr/bin/ssh", "ssh\x00host\x00", later) }, ""},
		{"sshd with its default configuration", func(m *machine) { m.running(10, m.config.SSHD, listener("/usr/sbin/sshd -D"), later) }, "other-server"},
		{"sshd with another configuration", func(m *machine) { m.running(10, m.config.SSHD, listener("/usr/sbin/sshd -p 2222 -f /root/x"), later) }, "other-server"},
		{"sshd with a configuration of which the folder is not known", func(m *machine) { m.running(10, m.config.SSHD, listener("/usr/sbin/sshd -f sshd_config"), later) }, "other-server"},
		{"sshd under another name", func(m *machine) { m.running(10, "/root/httpd", listener("/root/httpd -f "+m.config.SSHDConfig), later) }, "other-server"},
		{"another sshd with the configuration", func(m *machine) {
			m.write("sshd", "", 0o755)
			m.running(10, m.path("sshd"), listener(m.path("sshd")+" -f "+m.config.SSHDConfig), later)
		}, "other-server"},
		{"dropbear", func(m *machine) { m.running(10, "/usr/sbin/dropbear", "dropbear\x00-p\x002222\x00", later) }, "other-server"},
		{"an option that wins", func(m *machine) {
			m.running(10, m.config.SSHD, listener("/usr/sbin/sshd -o AuthorizedKeysFile=x -f "+m.config.SSHDConfig), later)
		}, "command-line-option"},
		{"sshd from before the configuration", func(m *machine) {
			m.running(10, m.config.SSHD, listener("/usr/sbin/sshd -f "+m.config.SSHDConfig), time.Now().Add(-time.Hour))
		}, "not-reloaded"},
		{"sshd that was told to read it again", func(m *machine) {
			m.running(10, m.config.SSHD, listener("/usr/sbin/sshd -f "+m.config.SSHDConfig), time.Now().Add(-time.Hour))
			m.write("pid", "10\n", 0o644)
		}, ""},
		{"sshd that was told so before", func(m *machine) {
			m.running(10, m.config.SSHD, listener("/usr/sbin/sshd -f "+m.config.SSHDConfig), time.Now().Add(-time.Hour))
			m.write("pid", "10\n", 0o644)
			m.must(os.Chtimes(m.path("pid"), time.Now().Add(-time.Minute), time.Now().Add(-time.Minute)))
		}, "not-reloaded"},
		{"a drop-in is gone since", func(m *machine) {
			m.running(10, m.config.SSHD, listener("/usr/sbin/sshd -f "+m.config.SSHDConfig), later)
			m.must(os.Chtimes(m.path("sshd_config.d"), later.Add(time.Minute), later.Add(time.Minute)))
		}, "not-reloaded"},
		{"no /proc", func(m *machine) { m.must(os.RemoveAll(m.config.Proc)) }, "processes-unreadable"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			m := newMachine(t)
			tt.run(m)
			found := m.audit()
			if diff := cmp.Diff(strings.Fields(tt.want), codes(found), cmpopts.EquateEmpty()); diff != "" {
				t.Errorf("%s\n%+v", diff, found)
			}
		})
	}
}

func TestThisProcessIsFoundToHaveStarted(t *testing.T) {
	if _, err := os.Stat("/proc/self/stat"); err != nil {
		t.Fatal(err)
	}
	started := bootTime("/proc").Add(startTime("/proc/self"))
	if age := time.Since(started); age < -3*time.Second || age > time.Hour {
		t.Errorf("it started %v ago", age)
	}
}
