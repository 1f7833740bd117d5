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
func (s SSHSession) startPTY(ctx context.Context, sess *ssh.Session, lost context.CancelCauseFunc) (restore func(), err error) {
	asked := s.size()
	if err := sess.RequestPty(s.term(), asked.rows, asked.columns, s.modes()); hasEnded(err) {
		return nil, errEndedEarly
	} else if err != nil {
		return nil, api.Refuse(connect.CodePermissionDenied, "the node refused a terminal").
			WithHint("Your roles may not allow one; a command without -t needs none.")
	}
	if s.Terminal == nil {
		return func() {}, nil
	}
	fd := int(s.Terminal.Fd())
	before, err := term.MakeRaw(fd)
	if err != nil {
		return nil, fmt.Errorf("cannot use the terminal: %w", err)
	}
	giveBack := sync.OnceFunc(func() {
		// A terminal that has gone needs no restoring.
		_ = term.Restore(fd, before)
	})
	// The end may come as a signal; whoever handles it may not come back here.
	stopEnd := context.AfterFunc(ctx, giveBack)
	stopSignals := s.watch(ctx, sess, asked, giveBack, lost)
	return func() {
		stopEnd()
		stopSignals()
		giveBack()
	}, nil
}

// watch tells the node each size of the terminal that is not the known one,
// which may be old by now, and ends the session on
// signals that would end the process with the terminal raw. SIGINT and SIGTERM
// are the caller's: they end ctx.
func (s SSHSession) watch(ctx context.Context, sess *ssh.Session, known size, giveBack func(), lost context.CancelCauseFunc) (stop func()) {
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
				giveBack()
				lost(api.Refuse(connect.CodeCanceled, "ended by signal: %v", sig))
			case <-resized:
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
