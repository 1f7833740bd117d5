package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"

	"connectrpc.com/connect"
	"golang.org/x/crypto/ssh"

	"devicetrust/api"
)

// ErrRunning is why a socket cannot be listened on: an agent serves it.
var ErrRunning = api.Refuse(connect.CodeAlreadyExists, "an agent is already running for this socket").
	WithHint("Stop it with: dtsh agent --kill")

// errForeign: keys would be given to somebody else.
var errForeign = api.Refuse(connect.CodeFailedPrecondition, "another account serves it")

// DialOwn is Dial for an agent that this account runs, or root: where a socket's
// place is known beforehand, as in /tmp, another one can be there first.
func DialOwn(ctx context.Context, path string) (net.Conn, error) {
	c, err := Dial(ctx, path)
	if err != nil {
		return nil, err
	}
	if !ownedByUs(c) {
		_ = c.Close()
		return nil, errForeign
	}
	return c, nil
}

// Running tells whether an agent of ours serves the socket at path.
func Running(ctx context.Context, path string) bool {
	c, err := DialOwn(ctx, path)
	if err != nil {
		return false
	}
	_ = c.Close()
	return true
}

// Stop asks the agent at path to end, and returns when it has let go of the
// connection.
func Stop(ctx context.Context, path string) error {
	c, err := DialOwn(ctx, path)
	if err != nil {
		return api.Refuse(connect.CodeNotFound, "no agent is running for %q", path)
	}
	defer c.Close()
	defer context.AfterFunc(ctx, func() { _ = c.Close() })()
	if err := writeMessage(c, appendString([]byte{msgExtension}, extStop)); err != nil {
		return fmt.Errorf("stopping the agent: %w", err)
	}
	// It may hang up before it answers.
	if answer, err := readMessage(c); err == nil && answer[0] != msgSuccess {
		return api.Refuse(connect.CodeFailedPrecondition, "what serves %q is not an agent of dtsh", path)
	}
	_, err = io.Copy(io.Discard, c)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return ignoreReset(err)
}

// ignoreReset: a connection that was cut has ended as well as one that was
// closed.
func ignoreReset(err error) error {
	if _, ok := errors.AsType[*net.OpError](err); ok {
		return nil
	}
	return err
}

// DialForwarded is Dial for another machine, which will speak over the connection:
// that with the name and the host key, which is nil where it is not known. An
// agent that is not to be ours may not know what that is; it has nothing to hold
// its keys back by, and the person said which it is.
func DialForwarded(ctx context.Context, path, name string, host ssh.PublicKey, ours bool) (net.Conn, error) {
	dial := Dial
	if ours {
		dial = DialOwn
	}
	c, err := dial(ctx, path)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { _ = c.Close() })
	err = markForwarded(c, name, host)
	if !ours && errors.Is(err, errUnmarked) {
		err = nil
	}
	if !stop() && err == nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		_ = c.Close()
		return nil, err
	}
	return c, nil
}

var errUnmarked = api.Refuse(connect.CodeFailedPrecondition, "it does not serve this node")

// markForwarded tells the agent behind c, which is new, that another machine will
// speak over it. It stands in for session-bind@openssh.com, which needs what the
// handshake of x/crypto leaves nowhere: the host's signature.
func markForwarded(c net.Conn, name string, host ssh.PublicKey) error {
	msg := appendString(appendString([]byte{msgExtension}, extForwarded), name)
	if host != nil {
		msg = appendString(msg, host.Marshal())
	}
	err := writeMessage(c, msg)
	var answer []byte
	if err == nil {
		answer, err = readMessage(c) // and nothing behind it
	}
	switch {
	case err != nil:
		return fmt.Errorf("it does not answer: %w", err)
	case answer[0] != msgSuccess:
		return errUnmarked
	}
	return nil
}
