package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"

	"devicetrust/api"
)

// program is a small one with a group, a required flag and a command that
// does what the test says.
func program(run func(context.Context, *Env) error) func(*Env) *cobra.Command {
	return func(e *Env) *cobra.Command {
		root := &cobra.Command{Use: "prog", Short: "A program", Example: "  prog users add bob --role=x"}
		users := &cobra.Command{Use: "users", Short: "People", Example: "  prog users add bob --role=x"}
		add := &cobra.Command{
			Use: "add NAME", Short: "Add", Example: "  prog users add bob --role=x", Args: cobra.ExactArgs(1),
			RunE: func(c *cobra.Command, _ []string) error { return run(c.Context(), e) },
		}
		add.Flags().String("role", "", "the role")
		add.MarkFlagRequired("role")
		for _, name := range []string{"one", "other", "both", "too"} {
			add.Flags().String(name, "", "a flag")
		}
		add.Flags().Uint16("count", 0, "a number")
		add.MarkFlagsMutuallyExclusive("one", "other")
		add.MarkFlagsRequiredTogether("both", "too")
		rm := &cobra.Command{
			Use: "rm", Short: "Remove", Example: "  prog users rm --id=1", Args: cobra.NoArgs,
			RunE: func(c *cobra.Command, _ []string) error { return run(c.Context(), e) },
		}
		rm.Flags().String("id", "", "the ID")
		rm.Flags().String("tag", "", "the tag")
		rm.MarkFlagsOneRequired("id", "tag")
		users.AddCommand(add, rm)
		root.AddCommand(users)
		return root
	}
}

type result struct {
	status         int
	stdout, stderr string
}

func start(t *testing.T, run func(context.Context, *Env) error, args ...string) result {
	t.Helper()
	var out, err bytes.Buffer
	status := Run(t.Context(), &Env{Args: args, Stdout: &out, Stderr: &err}, program(run))
	return result{status, out.String(), err.String()}
}

func succeed(context.Context, *Env) error { return nil }

func TestTheExitStatusTellsWhoseFaultItWas(t *testing.T) {
	refuse := func(context.Context, *Env) error { return api.Refuse(connect.CodePermissionDenied, "no") }
	badUse := func(context.Context, *Env) error { return Usagef("either --a or --b") }
	exit := func(status int, err error) func(context.Context, *Env) error {
		return func(context.Context, *Env) error { return &ExitError{status, err} }
	}
	good := []string{"users", "add", "bob", "--role", "x"}
	for _, tt := range []struct {
		name string
		run  func(context.Context, *Env) error
		args []string
		want int
	}{
		{"all is well", succeed, good, 0},
		{"help was asked for", succeed, []string{"users", "add", "--help"}, 0},
		{"help of a group was asked for", succeed, []string{"users", "--help"}, 0},
		{"the version was asked for", succeed, []string{"--version"}, 0},
		{"a completion was asked for", succeed, []string{"completion", "bash"}, 0},
		{"the server refused", refuse, good, 1},
		{"something else failed", func(context.Context, *Env) error { return errors.New("disk full") }, good, 1},
		{"the command found its use wrong", badUse, good, 2},
		{"no command", succeed, nil, 2},
		{"a group without a command", succeed, []string{"users"}, 2},
		{"an unknown command", succeed, []string{"bogus"}, 2},
		{"an unknown command of a group", succeed, []string{"users", "bogus"}, 2},
		{"an unknown command with an unknown flag", succeed, []string{"users", "bogus", "--x"}, 2},
		{"help of an unknown command", succeed, []string{"help", "bogus"}, 2},
		{"help of an unknown command of a group", succeed, []string{"help", "users", "bogus"}, 2},
		{"help of a command", succeed, []string{"help", "users", "add"}, 0},
		{"an unknown shell", succeed, []string{"completion", "tcsh"}, 2},
		{"an unknown flag", succeed, append(good, "--bogus"), 2},
		{"a missing flag", succeed, []string{"users", "add", "bob"}, 2},
		{"a missing argument", succeed, []string{"users", "add", "--role=x"}, 2},
		{"a bad log format", succeed, append(good, "--log-format=xml"), 2},
		{"a status of its own", exit(7, nil), good, 7},
		{"a status of its own with words", exit(255, errors.New("no session")), good, 255},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := start(t, tt.run, tt.args...)
			if got.status != tt.want {
				t.Errorf("status %d, want %d\nstdout: %s\nstderr: %s", got.status, tt.want, got.stdout, got.stderr)
			}
			if tt.want == 2 && got.stdout != "" {
				t.Errorf("a wrong command line printed on stdout: %q", got.stdout)
			}
			if tt.want == 7 && got.stderr != "" {
				t.Errorf("a silent exit printed %q", got.stderr)
			}
		})
	}
}

