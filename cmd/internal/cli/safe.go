package cli

import (
	"fmt"
	"strings"
	"unicode"
)

// Safe makes s fit for one line on a terminal: runs of white space that hold
// a line break become one space, and other control characters, which could
// move the cursor, change the title or hide text (ECMA-48; Unicode's
// bidirectional controls), are shown as escapes.
func Safe(s string) string {
	if !strings.ContainsFunc(s, unsafeRune) {
		return s
	}
	var b strings.Builder
	for i, line := range strings.FieldsFunc(s, func(r rune) bool { return r == '\n' || r == '\r' }) {
		if i > 0 {
			b.WriteByte(' ')
			line = strings.TrimLeft(line, " \t")
		}
		for _, r := range line {
			if unsafeRune(r) {
				fmt.Fprintf(&b, `\u%04x`, r)
				continue
			}
			b.WriteRune(r)
		}
	}
	return b.String()
}

func unsafeRune(r rune) bool {
	return unicode.IsControl(r) || unicode.Is(unicode.Bidi_Control, r) || r == '\u2028' || r == '\u2029'
}
