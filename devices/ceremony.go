package devices

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"connectrpc.com/connect"

	"devicetrust/api"
	"devicetrust/audit"
	"devicetrust/audit/event"
)

// detailed is a refusal with what only the audit record says in full.
type detailed struct {
	*api.Refusal
	detail error
}

func (d *detailed) Error() string { return fmt.Sprintf("%s: %v", d.Message, d.detail) }

// Unwrap gives the edge the refusal, which is all that it shows.
func (d *detailed) Unwrap() error { return d.Refusal }

// withDetail keeps err for the record.
func withDetail(r *api.Refusal, err error) error { return &detailed{r, err} }

// refusalOf is the refusal in err; nil where there is none.
func refusalOf(err error) *api.Refusal {
	r, _ := errors.AsType[*api.Refusal](err)
	return r
}

// recordFailure records that cause ended something, unless that stands in the
// record already, and gives it back. Where it cannot be recorded the error is
// about that, and cause only its text: a refusal within it would be all that the
// edge tells and logs.
func (i *Inventory) recordFailure(ctx context.Context, cause error, e event.Event) error {
	if audit.IsRecorded(cause) {
		return cause
	}
	if err := i.log.RecordAlone(ctx, e); err != nil {
		return fmt.Errorf("devices: a failure could not be recorded: %w; it was: %v", err, cause) //nolint:errorlint // see above
	}
	return audit.Recorded(cause)
}

// receive waits for the other side's next message until ctx ends. The
// goroutine that still waits then ends with the stream, which its owner closes
// when the ceremony returns.
func receive[T any](ctx context.Context, next func() (T, error)) (T, error) {
	type result struct {
		msg T
		err error
	}
	got := make(chan result, 1)
	go func() {
		// A panic here is in no handler, and would be the server's end.
		msg, err := guard(next)
		got <- result{msg, err}
	}()
	var none T
	select {
	case r := <-got:
		if errors.Is(r.err, io.EOF) {
			return none, api.Refuse(connect.CodeInvalidArgument, "the device ended the ceremony before it was over")
		}
		return r.msg, r.err
	case <-ctx.Done():
		if errors.Is(ctx.Err(), context.DeadlineExceeded) {
			return none, api.Refuse(connect.CodeDeadlineExceeded, "the device did not answer within %v", ceremonyTimeout).
				WithHint("Try again; if it stays so, the TPM hangs: restart the machine")
		}
		return none, api.Refuse(connect.CodeCanceled, "the device left before the ceremony was over")
	}
}

// guard runs a check of what came off the wire. The parsers under it have had
// panics that a crafted message could reach; one ends the ceremony, not the
// server.
func guard[T any](check func() (T, error)) (result T, err error) {
	defer func() {
		if p := recover(); p != nil {
			var none T
			result, err = none, withDetail(errMalformed, fmt.Errorf("panic: %v", p))
		}
	}()
	return check()
}

var errMalformed = api.Refuse(connect.CodeInvalidArgument, "the device's attestation is malformed")

// seats bounds the ceremonies that go on at the same time.
type seats struct {
	mu    sync.Mutex
	taken map[string]int // by user; guarded by mu
	total int            // guarded by mu
}

func newSeats() *seats { return &seats{taken: map[string]int{}} }

// take gives user a seat until leave is called.
func (s *seats) take(user string) (leave func(), err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.total >= maxCeremonies || s.taken[user] >= maxPerUser {
		return nil, api.Refuse(connect.CodeResourceExhausted, "too many device ceremonies at the same time").
			WithHint("Try again in a minute")
	}
	s.total++
	s.taken[user]++
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.total--
		if s.taken[user]--; s.taken[user] == 0 {
			delete(s.taken, user)
		}
	}, nil
}
