package client

import (
	"crypto/x509"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"connectrpc.com/connect"

	"devicetrust/api"
)

func TestEscapesAreTakenOutAtTheBeginningOfALineOnly(t *testing.T) {
	for _, tt := range []struct{ typed, node, acts string }{
		{"~.", "", "."},
		{"a\r~.", "a\r", "."},
		{"a\n~?b", "a\nb", "?"},
		{"a~.", "a~.", ""},
		{"~~", "~", ""},
		{"~~.", "~.", ""},
		{"~~\r~.", "~\r", "."},
		{"~x~.", "~x~.", ""},
		{"~\r~.", "~\r", "."},
		{"~?~?", "", "??"},
		{"\r~", "\r", ""},
		{"", "", ""},
	} {
		for name, in := range map[string]io.Reader{
			"at once": strings.NewReader(tt.typed), "byte by byte": iotest.OneByteReader(strings.NewReader(tt.typed)),
			"with the end": iotest.DataErrReader(strings.NewReader(tt.typed)),
		} {
			acts := ""
			e := &escapes{from: in, char: '~', act: func(c byte) bool {
				if !strings.ContainsRune(".?", rune(c)) {
					return false
				}
				acts += string(rune(c))
				return true
			}}
			got, err := io.ReadAll(iotest.OneByteReader(e))
			if err != nil || string(got) != tt.node || acts != tt.acts {
				t.Errorf("%q %s: node %q, acts %q, %v", tt.typed, name, got, acts, err)
			}
		}
	}
}

func TestTheEndOfAConnectionSaysWhatToDo(t *testing.T) {
	now := time.Now()
	var c Credentials
	c.Identity.ValidBefore = now.Add(time.Hour)
	c.TLS = &x509.Certificate{NotAfter: now.Add(time.Hour)}
	lost := api.Refuse(connect.CodeUnavailable, "the connection ended before the command did")
	for _, tt := range []struct {
		name   string
		status int
		err    error
		after  time.Duration
		want   int
		hint   string
	}{
		{"a command that ended", 3, nil, 0, 3, ""},
		{"a command that ended late", 3, nil, 2 * time.Hour, 3, ""},
		{"a command that was hung up", hungUp, nil, 0, hungUp, ""},
		{"a command that was hung up late", hungUp, nil, 2 * time.Hour, 0, "The certificate has expired; log in again: dtsh login"},
		{"a connection that broke", 0, lost, 0, 0, "Try the same command again to reconnect."},
		{"a connection that broke late", 0, lost, 2 * time.Hour, 0, "The certificate has expired; log in again: dtsh login"},
		{"one with a hint of its own", 0, lost.WithHint("own"), 0, 0, "own"},
		{"a refusal", 0, api.Refuse(connect.CodePermissionDenied, "no"), 2 * time.Hour, 0, ""},
	} {
		status, err := c.ExplainEnd(tt.status, tt.err, now.Add(tt.after))
		hint := ""
		if r, ok := errors.AsType[*api.Refusal](err); ok {
			hint = r.Hint
		}
		if status != tt.want || hint != tt.hint || (err != nil) != (tt.err != nil || tt.hint != "") {
			t.Errorf("%s: %d, %v, %q", tt.name, status, err, hint)
		}
	}
}

func TestAHeldConnectionEndsAsOne(t *testing.T) {
	client, _ := connectSSH(t)
	go client.Close()
	err := SSHSession{}.Hold(t.Context(), client)
	if r, ok := errors.AsType[*api.Refusal](err); !ok || r.Message != "the connection was lost" {
		t.Errorf("error %v", err)
	}
}
