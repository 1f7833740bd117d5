package node

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"devicetrust/audit/event"
)

// task is what a session is asked to run; the zero value is nothing.
type task struct {
	kind taskKind
	line string // of a command
}

type taskKind int

const (
	_ taskKind = iota
	loginShell
	shellCommand
	fileTransfer
)

// String is how metrics tell them apart.
func (k taskKind) String() string {
	switch k {
	case loginShell:
		return "shell"
	case shellCommand:
		return "exec"
	case fileTransfer:
		return "sftp"
	default:
		return "none"
	}
}

// subsystemTask reads a "subsystem" request (RFC 4254 section 6.5).
func subsystemTask(payload []byte) (task, error) {
	var raw struct{ Name string }
	if err := unmarshal(payload, &raw); err != nil {
		return task{}, err
	}
	if raw.Name != "sftp" {
		return task{}, errors.New("the only subsystem of this node is sftp")
	}
	return task{kind: fileTransfer}, nil
}

// startRecords are what is written before it runs.
func (s *session) startRecords(t task) []event.Event {
	start := event.Event{Type: event.SessionStart, Success: true}
	if t.kind == fileTransfer {
		start.Action = "sftp"
	}
	events := []event.Event{s.event(start)}
	if t.kind != shellCommand {
		return events
	}
	events = append(events, s.event(event.Event{Type: event.Exec, Success: true, Command: recordable(t.line)}))
	if action, path, ok := parseSCP(t.line); ok {
		events = append(events, s.event(event.Event{Type: event.SCP, Success: true, Action: action, Path: recordable(path)}))
	}
	return events
}

// shellsFile lists the shells of accounts that people log in to (shells(5)).
const shellsFile = "/etc/shells"

// listedShell refuses what is no login shell: sshd starts sftp-server by the
// account's shell, so that one that refuses commands (nologin(8), git-shell(1))
// keeps files out of reach too.
func listedShell(shell, shellsFile string) error {
	text, err := os.ReadFile(shellsFile)
	if err != nil {
		text = []byte("/bin/sh\n/bin/csh\n") // as getusershell(3)
	}
	if slices.Contains(strings.Split(string(text), "\n"), shell) {
		return nil
	}
	return fmt.Errorf("file transfer needs an account with a shell of %s, not %.64q", shellsFile, shell)
}
