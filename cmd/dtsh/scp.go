package main

import (
	"context"
	"runtime"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/crypto/ssh"

	"devicetrust/client"
	"devicetrust/client/files"
	"devicetrust/cmd/internal/cli"
)

type scpFlags struct {
	recursive, preserve, quiet bool
	port                       portFlag
}

func (a *app) scpCommand() *cobra.Command {
	var f scpFlags
	c := &cobra.Command{
		Use:   "scp [FLAGS] SOURCE… TARGET",
		Short: "Copy files to, from and between servers",
		Long: `Copy files and directories over SFTP. A SOURCE or TARGET on a server is
[LOGIN@]NODE:PATH, where NODE is as for dtsh ssh, and in brackets where it has a
colon itself: [HOST:PORT]:PATH. A PATH that does not begin with / is in the
login's home; patterns (* ? [) in it are the server's files. A name here that has
a colon is written ./NAME. From server to server, the files pass this machine.

Symbolic links are followed. What is neither a file nor a directory is not copied.
Where something cannot be copied, the rest is, and the exit status is 1.`,
		Example: `  dtsh scp backup.tar root@server-1:/var/tmp/
  dtsh scp -r -p root@server-1:/etc/nginx .
  dtsh scp 'root@server-1:/var/log/*.log' logs/
  dtsh scp root@server-1:data root@server-2:`,
		Args:                  cobra.MinimumNArgs(2),
		DisableFlagsInUseLine: true,
		RunE: func(c *cobra.Command, args []string) error {
			var operands []operand
			remote := false
			for _, text := range args {
				o, err := parseOperand(text)
				if err != nil {
					return err
				}
				remote = remote || o.host != ""
				operands = append(operands, o)
			}
			if !remote {
				return cli.Usagef("all of these are on this machine: want [LOGIN@]NODE:PATH for one")
			}
			return a.runSCP(c.Context(), f, operands)
		},
	}
	c.Flags().BoolVarP(&f.recursive, "recursive", "r", false, "copy directories, with what is in them")
	c.Flags().BoolVarP(&f.preserve, "preserve", "p", false, "keep modes and the times of the last change")
	c.Flags().BoolVarP(&f.quiet, "quiet", "q", false, "show no progress")
	c.Flags().VarP(&f.port, "port", "P", "port of the servers")
	return c
}

// portFlag is empty for each node's own.
type portFlag string

func (f *portFlag) String() string { return string(*f) }
func (f *portFlag) Type() string   { return "PORT" }
func (f *portFlag) Set(text string) error {
	port, err := parsePort(text)
	*f = portFlag(port)
	return err
}

// operand is a source or a target.
type operand struct {
	// login and host are empty on this machine.
	login, host string
	path        string
}

// parseOperand tells servers from files as scp does: what is before the first
// colon is a server, unless there is a slash in it or nothing at all.
func parseOperand(text string) (operand, error) {
	at := colonOf(text)
	if at <= 0 || runtime.GOOS == "windows" && at == 1 { // C:
		if text == "" {
			return operand{}, cli.Usagef("an empty word names no file")
		}
		return operand{path: text}, nil
	}
	var o operand
	var err error
	if o.login, o.host, err = splitTarget(text[:at], ""); err != nil {
		return operand{}, err
	}
	if inner, ok := strings.CutPrefix(o.host, "["); ok {
		o.host = strings.TrimSuffix(inner, "]")
	}
	if o.host == "" {
		return operand{}, cli.Usagef("no node is named: want LOGIN@NODE:PATH")
	}
	o.path, err = files.Path(text[at+1:])
	return o, err
}

// colonOf finds the colon between server and path; -1 where there is none. In
// brackets there may be others.
func colonOf(text string) int {
	host := text
	if i := strings.Index(text, "@["); i >= 0 && !strings.ContainsAny(text[:i], ":/") {
		host = text[i+1:]
	}
	if strings.HasPrefix(host, "[") {
		if i := strings.Index(text, "]:"); i >= 0 && !strings.Contains(text[:i], "/") {
			return i + 1
		}
	}
	i := strings.IndexByte(text, ':')
	if slash := strings.IndexByte(text, '/'); slash >= 0 && slash < i {
		return -1
	}
	return i
}

func (a *app) runSCP(ctx context.Context, f scpFlags, operands []operand) error {
	ctx, end := context.WithCancel(ctx)
	defer end()
	t, err := again(ctx, a, func() (*transfer, error) { return a.startTransfer(ctx, f, operands) })
	if err != nil {
		return err
	}
	defer t.close()
	p := progress{out: a.Stderr, now: a.Now}
	failed := false
	c := files.Copy{Recursive: f.recursive, Preserve: f.preserve, Failed: func(err error) {
		failed = true
		p.end()
		a.PrintError(err)
	}}
	if _, ok := cli.Terminal(a.Stderr); ok && !f.quiet {
		c.Progress = p.show
	}
	err = c.Run(ctx, t.places[:len(t.places)-1], t.places[len(t.places)-1])
	p.end()
	if err == nil && failed {
		return &cli.ExitError{Status: 1} // each has been told
	}
	return err
}

// transfer holds the connections of one command: one for each login on a node.
type transfer struct {
	*entry
	app   *app
	flags scpFlags
	open  map[string]*files.Remote
	conns []*ssh.Client
	// places of the operands, in their order.
	places []files.Place
}

// startTransfer connects to all nodes of the operands; close what it returns.
func (a *app) startTransfer(ctx context.Context, f scpFlags, operands []operand) (*transfer, error) {
	e, err := a.enter()
	if err != nil {
		return nil, err
	}
	t := &transfer{entry: e, app: a, flags: f, open: map[string]*files.Remote{}}
	for _, o := range operands {
		p, err := t.place(ctx, o)
		if err != nil {
			t.close()
			return nil, err
		}
		t.places = append(t.places, p)
	}
	return t, nil
}

func (t *transfer) place(ctx context.Context, o operand) (files.Place, error) {
	if o.host == "" {
		return files.Place{Tree: files.Local{}, Path: o.path}, nil
	}
	target, err := t.Resolve(ctx, o.host, string(t.flags.port))
	if err != nil {
		return files.Place{}, err
	}
	key := o.login + "@" + target.Addresses[0] // however the node was named
	if r := t.open[key]; r != nil {
		return files.Place{Tree: r, Path: o.path}, nil
	}
	r, err := t.connect(ctx, o, target)
	if err != nil {
		return files.Place{}, err
	}
	t.open[key] = r
	return files.Place{Tree: r, Path: o.path}, nil
}

func (t *transfer) connect(ctx context.Context, o operand, target client.Target) (*files.Remote, error) {
	conn, err := t.into(ctx, o.login, target, t.app.Stderr)
	if err != nil {
		return nil, err
	}
	t.conns = append(t.conns, conn)
	r, w, err := client.Subsystem(ctx, conn, "sftp")
	if err != nil {
		return nil, err
	}
	return files.NewRemote(o.host, r, w)
}

func (t *transfer) close() {
	for _, r := range t.open {
		_ = r.Close() // all has been written, or the error told
	}
	for _, c := range t.conns {
		_ = c.Close()
	}
	t.Close()
}
