package devices

import (
	"context"
	"errors"
	"io"
	"testing"
	"testing/synctest"
	"time"

	"connectrpc.com/connect"
)

func TestACeremonyDoesNotWaitForEver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		silent := make(chan struct{})
		defer close(silent)
		next := func() (int, error) { <-silent; return 0, io.EOF }

		ctx, cancel := context.WithTimeout(t.Context(), ceremonyTimeout)
		defer cancel()
		start := time.Now()
		_, err := receive(ctx, next)
		wantCode(t, err, connect.CodeDeadlineExceeded, "did not answer within 1m0s")
		if waited := time.Since(start); waited != ceremonyTimeout {
			t.Errorf("waited %v", waited)
		}

		left, leave := context.WithCancel(t.Context())
		leave()
		_, err = receive(left, next)
		wantCode(t, err, connect.CodeCanceled, "left before")
	})
}

func TestACeremonyThatEndsEarlySaysSo(t *testing.T) {
	_, err := receive(t.Context(), func() (int, error) { return 0, io.EOF })
	wantRefusal(t, err, "ended the ceremony")
	broken := errors.New("broken")
	if _, err := receive(t.Context(), func() (int, error) { return 0, broken }); !errors.Is(err, broken) {
		t.Errorf("got %v", err)
	}
}

func TestAPanicOnTheStreamEndsTheCeremonyOnly(t *testing.T) {
	_, err := receive(t.Context(), func() (int, error) { panic("what no parser expects") })
	wantRefusal(t, err, "malformed")
}
