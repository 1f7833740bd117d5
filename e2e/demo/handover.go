package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// handOver leaves the cluster running: it writes DIR/env and DIR/stop, and
// prints how to use them from another shell.
func (d *demo) handOver() error {
	var env, stop strings.Builder
	for _, v := range d.env {
		if v.name == "PATH" {
			fmt.Fprintf(&env, "export PATH=%s:$PATH\n", quoted(d.stage.Bin))
			continue
		}
		fmt.Fprintf(&env, "export %s=%s\n", v.name, quoted(v.value))
	}
	for _, v := range []variable{
		{"DIR", d.stage.Dir}, {"PASSWORD", password}, {"PIN", d.pin}, {"LOGIN", d.login}, {"NODE", nodeName},
	} {
		fmt.Fprintf(&env, "export DT_DEMO_%s=%s\n", v.name, quoted(v.value))
	}

	fmt.Fprintf(&stop, "#!/bin/sh\nkill")
	for _, p := range d.stage.Processes() {
		fmt.Fprintf(&stop, " %d", p.PID())
	}
	fmt.Fprintf(&stop, "\nrm -rf %s\n", quoted(d.stage.Dir))

	if err := os.WriteFile(filepath.Join(d.stage.Dir, "env"), []byte(env.String()), 0o600); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(d.stage.Dir, "stop"), []byte(stop.String()), 0o700); err != nil {
		return err
	}
	in := func(name string) string { return quoted(filepath.Join(d.stage.Dir, name)) }
	fmt.Fprintf(d.out, `
The cluster runs on. In another shell:

%s
The login password is %s (in %s too). For example:

  dtsh login --password-stdin < %s
  dtsh device enroll --current-device
  dtctl audit ls

The exports are also in %s; to stop and remove it all: %s
`, env.String(), password, in("password"), in("password"), in("env"), in("stop"))
	return nil
}

// quoted is a word for a shell.
func quoted(word string) string {
	if !strings.ContainsFunc(word, func(r rune) bool {
		return !strings.ContainsRune("/.:_-@=", r) && (r < '0' || r > '9') && (r < 'A' || r > 'Z') && (r < 'a' || r > 'z')
	}) {
		return word
	}
	return "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
}
