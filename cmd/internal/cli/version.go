package cli

import (
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
)

// Both are written by the linker alone, with
// -ldflags "-X devicetrust/cmd/internal/cli.Version=1.2.3".
var (
	// Version of all four programs, without a leading v.
	Version = "0.1.0"
	// Revision of the sources; empty where the Go command recorded it itself.
	Revision string
)

// versionLine is what version and --version print: "dtctl v0.1.0
// git:1a2b3c4d5e6f go1.26.8", without the revision where the binary was not
// built from a checkout.
func versionLine(name string) string {
	line := name + " v" + Version
	if r := revision(); r != "" {
		line += " git:" + r
	}
	return line + " " + runtime.Version()
}

func revision() string {
	if Revision != "" {
		return Revision
	}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return ""
	}
	var rev, dirty string
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			rev = s.Value[:min(12, len(s.Value))]
		case "vcs.modified":
			if s.Value == "true" {
				dirty = "-dirty"
			}
		}
	}
	if rev == "" {
		return ""
	}
	return rev + dirty
}

func versionCommand(e *Env, program string) *cobra.Command {
	c := &cobra.Command{
		Use:     "version",
		Short:   "Print the version",
		Example: fmt.Sprintf("  %[1]s version\n  %[1]s version --format=json", program),
		Args:    cobra.NoArgs,
	}
	format := AddFormat(c, Text)
	c.RunE = func(*cobra.Command, []string) error {
		if *format == Text {
			_, err := fmt.Fprintln(e.Stdout, versionLine(program))
			return err
		}
		return Write(e.Stdout, *format, struct {
			Name     string `json:"name"`
			Version  string `json:"version"`
			Revision string `json:"revision,omitempty"`
			Go       string `json:"go"`
		}{program, Version, revision(), runtime.Version()})
	}
	return c
}
