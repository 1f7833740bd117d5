package client

import (
	"context"
	"errors"
	"net/http"
	"testing"
	"time"

	"connectrpc.com/connect"

	"devicetrust/api/dtv1"
)

// patient tells how long a call that it gets is waited for.
type patient struct{ left time.Duration }

func (p *patient) Do(r *http.Request) (*http.Response, error) {
	if end, ok := r.Context().Deadline(); ok {
		p.left = time.Until(end)
	}
	return nil, errors.New("no answer")
}

func TestTheVerificationOfTheRecordIsWaitedForForMinutes(t *testing.T) {
	p := &patient{}
	s := NewServices(p, "https://there", "there")
	for what, call := range map[string]struct {
		make func(context.Context) error
		want time.Duration
	}{
		"audit verify": {func(ctx context.Context) error {
			_, err := s.Admin.VerifyAudit(ctx, connect.NewRequest(&dtv1.VerifyAuditRequest{}))
			return err
		}, verifyTimeout},
		"status": {func(ctx context.Context) error {
			_, err := s.Admin.Status(ctx, connect.NewRequest(&dtv1.StatusRequest{}))
			return err
		}, callTimeout},
	} {
		if err := call.make(t.Context()); err == nil {
			t.Errorf("%s: no error", what)
		}
		if p.left > call.want || p.left < call.want/2 {
			t.Errorf("%s: waited for %v, want %v", what, p.left, call.want)
		}
	}
}
