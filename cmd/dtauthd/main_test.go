package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"devicetrust/authd"
	"devicetrust/cmd/internal/cli"
)

func TestTheHelpIsComplete(t *testing.T) {
	for _, complaint := range cli.Complaints(newRoot(&cli.Env{})) {
		t.Error(complaint)
	}
}

func TestFlagsWinOverTheFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "dtauthd.yaml")
	text := "data_dir: /from/file\nlisten: 127.0.0.1:1\npublic_addr: [a:1, b:2]\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	c := startCommand(&cli.Env{})
	if err := c.ParseFlags([]string{"--listen=127.0.0.1:2"}); err != nil {
		t.Fatal(err)
	}
	flags := authd.Config{DataDir: "/default", Listen: "127.0.0.1:2", DiagListen: "127.0.0.1:3081"}
	got, err := configure(c, flags, file)
	if err != nil {
		t.Fatal(err)
	}
	want := authd.Config{DataDir: "/from/file", Listen: "127.0.0.1:2", DiagListen: "127.0.0.1:3081", PublicAddr: []string{"a:1", "b:2"}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestAnUnknownKeyIsAnErrorThatNamesItsLine(t *testing.T) {
	file := filepath.Join(t.TempDir(), "c.yaml")
	if err := os.WriteFile(file, []byte("listen: 127.0.0.1:0\nlisten_on: x\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	var stderr strings.Builder
	env := &cli.Env{Args: []string{"start", "--config=" + file}, Stderr: &stderr}
	if status := cli.Run(t.Context(), env, newRoot); status != 2 {
		t.Errorf("status %d, want 2", status)
	}
	if got := stderr.String(); !strings.Contains(got, "line 2") || !strings.Contains(got, "listen_on") {
		t.Errorf("said %q", got)
	}
}
