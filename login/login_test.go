package login

import (
	"errors"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/google/go-cmp/cmp"

	"devicetrust/api"
	"devicetrust/audit"
	"devicetrust/audit/event"
	"devicetrust/resource"
	"devicetrust/store"
	"devicetrust/store/storetest"
)

var (
	home     = netip.MustParseAddr("192.0.2.1")
	stranger = netip.MustParseAddr("198.51.100.7")
	right    = NewSecret("correct horse")
	wrong    = NewSecret("battery staple")
)

// clock is a time that tests move.
type clock struct {
	mu sync.Mutex
	at time.Time
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.at
}

func (c *clock) forward(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = c.at.Add(d)
}

// world is a service with cheap hashes.
type world struct {
	*Service
	t     *testing.T
	clock *clock
	// derived counts the hashes computed.
	mu      sync.Mutex
	derived []params
}

var cheap = params{memory: 64, passes: 1, threads: 1}

func newWorld(t *testing.T, db *store.DB) *world {
	c := &clock{at: time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)}
	return newReplica(t, db, c)
}

func newReplica(t *testing.T, db *store.DB, c *clock) *world {
	w := &world{t: t, clock: c, Service: New(db, audit.Open(db, "test", [32]byte{1}, c.now), c.now)}
	w.hasher = newHasher(cheap)
	derive := w.hasher.derive
	w.hasher.derive = func(password, salt []byte, p params, keyLen uint32) []byte {
		w.mu.Lock()
		w.derived = append(w.derived, p)
		w.mu.Unlock()
		return derive(password, salt, p, keyLen)
	}
	return w
}

// hashed returns the hashes computed since the last call.
func (w *world) hashed() []params {
	w.mu.Lock()
	defer w.mu.Unlock()
	p := w.derived
	w.derived = nil
	return p
}

// run is storetest.Run with a world.
func run(t *testing.T, body func(t *testing.T, w *world)) {
	t.Helper()
	storetest.Run(t, func(t *testing.T, db *store.DB) { body(t, newWorld(t, db)) })
}

func user(name string) resource.User {
	var u resource.User
	u.Metadata.Name = name
	u.Spec.Roles = []string{"access"}
	u.Spec.Traits = map[string][]string{"logins": {"root", "ubuntu"}}
	return u
}

// alice exists and has the password right.
func (w *world) alice() {
	w.t.Helper()
	w.must(w.CreateUser(w.t.Context(), "admin", user("alice"), &right))
	w.hashed()
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) check(user string, password Secret, from netip.Addr) error {
	_, err := w.CheckPassword(w.t.Context(), user, password, from)
	return err
}

func (w *world) write(fn func(tx *store.Tx) error) error { return w.db.Write(w.t.Context(), fn) }

// records returns "TYPE CODE user name: message" of the records of type t.
func (w *world) records(t event.Type) []string {
	w.t.Helper()
	events, _, err := w.log.List(w.t.Context(), audit.Filter{Type: t, Limit: 1000})
	w.must(err)
	var out []string
	for _, e := range events {
		s := e.Code + " by " + e.User + " on " + e.Name
		if e.Message != "" {
			s += ": " + e.Message
		}
		out = append(out, s)
	}
	return out
}

func (w *world) count(query string, args ...any) (n int) {
	w.t.Helper()
	w.must(w.db.Read(w.t.Context(), func(tx *store.Tx) error { return tx.QueryRow(query, args...).Scan(&n) }))
	return n
}

// refused tells whether err is a refusal of that code whose text contains part.
func refused(t *testing.T, err error, code connect.Code, part string) {
	t.Helper()
	var r *api.Refusal
	if !errors.As(err, &r) || r.Code != code || !strings.Contains(r.Message+"\n"+r.Hint, part) {
		t.Errorf("got %v, want a refusal with code %v and %q", err, code, part)
	}
}

func diff(t *testing.T, want, got any) {
	t.Helper()
	if d := cmp.Diff(want, got, cmp.AllowUnexported(params{})); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
}
