package forward

import (
	"bytes"
	"io"
	"strings"
	"testing"
)

func FuzzAClientOfSOCKSNamesAPlaceOrNone(f *testing.F) {
	for _, s := range []string{"\x05\x01\x00\x05\x01\x00\x03\x01a\x00\x50", "\x05\x01\x00\x05\x01\x00\x01\x7f\x00\x00\x01\x00\x50rest", "\x04\x01\x00\x50\x00\x00\x00\x01u\x00name\x00"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		r, err := readSOCKS(struct {
			io.Reader
			io.Writer
		}{strings.NewReader(s), io.Discard})
		if err == nil && (r.to.Host == "" || r.to.Port == 0 || r.to.Path != "" || !plainHost(r.to.Host)) {
			t.Errorf("%q is asked for", r.to)
		}
	})
}

func FuzzANodesWordsAreOneLine(f *testing.F) {
	f.Add([]byte("\x00\x00\x00\x01a\x00\x00\x00\x50\x00\x00\x00\x01b\x00\x00\x00\x01"))
	f.Add([]byte("no\x1b[2J\u202e\r\n\xff"))
	f.Fuzz(func(t *testing.T, b []byte) {
		_, _ = readForwardedPort(b)
		_, _ = readForwardedSocket(b)
		if line := oneLine(string(b)); len(line) > maxReason || bytes.ContainsAny([]byte(line), "\n\r\x1b\u0085\u202e") {
			t.Errorf("%q is shown", line)
		}
	})
}
