package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"

	"connectrpc.com/connect"
	"golang.org/x/crypto/ssh"

	"devicetrust/api"
)

// SSHSession is what runs on the node, and where its streams go.
type SSHSession struct {
	// Command for the login's shell; empty is the shell itself.
	Command string
	// PTY asks for a terminal on the node.
	PTY bool
	// Terminal is the person's own, which a session with PTY puts into raw
	// mode; nil where there is none.
	Terminal *os.File
	// Term is the kind of terminal, as $TERM has it.
	Term string
	// Env are NAME=VALUE for what runs; the node may take them or not.
	Env []string
	// ForwardAgent asks the node to let what runs use the person's agent.
	ForwardAgent bool
	// Alive is how a node that has gone is noticed.
	Alive Alive
	// Escape is the character that begins an escape; 0 is none. It is one only
	// at the beginning of a line, and where Terminal is.
	Escape byte
	// Forwarded are the lines that tell what is forwarded, for the escape that
	// asks for them.
	Forwarded func() []string

	Stdin          io.Reader
	Stdout, Stderr io.Writer
}

// Run runs the session and returns the exit status of what ran: its own, or
// 128 and the signal's number where a signal ended it. An error means that
// there was none. Whatever happens, the terminal is as before at the end.
func (s SSHSession) Run(ctx context.Context, client *ssh.Client) (status int, err error) {
	ctx, lost := context.WithCancelCause(ctx)
	defer lost(nil)
	// Whatever fails once ctx has ended, fails for that reason.
	defer func() {
		if cause := context.Cause(ctx); cause != nil {
			status, err = 0, cause
		}
	}()
	// A write into a broken pipe is to fail, and not to end the process with the
	// terminal raw.
	broken := make(chan os.Signal, 1)
	signal.Notify(broken, syscall.SIGPIPE)
	defer signal.Stop(broken)
	// What x/crypto waits for does not end with ctx, but with the connection.
	defer context.AfterFunc(ctx, func() { _ = client.Close() })()
	guarded(lost, func() { keepAlive(ctx, client, s.Alive, lost) })
	sess, err := client.NewSession()
	if open, ok := errors.AsType[*ssh.OpenChannelError](err); ok {
		return 0, api.Refuse(connect.CodePermissionDenied, "the node refused a session: %s", strippedLine(open.Message))
	}
	if err != nil {
		return 0, errEndedEarly
	}
	defer sess.Close() //nolint:errcheck // it has ended by itself

	s.prepare(sess)
	var terminal *rawTerminal // nil where the person has none
	if s.PTY {
		t, restore, err := s.startPTY(ctx, sess, lost)
		if err != nil {
			return 0, err
		}
		defer restore()
		terminal = t
	}
	s.Stdin = s.escaped(terminal, func() { lost(ErrEscaped) })
	output, err := s.stream(sess, lost)
	if err != nil {
		return 0, err
	}
	if err := s.start(sess); hasEnded(err) {
		return 0, errEndedEarly
	} else if err != nil {
		return 0, api.Refuse(connect.CodeUnavailable, "the node refused the session: %v", err)
	}
	err = sess.Wait()
	// Whoever is to read the output may never do so.
	select {
	case <-output:
	case <-ctx.Done():
	}
	return exitStatus(err)
}

// ErrNoReader: whoever read the session's output has gone, as head(1) does
// when it has enough.
var ErrNoReader = errors.New("nobody reads the output any more")

// prepare asks for what a session can be without: as with ssh, nobody waits
// for an answer.
func (s SSHSession) prepare(sess *ssh.Session) {
	if s.ForwardAgent {
		_, _ = sess.SendRequest("auth-agent-req@openssh.com", false, nil)
	}
	for _, v := range s.Env {
		name, value, _ := strings.Cut(v, "=")
		_, _ = sess.SendRequest("env", false, ssh.Marshal(struct{ Name, Value string }{name, value}))
	}
}

func (s SSHSession) start(sess *ssh.Session) error {
	if s.Command == "" {
		return sess.Shell()
	}
	return sess.Start(s.Command)
}

var errEndedEarly = api.Refuse(connect.CodeUnavailable, "the connection ended before the session began").
	WithHint("Try again; the node's log may tell why.")

// hasEnded tells an end of the connection from an answer.
func hasEnded(err error) bool {
	_, isNet := errors.AsType[net.Error](err)
	return isNet || isHangUp(err) || errors.Is(err, net.ErrClosed)
}

// exitStatus reads what Wait returned.
func exitStatus(err error) (int, error) {
	if err == nil {
		return 0, nil
	}
	if exit, ok := errors.AsType[*ssh.ExitError](err); ok {
		// Of what is higher, systems take the last eight bits, which may be 0.
		return min(exit.ExitStatus(), maxStatus), nil
	}
	if _, ok := errors.AsType[*ssh.ExitMissingError](err); ok {
		return 0, api.Refuse(connect.CodeUnavailable, "the connection ended before the command did")
	}
	return 0, err
}

// stream connects the streams; what it returns is closed when all output has
// been written. Input is not waited for: nobody may ever type again. The copying is
// our own: in x/crypto's goroutines, a fault in a writer would end the process
// with the terminal still raw.
func (s SSHSession) stream(sess *ssh.Session, lost context.CancelCauseFunc) (<-chan struct{}, error) {
	in, err := sess.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := sess.StdoutPipe()
	if err != nil {
		return nil, err
	}
	errs, err := sess.StderrPipe()
	if err != nil {
		return nil, err
	}
	guarded(lost, func() {
		// The node may stop reading before the person stops typing.
		_, _ = io.Copy(in, s.Stdin)
		_ = in.Close()
	})
	var output sync.WaitGroup
	for _, c := range []struct {
		to   io.Writer
		from io.Reader
	}{{s.Stdout, out}, {s.Stderr, errs}} {
		output.Go(func() {
			recovered(lost, func() {
				if _, err := io.Copy(c.to, c.from); errors.Is(err, syscall.EPIPE) {
					lost(ErrNoReader)
				} else if err != nil {
					lost(fmt.Errorf("cannot write the output: %w", err))
				}
			})
		})
	}
	written := make(chan struct{})
	go func() {
		output.Wait()
		close(written)
	}()
	return written, nil
}

// guarded is recovered beside what goes on.
func guarded(lost context.CancelCauseFunc, f func()) { go recovered(lost, f) }

// recovered runs f, and ends the session where f panics: the terminal must be
// restored before anything else happens.
func recovered(lost context.CancelCauseFunc, f func()) {
	defer func() {
		if v := recover(); v != nil {
			lost(fmt.Errorf("internal error: %v", v))
		}
	}()
	f()
}
