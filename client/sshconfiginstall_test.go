package client

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"devicetrust/api"
)

// installer is somebody's profile of a cluster, and an ssh_config of theirs.
type installer struct {
	*Profile
	t    *testing.T
	file string
}

func newInstaller(t *testing.T) *installer {
	t.Helper()
	p, err := newHome(t).Profile("dt.example.com:3080")
	if err != nil {
		t.Fatal(err)
	}
	return &installer{p, t, filepath.Join(t.TempDir(), "ssh", "config")}
}

func (i *installer) install(text string) bool {
	i.t.Helper()
	changed, err := i.InstallSSHConfig(i.t.Context(), i.file, text)
	if err != nil {
		i.t.Fatal(err)
	}
	return changed
}

func (i *installer) remove() bool {
	i.t.Helper()
	changed, err := i.RemoveSSHConfig(i.t.Context(), i.file)
	if err != nil {
		i.t.Fatal(err)
	}
	return changed
}

func (i *installer) has(text string, mode os.FileMode) {
	i.t.Helper()
	if err := os.MkdirAll(filepath.Dir(i.file), 0o700); err != nil {
		i.t.Fatal(err)
	}
	if err := os.WriteFile(i.file, []byte(text), mode); err != nil {
		i.t.Fatal(err)
	}
	if err := os.Chmod(i.file, mode); err != nil {
		i.t.Fatal(err)
	}
}

func (i *installer) text() string {
	i.t.Helper()
	text, err := os.ReadFile(i.file)
	if err != nil {
		i.t.Fatal(err)
	}
	return string(text)
}

func (i *installer) include() string { return `Include "` + i.sshConfig() + `"` + "\n" }

const fragment = "\nHost web-1\n    HostName 10.0.0.1\n"

func TestWhatIsInstalledInAnSSHConfigComesOutAgainByteForByte(t *testing.T) {
	for _, before := range []string{
		"", "\n", "Host *\n    User bob\n", "Host a\n    User b", "# only this", "Host *\r\n    User bob\r\n",
		"Include other.conf\n\n\nMatch all\n", "Host a\n    Include \"nothing of ours\"\n",
	} {
		i := newInstaller(t)
		i.has(before, 0o640)
		if !i.install(fragment) {
			t.Errorf("%q: nothing was changed", before)
		}
		first := i.text()
		if want := "# Servers of dt.example.com:3080, from dtsh config --write.\n" + i.include() + before; first != want {
			t.Errorf("got %q, want %q", first, want)
		}
		if i.install(fragment) || i.text() != first {
			t.Errorf("%q: the second time changes it to %q", before, i.text())
		}
		if got, err := os.ReadFile(i.sshConfig()); err != nil || string(got) != fragment {
			t.Errorf("%v, %q", err, got)
		}
		if !i.remove() || i.text() != before {
			t.Errorf("%q came back as %q", before, i.text())
		}
		if info, err := os.Stat(i.file); err != nil || info.Mode().Perm() != 0o640 {
			t.Errorf("%v, mode %v", err, info.Mode())
		}
		if i.remove() || i.SSHConfigInstalled() || i.text() != before {
			t.Errorf("there was more to remove")
		}
	}
}

func TestAnSSHConfigThatWasMadeForItGoesWithIt(t *testing.T) {
	i := newInstaller(t)
	i.install(fragment)
	dir, err := os.Stat(filepath.Dir(i.file))
	if err != nil || dir.Mode().Perm() != 0o700 {
		t.Errorf("%v, mode %v", err, dir.Mode())
	}
	if info, err := os.Stat(i.file); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, mode %v", err, info.Mode())
	}
	made := i.text()
	i.remove()
	if _, err := os.Lstat(i.file); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("it is still there: %v", err)
	}
	// Not where somebody has written into it meanwhile.
	i.has(made+"Host mine\n", 0o600)
	if i.remove(); i.text() != "Host mine\n" {
		t.Errorf("got %q", i.text())
	}
}

