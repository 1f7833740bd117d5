// Package e2e plays the product for real: the built programs, the OpenSSH
// client, swtpm and PostgreSQL, each outside this process. The scripts in
// testdata read as the manual does.
package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"devicetrust/devices/tpm/tpmtest"
	"devicetrust/e2e/stage"
)

// binDir holds the built programs; TestMain fills it.
var binDir string

// Two OS accounts that no person has, for tests that run as root: sessions as
// root would run whatever root's own shell starts up. The process id in their
// names keeps runs beside each other apart.
var (
	loginAccount = fmt.Sprintf("%s%d-login", accountPrefix, os.Getpid())
	otherAccount = fmt.Sprintf("%s%d-other", accountPrefix, os.Getpid())
)

const accountPrefix = "dt-e2e-"

func TestMain(m *testing.M) {
	os.Exit(run(m))
}

func run(m *testing.M) (status int) {
	cleanUp, err := prepare()
	if err == nil {
		status = m.Run()
	}
	if err := errors.Join(err, cleanUp()); err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		return 1
	}
	return status
}

// prepare finds or builds the programs and makes the accounts; what it returns
// undoes what was made, also where there is an error.
func prepare() (cleanUp func() error, err error) {
	var undo []func() error
	cleanUp = func() error {
		var errs []error
		for _, f := range undo {
			errs = append(errs, f())
		}
		return errors.Join(errs...)
	}
	for _, tool := range []string{"swtpm", "ssh"} {
		if _, err := exec.LookPath(tool); err != nil {
			return cleanUp, fmt.Errorf("%w (make test installs it)", err)
		}
	}
	if binDir = os.Getenv("DT_E2E_BIN"); binDir == "" {
		if binDir, err = os.MkdirTemp("", "dt-e2e-bin"); err != nil {
			return cleanUp, err
		}
		undo = append(undo, func() error { return os.RemoveAll(binDir) })
		build := exec.Command("go", "build", "-o", binDir+"/", "devicetrust/cmd/...")
		if out, err := build.CombinedOutput(); err != nil {
			return cleanUp, fmt.Errorf("%w\n%s", err, out)
		}
	}
	if binDir, err = filepath.Abs(binDir); err != nil {
		return cleanUp, err
	}
	if !isRoot() {
		return cleanUp, nil
	}
	if err := removeStaleAccounts(); err != nil {
		return cleanUp, err
	}
	for _, account := range []string{loginAccount, otherAccount} {
		undo = append(undo, func() error { return changeAccounts("userdel", account) })
		if err := changeAccounts("useradd", "--system", "--user-group", "--no-create-home", "--password", "*",
			"--home-dir", "/", "--shell", "/bin/sh", account); err != nil {
			return cleanUp, err
		}
	}
	return cleanUp, nil
}

// removeStaleAccounts removes those of runs that were killed.
func removeStaleAccounts() error {
	passwd, err := os.ReadFile("/etc/passwd")
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(passwd)) {
		account, _, _ := strings.Cut(line, ":")
		rest, ours := strings.CutPrefix(account, accountPrefix)
		pid, _, _ := strings.Cut(rest, "-")
		if _, err := os.Stat("/proc/" + pid); !ours || pid == "" || err == nil {
			continue
		}
		if err := changeAccounts("userdel", account); err != nil {
			return err
		}
	}
	return nil
}

// changeAccounts runs a program that wants the lock on the accounts for
// itself, and does not wait for it.
func changeAccounts(name string, args ...string) (err error) {
	perr := stage.Poll(context.Background(), func() bool {
		err = system(name, args...)
		return err == nil || !strings.Contains(err.Error(), "cannot lock")
	})
	return errors.Join(err, perr)
}

func system(name string, args ...string) error {
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", name, err, out)
	}
	return nil
}

func isRoot() bool { return os.Geteuid() == 0 }

