package sshd

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestWhatOthersCanWriteOrReadIsFound(t *testing.T) {
	chmod := func(name string, mode os.FileMode) func(*machine) {
		return func(m *machine) { m.must(os.Chmod(m.path(name), mode)) }
	}
	chown := func(name string) func(*machine) {
		return func(m *machine) { m.must(os.Chown(m.path(name), 1, 0)) }
	}
	for _, tt := range []struct {
		name  string
		plant func(*machine)
		want  string
	}{
		{"the configuration is everybody's", chmod("sshd_config", 0o666), "config-writable"},
		{"the configuration is a group's", chmod("sshd_config", 0o664), "config-writable"},
		{"the configuration is somebody's", chown("sshd_config"), "config-writable"},
		{"a drop-in is somebody's", chown("sshd_config.d/00-devicetrust.conf"), "config-writable"},
		{"the drop-ins' folder is everybody's", chmod("sshd_config.d", 0o1777), "config-writable"},
		{"a folder that is included, with no file in it, is everybody's", func(m *machine) {
			m.must(os.Mkdir(m.path("more"), 0o755))
			m.must(os.Chmod(m.path("more"), 0o777))
			m.after("Include " + m.path("more/*.conf"))
		}, "config-writable"},
		{"a drop-in is a link into a folder that is everybody's", func(m *machine) {
			m.must(os.Mkdir(m.path("far"), 0o755))
			m.must(os.Chmod(m.path("far"), 0o777))
			m.write("far/x", "X11Forwarding no\n", 0o644)
			m.must(os.Symlink("../far/x", m.path("sshd_config.d/90-x.conf")))
		}, "config-writable"},
		{"the folder of the authorities is a group's", chmod("devicetrust", 0o775), "trust-writable"},
		{"the authorities are everybody's", chmod("devicetrust/user_ca.pub", 0o666), "trust-writable"},
		{"the list is somebody's", chown("devicetrust/krl"), "trust-writable"},
		{"the state is a group's", chmod("devicetrust/state", 0o660), "trust-writable"},
		{"the state's number is a group's", chmod("devicetrust/state.newest", 0o660), "trust-writable"},
		{"the node is everybody's", chmod("devicetrust/node.json", 0o666), "trust-writable"},
		{"the helper is everybody's", chmod("dtnoded", 0o777), "program-writable"},
		{"the helper is somebody's", chown("dtnoded"), "program-writable"},
		{"the data is for everybody to read", chmod("data", 0o755), "data-dir-exposed"},
		{"the data is somebody's", chown("data"), "data-dir-exposed"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			m := newMachine(t)
			tt.plant(m)
			found := m.audit()
			if diff := cmp.Diff(strings.Fields(tt.want), codes(found)); diff != "" || len(found) != 1 {
				t.Errorf("%s\n%+v", diff, found)
			}
		})
	}
}

// sshd does not use a key that others can read, and starts no more where it has
// no other; the audit says both.
func TestAHostKeyThatOthersCanReadIsFound(t *testing.T) {
	for name, mode := range map[string]os.FileMode{"everybody's": 0o644, "a group's": 0o640} {
		t.Run(name, func(t *testing.T) {
			m := newMachine(t)
			a := &auditor{AuditConfig: m.config}
			m.must(os.Chmod(m.path("host"), mode))
			a.hostKey(m.path("host"))
			if diff := cmp.Diff([]string{"host-key-exposed"}, codes(a.findings)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestAFolderAboveThatOthersCanWriteIsUnsafe(t *testing.T) {
	m := newMachine(t)
	m.must(os.MkdirAll(m.path("a/b"), 0o755))
	m.write("a/b/file", "", 0o644)
	m.must(os.Symlink(m.path("a"), m.path("link")))
	m.must(os.Symlink("loop", m.path("loop")))
	for path, want := range map[string]string{
		"a/b/file": "", "link/b/file": "", "a/b/none": "", "a/none/none": "", "loop/x": "more than 40 links",
	} {
		if why := unsafe(m.path(path)); !strings.Contains(why, want) || (why == "") != (want == "") {
			t.Errorf("%s: %s", path, why)
		}
	}
	m.must(os.Chmod(m.path("a"), 0o775))
	for _, path := range []string{"a/b/file", "link/b/file", "a/b/none", "a/b"} {
		if why := unsafe(m.path(path)); !strings.Contains(why, "may write to "+m.path("a")+" ") {
			t.Errorf("%s: %s", path, why)
		}
	}
	// /tmp is everybody's, if sticky.
	if why := unsafe(filepath.Join(os.TempDir(), "x")); os.TempDir() == "/tmp" && !strings.Contains(why, "may write to /tmp ") {
		t.Errorf("%q", why)
	}
}
