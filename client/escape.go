package client

import (
	"bytes"
	"fmt"
	"io"
)

// escapes reads what a person types and takes out what is for this program: a
// character at the beginning of a line, and one after it (OpenSSH's
// clientloop.c, process_escapes).
type escapes struct {
	from io.Reader
	char byte
	// act does what the command says. False: there is no such one, and both
	// characters are for the node.
	act func(command byte) bool

	within bool   // of a line
	begun  bool   // char was the last
	left   []byte // for the node, before err
	err    error
}

func (e *escapes) Read(b []byte) (int, error) {
	for len(e.left) == 0 && e.err == nil && len(b) > 0 {
		block := make([]byte, len(b))
		n, err := e.from.Read(block)
		e.left, e.err = e.filter(block[:n]), err
	}
	n := copy(b, e.left)
	e.left = e.left[n:]
	if len(e.left) == 0 && n == 0 {
		return 0, e.err
	}
	return n, nil
}

func (e *escapes) filter(typed []byte) []byte {
	out := make([]byte, 0, len(typed)+1)
	for _, c := range typed {
		if e.begun {
			e.begun = false
			switch {
			case c == e.char: // one of them, and not the first of a new escape
				e.within = true
				out = append(out, c)
				continue
			case e.act(c):
				continue
			}
			out = append(out, e.char)
		} else if c == e.char && !e.within {
			e.begun = true
			continue
		}
		e.within = c != '\r' && c != '\n'
		out = append(out, c)
	}
	return out
}

// controlZ is what suspends, after the escape character.
const controlZ = 'Z' & 0x1f

// escaped gives the reader of what the person types.
func (s SSHSession) escaped(t *rawTerminal, end func()) io.Reader {
	if s.Escape == 0 || t == nil {
		return s.Stdin
	}
	tell := func(text string) {
		// As the terminal is raw, and what it shows is the node's.
		_, _ = s.Stderr.Write(bytes.ReplaceAll([]byte(text), []byte("\n"), []byte("\r\n")))
	}
	e := shownKey(s.Escape)
	return &escapes{from: s.Stdin, char: s.Escape, act: func(command byte) bool {
		switch command {
		case '.':
			tell(e + ".\n")
			end()
		case controlZ:
			tell(e + "^Z [suspend dtsh]\n")
			t.suspend()
		case '#':
			tell(e + "#\nForwarded:\n" + s.forwardedLines())
		case '?':
			tell(fmt.Sprintf("%[1]s?\nEscapes, at the beginning of a line:\n"+
				" %[1]s.   end the connection\n %[1]s^Z  suspend dtsh\n %[1]s#   list what is forwarded\n"+
				" %[1]s?   this\n %[1]s%[1]s   the character itself\n", e))
		default:
			return false
		}
		return true
	}}
}

func (s SSHSession) forwardedLines() string {
	if s.Forwarded == nil {
		return "  nothing\n"
	}
	text := ""
	for _, line := range s.Forwarded() {
		text += "  " + strippedLine(line) + "\n"
	}
	if text == "" {
		return "  nothing\n"
	}
	return text
}

// shownKey is a character as keys are named.
func shownKey(c byte) string {
	if c < ' ' {
		return "^" + string(rune(c|0x40))
	}
	return string(rune(c))
}