func TestTwoClustersAreIncludedBesideEachOther(t *testing.T) {
	i := newInstaller(t)
	i.has("Host mine\n", 0o600)
	i.install(fragment)
	p, err := i.home.Profile("other.example.com:3080")
	if err != nil {
		t.Fatal(err)
	}
	other := &installer{p, t, i.file}
	other.install(fragment)
	i.remove()
	if got := i.text(); strings.Contains(got, "//dt.") || !strings.Contains(got, other.include()) || other.install(fragment) {
		t.Errorf("got %q", got)
	}
	if other.remove(); i.text() != "Host mine\n" {
		t.Errorf("got %q", i.text())
	}
}

func TestAnIncludeThatIsThereAlreadyIsRecognised(t *testing.T) {
	t.Setenv("HOME", t.TempDir())
	for form, is := range map[string]bool{
		"%s": true, "Include %s": true, "include=%s": true, "\tINCLUDE\t/nothing \"%s\"": true, "Include %d/*": true, "Include ~/.dtsh/profiles/*.ssh_config": true,
		"Include ../.dtsh/profiles/dt.*": true, "Host *\nInclude %s": true, "Host a\nMatch all\n  Include %s": true,
		// These are for some hosts only, or not Includes of it.
		"Host a\n  Include %s": false, "Host * !a\nInclude %s": false, "Match user a\nInclude %s": false,
		"# Include %s": false, "Include %s.old": false, "Includes %s": false, "Include": false, "Include ~": false, "Include [": false,
	} {
		i := newInstaller(t)
		i.home.dir = filepath.Join(os.Getenv("HOME"), ".dtsh")
		if form == "%s" {
			form = i.include()
		}
		text := strings.NewReplacer("%s", i.sshConfig(), "%d", filepath.Dir(i.sshConfig())).Replace(form)
		i.has(text, 0o600)
		if changed := i.install(fragment); changed == is {
			t.Errorf("%q: changed %v", text, changed)
		}
	}
}

func TestTheSSHConfigBehindALinkIsWrittenAndTheLinkStays(t *testing.T) {
	i := newInstaller(t)
	dotfiles := t.TempDir()
	kept := filepath.Join(dotfiles, "ssh_config")
	i.has("Host mine\n", 0o644)
	if err := os.Rename(i.file, kept); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(kept, i.file); err != nil {
		t.Skipf("no links here: %v", err)
	}
	i.install(fragment)
	if to, err := os.Readlink(i.file); err != nil || to != kept || !strings.HasSuffix(i.text(), "Host mine\n") {
		t.Errorf("%q, %v: %q", to, err, i.text())
	}
	if info, err := os.Stat(kept); err != nil || info.Mode().Perm() != 0o644 {
		t.Errorf("%v, mode %v", err, info.Mode())
	}
	if i.remove(); i.text() != "Host mine\n" {
		t.Errorf("got %q", i.text())
	}
	left, err := os.ReadDir(dotfiles)
	if err != nil || len(left) != 1 {
		t.Errorf("%v is left, %v", left, err)
	}
	if err := os.Remove(kept); err != nil {
		t.Fatal(err)
	}
	if _, err := i.InstallSSHConfig(t.Context(), i.file, fragment); err == nil {
		t.Error("a link to nothing is written through")
	}
}

