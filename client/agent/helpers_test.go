package agent

import (
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

func write(t testing.TB, path string, data []byte) {
	t.Helper()
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

func writePEM(t testing.TB, path string, b *pem.Block) {
	t.Helper()
	write(t, path, pem.EncodeToMemory(b))
}

// poll waits until done is true.
func poll(t testing.TB, done func() bool) {
	t.Helper()
	for range 2000 {
		if done() {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
	t.Fatal("it never came to be")
}

// helperCommand runs the test program as one that does what is asked.
func helperCommand(t testing.TB, args ...string) *exec.Cmd {
	t.Helper()
	// Where another user may run it.
	self, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Skipf("another user's program is copied from /proc: %v", err)
	}
	dir, err := os.MkdirTemp("", "dta")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil { //nolint:gosec // others are to enter
		t.Fatal(err)
	}
	path := filepath.Join(dir, "helper")
	if err := os.WriteFile(path, self, 0o755); err != nil { //nolint:gosec // others are to run it
		t.Fatal(err)
	}
	cmd := exec.Command(path, args...)
	cmd.Env = append(os.Environ(), "AGENT_TEST_HELPER=1")
	cmd.Dir = "/"
	return cmd
}

func TestMain(m *testing.M) {
	if os.Getenv("AGENT_TEST_HELPER") == "" {
		os.Exit(m.Run())
	}
	if os.Args[1] == "listen" {
		if _, err := net.Listen("unix", os.Args[2]); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		fmt.Println("listens")
		_, _ = io.Copy(io.Discard, os.Stdin)
		return
	}
	c, err := net.Dial("unix", os.Args[2])
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	_ = writeMessage(c, []byte{msgRequestIdentities})
	if _, err := readMessage(c); err != nil {
		fmt.Println("hung up")
		return
	}
	fmt.Println("answered")
}
