package ca

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

func TestTheKeyFileIsMadeOnceAndForItsOwnerOnly(t *testing.T) {
	path := filepath.Join(t.TempDir(), "key")
	first, err := LoadKeeper(path)
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode() != 0o600 {
		t.Errorf("mode is %v, want 0600", info.Mode())
	}
	second, err := LoadKeeper(path)
	if err != nil {
		t.Fatal(err)
	}
	if *first != *second {
		t.Error("the second reading gave another key")
	}
	if first.sealing == first.auditing || first.sealing == ([32]byte{}) {
		t.Error("the keys of the two uses are not two keys")
	}
	other := newKeeperFile(t)
	if other.sealing == first.sealing || other.auditing == first.auditing {
		t.Error("two files have one key")
	}
}

func TestSeveralStartsAtOnceMakeOneKeyFile(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "key")
	keepers := make([]*Keeper, 8)
	var wg sync.WaitGroup
	for i := range keepers {
		wg.Go(func() {
			var err error
			if keepers[i], err = LoadKeeper(path); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	for _, k := range keepers[1:] {
		if k == nil || *k != *keepers[0] {
			t.Fatal("two starts have two keys")
		}
	}
	left, err := os.ReadDir(dir)
	if err != nil || len(left) != 1 {
		t.Errorf("left behind: %v %v", left, err)
	}
}

func TestAKeyFileThatOthersMayReadIsRefused(t *testing.T) {
	for _, mode := range []os.FileMode{0o640, 0o604, 0o620, 0o602, 0o610, 0o601} {
		path := filepath.Join(t.TempDir(), "key")
		if _, err := LoadKeeper(path); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		if _, err := LoadKeeper(path); err == nil || !strings.Contains(err.Error(), "chmod 600") {
			t.Errorf("mode %04o: got %v", mode, err)
		}
	}
}

func TestAMalformedKeyFileIsRefusedAndKept(t *testing.T) {
	good := "dt-key-v1\n" + strings.Repeat("a1", 32) + "\n"
	for name, text := range map[string]string{
		"empty":           "",
		"half":            good[:40],
		"no last line":    strings.TrimSuffix(good, "\n"),
		"another version": strings.Replace(good, "v1", "v2", 1),
		"no version":      strings.Repeat("a1", 32) + "\n",
		"capitals":        strings.ToUpper(good),
		"something after": good + "x",
		"something first": "\n" + good,
		"a long one":      good + strings.Repeat("\n", maxKeyFile),
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "key")
			if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			if _, err := LoadKeeper(path); err == nil {
				t.Error("was accepted")
			}
			if now, err := os.ReadFile(path); err != nil || string(now) != text {
				t.Errorf("the file was changed: %q %v", now, err)
			}
		})
	}
	path := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(path, []byte(good), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := LoadKeeper(path); err != nil {
		t.Errorf("the good one was refused: %v", err)
	}
	if _, err := LoadKeeper(t.TempDir()); err == nil {
		t.Error("a folder was accepted")
	}
}

func TestOnlyTheSameKeyPurposeAndBytesOpenWhatWasSealed(t *testing.T) {
	k, plain := newKeeperFile(t), []byte("a private key")
	sealed, err := k.Seal("authority/user/1", plain)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := k.Open("authority/user/1", sealed); err != nil || !bytes.Equal(got, plain) {
		t.Fatalf("got %q, %v", got, err)
	}
	if bytes.Contains(sealed, plain) {
		t.Error("what was sealed can be read")
	}
	again, err := k.Seal("authority/user/1", plain)
	if err != nil || bytes.Equal(again, sealed) {
		t.Errorf("sealed twice to the same bytes: %v", err)
	}
	if _, err := newKeeperFile(t).Open("authority/user/1", sealed); err == nil {
		t.Error("another key opened it")
	}
	for _, purpose := range []string{"", "authority/host/1", "authority/user/2"} {
		if _, err := k.Open(purpose, sealed); err == nil {
			t.Errorf("purpose %q opened it", purpose)
		}
	}
	for i := range sealed {
		changed := bytes.Clone(sealed)
		changed[i] ^= 1
		if _, err := k.Open("authority/user/1", changed); err == nil {
			t.Errorf("byte %d changed, and it opened", i)
		}
		if _, err := k.Open("authority/user/1", sealed[:i]); err == nil {
			t.Errorf("%d bytes of it opened", i)
		}
	}
}
