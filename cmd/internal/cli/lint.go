package cli

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// Complaints tells what root's help lacks: each program's tests call it. A
// command needs a line that says what it does and an example; a flag needs a
// long name and a word of help.
func Complaints(root *cobra.Command) []string {
	var all []string
	for _, c := range root.Commands() {
		all = append(all, Complaints(c)...)
	}
	say := func(format string, args ...any) {
		all = append(all, root.CommandPath()+": "+fmt.Sprintf(format, args...))
	}
	if root.Short == "" {
		say("no short help")
	}
	if !strings.Contains(root.Example, root.Name()) {
		say("no example")
	}
	root.LocalFlags().VisitAll(func(f *pflag.Flag) {
		if f.Usage == "" {
			say("flag --%s has no help", f.Name)
		}
		if len(f.Name) < 2 {
			say("flag --%s has no long name", f.Name)
		}
	})
	return all
}
