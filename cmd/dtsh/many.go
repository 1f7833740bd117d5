package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"connectrpc.com/connect"

	"devicetrust/api"
	"devicetrust/client"
	"devicetrust/client/fanout"
	"devicetrust/cmd/internal/cli"
	"devicetrust/resource"
)

// many is a command for all nodes with some labels.
type many struct {
	options        sshOptions
	login, command string
	labels         map[string]string
}

// isSelector tells LABEL=VALUE,… from a node: no host has a "=" in it.
func isSelector(host string) bool { return strings.Contains(host, "=") }

// newMany reads what a person asks of many nodes. What only one can have is
// refused.
func newMany(o sshOptions, login, selector, command string) (many, error) {
	m := many{options: o, login: login, command: command}
	var err error
	if m.labels, err = client.ParseLabels(strings.Split(selector, ",")); err != nil {
		return many{}, cli.Usagef("%v", err)
	}
	if command == "" {
		return many{}, cli.Usagef("many servers at a time run a command, and no shell: want one after %q", selector)
	}
	if o.parallel < 1 || o.parallel > fanout.MaxParallel {
		return many{}, cli.Usagef("--parallel is %d: want 1 to %d", o.parallel, fanout.MaxParallel)
	}
	for what, asked := range map[string]bool{
		"a terminal (-t)": o.tty == ttyAsked, "-N": o.noCommand, "forwarding (-L, -R, -D)": len(o.forwards) > 0,
		"an agent (-A)": o.agent, "nodes on the way (-J)": len(o.jump) > 0,
	} {
		if asked {
			return many{}, cli.Usagef("%s is not for many servers at a time: name one", what)
		}
	}
	return m, nil
}

// outcome is how it went on one node.
type outcome struct {
	name   string
	status int
	err    error
}

// runMany runs the command on all the nodes, and returns 0 where all of them
// did, else the highest status, or 255 where there was no session with one.
func (a *app) runMany(ctx context.Context, m many) (int, error) {
	var nodes []resource.Node
	e, err := again(ctx, a, func() (e *entry, err error) {
		e, nodes, err = a.enterMany(ctx, m)
		return e, err
	})
	if err != nil {
		return 0, err
	}
	defer e.Close()
	ctx, end := context.WithCancelCause(ctx)
	defer end(nil)
	var screen fanout.Screen
	results := make([]outcome, len(nodes))
	fanout.Each(ctx, len(nodes), m.options.parallel, func(i int) {
		r := &results[i]
		r.name = nameAmong(nodes, i)
		out, errs := a.lines(&screen, a.Stdout, i, r.name), a.lines(&screen, a.Stderr, i, r.name)
		r.status, r.err = a.runOne(ctx, e, m, nodes[i], out, errs)
		if ctx.Err() != nil {
			return // a line may be waiting for its reader
		}
		if err := errors.Join(out.Close(), errs.Close()); err != nil && r.err == nil {
			r.err = err
		}
		if errors.Is(r.err, client.ErrNoReader) {
			end(r.err)
		}
	})
	if ctx.Err() != nil {
		return 0, context.Cause(ctx)
	}
	return a.summary(results), nil
}

// enterMany gives the nodes that have the labels, and the way into them.
func (a *app) enterMany(ctx context.Context, m many) (*entry, []resource.Node, error) {
	e, err := a.enter()
	if err != nil {
		return nil, nil, err
	}
	e.timeout = m.options.connectTimeout
	nodes, err := e.Nodes(ctx, m.labels)
	if err == nil && len(nodes) == 0 {
		err = api.Refuse(connect.CodeNotFound, "no node with the labels %.256q is known to you", client.LabelText(m.labels)).
			WithHint("List the nodes with: dtsh ls")
	}
	if err != nil {
		e.Close()
		return nil, nil, err
	}
	return e, nodes, nil
}

func (a *app) runOne(ctx context.Context, e *entry, m many, n resource.Node, out, errs io.Writer) (int, error) {
	target, err := client.TargetOf(n, m.options.port)
	if err != nil {
		return 0, err
	}
	banner := errs
	if m.options.quiet {
		banner = io.Discard
	}
	conn, err := e.into(ctx, m.login, target, banner)
	if err != nil {
		return 0, err
	}
	defer conn.Close() //nolint:errcheck // the session has ended
	s := a.session(m.options, m.command)
	// Nobody can type to many at a time.
	s.PTY, s.Terminal, s.Escape, s.Stdin = false, nil, 0, strings.NewReader("")
	s.Stdout, s.Stderr = out, errs
	status, err := s.Run(ctx, conn)
	return e.creds.ExplainEnd(status, err, a.Now())
}

// nameAmong is the node's name, with its address where others have the name.
func nameAmong(nodes []resource.Node, i int) string {
	n := nodes[i].Spec
	for j, other := range nodes {
		if j != i && strings.EqualFold(other.Spec.Hostname, n.Hostname) {
			return cli.Safe(n.Hostname + " (" + n.Addr + ")")
		}
	}
	return cli.Safe(n.Hostname)
}

// lines are those of one node on one stream.
func (a *app) lines(s *fanout.Screen, to io.Writer, i int, name string) io.WriteCloser {
	_, terminal := cli.Terminal(to)
	prefix := name + ": "
	if terminal && a.Getenv("NO_COLOR") == "" {
		colours := [...]int{36, 32, 33, 35, 34, 31} // of ECMA-48, and no black nor white
		prefix = fmt.Sprintf("\x1b[%dm%s:\x1b[0m ", colours[i%len(colours)], name)
	}
	return s.Lines(to, prefix, terminal)
}

// summary tells on stderr how it went, and returns the status.
func (a *app) summary(results []outcome) int {
	status, failed := 0, 0
	for _, r := range results {
		if r.err != nil {
			r.status = statusNoSession
		}
		if r.status != 0 {
			failed++
		}
		status = max(status, r.status)
	}
	fmt.Fprintf(a.Stderr, "%s: %d ok, %d failed\n", counted(len(results), "node"), len(results)-failed, failed)
	var hints []string
	for _, r := range results {
		switch {
		case r.err != nil:
			message, hint := cli.Explain(r.err)
			fmt.Fprintf(a.Stderr, "  %s: %s\n", r.name, cli.Safe(message))
			if hint != "" && !slices.Contains(hints, hint) {
				hints = append(hints, hint)
			}
		case r.status != 0:
			fmt.Fprintf(a.Stderr, "  %s: exit status %d\n", r.name, r.status)
		}
	}
	for _, hint := range hints {
		fmt.Fprintln(a.Stderr, cli.Safe(hint))
	}
	return status
}

// counted is a number of things.
func counted(n int, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return fmt.Sprintf("%d %ss", n, thing)
}
