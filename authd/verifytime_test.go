package authd

import (
	"log/slog"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"devicetrust/api/dtv1/dtv1connect"
)

// The record grows, and with it the time that reading all of it takes.
func TestTheVerificationOfTheRecordHasMinutes(t *testing.T) {
	const procedure = dtv1connect.AdminServiceVerifyAuditProcedure
	now := time.Now()
	s := &Server{now: func() time.Time { return now }, log: slog.New(slog.DiscardHandler)}
	w := &answering{ResponseRecorder: httptest.NewRecorder()}
	s.withBounds(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})).ServeHTTP(w, httptest.NewRequest(http.MethodPost, procedure, nil))
	if got := w.write.Sub(now); got < verifyTimeout {
		t.Errorf("its answer is awaited for %v, want %v", got, verifyTimeout)
	}
	if unaryLimit(procedure) != verifyTimeout || unaryLimit(dtv1connect.LoginServiceLoginProcedure) != unaryTimeout {
		t.Errorf("it may take %v, a login %v", unaryLimit(procedure), unaryLimit(dtv1connect.LoginServiceLoginProcedure))
	}
}
