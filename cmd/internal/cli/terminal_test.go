package cli

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/creack/pty"
	"golang.org/x/term"
)

// atTerminal gives an Env whose stdin is a terminal, the person's end of it,
// and a function that tells whether it is still as it was.
func atTerminal(t *testing.T) (e *Env, person *os.File, unchanged func() bool) {
	t.Helper()
	person, tty, err := pty.Open()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { person.Close(); tty.Close() })
	before, err := term.GetState(int(tty.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	return &Env{Stdin: tty, Stderr: io.Discard}, person, func() bool {
		after, err := term.GetState(int(tty.Fd()))
		return err == nil && *after == *before
	}
}

func TestAPasswordIsNotEchoed(t *testing.T) {
	e, person, unchanged := atTerminal(t)
	tty := e.Stdin.(*os.File)
	go func() {
		for unchanged() { // until echo is off
			time.Sleep(time.Millisecond)
		}
		person.WriteString("s3cret\n")
	}()
	got, err := e.ReadPassword(t.Context(), "Password: ")
	if err != nil || got != "s3cret" {
		t.Fatalf("%q, %v", got, err)
	}
	if !unchanged() {
		t.Error("the terminal is not as it was")
	}
	tty.WriteString("end")
	shown := make([]byte, 100)
	n, err := person.Read(shown)
	if err != nil || string(shown[:n]) != "end" {
		t.Errorf("the terminal showed %q, %v", shown[:n], err)
	}
}

// whenWritten calls itself with what is written.
type whenWritten func(text string)

func (f whenWritten) Write(p []byte) (int, error) {
	f(string(p))
	return len(p), nil
}

func TestEchoIsOffBeforeThePromptIsThere(t *testing.T) {
	e, person, unchanged := atTerminal(t)
	e.Stderr = whenWritten(func(text string) {
		if text != "Password: " {
			return
		}
		if unchanged() {
			t.Error("whoever types as soon as they see the prompt is seen")
		}
		person.WriteString("s3cret\n")
	})
	if got, err := e.ReadPassword(t.Context(), "Password: "); err != nil || got != "s3cret" {
		t.Errorf("%q, %v", got, err)
	}
	if !unchanged() {
		t.Error("the terminal is not as it was")
	}
}

func TestAPasswordOnStdinIsNotEchoedByATerminalEither(t *testing.T) {
	e, person, unchanged := atTerminal(t)
	echoOff := make(chan bool, 1)
	go func() {
		off := false
		for end := time.Now().Add(2 * time.Second); !off && time.Now().Before(end); time.Sleep(time.Millisecond) {
			off = !unchanged()
		}
		echoOff <- off
		person.WriteString("s3cret\n")
	}()
	got, err := e.ReadPasswordStdin(t.Context(), "Password: ")
	if err != nil || got != "s3cret" || !<-echoOff {
		t.Errorf("%q, %v; or it was echoed", got, err)
	}
	piped := &Env{Stdin: strings.NewReader("one\ntwo\n")}
	for _, want := range []string{"one", "two"} {
		if got, err := piped.ReadPasswordStdin(t.Context(), "Password: "); err != nil || got != want {
			t.Errorf("%q, %v; want %q", got, err, want)
		}
	}
}

func TestKeysTypedAsThePromptAppearsEditTheLine(t *testing.T) {
	e, person, _ := atTerminal(t)
	e.Stderr = whenWritten(func(text string) {
		if text == "Password: " {
			person.WriteString("\x03wrong\x15s3cres\x7ft\n") // Ctrl-C, Ctrl-U, Backspace
		}
	})
	if got, err := e.ReadPassword(t.Context(), "Password: "); err != nil || got != "s3cret" {
		t.Errorf("%q, %v", got, err)
	}
}

func TestATerminalWithoutLinesIsAskedByLine(t *testing.T) {
	e, person, _ := atTerminal(t)
	if _, err := term.MakeRaw(int(e.Stdin.(*os.File).Fd())); err != nil {
		t.Fatal(err)
	}
	e.Stderr = whenWritten(func(text string) {
		if text == "Password: " {
			person.WriteString("s3cres\x7ft\r")
		}
	})
	if got, err := e.ReadPassword(t.Context(), "Password: "); err != nil || got != "s3cret" {
		t.Errorf("%q, %v", got, err)
	}
}

// prompt reports each write.
type prompt chan string

func (p prompt) Write(b []byte) (int, error) {
	p <- string(b)
	return len(b), nil
}

func TestCtrlCAtAPasswordGivesTheTerminalBack(t *testing.T) {
	e, _, unchanged := atTerminal(t)
	ctx, cancel := context.WithCancel(t.Context())
	prompted := make(prompt, 8)
	e.Stderr = prompted
	go func() {
		<-prompted
		cancel()
	}()
	if _, err := e.ReadPassword(ctx, "Password: "); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v, want %v", err, context.Canceled)
	}
	if !unchanged() {
		t.Error("the terminal is not as it was")
	}
}

func TestAPasswordIsNotTakenFromAPipeUnasked(t *testing.T) {
	e := &Env{Stdin: strings.NewReader("s3cret\n"), Stderr: io.Discard}
	if got, err := e.ReadPassword(t.Context(), "Password: "); err == nil {
		t.Errorf("read %q from a pipe", got)
	}
}

func TestALineOfStdinLeavesTheRest(t *testing.T) {
	in := bytes.NewBufferString("s3cret \r\nrest")
	e := &Env{Stdin: in}
	got, err := e.ReadStdinLine()
	if err != nil || got != "s3cret " || in.String() != "rest" {
		t.Errorf("%q, %v, rest %q", got, err, in.String())
	}
	for name, in := range map[string]string{"empty": "", "endless": strings.Repeat("x", maxLine+1)} {
		if _, err := (&Env{Stdin: strings.NewReader(in)}).ReadStdinLine(); err == nil {
			t.Errorf("%s line: no error", name)
		}
	}
}
