package main

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/creack/pty"

	"devicetrust/cmd/internal/cli"
	"devicetrust/policy"
	"devicetrust/resource"
)

// editor is a script in place of a person at an editor; $1 is the file.
func editor(t *testing.T, script string) *cli.Env {
	t.Helper()
	name := filepath.Join(t.TempDir(), "my editor")
	if err := os.WriteFile(name, []byte("#!/bin/sh\nset -e\n"+script), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("TMPDIR", t.TempDir())
	return &cli.Env{Getenv: func(n string) string {
		// VISUAL wins, and may hold a shell's words.
		return map[string]string{"VISUAL": "sh '" + name + "'", "EDITOR": "false"}[n]
	}}
}

// drafts are the files that edit left behind.
func drafts(t *testing.T) []string {
	t.Helper()
	all, err := filepath.Glob(filepath.Join(os.Getenv("TMPDIR"), "*", "*"))
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func loginsOf(t *testing.T, c *cluster) string {
	t.Helper()
	role, ok := c.get(resource.KindRole, "a").(*resource.Role)
	if !ok {
		t.Fatal("role a is gone")
	}
	return strings.Join(role.Spec.Allow.Logins, ",")
}

func TestAnEditedResourceIsReplaced(t *testing.T) {
	c := startCluster(t)
	c.put(t, roles)
	env := editor(t, `test "$(stat -c %a "$1")" = 600; sed -i s/root/admin/ "$1"`)
	r := c.runWith(t, env, "edit", "roles/a")
	if r.status != 0 || r.out != "role \"a\" has been updated\n" {
		t.Errorf("%+v", r)
	}
	if got := loginsOf(t, c); got != "admin" {
		t.Errorf("logins %s", got)
	}
	if left := drafts(t); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
}

func TestTheSeedsEditsWork(t *testing.T) {
	c := startCluster(t)
	c.put(t, devices)
	c.put(t, `{kind: cluster_auth_preference, version: v2, metadata: {name: cluster-auth-preference}, spec: {device_trust: {mode: required}}}`)
	r := c.runWith(t, editor(t, `sed -i 's/^\( *\)mode:.*/&\n\1auto_enroll: true/' "$1"`), "edit", "cluster_auth_preference")
	if r.status != 0 || r.out != "cluster auth preference has been updated\n" {
		t.Errorf("%+v", r)
	}
	p, ok := c.get(resource.KindPreference, resource.PreferenceName).(*resource.Preference)
	if want := (policy.DeviceTrust{Mode: policy.ModeRequired, AutoEnroll: true}); !ok || p.Spec.DeviceTrust.AutoEnroll != want.AutoEnroll {
		t.Errorf("%+v", p)
	}
	r = c.runWith(t, editor(t, `sed -i 's/enroll_status: enrolled/enroll_status: not_enrolled/' "$1"`), "edit", "device/PF0A")
	if d, ok := c.get(resource.KindDevice, "PF0A").(*resource.Device); r.status != 0 || !ok || d.Spec.EnrollStatus != resource.NotEnrolled {
		t.Errorf("%+v, %+v", r, d)
	}
}

func TestATextThatTheEditorRemovedIsNotSaidToBeKept(t *testing.T) {
	c := startCluster(t)
	c.put(t, roles)
	r := c.runWith(t, editor(t, `rm "$1"`), "edit", "role/a")
	if want := "ERROR: role \"a\" has not been changed: the editor left no file\n"; r.status != 1 || r.errors != want {
		t.Errorf("%+v, want %q", r, want)
	}
	if got := loginsOf(t, c); got != "root" {
		t.Errorf("logins %s", got)
	}
}

func TestNothingIsSentWhereNothingWasChanged(t *testing.T) {
	c := startCluster(t)
	c.put(t, roles)
	r := c.runWith(t, editor(t, `touch "$1"`), "edit", "role/a")
	if r.status != 0 || r.out != "role \"a\" has not been changed\n" || len(c.requests) != 1 {
		t.Errorf("%+v, %d requests", r, len(c.requests))
	}
	if left := drafts(t); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
}

// keptDraft checks that r says where the text is, and that it is there.
func keptDraft(t *testing.T, r result, wantText string) {
	t.Helper()
	m := regexp.MustCompile(`Your text is kept in (\S+)\n$`).FindStringSubmatch(r.errors)
	if r.status != 1 || m == nil {
		t.Fatalf("status %d, stderr %s", r.status, r.errors)
	}
	text, err := os.ReadFile(m[1])
	if err != nil || !strings.Contains(string(text), wantText) {
		t.Errorf("%v, kept\n%s", err, text)
	}
	if info, err := os.Stat(m[1]); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, mode %v", err, info.Mode())
	}
}

func TestAConcurrentChangeIsNotOverwrittenAndTheTextIsKept(t *testing.T) {
	c := startCluster(t)
	c.put(t, roles)
	other := file(t, strings.Split(strings.ReplaceAll(roles, "root", "colleague"), "---")[0])
	turn := filepath.Join(t.TempDir(), "turn")
	env := editor(t, fmt.Sprintf(`sed -i s/root/mine/ "$1"; touch %s; while test -e %s; do sleep 0.01; done`, turn, turn))
	done := make(chan result)
	go func() { done <- c.runWith(t, env, "edit", "role/a") }()
	await(t, turn)
	c.good(t, "create", "-f", other)
	os.Remove(turn)
	r := <-done
	keptDraft(t, r, "mine")
	if !strings.HasPrefix(r.errors, "ERROR: role \"a\" has not been changed: somebody else changed it meanwhile\nEdit it again. Your text") {
		t.Error(r.errors)
	}
	if got := loginsOf(t, c); got != "colleague" {
		t.Errorf("the colleague's change is gone: logins %s", got)
	}
}

// await polls until a file is there.
func await(t *testing.T, name string) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		if _, err := os.Stat(name); err == nil {
			return
		}
	}
	t.Fatalf("%s never came", name)
}

