package authd

import (
	"context"
	"crypto/x509"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"connectrpc.com/connect"

	"devicetrust/api/dtv1"
)

// clock is one that a test can put forward.
type clock struct{ ahead atomic.Int64 }

func (c *clock) now() time.Time          { return time.Now().Add(time.Duration(c.ahead.Load())) }
func (c *clock) forward(d time.Duration) { c.ahead.Add(int64(d)) }

// startWithClock is start with a clock of the test's.
func startWithClock(t *testing.T) (*running, *clock) {
	t.Helper()
	r, c := &running{t: t, dir: dataDir(t), log: &syncBuffer{}}, &clock{}
	ctx, cancel := context.WithCancel(context.Background())
	up, down := make(chan struct{}), make(chan error, 1)
	go func() {
		down <- Run(ctx, Config{
			DataDir: r.dir, ClusterName: "test", Listen: "127.0.0.1:0", DiagListen: "off", Version: "0.0.0",
			Log: slog.New(slog.NewTextHandler(r.log, nil)), Now: c.now,
		}, nil, func(a net.Addr, pins []string) {
			r.addr, r.pins = a.String(), pins
			close(up)
		})
	}()
	select {
	case <-up:
	case err := <-down:
		t.Fatalf("dtauthd did not start: %v", err)
	}
	t.Cleanup(func() {
		cancel()
		if err := <-down; err != nil {
			t.Errorf("dtauthd ended with: %v", err)
		}
		if t.Failed() {
			t.Logf("log:\n%s", r.log)
		}
	})
	r.admin = &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", filepath.Join(r.dir, "admin.sock"))
	}}}
	t.Cleanup(r.admin.CloseIdleConnections)
	res, err := r.adminService().ExportAuthority(t.Context(), connect.NewRequest(&dtv1.ExportAuthorityRequest{Type: "tls"}))
	if err != nil {
		t.Fatal(err)
	}
	r.roots = x509.NewCertPool()
	r.roots.AppendCertsFromPEM([]byte(res.Msg.GetText()))
	return r, c
}
