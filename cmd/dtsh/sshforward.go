package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"

	"connectrpc.com/connect"

	"devicetrust/api"
	"devicetrust/client"
	"devicetrust/client/agent"
	"devicetrust/client/forward"
	"devicetrust/cmd/internal/cli"
)

// forward begins what is asked for. Where something of it cannot be, the
// person is told, and the session is without it, unless it is to be all or
// nothing.
func (a *app) forward(ctx context.Context, o sshOptions, node *reached, s *client.SSHSession) (*forward.Forwarder, error) {
	say := a.sayer(o, s)
	warn := func(err error) {
		message, hint := cli.Explain(err)
		say("WARNING: " + message)
		if hint != "" {
			say(hint)
		}
	}
	f := forward.New(node.Client, forward.Options{
		Listening: o.listen, Log: a.Log(),
		Say: func(line string) { say("WARNING: " + line) },
	})
	s.Forwarded = f.List
	for _, spec := range o.forwards {
		port, err := f.Start(ctx, spec)
		switch {
		case ctx.Err() != nil:
			f.Close()
			return nil, context.Cause(ctx)
		case err != nil && o.mustForward:
			f.Close()
			return nil, whyNoForward(node.creds, err)
		case err != nil:
			warn(whyNoForward(node.creds, err))
		case spec.Remote && spec.Listen.Path == "" && spec.Listen.Port == 0:
			say(fmt.Sprintf("Allocated port %d for remote forward to %s", port, spec.Target()))
		}
	}
	if o.agent {
		if err := a.forwardAgent(ctx, o, node, f); err != nil {
			warn(fmt.Errorf("the agent is not forwarded: %w", err))
		} else {
			s.ForwardAgent = true
		}
	}
	return f, nil
}

// sayer tells the person a line at a time, also while their terminal is raw.
func (a *app) sayer(o sshOptions, s *client.SSHSession) func(string) {
	if o.quiet {
		return func(string) {}
	}
	end := "\n"
	if s.PTY && s.Terminal != nil {
		end = "\r\n"
	}
	return func(line string) { fmt.Fprint(a.Stderr, cli.Safe(line)+end) }
}

const onceAllowed = "Log in again, once a role allows it: dtsh login"

// whyNoForward says what the node does not where it refuses to listen.
func whyNoForward(creds client.Credentials, err error) error {
	r := api.Refuse(connect.CodeFailedPrecondition, "%v", err)
	if errors.Is(err, forward.ErrRefused) && !creds.Identity.Permit.PortForwarding {
		r = api.Refuse(connect.CodePermissionDenied, "%v: the certificate does not permit port forwarding", err).
			WithHint(onceAllowed)
	}
	return r
}

// forwardAgent lets the node use the person's agent: the one that is named,
// else dtsh's where it runs, else the one at SSH_AUTH_SOCK. A certificate that
// does not permit it keeps each of them here: a node might not.
func (a *app) forwardAgent(ctx context.Context, o sshOptions, node *reached, f *forward.Forwarder) error {
	if !node.creds.Identity.Permit.AgentForwarding {
		return api.Refuse(connect.CodePermissionDenied, "the certificate does not permit agent forwarding").WithHint(onceAllowed)
	}
	own, err := a.ownAgent()
	if err != nil {
		return err
	}
	path := o.agentSocket
	if path == "" && agent.Running(ctx, own) {
		path = own
	}
	if path == "" {
		path = a.Getenv("SSH_AUTH_SOCK")
	}
	if path == "" {
		return errors.New("there is none: neither dtsh agent runs, nor does SSH_AUTH_SOCK name one")
	}
	ours := filepath.Clean(path) == own
	return f.Agent(func(ctx context.Context) (net.Conn, error) {
		return agent.DialForwarded(ctx, path, node.target.Name, node.host, ours)
	})
}

// ownAgent is where dtsh's agent listens, whether it runs or not.
func (a *app) ownAgent() (string, error) {
	home, err := a.home()
	if err != nil {
		return "", err
	}
	return a.agentSocket(home), nil
}
