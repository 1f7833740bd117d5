package client

import (
	"bytes"
	"os"
	"path/filepath"
	"runtime"
	"testing"
)

func TestTheAgentsLogIsPrivateAndBounded(t *testing.T) {
	h, err := OpenHome(filepath.Join(t.TempDir(), "home"))
	if err != nil {
		t.Fatal(err)
	}
	line := append(bytes.Repeat([]byte("x"), 1000), '\n')
	for range 2 {
		log, err := h.AgentLog()
		if err != nil {
			t.Fatal(err)
		}
		for range maxAgentLog/len(line) + 2 {
			if _, err := log.Write(line); err != nil {
				t.Fatal(err)
			}
		}
		if err := log.Close(); err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(filepath.Join(h.Dir(), agentLogFile))
		if err != nil {
			t.Fatal(err)
		}
		if info.Size() != int64(2*len(line)) || runtime.GOOS != "windows" && info.Mode().Perm() != 0o600 {
			t.Errorf("the log has %d bytes and mode %v", info.Size(), info.Mode())
		}
	}
}
