package node

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	gossh "golang.org/x/crypto/ssh"

	"devicetrust/audit/event"
	"devicetrust/identity"
)

// pamHelper builds dtnoded-pam.
func pamHelper(t *testing.T) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("PAM's sessions are opened by root")
	}
	program := filepath.Join(t.TempDir(), "dtnoded-pam")
	out, err := exec.Command("cc", "-std=gnu11", "-Wall", "-Wextra", "-Werror", "-o", program, "pam/dtnoded-pam.c", "-lpam").CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return program
}

var pamServices atomic.Int64

// withPAM has a node ask the modules in lines.
func withPAM(t *testing.T, lines ...string) func(*serverConfig) {
	t.Helper()
	program := pamHelper(t)
	service := fmt.Sprintf("dtnoded-test-%d-%d", os.Getpid(), pamServices.Add(1))
	path := filepath.Join("/etc/pam.d", service)
	if err := os.WriteFile(path, []byte(strings.Join(lines, "\n")+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.Remove(path) })
	return func(c *serverConfig) {
		settings, err := SSHConfig{PAMService: service, PAMHelper: program}.login()
		if err != nil {
			t.Fatal(err)
		}
		settings.printMOTD = true
		c.login = settings
		passwd, group := "root:x:0:0::/:/bin/sh\nnobody:x:65534:65534::/:/bin/bash\n", "tty:x:5:\nplugdev:x:46:nobody\n"
		c.accounts = testAccounts(t, passwd, group, "")
	}
}

func enterPAM(t *testing.T, lines ...string) (*testNode, *gossh.Client) {
	t.Helper()
	n := startNode(t, withPAM(t, lines...))
	return n, n.mustDial("nobody", n.cluster.certify(t, nobody(), newSigner(t)))
}

// nobody is whom these tests are about: PAM's modules look accounts up by
// themselves, and find this one on every machine.
func nobody() identity.Identity {
	id := alice()
	id.Logins = []string{"nobody"}
	id.Traits = map[string][]string{"logins": id.Logins}
	return id
}

var permitAll = []string{"auth required pam_permit.so", "account required pam_permit.so", "session required pam_permit.so"}

// journal is a session module that notes each opening and closing in a file.
func journal(t *testing.T) (line string, read func() string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "journal")
	script := filepath.Join(t.TempDir(), "note")
	text := "#!/bin/sh\necho \"$PAM_TYPE $PAM_SERVICE $PAM_USER $PAM_RHOST ${PAM_TTY%%[0-9]*} $(id -u) [$LANG]\" >>" + path + "\n"
	if err := os.WriteFile(script, []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
	return "session required pam_exec.so quiet " + script, func() string {
		b, _ := os.ReadFile(path)
		return string(b)
	}
}

func TestPAMsSessionIsOpenedLimitsAndCloses(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return path
	}
	note, noted := journal(t)
	n, c := enterPAM(t, append(permitAll, note,
		"session required pam_limits.so conf="+write("limits", "* - nofile 77\nroot - nofile 77\n"),
		"session required pam_env.so conffile=/dev/null readenv=1 envfile="+write("env", "FROM_PAM=here\nLANG=de\n"))...)
	s := newSession(t, c)
	s.Setenv("LANG", "C")
	var errs syncBuffer
	s.Stderr = &errs
	out, err := s.Output("ulimit -n; echo $FROM_PAM $LANG $USER; id -u; id -G; pwd; cat; exit 7")
	var exit *gossh.ExitError
	if !errors.As(err, &exit) || exit.ExitStatus() != 7 {
		t.Errorf("%v %q", err, errs.String())
	}
	if want := "77\nhere de nobody\n65534\n65534 46\n/\n"; string(out) != want {
		t.Errorf("%q, want %q", out, want)
	}
	if e := n.recorded(event.SessionEnd); e.ExitStatus == nil || *e.ExitStatus != 7 {
		t.Errorf("%+v", e)
	}
	service := n.login.pam.service
	if want := fmt.Sprintf("open_session %s nobody 127.0.0.1 ssh 0 []\nclose_session %s nobody 127.0.0.1 ssh 0 [de]\n", service, service); noted() != want {
		t.Errorf("%q, want %q", noted(), want)
	}
	// It dies as the command does, and what it started goes on.
	s = newSession(t, c)
	if err := s.Run("kill -TERM $$"); !errors.As(err, &exit) || exit.Signal() != "TERM" {
		t.Errorf("%v", err)
	}
	if out, _, status := run(t, c, "exec >&-; sleep 0; exit 3"); out != "" || status != 3 {
		t.Errorf("%q %d", out, status)
	}
}

