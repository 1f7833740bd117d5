package node

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
	"time"

	"connectrpc.com/connect"

	"devicetrust/api"
	"devicetrust/api/dtv1/dtv1connect"
	"devicetrust/feed"
)

// control is the way to the control plane. Its client is replaced when the
// node's certificate or the cluster's authorities are.
type control struct {
	address string // host:port
	now     func() time.Time
	// idle is how long a connection that nothing uses stays.
	idle time.Duration

	mu        sync.Mutex
	transport *http.Transport
	client    dtv1connect.NodeServiceClient
	// replaced is closed when client is not the current one any more.
	replaced chan struct{}
}

func newControl(address string, now func() time.Time) (*control, error) {
	if address == "" {
		return nil, api.Refuse(connect.CodeInvalidArgument, "the control plane's address is not known").
			WithHint("Give it with --auth-server=HOST:PORT.")
	}
	if _, _, err := net.SplitHostPort(address); err != nil {
		return nil, api.Refuse(connect.CodeInvalidArgument, "the auth server %q is not HOST:PORT", address)
	}
	return &control{address: address, now: now, idle: idleConnection, replaced: make(chan struct{})}, nil
}

// use replaces the client by one that believes t and shows own, which may be
// nil.
func (c *control) use(t trust, own *tls.Certificate) {
	t.host, _, _ = net.SplitHostPort(c.address) // newControl has looked
	t.now = c.now
	config := t.config()
	if own != nil {
		config.Certificates = []tls.Certificate{*own}
	}
	transport := &http.Transport{
		TLSClientConfig:     config,
		TLSHandshakeTimeout: callTimeout,
		DialContext:         (&net.Dialer{Timeout: callTimeout}).DialContext,
		ForceAttemptHTTP2:   true,
		// The connection that a stream still has when its transport is
		// replaced is idle only afterwards, and then nobody's.
		IdleConnTimeout: c.idle,
		// Follow may be silent for days: its connection is asked.
		HTTP2: &http.HTTP2Config{SendPingTimeout: pingInterval, PingTimeout: pingTimeout},
	}
	client := dtv1connect.NewNodeServiceClient(&http.Client{Transport: transport}, "https://"+c.address,
		connect.WithReadMaxBytes(feed.MaxMessage))
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.transport != nil {
		c.transport.CloseIdleConnections()
	}
	c.transport, c.client = transport, client
	close(c.replaced)
	c.replaced = make(chan struct{})
}

// current gives the client, and a channel that closes when it is replaced.
func (c *control) current() (dtv1connect.NodeServiceClient, <-chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.client, c.replaced
}

func (c *control) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.transport != nil {
		c.transport.CloseIdleConnections()
	}
}

// call makes one unary call with a time limit.
func call[Req, Res any](ctx context.Context, f func(context.Context, *connect.Request[Req]) (*connect.Response[Res], error), req *Req) (*Res, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	res, err := f(ctx, connect.NewRequest(req))
	if err != nil {
		return nil, err
	}
	return res.Msg, nil
}

// checkClock compares the control plane's clock with ours before a token is
// spent. Certificates are judged by our clock, so a wrong one lets expired
// ones in, or nobody.
func (c *control) checkClock(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodHead, "https://"+c.address+"/v1/webapi/find", nil)
	if err != nil {
		return err
	}
	c.mu.Lock()
	client := http.Client{Transport: c.transport}
	c.mu.Unlock()
	res, err := client.Do(req)
	if err != nil {
		return err
	}
	res.Body.Close()
	theirs, err := http.ParseTime(res.Header.Get("Date"))
	if err != nil {
		return nil // a server that does not tell the time cannot be compared with
	}
	return skewed(c.now(), theirs)
}

// skewed refuses clocks that are too far apart.
func skewed(ours, theirs time.Time) error {
	by := ours.Sub(theirs)
	way := "ahead of"
	if by < 0 {
		by, way = -by, "behind"
	}
	if by <= maxSkew {
		return nil
	}
	return api.Refuse(connect.CodeFailedPrecondition, "this machine's clock is %s %s the control plane's", by.Round(time.Second), way).
		WithHint("Set the clock (timedatectl set-ntp true) and start again.")
}

// explain puts what went wrong on the way to the control plane into words.
func (c *control) explain(what string, err error) error {
	var own *api.Refusal
	if errors.As(err, &own) {
		return wrap(what, own)
	}
	if wire, ok := errors.AsType[*connect.Error](err); ok && connect.IsWireError(wire) {
		if r, ok := errors.AsType[*api.Refusal](api.FromWire(err)); ok {
			return wrap(what, r)
		}
	}
	reach := api.Refuse(connect.CodeUnavailable, "%s: cannot reach the control plane at %s: %v", what, c.address, root(err)).
		WithHint("Check --auth-server, and that dtauthd runs and can be reached from here.")
	return reach
}

func wrap(what string, r *api.Refusal) error {
	w := *r
	w.Message = fmt.Sprintf("%s: %s", what, r.Message)
	return &w
}

// root is the innermost error: "connection refused" and not the way to it.
func root(err error) error {
	if dns, ok := errors.AsType[*net.DNSError](err); ok {
		return dns
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return errors.New("no answer in time")
	}
	for {
		next := errors.Unwrap(err)
		if next == nil {
			return err
		}
		err = next
	}
}
