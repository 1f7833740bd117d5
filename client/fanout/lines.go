package fanout

import (
	"bytes"
	"fmt"
	"io"
	"sync"
	"unicode"
	"unicode/utf8"
)

// Screen is where the lines of many nodes go. Its streams share it, so that
// lines of stdout and stderr do not meet in the middle either.
type Screen struct {
	mu sync.Mutex // one line at a time
}

// Lines gives a writer that writes whole lines to out, each with the prefix
// before it. A carriage return ends a line too: what came after it would be
// written over the prefix. With visible, for a terminal, other control
// characters are shown and not sent: they could move to another line. Close it
// for the line that nothing ended.
func (s *Screen) Lines(out io.Writer, prefix string, visible bool) io.WriteCloser {
	return &lines{screen: s, out: out, prefix: prefix, visible: visible}
}

// lines is one stream of one node's.
type lines struct {
	screen  *Screen
	out     io.Writer
	prefix  string
	visible bool

	mu   sync.Mutex
	line []byte // has not ended; at most maxLine
	// returned: the last line was ended by a carriage return, to which a line
	// feed belongs.
	returned bool
}

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i, c := range b {
		if c == '\n' && l.returned {
			l.returned = false
			continue
		}
		l.returned = c == '\r'
		if c != '\n' && c != '\r' {
			l.line = append(l.line, c)
			if len(l.line) < maxLine {
				continue
			}
		}
		if err := l.end(); err != nil {
			return i, err
		}
	}
	return len(b), nil
}

// Close ends the line.
func (l *lines) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.line) == 0 {
		return nil
	}
	return l.end()
}

// end writes the line.
func (l *lines) end() error {
	text := l.line
	if l.visible {
		text = visible(text)
	}
	whole := make([]byte, 0, len(l.prefix)+len(text)+1)
	whole = append(append(append(whole, l.prefix...), text...), '\n')
	l.line = l.line[:0]
	l.screen.mu.Lock()
	defer l.screen.mu.Unlock()
	_, err := l.out.Write(whole)
	return err
}

// visible shows control characters as escapes, but tabs; also what is no UTF-8,
// which a terminal may take for them, and bidirectional controls, which could
// move the prefix.
func visible(line []byte) []byte {
	var b bytes.Buffer
	for len(line) > 0 {
		r, n := utf8.DecodeRune(line)
		switch {
		case r == utf8.RuneError && n == 1:
			fmt.Fprintf(&b, `\x%02x`, line[0])
		case r != '\t' && (unicode.IsControl(r) || unicode.In(r, unicode.Bidi_Control, unicode.Zl, unicode.Zp)):
			fmt.Fprintf(&b, `\u%04x`, r)
		default:
			b.Write(line[:n])
		}
		line = line[n:]
	}
	return b.Bytes()
}
