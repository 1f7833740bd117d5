package cli

import (
	"strings"

	"github.com/spf13/cobra"
)

// helpCommand is cobra's, but for a command that does not exist: that is an
// error, and not the help of another one.
func helpCommand(program string) *cobra.Command {
	c := &cobra.Command{
		Use:     "help [COMMAND…]",
		Short:   "Help about any command",
		Example: "  " + program + " help version",
		ValidArgsFunction: func(c *cobra.Command, args []string, start string) ([]string, cobra.ShellCompDirective) {
			return subcommands(c.Root(), args, start), cobra.ShellCompDirectiveNoFileComp
		},
	}
	c.RunE = func(c *cobra.Command, args []string) error {
		about, rest, err := c.Root().Find(args)
		if err != nil || len(rest) > 0 && about.HasSubCommands() {
			return unknownCommand(about, rest[0])
		}
		about.InitDefaultHelpFlag() // shown, as with --help
		return about.Help()
	}
	return c
}

// subcommands are those of the command that args name whose names begin with
// start.
func subcommands(root *cobra.Command, args []string, start string) []string {
	of, rest, err := root.Find(args)
	if err != nil || len(rest) > 0 {
		return nil
	}
	var names []string
	for _, c := range of.Commands() {
		if c.IsAvailableCommand() && strings.HasPrefix(c.Name(), start) {
			names = append(names, cobra.CompletionWithDesc(c.Name(), c.Short))
		}
	}
	return names
}

// explainCompletion gives cobra's completion commands the examples that all
// commands have.
func explainCompletion(root *cobra.Command) {
	name := root.Name()
	examples := map[string]string{
		"completion": "  " + name + " completion bash > /etc/bash_completion.d/" + name,
		"bash":       "  source <(" + name + " completion bash)",
		"zsh":        "  " + name + ` completion zsh > "${fpath[1]}/_` + name + `"`,
		"fish":       "  " + name + " completion fish > ~/.config/fish/completions/" + name + ".fish",
		"powershell": "  " + name + " completion powershell | Out-String | Invoke-Expression",
	}
	for _, c := range root.Commands() {
		if c.Name() != "completion" {
			continue
		}
		for _, c := range append(c.Commands(), c) {
			c.Example = examples[c.Name()]
		}
	}
}
