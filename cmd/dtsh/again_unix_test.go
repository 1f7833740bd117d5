//go:build unix

package main

import (
	"bufio"
	"bytes"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/creack/pty"

	"devicetrust/client/clienttest"
	"devicetrust/cmd/internal/cli"
)

const theEnd = "the end of the screen"

// atTerminal runs dtsh for a person at a terminal, who answers each question
// with the next of the answers. stdout is no terminal.
func (s *seat) atTerminal(answers []string, words ...string) (r result) {
	s.t.Helper()
	person, tty, err := pty.Open()
	if err != nil {
		s.t.Fatal(err)
	}
	shown := make(chan string)
	go func() {
		var all strings.Builder
		in := bufio.NewReader(person)
		for {
			c, err := in.ReadByte()
			if err != nil {
				break
			}
			all.WriteByte(c)
			if strings.HasSuffix(all.String(), theEnd) {
				break
			}
			if len(answers) > 0 && (strings.HasSuffix(all.String(), "[Y/n] ") || strings.HasSuffix(all.String(), "alice: ")) {
				io.WriteString(person, answers[0]+"\n")
				answers = answers[1:]
			}
		}
		shown <- all.String()
	}()
	var out bytes.Buffer
	r.status = cli.Run(s.t.Context(), &cli.Env{
		Args: words, Stdin: tty, Stdout: &out, Stderr: tty,
		Getenv: func(name string) string { return s.env[name] },
		Now:    s.now, Location: time.FixedZone("-03", -3*3600),
	}, newRoot)
	// A session may still read from it, so that closing it would end nothing.
	io.WriteString(tty, theEnd)
	r.stderr, r.stdout = strings.ReplaceAll(strings.TrimSuffix(<-shown, theEnd), "\r", ""), out.String()
	person.Close()
	return r
}

// expire lets the login of alice expire; the next ones will not.
func (s *seat) expire(c *clienttest.Cluster) {
	s.t.Helper()
	c.Life = time.Minute
	s.login(c)
	c.Life = time.Hour
	s.now = func() time.Time { return time.Now().Add(2 * time.Minute) }
}

func TestWhoseLoginIsOverIsAskedToLogInAgain(t *testing.T) {
	c := clienttest.Start(t)
	c.StartNode(t, "web-1", clienttest.HostCert{})
	c.List(t, "db-1", "127.0.0.1:1", map[string]string{"role": "db"})
	for _, tt := range []struct {
		words  []string
		status int
		stdout string
	}{
		{[]string{"ls", "--format=json"}, 0, `\A\[\n(?s:.*)"web-1"`},
		{[]string{"ssh", "root@web-1", "echo", "hi"}, 0, `\Ahi\n\z`},
		{[]string{"ssh", "root@web-1", "exit", "7"}, 7, ""},
		{[]string{"ssh", "root@role=db", "echo", "hi"}, 255, ""},
		{[]string{"scp", "root@web-1:x", "."}, 1, ""}, // which has no SFTP
	} {
		s := newSeat(t)
		s.expire(c)
		got := s.atTerminal([]string{"", "correct horse"}, tt.words...)
		want(t, got, tt.status, tt.stdout, `the login of alice expired at .*\nLog in again to .* as alice\? \[Y/n\] (?s:.*)Enter password for dt user alice: (?s:.*)Logged in as: alice`)
		if strings.Contains(got.stderr, "correct horse") || strings.Count(got.stderr, "Log in again to") != 1 {
			t.Errorf("%q", got.stderr)
		}
	}
}

func TestWhoDoesNotLogInAgainGetsTheError(t *testing.T) {
	c := clienttest.Start(t)
	c.StartNode(t, "web-1", clienttest.HostCert{})
	for _, answers := range [][]string{{"n"}, {"later"}, {"y", "wrong"}} {
		s := newSeat(t)
		s.expire(c)
		got := s.atTerminal(answers, "ssh", "root@web-1", "true")
		want(t, got, 255, "", `(?s)Log in again.*\nERROR: `)
		if strings.Count(got.stderr, "Log in again to") != 1 {
			t.Errorf("%q: %q", answers, got.stderr)
		}
	}
}

func TestOnlyAnOwnLoginThatIsOverIsAskedFor(t *testing.T) {
	c := clienttest.Start(t)
	c.StartNode(t, "web-1", clienttest.HostCert{})
	s := newSeat(t)
	silent := func(stderr string, words ...string) {
		t.Helper()
		got := s.atTerminal(nil, words...)
		if got.status == 0 || strings.Contains(got.stderr, "[Y/n]") || !strings.Contains(got.stderr, stderr) {
			t.Errorf("%q: %+v", words, got)
		}
	}
	silent("ERROR: not logged in", "ls")
	s.expire(c)
	silent("the login is of alice, and not of bob", "ls", "--user=bob")
	silent("ERROR: the login of alice expired", "ssh", "-o", "BatchMode=yes", "root@web-1", "true")
	silent("ERROR: the login of alice expired", "proxy", "ssh", "root@web-1:22")
	// Without a terminal.
	want(t, s.runs("\ncorrect horse\n", "ls"), 1, "", `\AERROR: the login of alice expired at .*\nLog in again`)
}
