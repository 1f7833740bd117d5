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

// supervise carries bytes until the process has ended and all that it wrote
// is sent, and then tells how it ended.
func (s *session) supervise(p *process) {
	out := &drain{p.stdout}
	drains := []*drain{out}
	var sent atomic.Int64
	var outputs sync.WaitGroup
	outputs.Go(func() {
		if p.warning != "" { // here, because the peer may not read
			s.stderr.line(p.warning)
		}
		_, _ = io.WriteString(s.channel, s.greeting)
		s.pump(s.output(), out, &sent)
	})
	if p.stderr != nil {
		err := &drain{p.stderr}
		drains = append(drains, err)
		outputs.Go(func() { s.pump(&s.stderr, err, &sent) })
	}
	drained := make(chan struct{})
	go func() {
		outputs.Wait()
		select {
		case <-p.ended:
		default:
			// Pipes may be closed; a terminal has no end before its process has.
			if s.terminal != nil {
				s.end("the client takes no more output", byClient)
			}
		}
		close(drained)
	}()
	go s.feed(p.stdin)

	select {
	case <-p.ended:
	case <-p.left:
		<-drained
		s.abandon(p, sent.Load())
		return
	}
	if s.terminal != nil {
		finish(drains)
	}
	// The process is reaped when nothing of its session writes any more: until
	// then its pid stands for the session, and policy can end all of it.
	select {
	case <-drained:
	case <-p.swept:
		// What left the session and still holds a pipe has no say.
		finish(drains)
		<-drained
	}
	status, err := p.wait()
	s.close(status, err)
	p.close()
	s.mu.Lock()
	reason, by := s.reason, s.by
	s.mu.Unlock()
	exit := exitStatus(status)
	total, received := sent.Load(), s.received.Load()
	s.recordEnd(event.Event{Success: by != byPolicy, Message: reason, ExitStatus: &exit, Bytes: &total, BytesIn: &received})
}

// output is where the process's standard output goes.
func (s *session) output() io.Writer {
	if s.transfer != nil {
		return &replies{to: s.channel, transfer: s.transfer}
	}
	return s.channel
}

// abandon ends a session whose client is gone and whose process is not. It
// holds up nothing any more, a stop of the node neither; but it has to be
// waited for, and of those an account may leave so many.
func (s *session) abandon(p *process, sent int64) {
	s.mu.Lock()
	reason := s.reason
	s.mu.Unlock()
	after := "; its process goes on"
	abandoned, uid := &s.conn.server.abandoned, s.admit.account.uid
	if !abandoned.add(uid, s.conn.server.limits.abandoned) {
		after = "; its process is killed: the account has left too many behind"
		p.signal(unix.SIGKILL)
	}
	received := s.received.Load()
	s.recordEnd(event.Event{Success: true, Message: reason + after, Bytes: &sent, BytesIn: &received})
	go func() {
		defer abandoned.remove(uid)
		_, _ = p.wait()
	}()
}

// pump copies one output until it is at its end or the peer takes no more.
func (s *session) pump(dst io.Writer, src *drain, sent *atomic.Int64) {
	defer s.conn.recovered("output")
	var n int64
	if s.transfer != nil { // some packets of the channel at once
		n, _ = io.CopyBuffer(onlyWriter{dst}, src, make([]byte, transferBuffer))
	} else {
		n, _ = s.conn.server.copy(dst, src)
	}
	sent.Add(n)
	if s.terminal == nil {
		src.file.Close() // so that the process hears of it (SIGPIPE)
	}
}

// copy copies with one of the server's buffers.
func (s *server) copy(dst io.Writer, src io.Reader) (int64, error) {
	buffer, ok := s.buffers.Get().(*[copyBuffer]byte)
	if !ok {
		buffer = new([copyBuffer]byte)
	}
	defer s.buffers.Put(buffer)
	return io.CopyBuffer(onlyWriter{dst}, src, buffer[:])
}

// onlyWriter hides all but Write, so that CopyBuffer uses its buffer.
type onlyWriter struct{ io.Writer }

// feed gives the process what the client sends, and its end of file. What it
// does not take is read all the same: the channel's window is shared with
// nothing, but a client that waits for it to open would never end.
func (s *session) feed(stdin *os.File) {
	defer s.conn.recovered("input")
	err := s.deliver(stdin, &input{s.channel, s})
	if s.terminal == nil {
		stdin.Close()
	}
	if err != nil || s.cut() {
		_, _ = io.Copy(io.Discard, s.channel)
	}
}

// deliver gives the process what the client sends, until that is at its end.
func (s *session) deliver(stdin io.Writer, in io.Reader) error {
	if s.transfer == nil {
		_, err := s.conn.server.copy(stdin, in)
		return err
	}
	err := s.transfer.carry(stdin, in)
	if err != nil && !errors.Is(err, errChildGone) {
		s.end(err.Error(), byPolicy)
	}
	return err
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
		r.session.received.Add(int64(n))
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
		}{signalName(status.Signal()), status.CoreDump(), "", ""}))
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
