package sshd

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

func TestWhatIsKeptIsPutRight(t *testing.T) {
	dir := Dir(filepath.Join(t.TempDir(), "devicetrust"))
	k := &Kept{Dir: dir}
	if err := dir.make(); err != nil {
		t.Fatal(err)
	}
	if err := k.KeepKRL([]byte("list")); err != nil {
		t.Fatal(err)
	}
	if err := k.KeepNode(node1()); err != nil {
		t.Fatal(err)
	}
	path := dir.KRL()
	older := filepath.Join(t.TempDir(), "older")
	for name, damage := range map[string]func() error{
		"rewritten":          func() error { return os.WriteFile(path, []byte("tsil"), 0o644) },
		"emptied":            func() error { return os.Truncate(path, 0) },
		"removed":            func() error { return os.Remove(path) },
		"made unreadable":    func() error { return os.Chmod(path, 0o600) },
		"made everybody's":   func() error { return os.Chmod(path, 0o666) },
		"replaced":           func() error { return errors.Join(os.WriteFile(older, []byte("old"), 0o644), os.Rename(older, path)) },
		"a link in place":    func() error { return errors.Join(os.Remove(path), os.Symlink("/dev/null", path)) },
		"a folder in place":  func() error { return errors.Join(os.Remove(path), os.MkdirAll(filepath.Join(path, "x"), 0o755)) },
		"gone with its home": func() error { return os.RemoveAll(string(dir)) },
	} {
		t.Run(name, func(t *testing.T) {
			if mended, err := k.Mend(); len(mended) != 0 || err != nil {
				t.Fatalf("nothing is wrong, and it mends %q: %v", mended, err)
			}
			if err := damage(); err != nil {
				t.Fatal(err)
			}
			mended, err := k.Mend()
			if err != nil || !slices.Contains(mended, "krl") {
				t.Errorf("mends %q: %v", mended, err)
			}
			text, err := os.ReadFile(path)
			info, err2 := os.Lstat(path)
			if string(text) != "list" || errors.Join(err, err2) != nil || info.Mode() != 0o644 {
				t.Errorf("%q %v %v %v", text, info, err, err2)
			}
			if _, err := dir.ReadNode(); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestWhatCouldNotBeWrittenIsTriedAgain(t *testing.T) {
	dir := Dir(t.TempDir())
	k := &Kept{Dir: dir}
	full := errors.New("no space")
	fails := full
	if err := k.Put("x", func() error { return fails }, filepath.Join(string(dir), "x")); !errors.Is(err, full) {
		t.Errorf("%v", err)
	}
	if mended, err := k.Mend(); !errors.Is(err, full) || len(mended) != 0 {
		t.Errorf("%q %v", mended, err)
	}
	fails = nil
	if mended, err := k.Mend(); err != nil || len(mended) != 1 {
		t.Errorf("%q %v", mended, err)
	}
	if err := k.Forget("x", func() error { return nil }); err != nil {
		t.Error(err)
	}
	fails = full
	if mended, err := k.Mend(); err != nil || len(mended) != 0 {
		t.Errorf("what is forgotten: %q %v", mended, err)
	}
}
