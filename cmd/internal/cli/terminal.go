package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"

	"connectrpc.com/connect"
	"golang.org/x/term"

	"devicetrust/api"
)

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
// (Ctrl-C), and while the program is suspended (Ctrl-Z). Without a terminal it
// is refused: a password from a pipe is only taken where the person said so
// (see ReadStdinLine).
func (e *Env) ReadPassword(ctx context.Context, prompt string) (string, error) {
	fd, ok := Terminal(e.Stdin)
	if !ok {
		return "", api.Refuse(connect.CodeFailedPrecondition, "cannot ask for a password: stdin is not a terminal").
			WithHint("Use --password-stdin and pass the password on stdin.")
	}
	before, err := readModes(fd)
	if err != nil {
		return "", fmt.Errorf("cannot read the terminal's modes: %w", err)
	}
	q := question{
		// Echo is off before the prompt is there: whoever types as soon as they
		// see it would be seen otherwise.
		ask: func() error {
			if err := setModes(fd, before.withoutEcho()); err != nil {
				return fmt.Errorf("cannot turn off the terminal's echo: %w", err)
			}
			_, err := fmt.Fprint(e.Stderr, prompt)
			return err
		},
		// Fails only where the terminal is gone.
		restore: func() { _ = setModes(fd, before) },
	}
	defer fmt.Fprintln(e.Stderr)
	defer q.restore()
	ctx, end := context.WithCancelCause(ctx)
	defer end(nil)
	defer q.watch(end)()
	if err := q.ask(); err != nil {
		return "", err
	}
	text, err := wait(ctx, e.ReadStdinLine)
	if err != nil && ctx.Err() == nil {
		return "", fmt.Errorf("cannot read the password: %w", err)
	}
	return text, err
}

// question is a prompt for what must not be seen.
type question struct {
	// ask turns echo off and prompts.
	ask func() error
	// restore gives the terminal back.
	restore func()
}

// ReadPasswordStdin is for --password-stdin: it reads the next line of stdin
// silently, or, where that is a terminal after all, as ReadPassword does.
func (e *Env) ReadPasswordStdin(ctx context.Context, prompt string) (string, error) {
	if _, ok := Terminal(e.Stdin); ok {
		return e.ReadPassword(ctx, prompt)
	}
	return e.ReadStdinLine()
}

// wait calls read and returns what it gives, or why ctx ended where that is
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
		return "", context.Cause(ctx)
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
