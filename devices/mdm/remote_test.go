package mdm

import (
	"context"
	"encoding/pem"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestWhatPassesIsTriedAgainAndWhatDoesNotIsSaid(t *testing.T) {
	at := newWatch().now.Add(20 * time.Second).Format(http.TimeFormat)
	for _, tt := range []struct {
		name   string
		faults []http.HandlerFunc
		want   string // empty: all is read
		waited []time.Duration
	}{
		{"nothing is wrong", nil, "", nil},
		{"asked to wait for seconds", times(1, status(429, "Retry-After", "7")), "", []time.Duration{7 * time.Second}},
		{"asked to wait until a time", times(1, status(503, "Retry-After", at)), "", []time.Duration{20 * time.Second}},
		{"asked to wait, not how long", times(1, status(429)), "", []time.Duration{time.Second}},
		{"asked to wait for nonsense", times(1, status(429, "Retry-After", "-5")), "", []time.Duration{time.Second}},
		{"asked to wait for hours", times(1, status(429, "Retry-After", "7200")), `answered 429: "an answer of its own\n", and asks to wait for 2h0m0s`, nil},
		{"down for a moment", times(3, status(502)), "", []time.Duration{1e9, 2e9, 4e9}},
		{"down for ever", times(99, status(500)), `Jamf Pro, page 1: `, []time.Duration{1e9, 2e9, 4e9, 8e9, 16e9}},
		{"broken off once", times(1, truncated(`{"totalCount":3,`)), "", []time.Duration{1e9}},
		{"broken off always", times(99, truncated(`{"totalCount":3,`)), "breaks off: unexpected EOF", []time.Duration{1e9, 2e9, 4e9, 8e9, 16e9}},
		// net/http itself repeats the first, on a connection that was used before.
		{"cut off without an answer", times(2, func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }), "", []time.Duration{1e9}},
		{"forbidden", times(1, status(403)), `answered 403: "an answer of its own\n"`, nil},
		{"token refused once", times(1, status(401)), "", nil},
		{"token refused always", times(2, status(401)), "refuses our token, and a new one too (401)", nil},
		{"somewhere else", times(1, status(302, "Location", "https://elsewhere.example/")), "answered 302, a redirection, which is not followed", nil},
		{"our token in the answer", times(1, func(w http.ResponseWriter, r *http.Request) {
			http.Error(w, r.Header.Get("Authorization"), http.StatusForbidden)
		}), "answered 403", nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			v := startVendor(t, jamfToken, newFleet(3).serve)
			v.fail(tt.faults...)
			w := newWatch()
			all, err := read(t.Context(), open(t, jamfConfig(t, v), w.clock()), time.Time{})
			if tt.want != "" {
				wantFailure(t, err, tt.want)
			} else if err != nil || len(all) != 3 {
				t.Errorf("got %d, %v", len(all), err)
			}
			if !slices.Equal(w.waited, tt.waited) {
				t.Errorf("waited %v, want %v", w.waited, tt.waited)
			}
		})
	}
}

func TestATokenThatEndsInTheMiddleIsRenewed(t *testing.T) {
	f := newFleet(3 * pageRecords)
	v := startVendor(t, jamfToken, f.serve)
	f.before = func(_ *fleet, page int) {
		if page == 0 {
			v.expire()
		}
	}
	all, err := read(t.Context(), open(t, jamfConfig(t, v), newWatch().clock()), time.Time{})
	if err != nil || len(all) != 3*pageRecords {
		t.Errorf("got %d, %v", len(all), err)
	}
}

func TestATokenIsUsedUntilShortlyBeforeItsEnd(t *testing.T) {
	f, w := newFleet(3*pageRecords), newWatch()
	v := startVendor(t, jamfToken, f.serve)
	v.expiresIn = 60
	f.before = func(_ *fleet, page int) { w.pass(20 * time.Second) }
	if _, err := read(t.Context(), open(t, jamfConfig(t, v), w.clock()), time.Time{}); err != nil || v.token != 2 {
		t.Errorf("got %v with %d tokens, want 2", err, v.token)
	}
}

func TestAWrongSecretIsSaidAndNotShown(t *testing.T) {
	v := startVendor(t, jamfToken, newFleet(1).serve)
	cfg := jamfConfig(t, v)
	cfg.ClientSecretFile = secretFile(t, testSecret+"-old")
	_, err := read(t.Context(), open(t, cfg, newWatch().clock()), time.Time{})
	wantFailure(t, err, "refuses our credentials (401)")
}

func TestAnAnswerWithoutATokenIsNone(t *testing.T) {
	for _, body := range []string{``, `{}`, `[]`, `{"access_token":""}`, `{"access_token":"a\r\nb"}`, `{"access_token":1}`} {
		server := httptest.NewServer(says("application/json", body))
		cfg := Config{Name: "jamf", Type: "jamf", URL: server.URL, ClientID: testClient, ClientSecretFile: secretFile(t, testSecret)}
		_, err := read(t.Context(), open(t, cfg, newWatch().clock()), time.Time{})
		wantFailure(t, err, "gave no token")
		server.Close()
	}
}

func TestARunThatIsEndedDoesNotWait(t *testing.T) {
	v := startVendor(t, jamfToken, newFleet(1).serve)
	v.fail(times(99, status(503))...)
	ctx, cancel := context.WithCancel(t.Context())
	clock := newWatch().clock()
	clock.Wait = func(ctx context.Context, _ time.Duration) error { cancel(); return ctx.Err() }
	if _, err := read(ctx, open(t, jamfConfig(t, v), clock), time.Time{}); err == nil || err.Error() != "context canceled" {
		t.Errorf("got %v", err)
	}
}

func TestOnlyAServerWithACertificateOfTheListIsAsked(t *testing.T) {
	server := httptest.NewUnstartedServer(says("text/csv", "os_type,asset_tag\nlinux,PF1\n"))
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.StartTLS()
	t.Cleanup(server.Close)
	w := newWatch()
	cfg := Config{Name: "assets", Type: "file", URL: server.URL + "/assets.csv?sig=" + testSecret}
	_, err := read(t.Context(), open(t, cfg, w.clock()), time.Time{})
	wantFailure(t, err, "certificate signed by unknown authority")
	if w.waited != nil {
		t.Errorf("waited %v for another certificate", w.waited)
	}
	cfg.CAFile = filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(cfg.CAFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	if all, err := read(t.Context(), open(t, cfg, w.clock()), time.Time{}); err != nil || len(all) != 1 {
		t.Errorf("got %v, %v", all, err)
	}
	server.Close()
	_, err = read(t.Context(), open(t, cfg, w.clock()), time.Time{})
	wantFailure(t, err, "cannot reach "+strings.TrimPrefix(server.URL, "https://")+": dial tcp")
}
