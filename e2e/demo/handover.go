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
			v.value = d.stage.Bin + ":$PATH"
			fmt.Fprintf(&env, "export PATH=\"%s\"\n", v.value)
			continue
		}
		fmt.Fprintf(&env, "export %s=%s\n", v.name, v.value)
	}
	for _, v := range []variable{
		{"DIR", d.stage.Dir}, {"PASSWORD", password}, {"PIN", d.pin}, {"LOGIN", d.login}, {"NODE", nodeName},
	} {
		fmt.Fprintf(&env, "export DT_DEMO_%s=%s\n", v.name, v.value)
	}

	fmt.Fprintf(&stop, "#!/bin/sh\nkill")
	for _, p := range d.stage.Processes() {
		fmt.Fprintf(&stop, " %d", p.PID())
	}
	fmt.Fprintf(&stop, "\nrm -rf %s\n", d.stage.Dir)

	if err := os.WriteFile(filepath.Join(d.stage.Dir, "env"), []byte(env.String()), 0o600); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(d.stage.Dir, "stop"), []byte(stop.String()), 0o700); err != nil {
		return err
	}
	fmt.Fprintf(d.out, `
The cluster runs on. In another shell:

%s
The login password is %s (in %s too). For example:

  dtsh login --password-stdin < %s
  dtsh device enroll --current-device
  dtctl audit ls

The exports are also in %s; to stop and remove it all: %s
`, env.String(), password, filepath.Join(d.stage.Dir, "password"), filepath.Join(d.stage.Dir, "password"),
		filepath.Join(d.stage.Dir, "env"), filepath.Join(d.stage.Dir, "stop"))
	return nil
}
