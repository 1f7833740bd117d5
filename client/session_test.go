package client

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/crypto/ssh"

	"devicetrust/api"
	"devicetrust/client/clienttest"
)

func TestTheStatusIsTheCommands(t *testing.T) {
	client, _ := connectSSH(t)
	for command, want := range map[string]int{
		"exit 0": 0, "exit 7": 7, "exit 255": 255, "exit 256": 255, "exit 4294967295": 255, "signal KILL": 128 + 9, "signal TERM": 128 + 15, "signal XYZ": 128, "bogus": 127,
	} {
		got, err := SSHSession{Command: command, Stdin: strings.NewReader(""), Stdout: io.Discard, Stderr: io.Discard}.Run(t.Context(), client)
		if err != nil || got != want {
			t.Errorf("%s: status %d, %v; want %d", command, got, err, want)
		}
	}
}

func TestTheStreamsAreTheCommands(t *testing.T) {
	client, _ := connectSSH(t)
	big := strings.Repeat("0123456789abcdef", 1<<16)
	for _, tt := range []struct{ command, stdin, stdout, stderr string }{
		{"echo hello", "", "hello\n", ""},
		{"err oops", "", "", "oops\n"},
		{"cat", "one\ntwo", "one\ntwo", ""},
		{"cat", big, big, ""},
		{"pty", "", "none\n", ""},
	} {
		var out, errs bytes.Buffer
		status, err := SSHSession{Command: tt.command, Stdin: strings.NewReader(tt.stdin), Stdout: &out, Stderr: &errs}.Run(t.Context(), client)
		if err != nil || status != 0 || out.String() != tt.stdout || errs.String() != tt.stderr {
			t.Errorf("%s: status %d, %v, %d bytes on stdout, stderr %q", tt.command, status, err, out.Len(), errs.String())
		}
	}
}

// x/crypto's own Wait waits for standard input too.
func TestACommandThatEndsDoesNotWaitForInput(t *testing.T) {
	client, _ := connectSSH(t)
	never, w := io.Pipe()
	defer w.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	status, err := SSHSession{Command: "exit 3", Stdin: never, Stdout: io.Discard, Stderr: io.Discard}.Run(ctx, client)
	if err != nil || status != 3 {
		t.Errorf("status %d, %v", status, err)
	}
}

func TestACommandThatLosesItsConnectionHasNoStatus(t *testing.T) {
	client, _ := connectSSH(t)
	_, err := SSHSession{Command: "drop", Stdin: strings.NewReader(""), Stdout: io.Discard, Stderr: io.Discard}.Run(t.Context(), client)
	if _, ok := errors.AsType[*api.Refusal](err); !ok {
		t.Errorf("error %v", err)
	}
}