func TestAnErrorIsOneLineAndItsRemedyTheNext(t *testing.T) {
	wire := func(code connect.Code, message, hint string) error {
		ce, _ := api.ToWire(api.Refuse(code, "%s", message).WithHint("%s", hint))
		w := connect.NewWireError(ce.Code(), errors.New(ce.Message()))
		for _, d := range ce.Details() {
			w.AddDetail(d)
		}
		return w
	}
	refused := &net.OpError{Op: "dial", Net: "tcp", Addr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 9}, Err: errors.New("connection refused")}
	for _, tt := range []struct {
		name string
		err  error
		want string
	}{
		{"a plain error", errors.New("disk full"), "ERROR: disk full\n"},
		{"a refusal made here", api.Refuse(connect.CodeNotFound, "no user %q", "bob"), "ERROR: no user \"bob\"\n"},
		{"a wrapped refusal", fmt.Errorf("users.yaml: %w", api.Refuse(connect.CodeNotFound, "no").WithHint("do")), "ERROR: users.yaml: no\ndo\n"},
		{"a refusal off the wire", wire(connect.CodeNotFound, "no user", "See users ls."), "ERROR: no user\nSee users ls.\n"},
		{"a refusal with line breaks and terminal controls",
			api.Refuse(connect.CodeUnknown, "a\r\n  b\x1b]0;x\x07\u202ec"), "ERROR: a b\\u001b]0;x\\u0007\\u202ec\n"},
		{"no server", connect.NewError(connect.CodeUnavailable, refused),
			"ERROR: cannot reach 127.0.0.1:9: connection refused\n" + hintReach + "\n"},
		{"an address that is taken", &net.OpError{Op: "listen", Net: "tcp", Addr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 9}, Err: os.NewSyscallError("bind", syscall.EADDRINUSE)},
			"ERROR: cannot listen on 127.0.0.1:9: address already in use\n" + hintListen + "\n"},
		{"no such host", connect.NewError(connect.CodeUnavailable, &net.OpError{Op: "dial", Err: &net.DNSError{Name: "nowhere", Err: "no such host"}}),
			"ERROR: cannot find host \"nowhere\": no such host\nCheck the name for a slip.\n"},
		{"a slow server", connect.NewError(connect.CodeDeadlineExceeded, context.DeadlineExceeded),
			"ERROR: the server did not answer in time\n" + hintReach + "\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := start(t, func(context.Context, *Env) error { return tt.err }, "users", "add", "bob", "--role=x")
			if diff := cmp.Diff(tt.want, got.stderr); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestAWrongCommandLineNamesTheHelpToRead(t *testing.T) {
	for args, want := range map[string]string{
		"users add --bogus":                      "ERROR: unknown flag: --bogus\nTry 'prog users add --help'.\n",
		"usres":                                  "ERROR: unknown command \"prog usres\": did you mean \"users\"?\nTry 'prog --help'.\n",
		"users ad --x":                           "ERROR: unknown command \"prog users ad\": did you mean \"add\"?\nTry 'prog users --help'.\n",
		"help usres":                             "ERROR: unknown command \"prog usres\": did you mean \"users\"?\nTry 'prog help --help'.\n",
		"users add --role=x":                     "ERROR: wrong number of arguments: want prog users add NAME\nTry 'prog users add --help'.\n",
		"users add b c --role=x":                 "ERROR: wrong number of arguments: want prog users add NAME\nTry 'prog users add --help'.\n",
		"users add b":                            "ERROR: missing flag: want --role\nTry 'prog users add --help'.\n",
		"users add b --role=x --one=1 --other=1": "ERROR: flags that exclude each other: --one, --other\nTry 'prog users add --help'.\n",
		"users add b --role=x --both=1":          "ERROR: missing flag: want --too\nTry 'prog users add --help'.\n",
		"users add b --role=x --count=-1":        "ERROR: invalid argument \"-1\" for \"--count\" flag: invalid syntax\nTry 'prog users add --help'.\n",
		"users rm b":                             "ERROR: unexpected argument \"b\": want prog users rm with flags only\nTry 'prog users rm --help'.\n",
		"users rm":                               "ERROR: missing flag: want one of --id, --tag\nTry 'prog users rm --help'.\n",
	} {
		if diff := cmp.Diff(want, start(t, succeed, strings.Fields(args)...).stderr); diff != "" {
			t.Errorf("%s: %s", args, diff)
		}
	}
}

func TestCtrlCIsAnInterruption(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	var stderr bytes.Buffer
	status := Run(ctx, &Env{Args: []string{"users", "add", "bob", "--role=x"}, Stderr: &stderr},
		program(func(ctx context.Context, _ *Env) error {
			cancel()
			<-ctx.Done()
			return connect.NewError(connect.CodeCanceled, ctx.Err())
		}))
	if status != 1 || stderr.String() != "ERROR: interrupted\n" {
		t.Errorf("status %d, stderr %q", status, stderr.String())
	}
}

func TestVersionIsTheSameInAllItsForms(t *testing.T) {
	flag := start(t, succeed, "--version")
	command := start(t, succeed, "version")
	if !strings.HasPrefix(flag.stdout, "prog v"+Version+" ") || flag.stdout != command.stdout {
		t.Errorf("--version %q, version %q", flag.stdout, command.stdout)
	}
	if got := start(t, succeed, "version", "--format=json"); !strings.Contains(got.stdout, `"version": "`+Version+`"`) {
		t.Errorf("JSON %q", got.stdout)
	}
}

func TestTheLogGoesToStderrInTheFormAskedFor(t *testing.T) {
	log := func(_ context.Context, e *Env) error {
		e.Log().Debug("detail", "n", 1)
		return nil
	}
	good := []string{"users", "add", "bob", "--role=x"}
	if got := start(t, log, good...); got.stderr != "" {
		t.Errorf("without --debug: %q", got.stderr)
	}
	if got := start(t, log, append(good, "-d", "--log-format=json")...); !strings.Contains(got.stderr, `"msg":"detail","n":1`) || got.stdout != "" {
		t.Errorf("with --debug: %+v", got)
	}
}

func TestHelpIsComplete(t *testing.T) {
	env := &Env{Args: nil}
	env.fill()
	root := program(succeed)(env)
	env.prepare(root)
	for _, c := range Complaints(root) {
		t.Error(c)
	}
	bare := &cobra.Command{Use: "bare", RunE: func(*cobra.Command, []string) error { return nil }}
	bare.Flags().Bool("x", false, "")
	if got := len(Complaints(bare)); got != 4 {
		t.Errorf("%d complaints about a bare command, want 4: %q", got, Complaints(bare))
	}
}

func TestTimesForPeopleAreLocal(t *testing.T) {
	e := &Env{Location: time.FixedZone("X", -3*3600)}
	if got := e.Time(time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)); got != "2026-01-02 00:04:05" {
		t.Error(got)
	}
	if got := e.Time(time.Time{}); got != "" {
		t.Error(got)
	}
}
