package sshd

import (
	"bytes"
	"crypto/sha256"
	"io"
	"os"
	"path/filepath"
	"strings"
)

// helperCommand is what is installed for the program to decide.
func helperCommand(dir Dir, program string) string {
	for _, d := range dropInLines(dir, program, "") {
		if d.option == "AuthorizedPrincipalsCommand" {
			return d.value
		}
	}
	return ""
}

const installAgain = "Run `dtnoded sshd install` again, or remove the line that comes before its own."

// principals looks at who decides for which principals a certificate is good.
func (a *auditor) principals(at int) {
	w := a.answers[at]
	if w.None("trustedusercakeys") {
		return // no certificate is
	}
	value := w.Get("authorizedprincipalscommand")
	want := helperCommand(a.dir, a.Program)
	say := func(problem string) {
		// Until OpenSSH 9.4 it is not the first line that wins.
		var words func([]string) bool
		if same := func(args []string) bool { return strings.Join(args, " ") == value }; a.line(w, "authorizedprincipalscommand", same) != nil {
			words = same
		}
		a.holds(at, Finding{
			Code: "principals-command", Severity: SeverityOpen, Setting: "authorizedprincipalscommand", Value: value, Want: want,
			Problem: problem, Remedy: installAgain,
		}, words)
	}
	words, err := splitWords(value)
	switch {
	case value == "none" && a.shadowed(w):
		say("sshd does not see the line, because AuthorizedKeysCommand stands before it, and decides by the names in a certificate alone.")
		return
	case value == "none":
		say("sshd decides by the names in a certificate alone: devices, locks and roles are not looked at.")
		return
	case err != nil || len(words) == 0 || strings.Join(words, " ") != helperCommand(a.dir, words[0]):
		say("Another program than the cluster's helper decides, or it is not told all that it needs.")
	case !a.isProgram(words[0]):
		say("The program is not this dtnoded: it cannot be told what it lets in.")
	}
	a.principalsUser(at)
	if len(words) > 0 && filepath.IsAbs(words[0]) {
		if why := unsafe(words[0]); why != "" {
			a.holds(at, Finding{
				Code: "program-writable", Severity: SeverityOpen, Setting: "authorizedprincipalscommand", Value: why,
				Want: "root's, and for nobody else to write", Problem: "Others than root can replace the program that decides.",
				Remedy: "Put it into a folder of root's, with modes of 0755, and install again.",
			}, nil)
		}
	}
}

// shadowed: from OpenSSH 8.7 until 9.4, a line that comes after one of
// AuthorizedKeysCommand is dropped without a word, and else the last one wins
// (servconf.c, parse_command; bug 3574).
func (a *auditor) shadowed(w answer) bool {
	given := func(args []string) bool { return len(args) > 0 && args[0] != "none" }
	return a.line(w, "authorizedprincipalscommand", given) != nil
}

func (a *auditor) principalsUser(at int) {
	value := a.answers[at].Get("authorizedprincipalscommanduser")
	f := Finding{
		Code: "principals-command-user", Severity: SeverityNote, Setting: "authorizedprincipalscommanduser", Value: value, Want: "nobody",
		Problem: "The helper may not be able to read what it decides by: then nobody is let in.", Remedy: removeLine,
	}
	switch {
	case value == "nobody":
		return
	case value == "root" || uidOf(value) == "0":
		f.Severity, f.Problem = SeverityOpen, "What anybody sends before they are known is read with root's rights."
	}
	a.holds(at, f, nil)
}

// isProgram tells whether the file is dtnoded as it runs here, or a copy of it.
func (a *auditor) isProgram(path string) bool {
	theirs, err := os.Stat(path)
	if err != nil || !theirs.Mode().IsRegular() {
		return false
	}
	ours, err := os.Stat(a.Program)
	if err != nil {
		return false
	}
	if os.SameFile(ours, theirs) {
		return true
	}
	if ours.Size() != theirs.Size() {
		return false
	}
	x, errX := digest(a.Program)
	y, errY := digest(path)
	return errX == nil && errY == nil && bytes.Equal(x, y)
}

func digest(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	h := sha256.New()
	_, err = io.Copy(h, io.LimitReader(f, maxProgram))
	return h.Sum(nil), err
}