func TestAnSSHConfigThatOthersMayWriteIsRefused(t *testing.T) {
	for name, spoil := range map[string]func(i *installer) error{
		"a file for the group": func(i *installer) error { return os.Chmod(i.file, 0o660) },
		"a file for everybody": func(i *installer) error { return os.Chmod(i.file, 0o602) },
		"a folder for others":  func(i *installer) error { return os.Chmod(filepath.Dir(i.file), 0o777) },
		"a folder":             func(i *installer) error { return errors.Join(os.Remove(i.file), os.Mkdir(i.file, 0o700)) },
		"one that is too long": func(i *installer) error { return os.Truncate(i.file, maxStored+1) },
		"a link to where others write": func(i *installer) error {
			shared := filepath.Join(filepath.Dir(filepath.Dir(i.file)), "shared")
			moved := filepath.Join(shared, "config")
			return errors.Join(os.Mkdir(shared, 0o700), os.Rename(i.file, moved), os.Symlink(moved, i.file), os.Chmod(shared, 0o777))
		},
		"another account's": func(i *installer) error {
			if os.Geteuid() != 0 {
				return errNeedsRoot
			}
			return os.Chown(i.file, 65534, 65534)
		},
	} {
		i := newInstaller(t)
		i.has("Host mine\n", 0o600)
		if err := spoil(i); errors.Is(err, errNeedsRoot) {
			t.Logf("%s: %v", name, err)
			continue
		} else if err != nil {
			t.Fatal(err)
		}
		before, _ := os.ReadFile(i.file)
		_, err := i.InstallSSHConfig(t.Context(), i.file, fragment)
		if _, ok := errors.AsType[*api.Refusal](err); !ok {
			t.Errorf("%s: %v", name, err)
		}
		if after, _ := os.ReadFile(i.file); string(after) != string(before) || i.SSHConfigInstalled() {
			t.Errorf("%s: it was written", name)
		}
	}
}

var errNeedsRoot = errors.New("only root can give a file away")

func TestAPathThatIncludeWouldReadOtherwiseIsRefused(t *testing.T) {
	for _, name := range []string{"50%", "$HOME", "a*", "a?", "[a]", "{a,b}", `a"b`, `a\b`, "a\nb"} {
		i := newInstaller(t)
		i.home.dir = filepath.Join(i.home.dir, name)
		_, err := i.InstallSSHConfig(t.Context(), i.file, fragment)
		if r, ok := errors.AsType[*api.Refusal](err); !ok || r.Hint == "" {
			t.Errorf("%q: %v", name, err)
		}
		if _, err := os.Lstat(i.file); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%q: the file was made", name)
		}
	}
}

func TestAStockSSHFindsWhatIsIncluded(t *testing.T) {
	i := newInstaller(t)
	i.home.dir = filepath.Join(i.home.dir, "it's a home")
	i.has("Host web-1\n    Port 99\n    User bob\nHost *\n    Port 98", 0o600)
	i.install(fragment)
	told, err := stockSSH(t, i.text(), "-G", "web-1")
	if err != nil || !strings.Contains(told, "\nhostname 10.0.0.1\n") || !strings.Contains(told, "\nport 99\n") {
		t.Errorf("%v\n%s", err, told)
	}
}

func TestWhatSomebodyWritesMeanwhileIsNotLost(t *testing.T) {
	i := newInstaller(t)
	i.has("Host mine\n", 0o600)
	f, err := openSSHConfig(i.file)
	if err != nil {
		t.Fatal(err)
	}
	i.has("Host mine\nHost new\n", 0o600)
	if err := f.replace([]byte("ours\n")); err == nil || i.text() != "Host mine\nHost new\n" {
		t.Errorf("%v: %q", err, i.text())
	}
}

func FuzzAnSSHConfigComesOutAsItWentIn(f *testing.F) {
	h, err := OpenHome(f.TempDir())
	if err != nil {
		f.Fatal(err)
	}
	p, err := h.Profile("dt.example.com:3080")
	if err != nil {
		f.Fatal(err)
	}
	include, err := p.includeLine()
	if err != nil {
		f.Fatal(err)
	}
	for _, text := range []string{"", "Host *\r\n", "Include \"a b\" c", "include=\"", "Host a\nInclude " + p.sshConfig(), p.remark(true)} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if strings.Contains(text, strings.TrimSpace(include)) {
			return
		}
		with := p.remark(false) + include + text
		if !includes([]byte(with), p.sshConfig()) {
			t.Error("what was written is not recognised")
		}
		if rest, made := p.without([]byte(with), include); string(rest) != text || made {
			t.Errorf("got %q, made %v", rest, made)
		}
	})
}