func TestPAMsModulesDoNotSeeWhatTheClientSends(t *testing.T) {
	const source = `#include <stdio.h>
#include <stdlib.h>
#include <security/pam_modules.h>
int pam_sm_open_session(pam_handle_t *h, int flags, int n, const char **arg) {
	(void)h; (void)flags; (void)n;
	FILE *f = fopen(arg[0], "w");
	fprintf(f, "LANG=%s\n", getenv("LANG") ? getenv("LANG") : "none");
	return fclose(f) ? PAM_SESSION_ERR : PAM_SUCCESS;
}
int pam_sm_close_session(pam_handle_t *h, int flags, int n, const char **arg) {
	(void)h; (void)flags; (void)n; (void)arg;
	return PAM_SUCCESS;
}
`
	dir := filepath.Dir(pamHelper(t))
	module, saw := filepath.Join(dir, "module.so"), filepath.Join(dir, "saw")
	if err := os.WriteFile(filepath.Join(dir, "module.c"), []byte(source), 0o644); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("cc", "-shared", "-fPIC", "-o", module, filepath.Join(dir, "module.c")).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	_, c := enterPAM(t, append(permitAll, "session required "+module+" "+saw)...)
	s := newSession(t, c)
	s.Setenv("LANG", "xx")
	if out, err := s.Output("echo $LANG"); err != nil || string(out) != "xx\n" {
		t.Errorf("%q, %v", out, err)
	}
	if got, err := os.ReadFile(saw); err != nil || string(got) != "LANG=none\n" {
		t.Errorf("%q, %v", got, err)
	}
}

