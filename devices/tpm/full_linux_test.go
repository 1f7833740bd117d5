package tpm

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// smallDisk is a folder on a disk of that many KiB.
func smallDisk(t *testing.T, kib string) string {
	t.Helper()
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "mode=0700,size="+kib+"k"); errors.Is(err, unix.EPERM) {
		t.Skip("mounting a small disk needs root")
	} else if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// fill writes until a disk is full, and then frees so many KiB of it.
func fill(t *testing.T, dir string, free int64) {
	t.Helper()
	f, err := os.Create(filepath.Join(dir, "ballast"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	size := int64(0)
	for err == nil {
		var n int
		n, err = f.Write(make([]byte, 1<<10))
		size += int64(n)
	}
	if !errors.Is(err, unix.ENOSPC) {
		t.Fatal(err)
	}
	if err := f.Truncate(max(0, size-free<<10)); err != nil {
		t.Fatal(err)
	}
}

func TestAFullDiskIsNoticedBeforeATokenIsSpentOrNotAtAll(t *testing.T) {
	dir := smallDisk(t, "64")
	path := filepath.Join(dir, "state.json")
	refused, remembered := 0, 0
	for free := int64(0); free <= 32; free += 4 {
		if err := os.Remove(filepath.Join(dir, "ballast")); err != nil && free > 0 {
			t.Fatal(err)
		}
		old, renewed := enrolledIn("a"), enrolledIn("a")
		renewed.DeviceID = strings.Repeat("x", int(free)+1)
		if err := remember(path, "a", old); err != nil {
			t.Fatal(err)
		}
		fill(t, dir, free)
		r, err := reserve(path)
		if err != nil {
			refused++
			if got, err := Enrolled(path, "a"); err != nil || got != old.Enrollment {
				t.Errorf("with %d KiB: %v, %v", free, got, err)
			}
			continue
		}
		remembered++
		// The token is spent now, and the disk gets full.
		more, err := os.Create(filepath.Join(dir, "more"))
		for err == nil {
			_, err = more.Write(make([]byte, 1<<10))
		}
		more.Close()
		if err := r.remember(nil, "a", renewed); err != nil {
			t.Errorf("with %d KiB: %v", free, err)
		}
		r.release()
		for name, want := range map[string]enrollment{path: renewed, path + staleSuffix: old} {
			if got, err := Enrolled(name, "a"); err != nil || got != want.Enrollment {
				t.Errorf("with %d KiB, %s: %v, %v", free, name, got, err)
			}
		}
		os.Remove(more.Name())
	}
	if refused == 0 || remembered == 0 {
		t.Errorf("refused %d times, remembered %d times; the test wants both", refused, remembered)
	}
}
