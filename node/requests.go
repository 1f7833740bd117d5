package node

import (
	"errors"
	"fmt"
	"strings"

	gossh "golang.org/x/crypto/ssh"
	"golang.org/x/sys/unix"
)

// What a client may ask of a session channel (RFC 4254 section 6). Each
// parser takes the request's payload, refuses what is malformed, too large or
// followed by more, and never panics.

// windowSize is in cells and pixels; 0 is unknown.
type windowSize struct {
	columns, rows, width, height uint16
}

// ptyRequest is a "pty-req".
type ptyRequest struct {
	term  string
	size  windowSize
	modes []terminalMode
}

// terminalMode is one of RFC 4254 section 8.
type terminalMode struct {
	opcode uint8
	value  uint32
}

func parsePTY(payload []byte) (ptyRequest, error) {
	var raw struct {
		Term                         string
		Columns, Rows, Width, Height uint32
		Modes                        string
	}
	if err := unmarshal(payload, &raw); err != nil {
		return ptyRequest{}, err
	}
	if err := checkTerm(raw.Term); err != nil {
		return ptyRequest{}, err
	}
	size, err := checkSize(raw.Columns, raw.Rows, raw.Width, raw.Height)
	if err != nil {
		return ptyRequest{}, err
	}
	modes, err := parseModes([]byte(raw.Modes))
	if err != nil {
		return ptyRequest{}, err
	}
	return ptyRequest{term: raw.Term, size: size, modes: modes}, nil
}

// checkTerm: it becomes TERM, which programs look up as a file name.
func checkTerm(term string) error {
	if len(term) > maxTerm {
		return fmt.Errorf("terminal name of %d bytes, more than %d", len(term), maxTerm)
	}
	for _, b := range []byte(term) {
		if b <= ' ' || b > '~' || b == '/' {
			return fmt.Errorf("terminal name %.64q", term)
		}
	}
	return nil
}

func parseWindowChange(payload []byte) (windowSize, error) {
	var raw struct{ Columns, Rows, Width, Height uint32 }
	if err := unmarshal(payload, &raw); err != nil {
		return windowSize{}, err
	}
	return checkSize(raw.Columns, raw.Rows, raw.Width, raw.Height)
}

func checkSize(columns, rows, width, height uint32) (windowSize, error) {
	for _, n := range []uint32{columns, rows, width, height} {
		if n > maxWindow {
			return windowSize{}, fmt.Errorf("window of %d by %d", columns, rows)
		}
	}
	return windowSize{uint16(columns), uint16(rows), uint16(width), uint16(height)}, nil
}

// parseModes reads the encoded terminal modes up to TTY_OP_END, or up to an
// opcode from 160 on, which ends the list too (RFC 4254 section 8).
func parseModes(b []byte) ([]terminalMode, error) {
	if len(b) > maxModes {
		return nil, fmt.Errorf("terminal modes of %d bytes, more than %d", len(b), maxModes)
	}
	var modes []terminalMode
	for len(b) > 0 && b[0] != 0 && b[0] < 160 {
		var raw struct {
			Opcode uint8
			Value  uint32
			Rest   []byte `ssh:"rest"`
		}
		if err := unmarshal(b, &raw); err != nil {
			return nil, fmt.Errorf("terminal modes: %w", err)
		}
		modes = append(modes, terminalMode{raw.Opcode, raw.Value})
		b = raw.Rest
	}
	return modes, nil
}

// parseEnv reads an "env" whose name is one of those that sessions take.
func parseEnv(payload []byte, accept acceptEnv) (name, value string, err error) {
	var raw struct{ Name, Value string }
	if err := unmarshal(payload, &raw); err != nil {
		return "", "", err
	}
	if !accept.takes(raw.Name) {
		return "", "", fmt.Errorf("variable %.64q is not accepted", raw.Name)
	}
	if len(raw.Value) > maxEnvValue {
		return "", "", fmt.Errorf("variable %s has %d bytes, more than %d", raw.Name, len(raw.Value), maxEnvValue)
	}
	for _, b := range []byte(raw.Value) {
		if b < ' ' || b > '~' {
			return "", "", fmt.Errorf("variable %s is %.64q", raw.Name, raw.Value)
		}
	}
	return raw.Name, raw.Value, nil
}

func parseExec(payload []byte) (string, error) {
	var raw struct{ Command string }
	if err := unmarshal(payload, &raw); err != nil {
		return "", err
	}
	if len(raw.Command) > maxCommand {
		return "", fmt.Errorf("command of %d bytes, more than %d", len(raw.Command), maxCommand)
	}
	if strings.ContainsRune(raw.Command, 0) {
		return "", errors.New("command with a zero byte, which no program can be given")
	}
	return raw.Command, nil
}

// signals are those of RFC 4254 section 6.10.
var signals = map[string]unix.Signal{
	"ABRT": unix.SIGABRT, "ALRM": unix.SIGALRM, "FPE": unix.SIGFPE,
	"HUP": unix.SIGHUP, "ILL": unix.SIGILL, "INT": unix.SIGINT,
	"KILL": unix.SIGKILL, "PIPE": unix.SIGPIPE, "QUIT": unix.SIGQUIT,
	"SEGV": unix.SIGSEGV, "TERM": unix.SIGTERM,
	"USR1": unix.SIGUSR1, "USR2": unix.SIGUSR2,
}

func parseSignal(payload []byte) (unix.Signal, error) {
	var raw struct{ Name string }
	if err := unmarshal(payload, &raw); err != nil {
		return 0, err
	}
	sig, ok := signals[raw.Name]
	if !ok {
		return 0, fmt.Errorf("signal %.16q is unknown", raw.Name)
	}
	return sig, nil
}

// signalName is sig without "SIG", as "exit-signal" wants it; signals that
// RFC 4254 does not name get a local name ("@", section 6.10 and RFC 4250
// section 4.6.1).
func signalName(sig unix.Signal) string {
	for name, s := range signals {
		if s == sig {
			return name
		}
	}
	return fmt.Sprintf("%d@devicetrust", sig)
}

// unmarshal reads all of payload into the struct that v points to.
func unmarshal(payload []byte, v any) error {
	if err := gossh.Unmarshal(payload, v); err != nil {
		return errors.New("malformed request")
	}
	return nil
}
