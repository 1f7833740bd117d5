package node

import (
	"errors"
	"strings"
)

// messageOfTheDay is what the machine says to all who log in, in lines for a
// terminal. What cannot be read is left out, and the error tells.
func (f loginFiles) messageOfTheDay() (string, error) {
	var all strings.Builder
	var failed error
	for _, path := range f.motd {
		text, err := readSmall(path, maxMOTD)
		if absent(path, err) {
			continue
		}
		failed = errors.Join(failed, err)
		all.WriteString(text)
	}
	return terminalLines(all.String()), failed
}

// terminalLines is text as a raw terminal wants it.
func terminalLines(text string) string {
	return strings.ReplaceAll(strings.ReplaceAll(text, "\r\n", "\n"), "\n", "\r\n")
}
