package tpm

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"syscall"
	"time"

	"github.com/google/go-tpm/tpm2"
)

// line carries commands to a TPM and its answers back, one at a time.
type line interface {
	// exchange gives up when ctx ends; the line is of no use then.
	exchange(ctx context.Context, command []byte) ([]byte, error)
	Close() error
}

var _ line = (*socket)(nil)

// channel is what go-tpm sends commands through.
type channel struct {
	line line
	// slow, where not nil, is told once in a conversation that an answer takes
	// long.
	slow func()
	// ctx is of the conversation that has its turn, and told whether slow was
	// called in it.
	ctx  context.Context
	told bool
	// broken is why nothing can be sent any more: after a failed exchange the
	// next answer might be that to an older command.
	broken error
}

// begin begins a conversation.
func (c *channel) begin(ctx context.Context) { c.ctx, c.told = ctx, false }

// headerLen of commands and responses: tag, size, code (TPM 2.0 Part 1,
// section 18).
const headerLen = 10

// Send implements transport.TPM.
func (c *channel) Send(command []byte) ([]byte, error) {
	if c.slow != nil && !c.told {
		waiting := time.AfterFunc(slowAfter, c.slow)
		defer func() { c.told = !waiting.Stop() }()
	}
	wait := time.Millisecond
	for attempt := 0; ; attempt++ {
		response, err := c.send(command)
		if err != nil {
			return nil, err
		}
		code := tpm2.TPMRC(binary.BigEndian.Uint32(response[6:]))
		if !isRetry(code) || attempt == maxRetries {
			return response, nil
		}
		select {
		case <-c.ctx.Done():
			return nil, c.ctx.Err()
		case <-time.After(wait):
			wait *= 2
		}
	}
}

// isRetry: the TPM has not begun the command (TPM 2.0 Part 2, section 6.6.3).
func isRetry(code tpm2.TPMRC) bool {
	return code == tpm2.TPMRCRetry || code == tpm2.TPMRCYielded || code == tpm2.TPMRCTesting
}

func (c *channel) send(command []byte) ([]byte, error) {
	if c.broken != nil {
		return nil, c.broken
	}
	ctx, cancel := context.WithTimeout(c.ctx, timeoutOf(command))
	defer cancel()
	response, err := c.line.exchange(ctx, command)
	if err == nil && len(response) < headerLen {
		err = errors.New("the answer is not one of a TPM 2.0")
	}
	if err != nil {
		if errors.Is(c.ctx.Err(), context.Canceled) {
			err = context.Cause(c.ctx) // no fault of the TPM's
		} else if ctx.Err() != nil {
			err = fmt.Errorf("the TPM does not answer: %w", ctx.Err())
		}
		c.broken = err
		return nil, err
	}
	return response, nil
}

func timeoutOf(command []byte) time.Duration {
	switch tpm2.TPMCC(binary.BigEndian.Uint32(command[6:])) {
	case tpm2.TPMCCCreatePrimary, tpm2.TPMCCCreate:
		return keyTimeout
	default:
		return commandTimeout
	}
}

// socket is a command socket such as swtpm's.
type socket struct{ net.Conn }

// dial connects to a command socket. swtpm lets one program wait behind the one
// that it serves, and the system turns others away (EAGAIN): they come again.
func dial(ctx context.Context, network, address string) (line, error) {
	ctx, cancel := context.WithTimeout(ctx, commandTimeout)
	defer cancel()
	d := net.Dialer{Timeout: openTimeout}
	for {
		conn, err := d.DialContext(ctx, network, address)
		if err == nil {
			return &socket{conn}, nil
		}
		if !errors.Is(err, syscall.EAGAIN) {
			return nil, err
		}
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-time.After(queueInterval):
		}
	}
}

func (s *socket) exchange(ctx context.Context, command []byte) ([]byte, error) {
	stop := context.AfterFunc(ctx, func() {
		s.SetDeadline(time.Unix(1, 0)) //nolint:errcheck // a line that is closed has ended already
	})
	response, err := s.roundTrip(command)
	if !stop() {
		return nil, context.Cause(ctx)
	}
	return response, err
}

func (s *socket) roundTrip(command []byte) ([]byte, error) {
	if _, err := s.Write(command); err != nil {
		return nil, err
	}
	header := make([]byte, headerLen)
	if _, err := io.ReadFull(s, header); err != nil {
		return nil, fmt.Errorf("no answer: %w", err)
	}
	size := binary.BigEndian.Uint32(header[2:])
	if size < headerLen || size > maxResponse {
		return nil, fmt.Errorf("the answer is not one of a TPM 2.0: it claims %d bytes", size)
	}
	response := make([]byte, size)
	copy(response, header)
	if _, err := io.ReadFull(s, response[headerLen:]); err != nil {
		return nil, fmt.Errorf("half an answer: %w", err)
	}
	return response, nil
}
