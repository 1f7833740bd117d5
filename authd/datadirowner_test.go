package authd

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestADataDirectoryThatAGroupMayWriteIsRefused(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	for mode, refused := range map[os.FileMode]bool{0o700: false, 0o755: false, 0o770: true, 0o775: true, 0o702: true} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(dir, mode); err != nil {
			t.Fatal(err)
		}
		switch err := checkDataDir(dir); {
		case !refused && err != nil:
			t.Errorf("mode %04o: %v", mode, err)
		case refused && (err == nil || !strings.Contains(err.Error(), "chmod 700")):
			t.Errorf("mode %04o: got %v", mode, err)
		}
	}
}

func TestADataDirectoryOfSomebodyElseIsRefused(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can give a directory away")
	}
	dir := filepath.Join(t.TempDir(), "data")
	for _, mode := range []os.FileMode{0o700, 0o777 | os.ModeSticky} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.Chown(dir, 65534, -1); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(dir, mode); err != nil {
			t.Fatal(err)
		}
		if err := startRefused(t, dir); err == nil || !strings.Contains(err.Error(), "belongs to user 65534") {
			t.Errorf("mode %v: got %v", mode, err)
		}
	}
}
