package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/user"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/crypto/ssh"

	"devicetrust/client"
	"devicetrust/client/fanout"
	"devicetrust/cmd/internal/cli"
	"devicetrust/identity"
)

// statusNoSession is ssh(1)'s status where an error occurred.
const statusNoSession = 255

func (a *app) sshCommand() *cobra.Command {
	var o sshOptions
	c := &cobra.Command{
		Use:   "ssh [FLAGS] [LOGIN@]NODE [COMMAND…]",
		Short: "Open a shell or run a command on a server",
		Long: `Open a shell on a server, or run a command. NODE is a name that dtsh ls shows,
or HOST:PORT. What follows it is the command, flags included. The exit status is
the command's, or 255 where there was no session.

LABEL=VALUE,… in place of NODE runs a command on all servers that have these
labels, without input. The name of the server is before each line; a summary is
on stderr. The exit status is 0 where all succeeded, else the highest, or 255
where there was no session with one.

Flags and -o are ssh's, as far as they are here; an option that is not is
refused. Listeners are on the loopback unless BIND says otherwise. -A lets the
server use your agent: that of dtsh where it runs, else the one at
SSH_AUTH_SOCK. Each node on the way of -J is verified as any other, and you are
to each.

At the beginning of a line on a terminal, ~. ends the connection, ~^Z suspends
dtsh, ~# lists what is forwarded, ~~ is one ~, and ~? tells all that.`,
		Example: `  dtsh ssh root@server-1
  dtsh ssh root@env=prod,role=web uptime
  dtsh ssh -l root server-1 uptime
  dtsh ssh -t root@server-1 top
  dtsh ssh -N -L 5432:localhost:5432 root@db-1
  dtsh ssh -J bastion root@server-1`,
		Args:              cobra.MinimumNArgs(1),
		ValidArgsFunction: cobra.NoFileCompletions,
		// Use has them already, in their place.
		DisableFlagsInUseLine: true,
		RunE: func(c *cobra.Command, args []string) error {
			login, host, err := splitTarget(args[0], o.login)
			if err != nil {
				return err
			}
			command := commandLine(args[1:])
			a.batch = o.batch
			if isSelector(host) {
				status, err := a.runSelector(c.Context(), o, login, host, command)
				return sshStatus(status, err)
			}
			if o.noCommand && command != "" {
				return cli.Usagef("a command, and -N, which runs none")
			}
			status, err := a.runSSH(c.Context(), o, login, host, command)
			return sshStatus(status, err)
		},
	}
	c.Flags().SetInterspersed(false)
	o.addFlags(c)
	return c
}

// addFlags adds the flags that stand for options.
func (o *sshOptions) addFlags(c *cobra.Command) {
	for _, f := range []struct{ name, short, key, value, kind, usage string }{
		{"login", "l", "user", "", "string", "account on the server; without it, your own name here"},
		{"port", "p", "port", "", "PORT", "port of the server"},
		{"tty", "t", "requesttty", "yes", "bool", "give the command a terminal"},
		{"no-tty", "T", "requesttty", "no", "bool", "give nothing a terminal"},
		{"no-command", "N", "sessiontype", "none", "bool", "run nothing: only forward"},
		{"no-input", "n", "stdinnull", "yes", "bool", "nothing is typed to the command"},
		{"local-forward", "L", "localforward", "", "[BIND:]PORT:HOST:HOSTPORT", "listen here, and connect from the server; a socket's path may stand for either side"},
		{"remote-forward", "R", "remoteforward", "", "[BIND:]PORT:HOST:HOSTPORT", "listen on the server, and connect from here; port 0 is any, and [BIND:]PORT alone a SOCKS proxy"},
		{"dynamic-forward", "D", "dynamicforward", "", "[BIND:]PORT", "be a SOCKS proxy here that connects from the server"},
		{"forward-agent", "A", "forwardagent", "yes", "bool", "let the server use your agent"},
		{"no-forward-agent", "a", "forwardagent", "no", "bool", "do not let it"},
		{"jump", "J", "proxyjump", "", "[LOGIN@]NODE[:PORT]", "reach the server by way of this node; of several, with commas between them"},
		{"escape", "e", "escapechar", "", "CHAR", "begins an escape, or none (default ~)"},
		{"quiet", "q", "loglevel", "quiet", "bool", "no warnings, and no banner"},
		{"option", "o", "", "", "KEY=VALUE", "an option of ssh_config(5)"},
	} {
		flag := c.Flags().VarPF(&optionFlag{of: o, key: f.key, value: f.value, kind: f.kind}, f.name, f.short, f.usage)
		if f.value != "" {
			flag.NoOptDefVal = "true"
		}
	}
	c.Flags().IntVar(&o.parallel, "parallel", fanout.DefaultParallel, "how many servers at a time, of those with LABEL=VALUE")
}