func TestPAMsRefusalsReachThePersonAndTheRecord(t *testing.T) {
	closed := filepath.Join(t.TempDir(), "nologin")
	if err := os.WriteFile(closed, []byte("Back \x1b[1mat\nnoon\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct{ line, want string }{
		"deny":    {"account required pam_deny.so", "PAM does not let the account in: "},
		"nologin": {"account required pam_nologin.so file=" + closed, "Back ?[1mat; noon"},
		"absent":  {"account required pam_no_such.so", "PAM does not let the account in: "},
	} {
		n := startNode(t, withPAM(t, tt.line))
		var banner string
		if _, err := n.dial("nobody", n.cluster.certify(t, nobody(), newSigner(t)), &banner); err == nil || !strings.Contains(banner, tt.want) {
			t.Errorf("%s: %v, %q", name, err, banner)
		}
		if e := n.recorded(event.SessionRejected); !strings.Contains(e.Message, tt.want) {
			t.Errorf("%s: %+v", name, e)
		}
	}
	n, c := enterPAM(t, append(permitAll, "session required pam_deny.so")...)
	_, errs, status := run(t, c, "echo entered")
	if want := "no session: PAM does not open a session: "; !strings.Contains(errs, want) || status != 255 {
		t.Errorf("%q %d", errs, status)
	}
	if e := n.recorded(event.SessionEnd); !strings.Contains(e.Message, "PAM does not open a session") {
		t.Errorf("%+v", e)
	}
	// A shell that cannot run closes the session that is open already.
	note, noted := journal(t)
	with := withPAM(t, append(permitAll, note)...)
	shell := filepath.Join(t.TempDir(), "shell")
	if err := os.WriteFile(shell, []byte("no program"), 0o755); err != nil {
		t.Fatal(err)
	}
	n = startNode(t, with, func(c *serverConfig) {
		c.accounts = testAccounts(t, "nobody:x:65534:65534::/:"+shell+"\n", "", "")
	})
	_, errs, status = run(t, n.mustDial("nobody", n.cluster.certify(t, nobody(), newSigner(t))), "true")
	if !strings.Contains(errs, "cannot run the account's shell") || status != 255 {
		t.Errorf("%q %d", errs, status)
	}
	eventually(t, "the session is closed", func() bool { return strings.Contains(noted(), "close_session") })
}

func TestJobControlWorksUnderPAM(t *testing.T) {
	note, noted := journal(t)
	_, c := enterPAM(t, append(permitAll, note)...)
	s := newSession(t, c)
	if err := s.RequestPty("xterm", 24, 80, gossh.TerminalModes{gossh.ECHO: 0}); err != nil {
		t.Fatal(err)
	}
	in, _ := s.StdinPipe()
	var out syncBuffer
	s.Stdout = &out
	if err := s.Shell(); err != nil {
		t.Fatal(err)
	}
	say := func(text, want string) {
		t.Helper()
		io.WriteString(in, text)
		eventually(t, "after "+text+": "+want, func() bool { return strings.Contains(out.String(), want) })
	}
	say("ps -o pid=,pgid=,sid= -p $$ | awk '{ print ($1 == $2 && $3 != $1) ? \"lea\" \"der\" : $0 }'\n", "leader")
	if strings.Contains(out.String(), "no job control") {
		t.Errorf("%q", out.String())
	}
	say("sh -c 'echo one-$((1+1)); exec sleep 1000'\n", "one-2")
	say("\x03", "")
	say("echo status-$?\n", "status-130")
	say("sh -c 'trap \"echo continued-$((1+1))\" CONT; trap \"exit 130\" INT; echo two-$((1+1)); while :; do sleep 0.05; done'\n", "two-2")
	say("\x1a", "Stopped")
	say("jobs; echo three-$((1+1))\n", "three-2")
	say("fg\n", "continued-2")
	say("\x03", "")
	say("echo five-$((1+1))\n", "five-2")
	io.WriteString(in, "exit 4\n")
	var exit *gossh.ExitError
	if err := wait(t, s); !errors.As(err, &exit) || exit.ExitStatus() != 4 {
		t.Errorf("%v; %q", err, out.String())
	}
	if !strings.Contains(noted(), "close_session") || !strings.Contains(noted(), " /dev/pts/ ") {
		t.Errorf("%q", noted())
	}
}

func TestACommandOnATerminalCannotBeStoppedForEverUnderPAM(t *testing.T) {
	_, c := enterPAM(t, permitAll...)
	s := newSession(t, c)
	if err := s.RequestPty("xterm", 24, 80, gossh.TerminalModes{}); err != nil {
		t.Fatal(err)
	}
	in, _ := s.StdinPipe()
	var out syncBuffer
	s.Stdout = &out
	if err := s.Start("trap 'exit 130' INT; echo rea''dy; while :; do sleep 0.05; done"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "ready", func() bool { return strings.Contains(out.String(), "ready") })
	io.WriteString(in, "\x1a") // Ctrl-Z: nobody could continue it
	io.WriteString(in, "\x03")
	var exit *gossh.ExitError
	if err := wait(t, s); !errors.As(err, &exit) || exit.ExitStatus() != 130 {
		t.Errorf("%v", err)
	}
}

func TestSignalsReachTheCommandUnderPAM(t *testing.T) {
	note, noted := journal(t)
	_, c := enterPAM(t, append(permitAll, note)...)
	for _, sig := range []gossh.Signal{gossh.SIGUSR1, gossh.SIGKILL, gossh.SIGSEGV, gossh.SIGHUP} {
		s := newSession(t, c)
		var out syncBuffer
		s.Stdout = &out
		if err := s.Start("trap 'exit 5' USR1; echo ready; while :; do sleep 0.05; done"); err != nil {
			t.Fatal(err)
		}
		eventually(t, "ready", func() bool { return strings.Contains(out.String(), "ready") })
		if err := s.Signal(sig); err != nil {
			t.Fatal(err)
		}
		var exit *gossh.ExitError
		if err := wait(t, s); !errors.As(err, &exit) || exit.ExitStatus() != 5 && exit.Signal() != string(sig) {
			t.Errorf("%s: %v", sig, err)
		}
	}
	eventually(t, "all are closed", func() bool { return strings.Count(noted(), "close_session") == 4 })
}

func TestPolicyEndsAllOfASessionUnderPAMAndItIsClosed(t *testing.T) {
	note, noted := journal(t)
	n, c := enterPAM(t, append(permitAll, note)...)
	// One that hears nothing, and one beside it in a group of its own.
	s := newSession(t, c)
	var out syncBuffer
	s.Stdout = &out
	if err := s.Start(`trap "" HUP TERM INT; set -m; sh -c 'trap "" HUP; exec sleep 10077' & echo ready; sleep 10078; sleep 10079`); err != nil {
		t.Fatal(err)
	}
	eventually(t, "ready", func() bool { return strings.Contains(out.String(), "ready") })
	state := access(t)
	state.Roles = nil
	n.decideBy(state)
	closed(t, c)
	left := func() string {
		out, _ := exec.Command("pgrep", "-f", "sleep 1007[789]").Output()
		return string(out)
	}
	eventually(t, "all have ended", func() bool { return left() == "" })
	eventually(t, "it is closed", func() bool { return strings.Contains(noted(), "close_session") })
	n.recorded(event.SessionEnd)
}

func TestPAMIsRefusedAtTheStartWhereSomethingIsMissing(t *testing.T) {
	program := pamHelper(t)
	loose := filepath.Join(t.TempDir(), "loose")
	if err := os.WriteFile(loose, nil, 0o777); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(loose, 0o777); err != nil {
		t.Fatal(err)
	}
	for name, config := range map[string]SSHConfig{
		"a path":              {PAMService: "../passwd", PAMHelper: program},
		"no such service":     {PAMService: "dtnoded-no-such", PAMHelper: program},
		"no program":          {PAMService: "other"},
		"no such program":     {PAMService: "other", PAMHelper: "/no/such"},
		"a program of others": {PAMService: "other", PAMHelper: loose},
	} {
		if got, err := config.login(); err == nil {
			t.Errorf("%s: %+v", name, got.pam)
		}
	}
	if got, err := (SSHConfig{PAMHelper: program}).login(); err != nil || got.pam.on() {
		t.Errorf("without a service: %+v, %v", got, err)
	}
}
