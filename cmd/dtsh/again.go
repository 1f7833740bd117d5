package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"connectrpc.com/connect"

	"devicetrust/api"
	"devicetrust/client"
	"devicetrust/cmd/internal/cli"
)

// again calls prepare, and once more after another login where the login is
// over and the person at the terminal wants one. What prepare does must be fit
// to be done twice.
func again[T any](ctx context.Context, a *app, prepare func() (T, error)) (T, error) {
	got, err := prepare()
	if err == nil || a.batch || !a.Interactive() || !isOver(err) {
		return got, err
	}
	p, noLogin := a.login()
	if noLogin != nil {
		return got, err // nobody's, or another person's, which stays
	}
	if asked := a.askLogin(ctx, p, err); asked != nil {
		return got, asked
	}
	return prepare()
}

// isOver: the login has expired, or the server has ended it.
func isOver(err error) bool {
	r, ok := errors.AsType[*api.Refusal](err)
	return ok && r.Code == connect.CodeUnauthenticated
}

// askLogin logs in as the person of p once more, if they want; else it returns
// why. All it says is on stderr: stdout is the command's.
func (a *app) askLogin(ctx context.Context, p *client.Profile, why error) error {
	message, _ := cli.Explain(why)
	fmt.Fprintln(a.Stderr, cli.Safe(message))
	answer, err := a.ReadLine(ctx, fmt.Sprintf("Log in again to %s as %s? [Y/n] ", cli.Safe(p.Proxy), cli.Safe(p.User)))
	if err != nil {
		return err
	}
	switch strings.ToLower(strings.TrimSpace(answer)) {
	case "", "y", "yes":
	default:
		return why
	}
	env, login := *a.Env, *a
	env.Stdout = a.Stderr
	login.Env, login.user, login.proxy = &env, p.User, proxyFlag(p.Proxy)
	return login.runLogin(ctx, false, client.KeyAuto)
}