// sshStatus is what dtsh ends with after a session, or none.
func sshStatus(status int, err error) error {
	if errors.Is(err, client.ErrNoReader) || errors.Is(err, client.ErrEscaped) {
		return &cli.ExitError{Status: statusNoSession} // and no word, as ssh
	}
	if err != nil {
		return &cli.ExitError{Status: statusNoSession, Err: err}
	}
	if status != 0 {
		return &cli.ExitError{Status: status}
	}
	return nil
}

// splitTarget reads [LOGIN@]NODE. As with ssh, -l wins.
func splitTarget(target, flag string) (login, host string, err error) {
	login, host = ownName(), target
	if i := strings.LastIndex(target, "@"); i >= 0 {
		login, host = target[:i], target[i+1:]
	}
	if flag != "" {
		login = flag
	}
	if login == "" {
		return "", "", cli.Usagef("no account on the server is named: want LOGIN@NODE")
	}
	if identity.CheckLogin(login) != nil {
		return "", "", cli.Usagef("%.64q is no account on a server: want up to 32 of a-z 0-9 . _ - that start with a letter or _", login)
	}
	if host == "" {
		return "", "", cli.Usagef("no node is named: want LOGIN@NODE")
	}
	return login, host, nil
}

// ownName is the person's account on this machine; on Windows, without the
// domain.
func ownName() string {
	u, err := user.Current()
	if err != nil {
		return ""
	}
	return u.Username[strings.LastIndex(u.Username, `\`)+1:]
}

// commandLine joins the words with spaces, as ssh does: the node's shell
// splits them again. One "--" before them is the command line's.
func commandLine(args []string) string {
	if len(args) > 0 && args[0] == "--" {
		args = args[1:]
	}
	return strings.Join(args, " ")
}

func (a *app) runSSH(ctx context.Context, o sshOptions, login, host, command string) (int, error) {
	if o.debug {
		a.LogLevel = slog.LevelDebug
	}
	reach := func() (*reached, error) { return a.reach(ctx, o, login, host) }
	node, err := again(ctx, a, reach)
	if err != nil {
		return 0, err
	}
	defer node.Close()
	session := a.session(o, command)
	status, err := a.use(ctx, o, node, session)
	if errors.Is(err, client.ErrEscaped) {
		fmt.Fprintf(a.Stderr, "Connection to %s closed.\n", cli.Safe(node.target.Shown))
	}
	return node.creds.ExplainEnd(status, err, a.Now())
}

// reached is a connection to a node, with what it rests on.
type reached struct {
	*ssh.Client
	target client.Target
	host   ssh.PublicKey // the certificate that the node proved
	creds  client.Credentials
	// hops are the connections on the way, the first one first.
	hops []*ssh.Client
}

// Close ends the connection, and those on the way.
func (r *reached) Close() {
	if r.Client != nil {
		_ = r.Client.Close() // it has ended, or ends now
	}
	for len(r.hops) > 0 {
		last := len(r.hops) - 1
		_ = r.hops[last].Close()
		r.hops = r.hops[:last]
	}
}

// reach connects to a node as login, by way of the nodes that are to be jumped
// over. Close what it returns.
func (a *app) reach(ctx context.Context, o sshOptions, login, host string) (*reached, error) {
	e, err := a.enter()
	if err != nil {
		return nil, err
	}
	defer e.Close()
	e.timeout = o.connectTimeout
	r := &reached{creds: e.creds}
	hops := append(slices.Clone(o.jump), jumpHost{login, host, o.port})
	for i, hop := range hops {
		if err := r.hop(ctx, e, hop, a.banner(o)); err != nil {
			r.Close()
			return nil, fmt.Errorf("%s%w", onTheWay(hop.host, i, len(hops)), err)
		}
	}
	return r, nil
}

// hop goes on to another node, by way of where it is.
func (r *reached) hop(ctx context.Context, e *entry, to jumpHost, banner io.Writer) (err error) {
	if to.login == "" {
		if to.login, _, err = splitTarget(to.host, ""); err != nil {
			return err
		}
	}
	if r.target, err = e.Resolve(ctx, to.host, to.port); err != nil {
		return err
	}
	way := e.way(to.login, r.target, banner)
	way.Via, way.Verified = r.Client, func(k ssh.PublicKey) { r.host = k }
	next, err := way.Connect(ctx, e.options)
	if err != nil {
		return err
	}
	if r.Client != nil {
		r.hops = append(r.hops, r.Client)
	}
	r.Client = next
	return nil
}

// onTheWay says that an error is not the target's.
func onTheWay(host string, i, n int) string {
	if i == n-1 {
		return ""
	}
	return fmt.Sprintf("on the way, at %.128s: ", host)
}

func (a *app) banner(o sshOptions) io.Writer {
	if o.quiet {
		return io.Discard
	}
	return a.Stderr
}

// use forwards what is asked for, and runs the session, or none.
func (a *app) use(ctx context.Context, o sshOptions, node *reached, s client.SSHSession) (int, error) {
	forwards, err := a.forward(ctx, o, node, &s)
	if err != nil {
		return 0, err
	}
	defer forwards.Close()
	if o.noCommand {
		return 0, s.Hold(ctx, node.Client)
	}
	status, err := s.Run(ctx, node.Client)
	if err == nil {
		// As ssh: what is forwarded may be somebody's who has not finished.
		if n := forwards.Open(); n > 0 && !o.quiet {
			fmt.Fprintf(a.Stderr, "Waiting for forwarded connections to end: %d\n", n)
		}
		forwards.Wait(ctx)
	}
	return status, err
}

// runSelector runs the command on all nodes that the selector names.
func (a *app) runSelector(ctx context.Context, o sshOptions, login, selector, command string) (int, error) {
	m, err := newMany(o, login, selector, command)
	if err != nil {
		return 0, err
	}
	return a.runMany(ctx, m)
}

func (a *app) session(o sshOptions, command string) client.SSHSession {
	s := client.SSHSession{
		Command: command, Term: a.Getenv("TERM"), Env: o.environment(environmentNames(), a.Getenv),
		Stdin: a.Stdin, Stdout: a.Stdout, Stderr: a.Stderr,
		Alive: o.alive, Escape: o.escape.char(),
	}
	if o.noInput {
		s.Stdin = strings.NewReader("")
	}
	if _, ok := cli.Terminal(a.Stdin); ok && !o.noInput {
		s.Terminal, _ = a.Stdin.(*os.File)
	}
	s.PTY = o.tty == ttyAsked || o.tty == ttyAuto && command == "" && s.Terminal != nil
	return s
}

// environmentNames are the names of this process's variables.
func environmentNames() []string {
	var names []string
	for _, v := range os.Environ() {
		name, _, _ := strings.Cut(v, "=")
		names = append(names, name)
	}
	return names
}
