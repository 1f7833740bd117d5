//go:build unix

package client

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/creack/pty"
	"golang.org/x/crypto/ssh"
	"golang.org/x/term"

	"devicetrust/client/clienttest"
)

// desk is a terminal with a person at it.
type desk struct {
	t      *testing.T
	person *os.File // what the person holds
	tty    *os.File // what the program sees
	before *term.State

	mu     sync.Mutex
	screen bytes.Buffer
}

func newDesk(t *testing.T) *desk {
	t.Helper()
	person, tty, err := pty.Open()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { person.Close(); tty.Close() })
	if err := pty.Setsize(tty, &pty.Winsize{Rows: 31, Cols: 97}); err != nil {
		t.Fatal(err)
	}
	before, err := term.GetState(int(tty.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	d := &desk{t: t, person: person, tty: tty, before: before}
	go func() {
		b := make([]byte, 1024)
		for {
			n, err := person.Read(b)
			d.mu.Lock()
			d.screen.Write(b[:n])
			d.mu.Unlock()
			if err != nil {
				return
			}
		}
	}()
	return d
}

func (d *desk) unchanged() bool {
	now, err := term.GetState(int(d.tty.Fd()))
	return err == nil && *now == *d.before
}

// sees waits until text is on the screen.
func (d *desk) sees(text string) {
	d.t.Helper()
	poll(d.t, func() bool {
		d.mu.Lock()
		defer d.mu.Unlock()
		return strings.Contains(d.screen.String(), text)
	}, "the screen shows no "+text)
}

func (d *desk) types(text string) {
	d.t.Helper()
	if _, err := d.person.WriteString(text); err != nil {
		d.t.Error(err)
	}
}

func poll(t *testing.T, done func() bool, complaint string) {
	t.Helper()
	for range 2000 {
		if done() {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
	t.Fatal(complaint)
}

func (d *desk) session() SSHSession {
	return SSHSession{PTY: true, Terminal: d.tty, Term: "xterm", Stdin: d.tty, Stdout: d.tty, Stderr: d.tty}
}

// at runs a shell from the desk; the person does act once it is ready.
func (d *desk) at(ctx context.Context, s SSHSession, client *ssh.Client, act func()) (int, error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		d.sees("ready")
		if d.unchanged() {
			d.t.Error("the terminal is not raw")
		}
		act()
	}()
	status, err := s.Run(ctx, client)
	<-done
	return status, err
}

func TestATerminalIsGivenBackHoweverTheShellEnds(t *testing.T) {
	for _, tt := range []struct {
		name string
		act  func(d *desk, client *ssh.Client, cancel func())
		err  bool
	}{
		{"by itself", func(d *desk, _ *ssh.Client, _ func()) { d.types("exit 5\r") }, false},
		{"with the connection", func(_ *desk, client *ssh.Client, _ func()) { client.Close() }, true},
		{"by the node", func(d *desk, _ *ssh.Client, _ func()) { d.types("drop\r") }, true},
		{"by SIGTERM", func(_ *desk, _ *ssh.Client, cancel func()) { cancel() }, true},
		{"by SIGHUP", func(_ *desk, _ *ssh.Client, _ func()) { syscall.Kill(os.Getpid(), syscall.SIGHUP) }, true},
		{"by SIGQUIT", func(_ *desk, _ *ssh.Client, _ func()) { syscall.Kill(os.Getpid(), syscall.SIGQUIT) }, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			client, _ := connectSSH(t)
			d := newDesk(t)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			status, err := d.at(ctx, d.session(), client, func() { tt.act(d, client, cancel) })
			if (err != nil) != tt.err || err == nil && status != 5 {
				t.Errorf("status %d, %v", status, err)
			}
			if !d.unchanged() {
				t.Error("the terminal is not as it was")
			}
		})
	}
}

// panicking passes on what it gets until it sees trouble.
type panicking struct{ w io.Writer }

func (p panicking) Write(b []byte) (int, error) {
	if bytes.Contains(b, []byte("trouble")) {
		panic("trouble")
	}
	return p.w.Write(b)
}

func TestATerminalIsGivenBackAfterAPanic(t *testing.T) {
	client, _ := connectSSH(t)
	d := newDesk(t)
	s := d.session()
	s.Stdout = panicking{d.tty}
	_, err := d.at(t.Context(), s, client, func() { d.types("echo trouble\r") })
	if err == nil || !strings.Contains(err.Error(), "trouble") {
		t.Errorf("error %v", err)
	}
	if !d.unchanged() {
		t.Error("the terminal is not as it was")
	}
}

func TestThePersonsTerminalIsTheShells(t *testing.T) {
	client, _ := connectSSH(t)
	d := newDesk(t)
	status, err := d.at(t.Context(), d.session(), client, func() {
		d.types("pty\r")
		d.sees("xterm 97x31")
		if err := pty.Setsize(d.tty, &pty.Winsize{Rows: 40, Cols: 120}); err != nil {
			t.Error(err)
		}
		// The kernel tells the foreground process group, which this is not.
		syscall.Kill(os.Getpid(), syscall.SIGWINCH)
		d.sees("size 120x40")
		d.types("exit 0\r")
	})
	if status != 0 || err != nil {
		t.Errorf("status %d, %v", status, err)
	}
}

func TestASizeThatChangesWhileTheTerminalIsAskedForIsTold(t *testing.T) {
	client, node := connectSSH(t)
	d := newDesk(t)
	node.Asked = func(what string) clienttest.Answer {
		if what == "pty-req" {
			if err := pty.Setsize(d.tty, &pty.Winsize{Rows: 40, Cols: 120}); err != nil {
				t.Error(err)
			}
		}
		return clienttest.Grant
	}
	status, err := d.at(t.Context(), d.session(), client, func() {
		defer d.types("exit 0\r")
		d.sees("size 120x40")
	})
	if status != 0 || err != nil {
		t.Errorf("status %d, %v", status, err)
	}
}

func TestATerminalCanBeHadWithoutOne(t *testing.T) {
	client, _ := connectSSH(t)
	var out bytes.Buffer
	status, err := SSHSession{Command: "pty", PTY: true, Stdin: strings.NewReader(""), Stdout: &out, Stderr: io.Discard}.Run(t.Context(), client)
	if err != nil || status != 0 || !strings.HasPrefix(out.String(), "dumb 80x24") {
		t.Errorf("status %d, %v, %q", status, err, out.String())
	}
}

func TestTheModesAreTheTerminals(t *testing.T) {
	d := newDesk(t)
	modes := d.session().modes()
	for code, want := range map[uint8]uint32{
		ssh.VINTR: 3, ssh.VEOF: 4, ssh.ECHO: 1, ssh.ICANON: 1, ssh.ISIG: 1, ssh.ICRNL: 1, ssh.OPOST: 1, ssh.ONLCR: 1,
		ssh.CS8: 1, ssh.CS7: 0, ssh.VEOL: 255, ssh.TTY_OP_ISPEED: 38400,
	} {
		if modes[code] != want {
			t.Errorf("mode %d is %d, want %d", code, modes[code], want)
		}
	}
	if _, err := term.MakeRaw(int(d.tty.Fd())); err != nil {
		t.Fatal(err)
	}
	if modes := d.session().modes(); modes[ssh.ECHO] != 0 || modes[ssh.ICANON] != 0 {
		t.Error("the modes do not follow the terminal")
	}
}

func TestARefusedTerminalLeavesThePersonsAlone(t *testing.T) {
	client, _ := connectSSH(t)
	client.Close()
	d := newDesk(t)
	if _, err := d.session().Run(t.Context(), client); err == nil || errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
	if !d.unchanged() {
		t.Error("the terminal is not as it was")
	}
}
