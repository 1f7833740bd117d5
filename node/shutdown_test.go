package node

import (
	"strings"
	"testing"
	"time"

	gossh "golang.org/x/crypto/ssh"
)

// serveEnds waits until serve has returned, and leaves what it returned for
// the end of the test.
func (n *testNode) serveEnds(within time.Duration) bool {
	select {
	case err := <-n.done:
		n.done <- err
		return true
	case <-time.After(within):
		return false
	}
}

func TestAServerThatHandedOverEndsWithItsLastConnection(t *testing.T) {
	n := startNode(t)
	c := n.mustDial(tester, n.cluster.certify(t, alice(), newSigner(t)))
	s := converse(t, c)
	s.say("before")
	n.retire()
	eventually(t, "nobody new is let in", func() bool {
		_, err := n.dial(tester, n.cluster.certify(t, alice(), newSigner(t)))
		return err != nil
	})
	s.say("after")
	if out, _, _ := run(t, c, "echo again"); out != "again\n" {
		t.Errorf("a new session says %q", out)
	}
	if n.serveEnds(0) {
		t.Fatal("it has ended with a session")
	}
	c.Close()
	if !n.serveEnds(10 * time.Second) {
		t.Error("it goes on with nobody")
	}
}

func TestAServerThatHandedOverDoesNotWaitForEver(t *testing.T) {
	for name, end := range map[string]func(*testNode){
		"its time is over":  func(*testNode) {},
		"it is told to end": func(n *testNode) { n.stop() },
	} {
		t.Run(name, func(t *testing.T) {
			n := startNode(t, func(c *serverConfig) {
				if c.limits.drain = time.Hour; name == "its time is over" {
					c.limits.drain = 200 * time.Millisecond
				}
			})
			s := converse(t, n.mustDial(tester, n.cluster.certify(t, alice(), newSigner(t))))
			s.say("before")
			n.retire()
			end(n)
			if err := s.session.Wait(); err == nil {
				t.Error("the session ended by itself")
			}
			if !n.serveEnds(10 * time.Second) {
				t.Error("it goes on")
			}
		})
	}
}

func TestOnlyWhoSitsAtATerminalIsToldWhatComes(t *testing.T) {
	n := startNode(t, func(c *serverConfig) { c.limits.shutdown = time.Second })
	id := alice()
	id.Permit.PTY = true
	c := n.mustDial(tester, n.cluster.certify(t, id, newSigner(t)))
	open := func(pty bool) (*gossh.Session, *syncBuffer) {
		s, err := c.NewSession()
		if err != nil {
			t.Fatal(err)
		}
		said := &syncBuffer{}
		s.Stderr = said
		out := &syncBuffer{}
		s.Stdout = out
		if pty {
			if err := s.RequestPty("xterm", 24, 80, gossh.TerminalModes{}); err != nil {
				t.Fatal(err)
			}
		}
		if err := s.Start("echo begun; exec sleep 100"); err != nil {
			t.Fatal(err)
		}
		eventually(t, "it has begun", func() bool { return strings.Contains(out.String(), "begun") })
		return s, said
	}
	person, toPerson := open(true)
	program, toProgram := open(false)
	n.stop()
	eventually(t, "the person is told", func() bool { return strings.Contains(toPerson.String(), "the node is shutting down in 1s") })
	for _, s := range []*gossh.Session{person, program} {
		if err := s.Wait(); err == nil {
			t.Error("a session ended by itself")
		}
	}
	if strings.Contains(toProgram.String(), " in 1s") {
		t.Errorf("the program is told %q", toProgram.String())
	}
}
