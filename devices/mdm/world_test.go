package mdm

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"devicetrust/audit"
	"devicetrust/devices"
	"devicetrust/store"
)

const (
	testSecret = "s3cr3t-of-the-client"
	testClient = "client-1"
)

// vendor is a device management system over HTTP, as its maker describes it.
// Each answer is what a fault says, where there is one left, else the API's.
type vendor struct {
	*httptest.Server
	mu       sync.Mutex
	token    int // tokens given; the last one is good
	requests []string
	faults   []http.HandlerFunc // guarded by mu; nil is none
	// expiresIn of tokens, in seconds.
	expiresIn int
}

// startVendor serves tokens at tokenPath, and at all other paths what serve
// says to those who show one.
func startVendor(t testing.TB, tokenPath string, serve http.HandlerFunc) *vendor {
	t.Helper()
	v := &vendor{expiresIn: 1800}
	mux := http.NewServeMux()
	mux.HandleFunc("POST "+tokenPath, v.giveToken)
	mux.HandleFunc("GET /", func(w http.ResponseWriter, r *http.Request) {
		v.mu.Lock()
		v.requests = append(v.requests, r.URL.RequestURI())
		good := fmt.Sprintf("Bearer token-%d-of-the-vendor", v.token)
		var fault http.HandlerFunc
		if len(v.faults) > 0 {
			fault, v.faults = v.faults[0], v.faults[1:]
		}
		v.mu.Unlock()
		switch {
		case fault != nil:
			fault(w, r)
		case r.Header.Get("Authorization") != good:
			http.Error(w, `{"httpStatus":401}`, http.StatusUnauthorized)
		default:
			serve(w, r)
		}
	})
	v.Server = httptest.NewServer(mux)
	t.Cleanup(v.Close)
	return v
}

// giveToken is the grant of RFC 6749, section 4.4.
func (v *vendor) giveToken(w http.ResponseWriter, r *http.Request) {
	if r.PostFormValue("grant_type") != "client_credentials" || r.PostFormValue("client_id") != testClient || r.PostFormValue("client_secret") != testSecret {
		http.Error(w, `{"error":"invalid_client","echo":"`+r.PostFormValue("client_secret")+`"}`, http.StatusUnauthorized)
		return
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.token++
	w.Header().Set("Content-Type", "application/json;charset=UTF-8")
	fmt.Fprintf(w, `{"access_token":"token-%d-of-the-vendor","scope":"api-role:2","token_type":"Bearer","expires_in":%d}`, v.token, v.expiresIn)
}

// expire makes the token bad that is out there.
func (v *vendor) expire() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.token++
}

func (v *vendor) fail(faults ...http.HandlerFunc) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.faults = append(v.faults, faults...)
}

func (v *vendor) asked() []string {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.requests
}

func status(code int, header ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		for i := 0; i < len(header); i += 2 {
			w.Header().Set(header[i], header[i+1])
		}
		http.Error(w, "an answer of its own", code)
	}
}

// truncated says that it has more than it gives.
func truncated(body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Content-Length", fmt.Sprint(len(body)+100))
		_, _ = io.WriteString(w, body)
	}
}

func says(contentType, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", contentType)
		_, _ = io.WriteString(w, body)
	}
}

func times(n int, f http.HandlerFunc) []http.HandlerFunc {
	var all []http.HandlerFunc
	for range n {
		all = append(all, f)
	}
	return all
}

// watch is a clock that waiting moves.
type watch struct {
	mu     sync.Mutex
	now    time.Time
	waited []time.Duration
}

func newWatch() *watch { return &watch{now: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)} }

func (w *watch) pass(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.now = w.now.Add(d)
}

func (w *watch) time() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.now
}

func (w *watch) clock() Clock {
	return Clock{Now: w.time, Wait: func(ctx context.Context, d time.Duration) error {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.now = w.now.Add(d)
		w.waited = append(w.waited, d)
		return ctx.Err()
	}}
}

// secretFile holds a secret as it must.
func secretFile(t testing.TB, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(path, []byte(text+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func open(t testing.TB, cfg Config, clock Clock) Source {
	t.Helper()
	all := []Config{cfg}
	if err := Check(all); err != nil {
		t.Fatal(err)
	}
	source, err := kinds()[cfg.Type].open(all[0], clock)
	if err != nil {
		t.Fatal(err)
	}
	return source
}

// read gives all records of a source, and how it ended.
func read(ctx context.Context, s Source, since time.Time) (all []devices.SyncRecord, err error) {
	for page, err := range s.Pages(ctx, since) {
		if err != nil {
			return all, err
		}
		all = append(all, page...)
	}
	return all, nil
}

func wantFailure(t *testing.T, err error, want string) {
	t.Helper()
	if err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("got %v, want %q", err, want)
		return
	}
	if strings.ContainsAny(err.Error(), "\r\n") {
		t.Errorf("it is more than one line: %q", err)
	}
	for _, secret := range []string{testSecret, "of-the-vendor", url.QueryEscape(testSecret)} {
		if strings.Contains(err.Error(), secret) {
			t.Errorf("it tells a secret: %q", err)
		}
	}
}

// cluster is an inventory that sources are taken over into.
type cluster struct {
	db  *store.DB
	inv *devices.Inventory
	log *audit.Log
	*watch
}

func newCluster(db *store.DB) *cluster {
	w := newWatch()
	log := audit.Open(db, "example", [32]byte{1}, w.time)
	return &cluster{db: db, log: log, inv: devices.New(db, log, "example", w.time), watch: w}
}

// syncer is one dtauthd's.
func (c *cluster) syncer(t testing.TB, all ...Config) *Syncer {
	t.Helper()
	if err := Check(all); err != nil {
		t.Fatal(err)
	}
	s, err := New(all, Deps{DB: c.db, Inventory: c.inv, Clock: c.clock(), Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	return s
}
