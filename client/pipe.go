package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"syscall"
)

// Dial opens a TCP connection to the target: its addresses are tried one after
// another.
func (t Target) Dial(ctx context.Context, o Options) (net.Conn, error) {
	return SSHLogin{Target: t}.dial(ctx, o)
}

// Pipe copies in to conn and conn to out until conn has no more to give. An end
// of in is passed on, and what conn still has to say is waited for; an end of
// conn is the end of all, as nobody would read what comes in later. It closes
// conn.
func Pipe(ctx context.Context, conn net.Conn, in io.Reader, out io.Writer) error {
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
	go func() {
		// Where this fails, the other direction ends and tells why.
		_, _ = io.Copy(conn, in)
		if half, ok := conn.(interface{ CloseWrite() error }); ok {
			_ = half.CloseWrite()
		}
	}()
	_, err := io.Copy(onlyWriter{out}, onlyReader{conn})
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case errors.Is(err, syscall.EPIPE):
		return ErrNoReader
	case err != nil && !isHangUp(err):
		return fmt.Errorf("the connection broke: %s", networkReason(err))
	}
	return nil
}

// onlyReader and onlyWriter keep io.Copy from handing the copying to the
// kernel, whose errors do not tell which side broke.
type (
	onlyReader struct{ io.Reader }
	onlyWriter struct{ io.Writer }
)
