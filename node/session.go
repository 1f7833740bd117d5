package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"syscall"

	gossh "golang.org/x/crypto/ssh"

	"devicetrust/audit/event"
)

// session is one session channel (RFC 4254 section 6). gliderlabs' own
// handler is not used: a malformed pty-req ends its process, a window-change
// before the shell hangs it, and it takes the identity from what all attempts
// to authenticate share.
type session struct {
	conn   *connection
	admit  *admission
	id     string // of the audit record
	stderr stderr
	ssh    gossh.Conn

	// of run's goroutine, before the process starts
	env      []string
	request  *ptyRequest
	terminal *terminal
	started  bool
	task     task
	greeting string // of a login shell
	// transfer, where that is what the session is for.
	transfer *transfer
	// agent and display, nil where they are not forwarded
	agent, display *listener
	screen         uint32 // of the display
	// beginning is what goes on when the start was replied to.
	beginning func()

	// received from the client.
	received atomic.Int64

	mu      sync.Mutex
	channel gossh.Channel // nil until it is open; not changed after
	process *process
	// stopStart, while the process is being started, ends that.
	stopStart context.CancelCauseFunc
	// reason why, and by whom it was ended before its process did; the first
	// one counts.
	reason string
	by     ender
	// ended: by us, or its process has.
	ended bool
	// lastWords are being written; none are begun once ended is set.
	lastWords sync.WaitGroup
}

// ender is who ends a session.
type ender int

const (
	// byItself: its process came to its end.
	byItself ender = iota
	// byClient: the channel or the connection is closed.
	byClient
	// byNode: the node shuts down. The person is told.
	byNode
	// byPolicy: the person is told, and all of the session goes.
	byPolicy
)

// run serves the channel until it is closed by both sides.
func (s *session) run(channel gossh.Channel, requests <-chan *gossh.Request) {
	defer s.closeForwards()
	defer s.end("the client closed the session", byClient)
	s.mu.Lock()
	s.channel = channel
	s.stderr.to = channel.Stderr()
	ended, reason := s.ended, s.reason
	s.mu.Unlock()
	if ended { // while the channel was being opened
		s.beginning = func() { s.fail(errors.New(reason)) }
		s.started = true
		s.begin()
	}
	for req := range requests {
		s.conn.throttle()
		s.conn.active()
		ok := s.handle(req)
		if req.WantReply {
			_ = req.Reply(ok, nil) // where it fails the connection is gone, and requests ends
		}
		s.begin()
	}
}

func (s *session) handle(req *gossh.Request) bool {
	switch req.Type {
	case "pty-req":
		return s.askTerminal(req.Payload)
	case "window-change":
		return s.resize(req.Payload)
	case "env":
		return s.setEnv(req.Payload)
	case "signal":
		return s.signal(req.Payload)
	case "shell":
		return len(req.Payload) == 0 && s.start(task{kind: loginShell})
	case "exec":
		line, err := parseExec(req.Payload)
		if err != nil {
			return s.refuse(err.Error())
		}
		return s.start(task{kind: shellCommand, line: line, asked: line})
	case "subsystem":
		t, err := subsystemTask(req.Payload)
		if err != nil {
			return s.refuse(err.Error())
		}
		return s.start(t)
	case "x11-req":
		return s.forwardDisplay(req.Payload)
	case "auth-agent-req@openssh.com":
		return s.forwardAgent(req.Payload)
	}
	return false
}

// refuse tells the person why, where the session has not come to its end
// meanwhile; the caller's false tells the client.
func (s *session) refuse(reason string) bool {
	s.mu.Lock()
	if s.ended {
		s.mu.Unlock()
		return false
	}
	s.lastWords.Add(1)
	s.mu.Unlock()
	defer s.lastWords.Done()
	s.stderr.line(reason)
	return false
}

func (s *session) askTerminal(payload []byte) bool {
	req, err := parsePTY(payload)
	if err != nil || s.started || s.request != nil {
		return false
	}
	if !s.admit.identity.Permit.PTY {
		return s.refuse("the certificate does not permit a terminal")
	}
	s.request = &req
	return true
}

func (s *session) resize(payload []byte) bool {
	size, err := parseWindowChange(payload)
	if err != nil || s.request == nil {
		return false
	}
	s.request.size = size
	if s.terminal == nil {
		return true // before the shell: it opens at this size
	}
	return s.terminal.resize(size) == nil
}

func (s *session) setEnv(payload []byte) bool {
	name, value, err := parseEnv(payload, s.conn.server.login.acceptEnv)
	if err != nil || s.started || len(s.env) >= maxEnv {
		return false
	}
	s.env = append(s.env, name+"="+value)
	return true
}