func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata",
		Setup:               setUp,
		Cmds:                commands,
		Condition:           condition,
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		// A program that hangs is interrupted, and its script fails with what
		// it printed, long before go test gives up on all of them.
		Deadline: time.Now().Add(12 * time.Minute),
	})
}

// condition: [root] holds where servers can change the user.
func condition(name string) (bool, error) {
	if name == "root" {
		return isRoot(), nil
	}
	return false, fmt.Errorf("unknown condition %q", name)
}

// setUp gives each script a stage of its own, and in $LOGIN an account that
// the servers on it can serve.
func setUp(env *testscript.Env) error {
	me, err := user.Current()
	if err != nil {
		return err
	}
	login := loginAccount
	if !isRoot() {
		login = me.Username
	}
	s := &set{
		Stage:   &stage.Stage{Dir: env.WorkDir, Bin: binDir},
		daemons: map[string]*stage.Daemon{},
		tpms:    map[string]*stage.TPM{},
		makers:  map[string]*tpmtest.CA{},
		alive:   map[string]*alive{},
		stalls:  map[string]*stage.Stall{},
	}
	env.Values[setKey{}] = s
	t, ok := env.T().(testing.TB)
	if !ok {
		return errors.New("scripts are played by go test")
	}
	env.Values[testKey{}] = t
	env.Defer(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		checkLogs(t, s.Dir)
	})
	desk, err := makeDesk(login)
	if err != nil {
		return err
	}
	env.Defer(func() {
		if err := os.RemoveAll(desk); err != nil {
			t.Error(err)
		}
	})
	vars := map[string]string{
		"DESK":           desk,
		"PATH":           binDir + ":" + os.Getenv("PATH") + ":/usr/sbin:/sbin",
		"HOME":           filepath.Join(env.WorkDir, "home"),
		"ME":             me.Username,
		"LOGIN":          login,
		"ACCOUNT":        otherAccount,
		"PASSWORD":       "correct-horse-battery",
		"DTCTL_DATA_DIR": filepath.Join(env.WorkDir, "authd"),
		"TZ":             "UTC",
		"LC_ALL":         "C.UTF-8",
	}
	for k, v := range vars {
		env.Setenv(k, v)
	}
	if err := os.WriteFile(filepath.Join(env.WorkDir, "password"), []byte(vars["PASSWORD"]+"\n"), 0o600); err != nil {
		return err
	}
	return os.MkdirAll(vars["HOME"], 0o700)
}

// makeDesk makes a folder for what login's sessions read and write: the
// script's own is for nobody else.
func makeDesk(login string) (string, error) {
	desk, err := os.MkdirTemp("", "dt-desk")
	if err != nil {
		return "", err
	}
	return desk, system("chown", login+":", desk)
}

// checkLogs finds what no daemon may have said in any story.
func checkLogs(t testing.TB, dir string) {
	logs, err := filepath.Glob(filepath.Join(dir, "*.log"))
	if err != nil {
		t.Error(err)
	}
	for _, name := range logs {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Error(err)
		}
		for _, never := range []string{"DATA RACE", "panic: ", "goroutine 1 [", "a handler panicked"} {
			if at := bytes.Index(text, []byte(never)); at >= 0 {
				t.Errorf("%s: %s", filepath.Base(name), text[at:min(len(text), at+4000)])
			}
		}
	}
}

// A folder that was not found would pass too.
func TestEveryScriptIsPlayedToItsEnd(t *testing.T) {
	scripts, err := filepath.Glob("testdata/*.txtar")
	if err != nil {
		t.Fatal(err)
	}
	if len(scripts) < 10 {
		t.Errorf("found only %d scripts: %s", len(scripts), strings.Join(scripts, " "))
	}
	for _, script := range scripts {
		text, err := os.ReadFile(script)
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(text, []byte("\nstop")) {
			t.Errorf("%s: stop ends the script there, and lets it pass", script)
		}
	}
}
