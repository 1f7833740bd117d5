package authd

import (
	"context"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// startRefused starts a dtauthd in dir that must not come up.
func startRefused(t *testing.T, dir string) error {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	err := Run(ctx, Config{
		DataDir: dir, ClusterName: "test", Listen: "127.0.0.1:0", DiagListen: "off",
		Log: slog.New(slog.DiscardHandler), Now: time.Now,
	}, nil, func(net.Addr, []string) {
		t.Error("it serves")
		cancel()
	})
	return err
}

func TestADataDirectoryIsOneProcesss(t *testing.T) {
	r := start(t)
	// Not the socket's doing: somebody may have removed that.
	if err := os.Remove(r.dir + "/admin.sock"); err != nil {
		t.Fatal(err)
	}
	if err := startRefused(t, r.dir); err == nil || !strings.Contains(err.Error(), "another dtauthd") {
		t.Errorf("a second dtauthd: %v", err)
	}
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	startAt(t, r.dir, "")
}

func TestADataDirectoryThatEverybodyMayWriteIsRefused(t *testing.T) {
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	if err := startRefused(t, dir); err == nil || !strings.Contains(err.Error(), "chmod 700") {
		t.Errorf("got %v", err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) > 0 {
		t.Errorf("it left %v %v", entries, err)
	}
}

func TestInADirectoryForEverybodyNothingOfOthersIsUsed(t *testing.T) {
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o777|os.ModeSticky); err != nil {
		t.Fatal(err)
	}
	r := startAt(t, dir, "") // a file system just mounted is like this
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	if os.Geteuid() != 0 {
		t.Skip("only root can make a file that is somebody else's")
	}
	if err := os.Chown(filepath.Join(dir, "ca.key"), 65534, -1); err != nil {
		t.Fatal(err)
	}
	if err := startRefused(t, dir); err == nil || !strings.Contains(err.Error(), "ca.key in it is somebody else's") {
		t.Errorf("got %v", err)
	}
}
