package client

import (
	"context"
	"errors"
	"time"

	"connectrpc.com/connect"
	"golang.org/x/crypto/ssh"

	"devicetrust/api"
)

// ErrEscaped: the person ended the connection with an escape.
var ErrEscaped = errors.New("the connection was closed")

// Hold keeps a connection on which nothing runs until it ends, or ctx does; it
// never returns nil.
func (s SSHSession) Hold(ctx context.Context, client *ssh.Client) error {
	ctx, lost := context.WithCancelCause(ctx)
	defer lost(nil)
	defer context.AfterFunc(ctx, func() { _ = client.Close() })()
	guarded(lost, func() { keepAlive(ctx, client, s.Alive, lost) })
	_ = client.Wait() // how it ends is of no use to a person
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	return errLost
}

var errLost = api.Refuse(connect.CodeUnavailable, "the connection was lost")

// Statuses of what SIGHUP and SIGKILL ended: what a node does to sessions that
// it ends itself (RFC 4254 section 6.10).
const (
	hungUp = 128 + 1
	killed = 128 + 9
)

// ExplainEnd says of a connection that broke what a person can do about it:
// connect again, or log in again where the certificate has expired meanwhile.
// A session that was hung up then is one that the node did not let go on.
func (c Credentials) ExplainEnd(status int, err error, now time.Time) (int, error) {
	expired := !now.Before(c.ValidUntil())
	if err == nil && expired && (status == hungUp || status == killed) {
		err = errLost
	}
	r, ok := errors.AsType[*api.Refusal](err)
	switch {
	case !ok || r.Code != connect.CodeUnavailable:
		return status, err
	case expired:
		return 0, r.WithHint("The certificate has expired; log in again: dtsh login")
	case r.Hint == "":
		return 0, r.WithHint("Try the same command again to reconnect.")
	default:
		return 0, err
	}
}
