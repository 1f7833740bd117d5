package agent

import (
	"encoding/pem"
	"os"
	"testing"
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
