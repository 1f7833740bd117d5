package main

import (
	"context"
	"io"
	"time"

	"golang.org/x/crypto/ssh"

	"devicetrust/client"
)

// entry is what one command needs to come into nodes.
type entry struct {
	*client.Conn
	creds       client.Credentials
	authorities []ssh.PublicKey
	options     client.Options
	// timeout of each connection to a node; zero is the usual one.
	timeout time.Duration
}

// enter reads the login once; close what it returns.
func (a *app) enter() (*entry, error) {
	p, conn, err := a.connect()
	if err != nil {
		return nil, err
	}
	e := &entry{Conn: conn, options: a.options()}
	if e.creds, err = p.Credentials(); err == nil {
		e.authorities, err = p.HostAuthorities()
	}
	if err != nil {
		conn.Close()
		return nil, err
	}
	return e, nil
}

// way is the one into a node.
func (e *entry) way(login string, target client.Target, banner io.Writer) client.SSHLogin {
	return client.SSHLogin{
		Login: login, Target: target, Credentials: e.creds, Authorities: e.authorities, Banner: banner, Timeout: e.timeout,
	}
}

// into connects to one node; close what it returns.
func (e *entry) into(ctx context.Context, login string, target client.Target, banner io.Writer) (*ssh.Client, error) {
	return e.way(login, target, banner).Connect(ctx, e.options)
}
