package node

import (
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
	// asked is the command or the subsystem that was asked for, "" for a
	// shell; it is not what runs where the certificate forces a command.
	asked string
}

// forced is what runs where the certificate says so (force-command, OpenSSH
// PROTOCOL.certkeys), whatever was asked for; with "internal-sftp" only files
// are transferred (sshd_config(5), ForceCommand).
func (t task) forced(command string) task {
	switch command {
	case "":
		return t
	case "internal-sftp":
		return task{kind: fileTransfer, asked: t.asked}
	default:
		return task{kind: shellCommand, line: command, asked: t.asked}
	}
}

type taskKind int

const (
	noTask taskKind = iota
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

// subsystemTask reads a "subsystem" request (RFC 4254 section 6.5). One that
// is not there is nothing to run, unless the certificate forces a command.
func subsystemTask(payload []byte) (task, error) {
	name, err := parseExec(payload)
	if err != nil {
		return task{}, err
	}
	t := task{asked: name}
	if name == "sftp" {
		t.kind = fileTransfer
	}
	return t, nil
}

// action is how records of a session's start and end tell what it is for.
func (t task) action() string {
	if t.kind == fileTransfer {
		return "sftp"
	}
	return ""
}

// startRecords are what is written before it runs.
func (s *session) startRecords(t task) []event.Event {
	start := event.Event{Type: event.SessionStart, Success: true, Action: t.action()}
	events := []event.Event{s.event(start)}
	if t.kind != shellCommand {
		return events
	}
	exec := event.Event{Type: event.Exec, Success: true, Command: recordable(t.line)}
	if s.admit.identity.ForceCommand != "" {
		exec.Message = fmt.Sprintf("the certificate forces this command; asked for: %s", recordable(t.asked))
	}
	events = append(events, s.event(exec))
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
