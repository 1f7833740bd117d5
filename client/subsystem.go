package client

import (
	"context"
	"errors"
	"io"

	"connectrpc.com/connect"
	"golang.org/x/crypto/ssh"

	"devicetrust/api"
)

// Subsystem starts a subsystem of the node's, such as sftp, on a connection of
// its own, which ends with ctx and where the node falls silent. What the node
// has to say beside it is dropped.
func Subsystem(ctx context.Context, client *ssh.Client, name string) (io.Reader, io.WriteCloser, error) {
	ctx, lost := context.WithCancelCause(ctx)
	context.AfterFunc(ctx, func() { _ = client.Close() })
	go func() {
		lost(client.Wait()) // else the goroutines would outlive it
	}()
	guarded(lost, func() { keepAlive(ctx, client, Alive{}, lost) })
	sess, err := client.NewSession()
	if open, ok := errors.AsType[*ssh.OpenChannelError](err); ok {
		return nil, nil, api.Refuse(connect.CodePermissionDenied, "the node refused a session: %s", strippedLine(open.Message))
	}
	if err != nil {
		return nil, nil, errEndedEarly
	}
	in, err := sess.StdinPipe()
	if err != nil {
		return nil, nil, err
	}
	out, err := sess.StdoutPipe()
	if err != nil {
		return nil, nil, err
	}
	sess.Stderr = io.Discard
	if err := sess.RequestSubsystem(name); hasEnded(err) {
		return nil, nil, errEndedEarly
	} else if err != nil {
		return nil, nil, api.Refuse(connect.CodePermissionDenied, "the node refused its %s", name).
			WithHint("Your roles may not allow it, or the server may not have it.")
	}
	return out, in, nil
}
