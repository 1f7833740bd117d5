package forward

import (
	"context"
	"errors"
	"io"
	"sync"

	"golang.org/x/crypto/ssh"
)

// socket is a connection that can be ended one way.
type socket interface {
	io.ReadWriteCloser
	CloseWrite() error
}

// carry carries bytes both ways until each has come to its end, which is passed
// on (RFC 4254 section 5.3), or one breaks, or ctx ends. Both are closed then.
func carry(ctx context.Context, channel ssh.Channel, requests <-chan *ssh.Request, s socket) {
	stop := context.AfterFunc(ctx, func() {
		s.Close()
		_ = channel.Close()
	})
	defer stop()
	var in, closed sync.WaitGroup
	in.Go(func() {
		_, err := io.CopyBuffer(onlyWriter{s}, channel, make([]byte, copyBuffer))
		_ = s.CloseWrite()
		if err != nil { // nobody takes it any more
			_ = channel.Close()
		}
	})
	closed.Go(func() {
		ssh.DiscardRequests(requests) // until the node has closed the channel
		in.Wait()                     // what came before
		s.Close()
	})
	_, err := io.CopyBuffer(onlyWriter{channel}, onlyReader{s}, make([]byte, copyBuffer))
	switch {
	case err == nil:
		_ = channel.CloseWrite()
		in.Wait()
	case !errors.Is(err, io.EOF): // that is a channel that the node has closed
		s.Close()
	}
	_ = channel.Close()
	closed.Wait()
	s.Close()
}

// onlyWriter and onlyReader keep io.Copy to its buffer.
type onlyWriter struct{ io.Writer }
type onlyReader struct{ io.Reader }
