package agent

import (
	"encoding/pem"
	"os"
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
