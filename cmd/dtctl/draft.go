package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"devicetrust/cmd/internal/cli"
)

// draft is a resource's text in a file of its own, for an editor. close
// removes the file unless keep was called.
type draft struct {
	ref      reference
	path     string
	original []byte
	kept     bool
}

// newDraft writes text where only this person can read it.
func newDraft(ref reference, text []byte) (*draft, error) {
	dir, err := os.MkdirTemp("", "dtctl-edit-") // 0700
	if err != nil {
		return nil, err
	}
	d := &draft{ref: ref, path: filepath.Join(dir, fileName(ref)), original: text}
	if err := os.WriteFile(d.path, text, 0o600); err != nil {
		d.close()
		return nil, cannot("write", d.path, err)
	}
	return d, nil
}

// fileName is for people and for editors, which look at its end; a name of a
// resource may hold what a file's must not.
func fileName(ref reference) string {
	safe := strings.Map(func(r rune) rune {
		if needsQuotes(r) || r == '/' {
			return '_'
		}
		return r
	}, ref.kind+"-"+ref.name)
	return safe[:min(len(safe), 100)] + ".yaml"
}

// keep leaves the file, and says in err's hint where it is.
func (d *draft) keep(ref reference, err error) error {
	d.kept = true
	return &keptError{fmt.Errorf("%s has not been changed: %w", ref, err), d.path}
}

func (d *draft) close() {
	if !d.kept {
		// Nobody is left to tell; the file is private and in the folder for
		// temporary files.
		_ = os.RemoveAll(filepath.Dir(d.path))
	}
}

// keptError is a failed change whose text is in a file.
type keptError struct {
	error
	path string
}

var _ cli.Hinter = (*keptError)(nil)

func (e *keptError) Unwrap() error { return e.error }

// Hint says where the text is, after what else is to be done.
func (e *keptError) Hint() string {
	hint := fmt.Sprintf("Your text is kept in %s", e.path)
	if _, inner := cli.Explain(e.error); inner != "" {
		hint = strings.TrimRight(inner, ".") + ". " + hint
	}
	return hint
}
