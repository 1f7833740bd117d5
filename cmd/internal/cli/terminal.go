package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"connectrpc.com/connect"
	"golang.org/x/term"

	"devicetrust/api"
)

// maxLine bounds what is read for one answer: far more than any password
// that the server takes.
const maxLine = 4096

// filer is the part of *os.File that tells a terminal.
type filer interface{ Fd() uintptr }

// Terminal returns the file descriptor behind stream where it is a terminal.
func Terminal(stream any) (fd int, ok bool) {
	f, is := stream.(filer)
	if !is {
		return 0, false
	}
	fd = int(f.Fd())
	return fd, term.IsTerminal(fd)
}

// Interactive tells whether a person can be asked: stdin and stderr are
// terminals.
func (e *Env) Interactive() bool {
	_, in := Terminal(e.Stdin)
	_, err := Terminal(e.Stderr)
	return in && err
}

// Progress tells a person at a terminal what takes long; scripts see nothing.
func (e *Env) Progress(format string, args ...any) {
	if _, ok := Terminal(e.Stderr); ok {
		fmt.Fprintln(e.Stderr, Safe(fmt.Sprintf(format, args...)))
	}
}

// ReadPassword asks on stderr and reads a line from the terminal without
// echo. The terminal is as before when it returns, also where ctx ends first
// (Ctrl-C). Without a terminal it is refused: a password from a pipe is only
// taken where the person said so (see ReadStdinLine).
func (e *Env) ReadPassword(ctx context.Context, prompt string) (string, error) {
	fd, ok := Terminal(e.Stdin)
	if !ok {
		return "", api.Refuse(connect.CodeFailedPrecondition, "cannot ask for a password: stdin is not a terminal").
			WithHint("Use --password-stdin and pass the password on stdin.")
	}
	// Echo is off before the prompt is there: whoever types as soon as they see
	// it would be seen otherwise. term.ReadPassword only makes lines of it again.
	before, err := term.MakeRaw(fd)
	if err != nil {
		return "", fmt.Errorf("cannot turn off the terminal's echo: %w", err)
	}
	defer fmt.Fprintln(e.Stderr)
	// Fails only where the terminal is gone.
	defer func() { _ = term.Restore(fd, before) }()
	raw, err := term.GetState(fd)
	if err != nil {
		return "", fmt.Errorf("cannot read the terminal's state: %w", err)
	}
	fmt.Fprint(e.Stderr, prompt)

	text, err := wait(ctx, func() (string, error) {
		b, err := term.ReadPassword(fd)
		return string(b), err
	})
	if ctx.Err() != nil {
		awaitChange(fd, raw)
	} else if err != nil {
		return "", fmt.Errorf("cannot read the password: %w", err)
	}
	return text, err
}

// ReadPasswordStdin is for --password-stdin: it reads the next line of stdin
// silently, or, where that is a terminal after all, as ReadPassword does.
func (e *Env) ReadPasswordStdin(ctx context.Context, prompt string) (string, error) {
	if _, ok := Terminal(e.Stdin); ok {
		return e.ReadPassword(ctx, prompt)
	}
	return e.ReadStdinLine()
}

// awaitChange waits until the reader that wait left behind has changed the
// terminal's state: were it restored before that, it would stay without echo.
func awaitChange(fd int, before *term.State) {
	for range 100 { // at most 0.1 s: the reader may have failed
		now, err := term.GetState(fd)
		if err != nil || *now != *before {
			return
		}
		time.Sleep(time.Millisecond)
	}
}

// wait calls read and returns what it gives, or ctx's error where ctx ends
// first: a read from a terminal cannot be ended, so its goroutine then stays
// until the process leaves.
func wait(ctx context.Context, read func() (string, error)) (string, error) {
	type answer struct {
		text string
		err  error
	}
	answers := make(chan answer, 1)
	go func() {
		text, err := read()
		answers <- answer{text, err}
	}()
	select {
	case <-ctx.Done():
		return "", ctx.Err()
	case a := <-answers:
		return a.text, a.err
	}
}

// ReadNewPassword asks twice and refuses answers that differ.
func (e *Env) ReadNewPassword(ctx context.Context, prompt string) (string, error) {
	first, err := e.ReadPassword(ctx, prompt)
	if err != nil {
		return "", err
	}
	second, err := e.ReadPassword(ctx, "Enter it again: ")
	if err != nil {
		return "", err
	}
	if first != second {
		return "", api.Refuse(connect.CodeInvalidArgument, "no password set: the two entries differ").
			WithHint("Run the command again.")
	}
	return first, nil
}

// ReadLine asks on stderr and reads a line from stdin, with echo.
func (e *Env) ReadLine(ctx context.Context, prompt string) (string, error) {
	fmt.Fprint(e.Stderr, prompt)
	return wait(ctx, e.ReadStdinLine)
}

// ReadStdinLine reads the first line of stdin without its line break, and
// not a byte more: the rest is the command's. An end of file before any byte
// is an error.
func (e *Env) ReadStdinLine() (string, error) {
	var line bytes.Buffer
	b := make([]byte, 1)
	for line.Len() <= maxLine {
		n, err := e.Stdin.Read(b)
		if n == 1 {
			if b[0] == '\n' {
				return string(bytes.TrimSuffix(line.Bytes(), []byte("\r"))), nil
			}
			line.WriteByte(b[0])
			continue
		}
		if errors.Is(err, io.EOF) && line.Len() > 0 {
			return line.String(), nil
		}
		if errors.Is(err, io.EOF) {
			return "", errors.New("nothing came on stdin: want a line")
		}
		if err != nil {
			return "", fmt.Errorf("cannot read stdin: %w", err)
		}
	}
	return "", fmt.Errorf("the line on stdin is too long: want at most %d bytes", maxLine)
}
