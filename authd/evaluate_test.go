package authd

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"devicetrust/api/dtv1/dtv1connect"
	"devicetrust/store"
)

// A large inventory is evaluated for longer than an answer may take.
func TestAnEvaluationGoesOnWhileItIsFetchedAndDtauthdRuns(t *testing.T) {
	r := start(t)
	r.addUser("alice", "access")
	r.newLaptop("TAG12345").enroll(r.login("alice"))
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}

	db, err := store.Open(t.Context(), "sqlite:"+filepath.Join(r.dir, "dt.db"), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	cfg := Config{DataDir: r.dir, ClusterName: "test", Listen: "127.0.0.1:0", Log: slog.New(slog.DiscardHandler), Now: time.Now}
	if err := cfg.check(); err != nil {
		t.Fatal(err)
	}
	s, err := open(t.Context(), cfg, db, &net.TCPAddr{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.audit.Close()
	stopping, stop := context.WithCancel(t.Context())
	s.stopping = stopping
	h, err := s.handler()
	if err != nil {
		t.Fatal(err)
	}
	evaluate := func() (*answering, string) {
		req := httptest.NewRequest(http.MethodPost, dtv1connect.DeviceServiceEvaluateDevicesProcedure, bytes.NewReader(framed(t, []byte(`{}`))))
		req.Header.Set("Content-Type", "application/connect+json")
		w := &answering{ResponseRecorder: httptest.NewRecorder()}
		h.ServeHTTP(w, req.WithContext(context.WithValue(req.Context(), osUserKey{}, "root")))
		answer, err := io.ReadAll(w.Body)
		if err != nil {
			t.Fatal(err)
		}
		return w, string(answer)
	}
	if w, answer := evaluate(); !strings.Contains(answer, "TAG12345") || !w.read.IsZero() || time.Until(w.write) < takeTimeout {
		t.Errorf("read until %v, written until %v: %s", w.read, w.write, answer)
	}
	stop()
	if _, answer := evaluate(); strings.Contains(answer, "TAG12345") || !strings.Contains(answer, "dtauthd is stopping") {
		t.Errorf("while it stops: %s", answer)
	}
}
