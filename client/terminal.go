package client

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"sync"
	"syscall"

	"connectrpc.com/connect"
	"golang.org/x/crypto/ssh"
	"golang.org/x/term"

	"devicetrust/api"
)

// Size of a terminal that has none, as that of a DEC VT100.
const (
	defaultColumns = 80
	defaultRows    = 24
)

// startPTY asks for a terminal on the node and puts the person's own into raw
// mode, where there is one. Call restore on every way out, once.
func (s SSHSession) startPTY(ctx context.Context, sess *ssh.Session, lost context.CancelCauseFunc) (t *rawTerminal, restore func(), err error) {
	asked := s.size()
	if err := sess.RequestPty(s.term(), asked.rows, asked.columns, s.modes()); hasEnded(err) {
		return nil, nil, errEndedEarly
	} else if err != nil {
		return nil, nil, api.Refuse(connect.CodePermissionDenied, "the node refused a terminal").
			WithHint("Your roles may not allow one; a command without -t needs none.")
	}
	if s.Terminal == nil {
		return nil, func() {}, nil
	}
	if t, err = makeRaw(s.Terminal); err != nil {
		return nil, nil, fmt.Errorf("cannot use the terminal: %w", err)
	}
	// The end may come as a signal; whoever handles it may not come back here.
	stopEnd := context.AfterFunc(ctx, t.giveBack)
	stopSignals := s.watch(ctx, sess, asked, t, lost)
	return t, func() {
		stopEnd()
		stopSignals()
		t.giveBack()
	}, nil
}

// rawTerminal is the person's, in raw mode until it is given back.
type rawTerminal struct {
	fd     int
	before *term.State
	// resumed hears of each return from a suspension.
	resumed chan struct{}

	mu   sync.Mutex
	over bool // it is given back, and stays as it is
}

func makeRaw(f *os.File) (*rawTerminal, error) {
	t := &rawTerminal{fd: int(f.Fd()), resumed: make(chan struct{}, 1)}
	var err error
	t.before, err = term.MakeRaw(t.fd)
	return t, err
}

// giveBack makes the terminal as it was before.
func (t *rawTerminal) giveBack() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.over {
		return
	}
	t.over = true
	// A terminal that has gone needs no restoring.
	_ = term.Restore(t.fd, t.before)
}

// suspend gives the terminal back for as long as the process is stopped. What
// the person changed of it meanwhile is theirs to have afterwards.
func (t *rawTerminal) suspend() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.over {
		return
	}
	_ = term.Restore(t.fd, t.before)
	stopUntilResumed()
	if before, err := term.MakeRaw(t.fd); err == nil {
		t.before = before
	}
	select {
	case t.resumed <- struct{}{}:
	default:
	}
}

// watch tells the node each size of the terminal that is not the known one, which
// may be old by now, and ends the session on signals that would end the process
// with the terminal raw. SIGINT and SIGTERM are the caller's: they end ctx.
func (s SSHSession) watch(ctx context.Context, sess *ssh.Session, known size, t *rawTerminal, lost context.CancelCauseFunc) (stop func()) {
	resized, fatal := make(chan os.Signal, 1), make(chan os.Signal, 1)
	notifyResize(resized)
	signal.Notify(fatal, syscall.SIGHUP, syscall.SIGQUIT)
	done := make(chan struct{})
	tell := func() {
		if now := s.size(); now != known {
			known = now
			// A node that is gone is noticed by Wait.
			_ = sess.WindowChange(now.rows, now.columns)
		}
	}
	guarded(lost, func() {
		tell()
		for {
			select {
			case <-done:
				return
			case <-ctx.Done():
				return
			case sig := <-fatal:
				t.giveBack()
				lost(api.Refuse(connect.CodeCanceled, "ended by signal: %v", sig))
			case <-resized:
				tell()
			case <-t.resumed: // the size may be another one by now
				tell()
			}
		}
	})
	return func() {
		signal.Stop(resized)
		signal.Stop(fatal)
		close(done)
	}
}

// size of a terminal, in characters.
type size struct{ columns, rows int }

func (s SSHSession) size() size {
	if s.Terminal != nil {
		if w, h, err := term.GetSize(int(s.Terminal.Fd())); err == nil && w > 0 && h > 0 {
			return size{w, h}
		}
	}
	return size{defaultColumns, defaultRows}
}

// term is what the node sets $TERM to.
func (s SSHSession) term() string {
	if s.Term == "" {
		return "dumb"
	}
	return s.Term
}

// modes are the person's own terminal modes (RFC 4254 section 8), so that
// their special keys work on the node; without a terminal, a plain one.
func (s SSHSession) modes() ssh.TerminalModes {
	modes := ssh.TerminalModes{ssh.ECHO: 1, ssh.TTY_OP_ISPEED: 38400, ssh.TTY_OP_OSPEED: 38400}
	if s.Terminal != nil {
		readModes(int(s.Terminal.Fd()), modes)
	}
	return modes
}
