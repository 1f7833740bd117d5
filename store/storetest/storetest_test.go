//go:build linux

package storetest_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"devicetrust/store"
	"devicetrust/store/storetest"
)

func TestEachTestHasAStoreOfItsOwn(t *testing.T) {
	for range 2 {
		storetest.Run(t, func(t *testing.T, db *store.DB) {
			err := db.Write(t.Context(), func(tx *store.Tx) error {
				_, err := tx.Exec(`INSERT INTO settings (name, value) VALUES ('mine', $1)`, []byte("x"))
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
		})
	}
}

// The server must go with the test process even where that is killed, which
// is how `go test -timeout` and impatient people end it.
func TestServerAndItsFolderGoWithAKilledProcess(t *testing.T) {
	const marker = "STORETEST_CHILD"
	if os.Getenv(marker) != "" {
		url := storetest.PostgresURL(t)
		os.Stdout.WriteString("\nurl " + url + "\n")
		select {} // until killed
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	child := exec.CommandContext(t.Context(), self, "-test.run=^"+t.Name()+"$")
	child.Env = append(os.Environ(), marker+"=1")
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	dir := folderOf(t, out)
	pid := serverPID(t, dir)
	if err := child.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = child.Wait() // says "killed"
	eventually(t, "the folder is removed", func() bool {
		_, err := os.Stat(dir)
		return os.IsNotExist(err)
	})
	if comm, err := os.ReadFile(filepath.Join("/proc", pid, "comm")); err == nil && strings.HasPrefix(string(comm), "postgres") {
		t.Errorf("the server, process %s, is still there", pid)
	}
}

// folderOf reads the child's output up to the line with the URL.
func folderOf(t *testing.T, out interface{ Read([]byte) (int, error) }) string {
	t.Helper()
	var text strings.Builder
	buf := make([]byte, 4096)
	for {
		n, err := out.Read(buf)
		text.Write(buf[:n])
		if _, url, ok := strings.Cut(text.String(), "\nurl "); ok && strings.Contains(url, "\n") {
			_, dir, _ := strings.Cut(strings.TrimSpace(strings.SplitN(url, "\n", 2)[0]), "?host=")
			return dir
		}
		if err != nil {
			t.Fatalf("the child said only %q: %v", text.String(), err)
		}
	}
}

func serverPID(t *testing.T, dir string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(dir, "data", "postmaster.pid"))
	if err != nil {
		t.Fatal(err)
	}
	pid, _, _ := strings.Cut(string(b), "\n")
	return pid
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(time.Minute)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("after a minute still not: %s", what)
		}
		time.Sleep(10 * time.Millisecond)
	}
}
