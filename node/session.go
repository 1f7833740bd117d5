package node

import (
	"errors"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"syscall"

	gossh "golang.org/x/crypto/ssh"
	"golang.org/x/sys/unix"

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

	// of run's goroutine, before the process starts
	env      []string
	request  *ptyRequest
	terminal *terminal
	started  bool
	// beginning is what goes on when the start was replied to.
	beginning func()

	mu      sync.Mutex
	channel gossh.Channel // nil until it is open; not changed after
	process *process
	// reason why, and by whom it was ended before its process did; the first
	// one counts.
	reason string
	by     ender
	// ended: by us, or its process has.
	ended bool
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
	s.end("the client closed the session", byClient)
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
		return len(req.Payload) == 0 && s.start(nil)
	case "exec":
		line, err := parseExec(req.Payload)
		if err != nil {
			return s.refuse(err.Error())
		}
		return s.start(&line)
	case "subsystem":
		return s.refuse("subsystems (sftp among them) are not available on this node")
	case "x11-req":
		return s.refuse("X11 forwarding is not available on this node")
	case "auth-agent-req@openssh.com":
		return s.refuse("agent forwarding is not available on this node")
	}
	return false
}

// refuse tells the person why; the caller's false tells the client.
func (s *session) refuse(reason string) bool {
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
	name, value, err := parseEnv(payload)
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

// start runs the shell (line nil) or a command. The order is: record, then
// run; what cannot be recorded does not run.
func (s *session) start(line *string) bool {
	if s.started {
		return false
	}
	s.started = true
	s.conn.net.relax()
	if err := s.conn.server.record(s.startRecords(line)...); err != nil {
		s.beginning = func() { s.fail(err) }
		return true
	}
	p, err := s.launch(line)
	if err != nil {
		s.conn.server.log.Error("session does not start", "sid", s.id, "login", s.admit.login, "error", err)
		s.closeTerminal()
		s.recordEnd(event.Event{Message: "it did not start: " + err.Error()})
		s.beginning = func() { s.fail(err) }
		return true
	}
	if p.warning != "" {
		s.stderr.line(p.warning)
	}
	s.mu.Lock()
	s.process = p
	ended, by := s.ended, s.by
	s.mu.Unlock()
	if ended { // while it started
		s.hangup(p, by)
	}
	s.beginning = func() { s.supervise(p) }
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
	s.stderr.line("no session: " + err.Error())
	_ = s.channel.CloseWrite()
	s.reportExit(0, err)
	_ = s.channel.Close()
}

func (s *session) launch(line *string) (*process, error) {
	srv := s.conn.server
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
	p, err := command{
		account: s.admit.account, become: srv.root, line: line,
		env: s.environment(), terminal: s.terminal,
	}.start()
	if err == nil && s.terminal != nil {
		s.terminal.tty.Close() // the process has it
	}
	return p, err
}

func (s *session) closeTerminal() {
	if s.terminal != nil {
		s.terminal.close()
	}
}

// supervise carries bytes until the process has ended and all that it wrote
// is sent, and then tells how it ended.
func (s *session) supervise(p *process) {
	out := newDrain(p.stdout, s.conn.server.limits.drain)
	drains := []*drain{out}
	var sent atomic.Int64
	var outputs sync.WaitGroup
	outputs.Go(func() { s.pump(s.channel, out, &sent) })
	if p.stderr != nil {
		err := newDrain(p.stderr, s.conn.server.limits.drain)
		drains = append(drains, err)
		outputs.Go(func() { s.pump(&s.stderr, err, &sent) })
	}
	go s.feed(p.stdin)

	status, err := p.wait()
	for _, d := range drains {
		d.processEnded()
	}
	outputs.Wait()
	s.mu.Lock()
	s.ended = true
	reason, by := s.reason, s.by
	s.mu.Unlock()
	p.close()

	_ = s.channel.CloseWrite()
	s.reportExit(status, err)
	_ = s.channel.Close()
	exit := exitStatus(status)
	total := sent.Load()
	s.recordEnd(event.Event{Success: by != byPolicy, Message: reason, ExitStatus: &exit, Bytes: &total})
}

// pump copies one output; src is closed when the peer takes no more, so that
// the process hears of it (SIGPIPE).
func (s *session) pump(dst io.Writer, src *drain, sent *atomic.Int64) {
	defer s.conn.recovered("output")
	n, _ := io.CopyBuffer(onlyWriter{dst}, src, make([]byte, copyBuffer))
	sent.Add(n)
	src.file.Close()
}

// onlyWriter hides all but Write, so that CopyBuffer uses its buffer.
type onlyWriter struct{ io.Writer }

// feed gives the process what the client sends, and its end of file. What it
// does not take is read all the same: the channel's window is shared with
// nothing, but a client that waits for it to open would never end.
func (s *session) feed(stdin *os.File) {
	defer s.conn.recovered("input")
	in := &input{s.channel, s}
	_, err := io.CopyBuffer(onlyWriter{stdin}, in, make([]byte, copyBuffer))
	if s.terminal == nil {
		stdin.Close()
	}
	if err != nil || s.cut() {
		_, _ = io.Copy(io.Discard, s.channel)
	}
}

// input is what the client sends, and notes that the person does something.
type input struct {
	channel io.Reader
	session *session
}

func (r *input) Read(b []byte) (int, error) {
	n, err := r.channel.Read(b)
	if r.session.cut() {
		return 0, io.EOF
	}
	if n > 0 {
		r.session.conn.active()
	}
	return n, err
}

// reportExit sends "exit-status" or "exit-signal" (RFC 4254 section 6.10).
func (s *session) reportExit(status syscall.WaitStatus, err error) {
	if err == nil && status.Signaled() {
		_, _ = s.channel.SendRequest("exit-signal", false, gossh.Marshal(struct {
			Signal         string
			CoreDumped     bool
			Message, Langs string
		}{signalName(unix.Signal(status.Signal())), status.CoreDump(), "", ""}))
		return
	}
	code := uint32(255)
	if err == nil {
		code = uint32(status.ExitStatus())
	}
	_, _ = s.channel.SendRequest("exit-status", false, gossh.Marshal(struct{ Status uint32 }{code}))
}

// exitStatus as shells give it: 128 and the signal.
func exitStatus(status syscall.WaitStatus) int {
	if status.Signaled() {
		return 128 + int(status.Signal())
	}
	return status.ExitStatus()
}

// end ends the session: its process is hung up.
func (s *session) end(reason string, by ender) {
	s.mu.Lock()
	if s.ended {
		s.mu.Unlock()
		return
	}
	s.ended, s.reason, s.by = true, reason, by
	p, open := s.process, s.channel != nil
	s.mu.Unlock()
	if open && by != byClient {
		go func() { // the peer may not read; the connection is closed then
			defer s.conn.recovered("last words")
			_, _ = io.WriteString(&s.stderr, "\r\n"+plain(reason)+"\r\n")
		}()
	}
	if p != nil {
		s.hangup(p, by)
	}
}

func (s *session) hangup(p *process, by ender) {
	l := s.conn.server.limits
	if by == byPolicy {
		s.conn.server.sweeper.hangup(p, true, l.policyHangup)
		return
	}
	s.conn.server.sweeper.hangup(p, false, l.hangup)
}

// cut tells whether the session was ended by us: what the client still says
// is for nobody.
func (s *session) cut() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.by != byItself
}

// stderr is the channel's extended data. Writers take turns: x/crypto shares
// one buffer among them.
type stderr struct {
	mu sync.Mutex
	to io.Writer
}

func (w *stderr) Write(b []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.to.Write(b)
}

// line writes one line that is right with and without a raw terminal.
func (w *stderr) line(text string) {
	_, _ = io.WriteString(w, plain(text)+"\r\n")
}