func (s *session) signal(payload []byte) bool {
	sig, err := parseSignal(payload)
	if err != nil {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.process == nil {
		return false
	}
	s.process.signal(sig)
	return true
}

// start runs what t says. The order is: record, then run; what cannot be
// recorded does not run.
func (s *session) start(t task) bool {
	if s.started {
		return false
	}
	t = t.forced(s.admit.identity.ForceCommand)
	switch {
	case t.kind == noTask:
		return s.refuse("the only subsystem of this node is sftp")
	case t.kind == fileTransfer && s.request != nil:
		return s.refuse("file transfer does not take a terminal")
	}
	s.started, s.task = true, t
	s.conn.net.relax()
	if err := s.conn.server.recordFor(s.admit, s.startRecords(t)...); err != nil {
		s.beginning = func() { s.fail(err) }
		return true
	}
	p, err := s.launch(t)
	if err != nil {
		s.closeTerminal()
		s.recordEnd(event.Event{Message: "it did not start: " + err.Error()})
		s.beginning = func() { s.fail(err) }
		return true
	}
	s.greeting = s.logIn(p)
	s.mu.Lock()
	s.process = p
	ended, by := s.ended, s.by
	s.mu.Unlock()
	if ended { // while it started
		s.hangup(p, by)
	}
	over := s.conn.server.metrics.begin(t.kind)
	s.beginning = func() {
		defer over()
		s.supervise(p)
	}
	return true
}

// begin carries bytes for what was just started. It comes after the reply: a
// command may end before that is sent, and nothing may follow the channel's
// end.
func (s *session) begin() {
	work := s.beginning
	if work == nil {
		return
	}
	s.beginning = nil
	s.conn.server.work.Go(func() {
		defer s.conn.recovered("session")
		work()
	})
}

// fail tells why there is no session. The request was granted all the same:
// clients show what a granted one says, and not what comes with a refusal.
func (s *session) fail(err error) {
	s.conn.server.log.Error("no session", "sid", s.id, "login", s.admit.login, "error", err)
	s.stderr.line("no session: " + err.Error())
	s.close(0, err)
}

// close tells how the process ended and closes the channel: the last that the
// client hears.
func (s *session) close(status syscall.WaitStatus, err error) {
	s.mu.Lock()
	s.ended = true
	s.mu.Unlock()
	s.lastWords.Wait()
	// The status goes first: a client that has no more to say answers the end
	// of the output by closing the channel, and would not hear it then.
	s.reportExit(status, err)
	_ = s.channel.CloseWrite()
	_ = s.channel.Close()
}

func (s *session) launch(t task) (*process, error) {
	srv := s.conn.server
	// With the connection's end too: nobody may be left to ask for another.
	ctx, stop := context.WithCancelCause(s.conn.ctx)
	defer stop(nil)
	ctx, expire := context.WithTimeoutCause(ctx, srv.limits.start,
		fmt.Errorf("it did not begin within %s; is the home directory on a machine that does not answer?", srv.limits.start))
	defer expire()
	s.mu.Lock()
	ended, reason := s.ended, s.reason
	s.stopStart = stop
	s.mu.Unlock()
	if ended { // while it was recorded
		return nil, errors.New(reason)
	}
	if t.kind == fileTransfer {
		if err := listedShell(s.admit.account.shell, shellsFile); err != nil {
			return nil, err
		}
		s.transfer = newTransfer(func(e event.Event) error { return srv.recordFor(s.admit, s.event(e)) }, s.stderr.line)
	}
	if s.request != nil {
		var to *owner
		if srv.root {
			to = srv.accounts.ttyOwner(s.admit.account)
		}
		t, err := openTerminal(*s.request, to)
		if err != nil {
			return nil, err
		}
		s.terminal = t
	}
	return command{
		account: s.admit.account, become: srv.root, task: t,
		env: s.environment(t), terminal: s.terminal, pam: srv.login.pam, from: s.conn.remote.Addr().String(),
	}.start(ctx, srv.helpers)
}

func (s *session) closeTerminal() {
	if s.terminal != nil {
		s.terminal.close()
	}
}

// end ends the session. Where policy or the node ends it, its process is ended
// too; where the client does, it is hung up.
func (s *session) end(reason string, by ender) {
	s.mu.Lock()
	if s.ended {
		s.mu.Unlock()
		return
	}
	s.ended, s.reason, s.by = true, reason, by
	p := s.process
	if s.stopStart != nil {
		s.stopStart(errors.New(reason))
	}
	if s.channel != nil && by != byClient {
		s.sayLocked(reason)
	}
	s.mu.Unlock()
	if p != nil {
		s.hangup(p, by)
	}
}

// sayLocked does not wait: the peer may not read; the connection is closed
// then. It needs s.mu, and the channel open.
func (s *session) sayLocked(text string) {
	s.lastWords.Go(func() {
		defer s.conn.recovered("last words")
		_, _ = io.WriteString(&s.stderr, "\r\n"+plain(text)+"\r\n")
	})
}

// announce says text where a person sits at a terminal.
func (s *session) announce(text string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.ended && s.process != nil && s.process.tty != nil {
		s.sayLocked(text)
	}
}

func (s *session) hangup(p *process, by ender) {
	l := s.conn.server.limits
	switch by {
	case byPolicy:
		s.conn.server.sweeper.hangup(p, true, l.policyHangup)
	case byNode:
		s.conn.server.sweeper.hangup(p, false, l.hangup)
	default:
		p.leave(l.hangup)
	}
}

// cut tells whether the session was ended by us: what the client still says
// is for nobody.
func (s *session) cut() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.by != byItself
}
