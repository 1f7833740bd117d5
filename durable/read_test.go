package durable

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestOnlyARegularFileOfTheSizeIsRead(t *testing.T) {
	dir := t.TempDir()
	file := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	linked, pipe := filepath.Join(dir, "linked"), filepath.Join(dir, "pipe")
	if err := errors.Join(os.Symlink(file("target", "12345678"), linked), syscall.Mkfifo(pipe, 0o600)); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		file("full", "12345678"): "12345678", file("empty", ""): "", linked: "12345678",
		file("long", "123456789"): "more than 8 bytes", pipe: "no regular file", dir: "no regular file", "/dev/zero": "no regular file",
		// It says that it has no bytes, and has.
		"/proc/self/status": "more than 8 bytes",
	} {
		answered := make(chan error, 1)
		go func() {
			got, err := Read(path, 8)
			if err == nil && string(got) != want {
				err = errors.New("read " + string(got))
			}
			answered <- err
		}()
		select {
		case err := <-answered:
			if (err == nil) == strings.Contains(want, " ") || err != nil && !strings.Contains(err.Error(), want) {
				t.Errorf("%s: want %q, got %v", path, want, err)
			}
		case <-time.After(5 * time.Second):
			t.Errorf("%s: still waiting", path)
		}
	}
	if _, err := Read(filepath.Join(dir, "none"), 8); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("of no file: %v", err)
	}
}
