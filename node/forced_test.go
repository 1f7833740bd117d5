package node

import (
	"io"
	"strings"
	"testing"

	gossh "golang.org/x/crypto/ssh"

	"devicetrust/audit/event"
)

func TestACertificateWithACommandRunsThatAndNothingElse(t *testing.T) {
	n := startNode(t)
	id := alice()
	id.ForceCommand = `echo "forced ${SSH_ORIGINAL_COMMAND-nothing}"`
	c := n.mustDial(tester, n.cluster.certify(t, id, newSigner(t)))

	if out, _, _ := run(t, c, "id; rm -rf /"); out != "forced id; rm -rf /\n" {
		t.Errorf("a command: %q", out)
	}
	e := n.recorded(event.Exec)
	if e.Command != id.ForceCommand || !strings.Contains(e.Message, "id; rm -rf /") {
		t.Errorf("on record: %+v", e)
	}
	for what, ask := range map[string]func(*gossh.Session) error{
		"nothing": (*gossh.Session).Shell,
		"sftp":    func(s *gossh.Session) error { return s.RequestSubsystem("sftp") },
	} {
		s := newSession(t, c)
		out, err := s.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := ask(s); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		if got, err := io.ReadAll(out); err != nil || string(got) != "forced "+what+"\n" {
			t.Errorf("%s: %q, %v", what, got, err)
		}
	}
	// A client cannot say what was asked for.
	s := newSession(t, c)
	if err := s.Setenv("SSH_ORIGINAL_COMMAND", "other"); err == nil {
		t.Error("SSH_ORIGINAL_COMMAND is taken from the client")
	}
	// A terminal gets it, too.
	s = newSession(t, c)
	if err := s.RequestPty("xterm", 24, 80, nil); err != nil {
		t.Fatal(err)
	}
	if out, err := s.Output("vi"); err != nil || string(out) != "forced vi\r\n" {
		t.Errorf("%q, %v", out, err)
	}
}
