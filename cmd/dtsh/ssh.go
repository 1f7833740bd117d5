package main

import (
	"context"
	"errors"
	"os"
	"os/user"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"devicetrust/client"
	"devicetrust/cmd/internal/cli"
	"devicetrust/identity"
)

// statusNoSession is ssh(1)'s status where an error occurred.
const statusNoSession = 255

type sshFlags struct {
	login string
	port  uint16
	tty   bool
}

func (a *app) sshCommand() *cobra.Command {
	var f sshFlags
	c := &cobra.Command{
		Use:   "ssh [FLAGS] [LOGIN@]NODE [COMMAND…]",
		Short: "Open a shell or run a command on a server",
		Long: `Open a shell on a server, or run a command. NODE is a name that dtsh ls shows,
or HOST:PORT. What follows it is the command, flags included. The exit status is
the command's, or 255 where there was no session.`,
		Example: `  dtsh ssh root@server-1
  dtsh ssh -l root server-1 uptime
  dtsh ssh -t root@server-1 top`,
		Annotations:       cli.Later("-A", "-N", "-L", "-R", "-D"),
		Args:              cobra.MinimumNArgs(1),
		ValidArgsFunction: cobra.NoFileCompletions,
		// Use has them already, in their place.
		DisableFlagsInUseLine: true,
		RunE: func(c *cobra.Command, args []string) error {
			login, host, err := splitTarget(args[0], f.login)
			if err != nil {
				return err
			}
			status, err := a.runSSH(c.Context(), f, login, host, commandLine(args[1:]))
			if errors.Is(err, client.ErrNoReader) {
				return &cli.ExitError{Status: statusNoSession} // and no word, as ssh
			}
			if err != nil {
				return &cli.ExitError{Status: statusNoSession, Err: err}
			}
			if status != 0 {
				return &cli.ExitError{Status: status}
			}
			return nil
		},
	}
	c.Flags().SetInterspersed(false)
	c.Flags().StringVarP(&f.login, "login", "l", "", "account on the server; without it, your own name here")
	c.Flags().Uint16VarP(&f.port, "port", "p", 0, "port of the server")
	c.Flags().BoolVarP(&f.tty, "tty", "t", false, "give the command a terminal")
	return c
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

func (a *app) runSSH(ctx context.Context, f sshFlags, login, host, command string) (int, error) {
	p, conn, err := a.connect()
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	port := ""
	if f.port != 0 {
		port = strconv.Itoa(int(f.port))
	}
	target, err := conn.Resolve(ctx, host, port)
	if err != nil {
		return 0, err
	}
	creds, err := p.Credentials()
	if err != nil {
		return 0, err
	}
	authorities, err := p.HostAuthorities()
	if err != nil {
		return 0, err
	}
	ssh, err := client.SSHLogin{
		Login: login, Target: target, Credentials: creds, Authorities: authorities, Banner: a.Stderr,
	}.Connect(ctx, a.options())
	if err != nil {
		return 0, err
	}
	defer ssh.Close() //nolint:errcheck // the session has ended
	return a.session(f, command).Run(ctx, ssh)
}

func (a *app) session(f sshFlags, command string) client.SSHSession {
	s := client.SSHSession{
		Command: command, Term: a.Getenv("TERM"),
		Stdin: a.Stdin, Stdout: a.Stdout, Stderr: a.Stderr,
	}
	if _, ok := cli.Terminal(a.Stdin); ok {
		s.Terminal, _ = a.Stdin.(*os.File)
	}
	s.PTY = f.tty || command == "" && s.Terminal != nil
	return s
}