func TestCtrlCInAnEditorKeepsTheText(t *testing.T) {
	c := startCluster(t)
	c.put(t, roles)
	turn := filepath.Join(t.TempDir(), "turn")
	env := editor(t, fmt.Sprintf(`sed -i s/root/mine/ "$1"; touch %s; while test -e %s; do sleep 0.01; done`, turn, turn))
	visual := env.Getenv
	env.Getenv = func(n string) string { return cmp.Or(visual(n), map[string]string{"DTCTL_DATA_DIR": c.dataDir}[n]) }
	env.Args = []string{"edit", "role/a"}
	var stderr strings.Builder
	env.Stderr = &stderr
	ctx, interrupt := context.WithCancel(t.Context())
	done := make(chan int)
	go func() { done <- cli.Run(ctx, env, newRoot) }()
	await(t, turn)
	interrupt()
	os.Remove(turn)
	r := result{status: <-done, errors: stderr.String()}
	keptDraft(t, r, "mine")
	if !strings.HasPrefix(r.errors, "ERROR: interrupted\n") || loginsOf(t, c) != "root" {
		t.Errorf("%+v, logins %s", r, loginsOf(t, c))
	}
}

func TestAMistakeSaysItsLineAndKeepsTheText(t *testing.T) {
	for name, script := range map[string]string{
		"an unknown field":    `sed -i 's/logins:/loggins:/' "$1"`,
		"not YAML":            `echo ']' >> "$1"`,
		"another name":        `sed -i 's/name: a/name: z/' "$1"`,
		"another kind":        `sed -i 's/kind: role/kind: user/' "$1"`,
		"a second document":   `printf -- '---\n'; cat "$1" > "$1.2"; printf -- '---\n' >> "$1"; cat "$1.2" >> "$1"; rm "$1.2"`,
		"no document":         `: > "$1"`,
		"an editor's failure": `echo '#' >> "$1"; false`,
	} {
		t.Run(name, func(t *testing.T) {
			c := startCluster(t)
			c.put(t, roles)
			r := c.runWith(t, editor(t, script), "edit", "role/a")
			keptDraft(t, r, "")
			if got := loginsOf(t, c); got != "root" {
				t.Errorf("it was changed: %s", got)
			}
			if name == "an unknown field" && !regexp.MustCompile(`line \d+.*loggins`).MatchString(r.errors) {
				t.Errorf("no line and field in %s", r.errors)
			}
		})
	}
}

func TestAnEditorThatFailsBeforeAnyChangeLeavesNothing(t *testing.T) {
	c := startCluster(t)
	c.put(t, roles)
	r := c.runWith(t, editor(t, `exit 3`), "edit", "role/a")
	if r.status != 1 || !strings.Contains(r.errors, "exit status 3") || len(drafts(t)) != 0 {
		t.Errorf("%+v, left %q", r, drafts(t))
	}
}

func TestAPersonAtATerminalMayMendAMistake(t *testing.T) {
	c := startCluster(t)
	c.put(t, roles)
	person, tty, err := pty.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer person.Close()
	defer tty.Close()
	env := editor(t, `if grep -q loggins "$1"; then sed -i 's/loggins:/logins:/; s/root/mended/' "$1"; else sed -i 's/logins:/loggins:/' "$1"; fi`)
	env.Stdin, env.Stderr = tty, tty
	shown := make(chan string, 1)
	go func() {
		var all bytes.Buffer
		b := make([]byte, 1024)
		for !strings.Contains(all.String(), "Edit again?") {
			n, err := person.Read(b)
			if err != nil {
				break
			}
			all.Write(b[:n])
		}
		io.WriteString(person, "y\n")
		shown <- all.String()
	}()
	r := c.runWith(t, env, "edit", "role/a")
	if r.status != 0 || loginsOf(t, c) != "mended" {
		t.Errorf("%+v, logins %s", r, loginsOf(t, c))
	}
	if s := <-shown; !strings.Contains(s, "ERROR: ") || !strings.Contains(s, "loggins") {
		t.Errorf("shown: %s", s)
	}
}
