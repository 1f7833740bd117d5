// Package cli holds the manners that all four programs share: how they read
// their command line, print results and errors, ask on a terminal, log, and
// leave. What a program does is in its own package; that it always leaves
// with the same status for the same reason is here.
//
// Exit status: 0 done; 1 refused or failed; 2 the command line was wrong;
// anything else only through ExitError.
package cli

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// Env is the world around a program. Main makes the real one; tests make
// their own. All fields but Args may be left out: a missing stream is empty
// or discarded, a missing Getenv knows no variable, a missing Now is the
// zero time.
type Env struct {
	// Args are the arguments without the program's name.
	Args   []string
	Stdin  io.Reader
	Stdout io.Writer
	Stderr io.Writer
	Getenv func(string) string
	Now    func() time.Time
	// Location is in what people read times; nil is time.Local.
	Location *time.Location
	// LogLevel is the least level that is logged without --debug. The zero
	// value is slog.LevelInfo; interactive programs set slog.LevelWarn.
	LogLevel slog.Level

	debug     bool
	logFormat choice
	started   bool // a command's own code has begun: the command line was right
}

// Run runs the program that newRoot makes and returns its exit status. It
// never exits and prints errors itself. newRoot gets env with every field
// set, and adds no flags for help, version, debug or log format: those, the
// version and completion commands are added here.
func Run(ctx context.Context, env *Env, newRoot func(*Env) *cobra.Command) int {
	env.fill()
	root := newRoot(env)
	env.prepare(root)
	cmd, err := root.ExecuteContextC(ctx)
	return env.leave(ctx, cmd, err)
}

func (e *Env) fill() {
	if e.Stdin == nil {
		e.Stdin = eof{}
	}
	if e.Stdout == nil {
		e.Stdout = io.Discard
	}
	if e.Stderr == nil {
		e.Stderr = io.Discard
	}
	if e.Getenv == nil {
		e.Getenv = func(string) string { return "" }
	}
	if e.Now == nil {
		e.Now = func() time.Time { return time.Time{} }
	}
	if e.Location == nil {
		e.Location = time.Local
	}
	if e.Args == nil {
		e.Args = []string{} // cobra takes os.Args for nil
	}
}

type eof struct{}

func (eof) Read([]byte) (int, error) { return 0, io.EOF }

// prepare gives root the flags, commands and habits that all programs share.
func (e *Env) prepare(root *cobra.Command) {
	root.SetArgs(e.Args)
	root.SetIn(e.Stdin)
	root.SetOut(e.Stdout)
	root.SetErr(e.Stderr)
	root.SilenceErrors = true
	root.SilenceUsage = true
	root.SetUsageTemplate(usageTemplate)
	root.SetFlagErrorFunc(flagError)

	e.logFormat = choice{value: "text", allowed: []string{"text", "json"}}
	flags := root.PersistentFlags()
	flags.BoolVarP(&e.debug, "debug", "d", false, "log in detail to stderr")
	flags.Var(&e.logFormat, "log-format", "form of the log: text or json")
	root.Version = Version
	root.SetVersionTemplate(versionLine(root.Name()) + "\n")
	// Defined here so that cobra does not take -v for it.
	root.Flags().Bool("version", false, "print the version")
	root.AddCommand(versionCommand(e, root.Name()))
	root.SetHelpCommand(helpCommand(root.Name()))
	root.InitDefaultHelpCmd()
	root.InitDefaultCompletionCmd(e.Args...)
	explainCompletion(root)
	e.walk(root)
}

// walk makes groups of commands refuse unknown ones (cobra prints help and
// returns success), and notes when a command's own code begins: whatever
// fails before was the command line's fault.
func (e *Env) walk(c *cobra.Command) {
	for _, sub := range c.Commands() {
		e.walk(sub)
	}
	if c.HasSubCommands() && !c.Runnable() {
		c.Args = cobra.ArbitraryArgs
		c.SuggestionsMinimumDistance = 2
		c.RunE = group
		return
	}
	if run := c.RunE; run != nil {
		c.RunE = func(cmd *cobra.Command, args []string) error {
			e.started = true
			return run(cmd, args)
		}
	}
}

// group is what a command does that only holds others.
func group(c *cobra.Command, args []string) error {
	if len(args) > 0 {
		return unknownCommand(c, args[0])
	}
	c.SetOut(c.ErrOrStderr())
	if err := c.Help(); err != nil {
		return err
	}
	return &ExitError{Status: statusUsage}
}

const later = "later"

// Later annotates a command with names of subcommands and of flags (as -L and
// --otp) that people know of and that this version does not have: asking for
// one is told that, and not that it is a slip of the pen.
func Later(names ...string) map[string]string {
	return map[string]string{later: strings.Join(names, " ")}
}

func isLater(c *cobra.Command, name string) bool {
	return slices.Contains(strings.Fields(c.Annotations[later]), name)
}

func notYet(c *cobra.Command, name string) error {
	return Usagef("%s is not in this version", c.CommandPath()+" "+name)
}

func unknownCommand(c *cobra.Command, name string) error {
	if isLater(c, name) {
		return notYet(c, name)
	}
	if near := c.SuggestionsFor(name); len(near) > 0 {
		return Usagef("unknown command %q: did you mean %q?", c.CommandPath()+" "+name, near[0])
	}
	return Usagef("unknown command %q", c.CommandPath()+" "+name)
}

// flagError names the unknown command where one came before the bad flag.
func flagError(c *cobra.Command, err error) error {
	if args := c.Flags().Args(); c.HasSubCommands() && len(args) > 0 {
		return unknownCommand(c, args[0])
	}
	var unknown *pflag.NotExistError
	if errors.As(err, &unknown) {
		name := "--" + unknown.GetSpecifiedName()
		if unknown.GetSpecifiedShortnames() != "" {
			name = "-" + unknown.GetSpecifiedName()
		}
		if isLater(c, name) {
			return notYet(c, name)
		}
	}
	return err
}

// usageTemplate is cobra's with one line less: a group of commands is not
// shown as if it could be run itself.
const usageTemplate = `Usage:{{if .HasAvailableSubCommands}}
  {{.CommandPath}} COMMAND{{else}}
  {{.UseLine}}{{end}}{{if .HasExample}}

Examples:
{{.Example}}{{end}}{{if .HasAvailableSubCommands}}

Commands:{{range .Commands}}{{if (or .IsAvailableCommand (eq .Name "help"))}}
  {{rpad .Name .NamePadding }} {{.Short}}{{end}}{{end}}{{end}}{{if .HasAvailableLocalFlags}}

Flags:
{{.LocalFlags.FlagUsages | trimTrailingWhitespaces}}{{end}}{{if .HasAvailableInheritedFlags}}

Global flags:
{{.InheritedFlags.FlagUsages | trimTrailingWhitespaces}}{{end}}{{if .HasAvailableSubCommands}}

Use "{{.CommandPath}} COMMAND --help" for more about a command.{{end}}
`
