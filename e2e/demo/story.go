package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"time"

	"devicetrust/e2e/stage"
)

type variable struct{ name, value string }

type demo struct {
	ctx   context.Context // of the whole run; there is only one
	stage *stage.Stage
	out   io.Writer
	authd *stage.Daemon
	env   []variable
	pin   string
	login string
}

func (d *demo) say(text string) {
	fmt.Fprintf(d.out, "\n# %s\n", strings.ReplaceAll(text, "\n", "\n# "))
}

func (d *demo) show(line string) {
	fmt.Fprintf(d.out, "$ %s\n", strings.ReplaceAll(line, d.stage.Dir+"/", ""))
}

// want is what a command must do: exit with that status, and print what each
// pattern matches.
type want struct {
	status   int
	patterns []string
	never    string
	// eventually: the command is asked again, unseen, until it prints that.
	eventually bool
}

func prints(patterns ...string) want { return want{patterns: patterns} }

// arrives is prints for what may take a moment: servers send their records
// after the fact.
func arrives(patterns ...string) want { return want{patterns: patterns, eventually: true} }

func fails(status int, patterns ...string) want { return want{status: status, patterns: patterns} }

func (w want) printedBy(text []byte) bool {
	for _, pattern := range w.patterns {
		if !regexp.MustCompile("(?m)" + pattern).Match(text) {
			return false
		}
	}
	return true
}

const (
	pause    = 50 * time.Millisecond
	mostAsks = 200
)

// try shows a command line, runs it in a shell, shows what it prints and
// says what differs from w.
func (d *demo) try(line string, w want) error {
	d.show(line)
	return d.ask(line, w, mostAsks)
}

func (d *demo) ask(line string, w want, tries int) error {
	cmd := exec.CommandContext(d.ctx, "/bin/sh", "-c", line)
	cmd.Dir = d.stage.Dir
	cmd.Env = os.Environ()
	for _, v := range d.env {
		cmd.Env = append(cmd.Env, v.name+"="+v.value)
	}
	var printed bytes.Buffer
	cmd.Stdout, cmd.Stderr = &printed, &printed
	err := cmd.Run()
	if w.eventually && !w.printedBy(printed.Bytes()) && d.ctx.Err() == nil && tries > 0 {
		time.Sleep(pause)
		return d.ask(line, w, tries-1)
	}
	if _, werr := d.out.Write(printed.Bytes()); werr != nil {
		return werr
	}
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return err
	}
	if got := cmd.ProcessState.ExitCode(); got != w.status {
		return fmt.Errorf("%q ended with status %d, not %d", line, got, w.status)
	}
	for _, pattern := range w.patterns {
		if !regexp.MustCompile("(?m)" + pattern).Match(printed.Bytes()) {
			return fmt.Errorf("%q did not print %q", line, pattern)
		}
	}
	if w.never != "" && regexp.MustCompile(w.never).Match(printed.Bytes()) {
		return fmt.Errorf("%q printed %q", line, w.never)
	}
	return nil
}

// scene is a heading and the commands below it.
type scene struct {
	about string
	lines []line
}

type line struct {
	command string
	want    want
}

// play plays the story of "Getting Started with Device Trust".
func (d *demo) play() error {
	for _, scene := range d.story() {
		d.say(scene.about)
		for _, l := range scene.lines {
			if err := d.try(l.command, l.want); err != nil {
				return err
			}
		}
	}
	return nil
}

func (d *demo) story() []scene {
	ssh := "dtsh ssh " + d.login + "@" + nodeName + " id -un"
	login := "dtsh login --proxy=" + d.authd.Addr + " --user=myuser --password-stdin < password"
	opens := prints("^" + d.login + "$")
	refused := fails(255, "^ERROR: access denied to "+d.login+" connecting to "+nodeName+
		":[0-9]+: access to resource requires a trusted device$", "dtsh device enroll")
	trusted := prints("Extensions: .*teleport-device-asset-tag, teleport-device-credential-id, teleport-device-id")

	return []scene{
		{"A user whose roles demand a trusted device.", []line{
			{"dtctl users add myuser --roles=access,editor,require-trusted-device --logins=" + d.login +
				" --password-stdin < password", prints("myuser")},
		}},
		{"Who they are is proven by a password; the machine is unknown. The first time,\nthe pin tells that it is the right cluster.", []line{
			{strings.Replace(login, " --password", " --ca-pin="+d.pin+" --password", 1), want{
				patterns: []string{"^> Profile URL: ", "Logged in as: +myuser"},
				never:    "teleport-device-",
			}},
			{"dtsh ls", prints("^Node Name +Address +Labels", "^"+nodeName)},
			{ssh, refused},
		}},
		{"An editor may register and enroll the machine they sit at.", []line{
			{"dtsh device enroll --current-device", prints(`^Device "` + assetTag + `"/Linux registered and enrolled$`)},
		}},
		{"The next login proves the device as well, and its keys are in the TPM.", []line{
			{"dtsh logout", prints(`^All users logged out\.$`)},
			{login, trusted},
			{"dtsh status", prints(append(trusted.patterns, "Key: +in this machine's TPM")...)},
			{ssh, opens},
		}},
		{"Stock OpenSSH reaches the server in the same way: an agent has the TPM sign\nfor it.", []line{
			{"dtsh config > ssh_config", want{}},
			{"ssh -F ssh_config " + d.login + "@" + nodeName + " id -un", opens},
		}},
		{"The device leaves the inventory, and with it goes what it opened.", []line{
			{"dtctl devices ls", prints("^" + assetTag + " +Linux +enrolled +[0-9a-f-]{36}$")},
			{"dtctl devices rm --asset-tag=" + assetTag, prints(`^Device "` + assetTag + `" removed$`)},
			{ssh, want{status: 255, never: "^" + d.login + "$"}},
			{login, want{patterns: []string{"Logged in as: +myuser"}, never: "teleport-device-"}},
			{ssh, refused},
		}},
		{"All of it is on record, and nothing of the record was changed.", []line{
			{"dtctl audit ls", arrives("user.create", "user.login", "cert.create", "session.rejected",
				"device.create", "device.token.create", "device.token.spent", "device.enroll",
				"device.authenticate", "session.start", "device.delete[^$]*session.rejected")},
			{"dtctl audit verify", prints("intact")},
		}},
	}
}
