package agent

import (
	"context"
	"encoding/binary"
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

// MarkForwarded tells the agent behind c, which is new, that another machine will
// speak over it: that with the name and the host key, which may be nil where it is
// not known.
// Who pipes a connection of agent forwarding does so first, and does not pipe it
// where this fails. An agent that is not ours refuses it.
func MarkForwarded(c net.Conn, name string, host ssh.PublicKey) error {
	msg := appendString(appendString([]byte{msgExtension}, extForwarded), name)
	if host != nil {
		msg = appendString(msg, host.Marshal())
	}
	if err := writeMessage(c, msg); err != nil {
		return fmt.Errorf("telling the agent of a forwarded connection: %w", err)
	}
	// Byte by byte: what follows belongs to whoever pipes.
	var answer [5]byte
	if _, err := io.ReadFull(c, answer[:]); err != nil {
		return fmt.Errorf("telling the agent of a forwarded connection: %w", err)
	}
	if binary.BigEndian.Uint32(answer[:]) != 1 || answer[4] != msgSuccess {
		return api.Refuse(connect.CodeFailedPrecondition, "the agent does not know what may be done for another machine")
	}
	return nil
}
