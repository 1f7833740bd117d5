package ca

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"net/netip"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"devicetrust/audit"
	"devicetrust/audit/event"
	"devicetrust/identity"
	"devicetrust/store"
)

const testCluster = "example.com"

// clock stands still until it is moved.
type clock struct {
	mu sync.Mutex
	t  time.Time // guarded by mu
}

func newClock() *clock { return &clock{t: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)} }

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.t
}

func (c *clock) move(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t = c.t.Add(d)
}

func newKeeperFile(t testing.TB) *Keeper {
	t.Helper()
	k, err := LoadKeeper(filepath.Join(t.TempDir(), "key"))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// world is a CA with what it stands on.
type world struct {
	db     *store.DB
	log    *audit.Log
	keeper *Keeper
	clock  *clock
	ca     *CA
}

func newWorld(t testing.TB, db *store.DB) *world {
	t.Helper()
	w := &world{db: db, keeper: newKeeperFile(t), clock: newClock()}
	w.log = audit.Open(db, testCluster, w.keeper.AuditKey(), w.clock.now)
	w.ca = w.open(t)
	return w
}

// open is another dtauthd on the same store.
func (w *world) open(t testing.TB) *CA {
	t.Helper()
	c, err := Open(t.Context(), w.db, w.log, w.keeper, testCluster, w.clock.now)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func (w *world) write(t testing.TB, fn func(tx *store.Tx) error) {
	t.Helper()
	if err := w.db.Write(t.Context(), fn); err != nil {
		t.Fatal(err)
	}
}

func (w *world) read(t testing.TB, fn func(tx *store.Tx) error) {
	t.Helper()
	if err := w.db.Read(t.Context(), fn); err != nil {
		t.Fatal(err)
	}
}

func (w *world) exec(t testing.TB, query string, args ...any) {
	t.Helper()
	w.write(t, func(tx *store.Tx) error {
		_, err := tx.Exec(query, args...)
		return err
	})
}

func (w *world) count(t testing.TB, query string, args ...any) (n int) {
	t.Helper()
	w.read(t, func(tx *store.Tx) error { return tx.QueryRow(query, args...).Scan(&n) })
	return n
}

func (w *world) certEvents(t testing.TB) []event.Event {
	t.Helper()
	events, _, err := w.log.List(t.Context(), audit.Filter{Type: event.CertCreate})
	if err != nil {
		t.Fatal(err)
	}
	return events
}

func allow(*store.Tx) error { return nil }

func sshKey(t testing.TB) ssh.PublicKey {
	t.Helper()
	public, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	key, err := ssh.NewPublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func tlsKey(t testing.TB) (*ecdsa.PrivateKey, []byte) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	return key, der
}

// request is alice's, for an hour, on a trusted device.
func (w *world) request(t testing.TB) UserRequest {
	t.Helper()
	_, der := tlsKey(t)
	return UserRequest{
		Identity: identity.Identity{
			User: "alice", Roles: []string{"access", "editor"}, Logins: []string{"alice", "root"},
			Traits:  map[string][]string{"logins": {"alice", "root"}},
			Device:  identity.Device{ID: "device-1", AssetTag: "TAG1", CredentialID: "cred-1"},
			Permit:  identity.Permit{PTY: true, PortForwarding: true},
			LoginIP: netip.MustParseAddr("192.0.2.7"), PinSourceIP: true,
			ValidBefore: w.clock.now().Add(time.Hour),
		},
		LoginID: "login-1", SSHKey: sshKey(t), TLSKey: der, RemoteAddr: "192.0.2.7:1234",
	}
}

func (w *world) nodeRequest(t testing.TB) NodeRequest {
	t.Helper()
	_, der := tlsKey(t)
	return NodeRequest{
		NodeID: "node-1", Name: "web-1", Hostname: "Web-1.example.com",
		Principals: []string{"192.0.2.1", "::1", "web-1"}, SSHKey: sshKey(t), TLSKey: der,
	}
}

func (w *world) issue(t testing.TB, change func(*UserRequest)) UserCertificates {
	t.Helper()
	req := w.request(t)
	if change != nil {
		change(&req)
	}
	certs, err := w.ca.IssueUser(t.Context(), req, allow)
	if err != nil {
		t.Fatal(err)
	}
	return certs
}

func tlsSerial(t testing.TB, der []byte) uint64 {
	t.Helper()
	return mustParse(t, der).SerialNumber.Uint64()
}

func mustParse(t testing.TB, der []byte) *x509.Certificate {
	t.Helper()
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}