func TestCtrlCEndsACommand(t *testing.T) {
	client, _ := connectSSH(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	never, person := io.Pipe()
	defer person.Close()
	go person.Write([]byte("begun"))
	_, err := SSHSession{Command: "cat", Stdin: never, Stdout: whenWritten(cancel), Stderr: io.Discard}.Run(ctx, client)
	if !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
}

func TestCtrlCEndsACommandWhoseOutputNobodyReads(t *testing.T) {
	client, _ := connectSSH(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	never, out := io.Pipe()
	defer never.Close()
	ended := make(chan error, 1)
	go func() {
		s := SSHSession{Command: "echo x", Stdin: strings.NewReader(""), Stdout: writing{out, cancel}, Stderr: io.Discard}
		_, err := s.Run(ctx, client)
		ended <- err
	}()
	select {
	case err := <-ended:
		if !errors.Is(err, context.Canceled) {
			t.Errorf("error %v", err)
		}
	case <-time.After(20 * time.Second):
		t.Error("it is waited for")
	}
}

// writing calls begins before each write.
type writing struct {
	io.Writer
	begins func()
}

func (w writing) Write(b []byte) (int, error) {
	w.begins()
	return w.Writer.Write(b)
}

// whenWritten calls itself with each write.
type whenWritten func()

func (f whenWritten) Write(b []byte) (int, error) {
	f()
	return len(b), nil
}

func TestCtrlCWhileASessionStartsIsNoFaultOfTheNodes(t *testing.T) {
	for _, what := range []string{"session", "pty-req", "shell"} {
		for name, answer := range map[string]clienttest.Answer{"never answers": clienttest.Ignore, "hangs up": clienttest.HangUp, "refuses": clienttest.Refuse} {
			t.Run(what+" "+name, func(t *testing.T) {
				client, node := connectSSH(t)
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				node.Asked = func(asked string) clienttest.Answer {
					if asked != what {
						return clienttest.Grant
					}
					cancel()
					return answer
				}
				_, err := SSHSession{PTY: true, Stdin: strings.NewReader(""), Stdout: io.Discard, Stderr: io.Discard}.Run(ctx, client)
				if !errors.Is(err, context.Canceled) {
					t.Errorf("error %v", err)
				}
			})
		}
	}
}

func TestOnlyANodeThatAnswersIsSaidToRefuse(t *testing.T) {
	for what, refused := range map[string]string{
		"session": "the node refused a session: no sessions today", "pty-req": "the node refused a terminal", "shell": "the node refused the session",
	} {
		for answer, want := range map[clienttest.Answer]string{
			clienttest.Refuse: refused, clienttest.HangUp: "the connection ended before the session began",
		} {
			client, node := connectSSH(t)
			node.Asked = func(asked string) clienttest.Answer {
				if asked != what {
					return clienttest.Grant
				}
				return answer
			}
			_, err := SSHSession{PTY: true, Stdin: strings.NewReader(""), Stdout: io.Discard, Stderr: io.Discard}.Run(t.Context(), client)
			if r, ok := errors.AsType[*api.Refusal](err); !ok || !strings.HasPrefix(r.Message, want) {
				t.Errorf("%s: error %v, want %q", what, err, want)
			}
		}
	}
}

func TestANodesReasonIsOneLine(t *testing.T) {
	text := strings.Repeat("no\x1b[2J\n", 10000)
	client := connectTo(t, func(tcp net.Conn) net.Conn { return tcp }, func(channels <-chan ssh.NewChannel) {
		for c := range channels {
			_ = c.Reject(ssh.Prohibited, text)
		}
	})
	_, refused := SSHSession{Stdin: strings.NewReader(""), Stdout: io.Discard, Stderr: io.Discard}.Run(t.Context(), client)
	_, _, none := Subsystem(t.Context(), client, "sftp")
	unexplained := SSHLogin{}.explain(errors.New(text), &hostVerifier{}, &banners{})
	for _, err := range []error{refused, none, unexplained} {
		if err == nil || len(err.Error()) > 2*maxReason || strings.ContainsAny(err.Error(), "\x1b\n") {
			t.Errorf("error %.400q", err)
		}
	}
}

type badWriter struct{ panics bool }

func (w badWriter) Write([]byte) (int, error) {
	if w.panics {
		panic("bad writer")
	}
	return 0, errors.New("no space left")
}

func TestOutputThatCannotBeWrittenEndsTheSession(t *testing.T) {
	for panics, want := range map[bool]string{false: "no space left", true: "bad writer"} {
		client, _ := connectSSH(t)
		never, w := io.Pipe()
		_, err := SSHSession{Command: "echo x", Stdin: never, Stdout: badWriter{panics}, Stderr: io.Discard}.Run(t.Context(), client)
		w.Close()
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want %q", err, want)
		}
	}
}

func TestANodeThatFallsSilentIsNoticed(t *testing.T) {
	client, node := connectSSH(t)
	node.Silent = true
	ctx, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	keepAlive(ctx, client, Alive{Interval: 10 * time.Millisecond}, cancel)
	if r, ok := errors.AsType[*api.Refusal](context.Cause(ctx)); !ok || !strings.Contains(r.Message, "no answer from the node") {
		t.Errorf("cause %v", context.Cause(ctx))
	}
}

func TestANodeThatIsSilentFromTheBeginningIsNoticed(t *testing.T) {
	for _, what := range []string{"session", "exec"} {
		client, node := connectSSH(t)
		node.Silent = true
		node.Asked = func(asked string) clienttest.Answer {
			if asked == what {
				return clienttest.Ignore
			}
			return clienttest.Grant
		}
		s := SSHSession{
			Command: "exit 0", Alive: Alive{Interval: 10 * time.Millisecond},
			Stdin: strings.NewReader(""), Stdout: io.Discard, Stderr: io.Discard,
		}
		_, err := s.Run(t.Context(), client)
		if r, ok := errors.AsType[*api.Refusal](err); !ok || !strings.Contains(r.Message, "no answer from the node") {
			t.Errorf("%s: error %v", what, err)
		}
	}
}

// slowly answers each request after a while.
type slowly struct {
	ssh.Conn
	after time.Duration
}

func (s slowly) SendRequest(string, bool, []byte) (bool, []byte, error) {
	time.Sleep(s.after)
	return false, nil, nil
}

func TestANodeThatAnswersIsNotGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancelCause(t.Context())
		go keepAlive(ctx, slowly{after: keepaliveMisses*keepaliveInterval - time.Second}, Alive{}, cancel)
		time.Sleep(24 * time.Hour)
		if ctx.Err() != nil {
			t.Errorf("ended: %v", context.Cause(ctx))
		}
		cancel(nil)
		time.Sleep(keepaliveMisses * keepaliveInterval) // until the last answer
	})
}

var _ ssh.Conn = (*ssh.Client)(nil)
