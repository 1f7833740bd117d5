package node

import (
	"math/rand/v2"
	"strings"
	"testing"
)

func TestNewKeysInTheMiddleOfAFileHarmNothing(t *testing.T) {
	file := make([]byte, 6_000_000)
	rand.NewChaCha8([32]byte{1}).Read(file)
	text := string(file)
	for _, tt := range []struct {
		name           string
		ours           uint64 // bytes
		theirs, cipher string
	}{
		{"that the client asks for", 0, "256K", "aes128-gcm@openssh.com"},
		{"that the node asks for", 256 << 10, "default", "chacha20-poly1305@openssh.com"},
		{"that both ask for", 256 << 10, "256K", "aes128-ctr"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			n := startNode(t, func(c *serverConfig) { c.algorithms.rekeyAfter = tt.ours })
			out, errs, status := newStock(t, n, alice()).run(text,
				"-v", "-o", "RekeyLimit="+tt.theirs, "-o", "Ciphers="+tt.cipher, tester+"@127.0.0.1", "cat")
			if out != text || status != 0 {
				t.Errorf("there and back came %d bytes of %d, or others; status %d", len(out), len(text), status)
			}
			// How many there are depends on how much is sent during each.
			if n := strings.Count(errs, "SSH2_MSG_NEWKEYS received"); n < 4 {
				t.Errorf("there were new keys only %d times", n)
			}
		})
	}
}
