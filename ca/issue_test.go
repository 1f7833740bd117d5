package ca

import (
	"context"
	"crypto"
	"errors"
	"io"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"golang.org/x/crypto/ssh"

	"devicetrust/api"
	"devicetrust/audit/event"
	"devicetrust/identity"
	"devicetrust/store"
	"devicetrust/store/storetest"
)

func TestAUserGetsWhatWasAskedForAndItIsOnRecord(t *testing.T) {
	storetest.Run(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db)
		req := w.request(t)
		certs, err := w.ca.IssueUser(t.Context(), req, allow)
		if err != nil {
			t.Fatal(err)
		}
		want := req.Identity
		want.PrivateKeyPolicy, want.Serial, want.ValidAfter = "none", 1, w.clock.now().Add(-skew)
		got, err := identity.SSHCheck{
			Authorities: w.ca.UserAuthorities(), Login: "root", Addr: req.Identity.LoginIP, Now: w.clock.now(),
		}.Check(certs.SSH)
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(want, got, cmpopts.EquateComparable(netip.Addr{})); d != "" {
			t.Errorf("SSH: want (-), got (+):\n%s", d)
		}
		if string(certs.SSH.Key.Marshal()) != string(req.SSHKey.Marshal()) {
			t.Error("another SSH key was certified")
		}
		w.checkTLS(t, req, certs.TLS)
		w.checkRecord(t, req)
	})
}

func (w *world) checkTLS(t *testing.T, req UserRequest, der []byte) {
	t.Helper()
	leaf := mustParse(t, der)
	caller, err := w.ca.VerifyTLSClient(leaf)
	if err != nil {
		t.Fatal(err)
	}
	if caller.Kind() != identity.KindUser || caller.Name() != "alice" || caller.Serial() != 2 || caller.Identity().Device != req.Identity.Device {
		t.Errorf("X.509: %+v", caller)
	}
	if string(leaf.RawSubjectPublicKeyInfo) != string(req.TLSKey) {
		t.Error("another TLS key was certified")
	}
}

func (w *world) checkRecord(t *testing.T, req UserRequest) {
	t.Helper()
	events := w.certEvents(t)
	if len(events) != 1 {
		t.Fatalf("recorded: %+v", events)
	}
	want := event.Event{
		Type: event.CertCreate, Code: "TC000I", Cluster: testCluster, User: "alice", Success: true,
		Kind: "user", Name: "alice", Roles: req.Identity.Roles, Login: "alice,root", LoginID: "login-1",
		Serials: []uint64{1, 2}, ValidUntil: req.Identity.ValidBefore, RemoteAddr: req.RemoteAddr,
		Device: &event.Device{DeviceID: "device-1", AssetTag: "TAG1", CredentialID: "cred-1"},
		Key:    &event.Key{Policy: "none"},
	}
	if d := cmp.Diff(want, events[0], cmpopts.IgnoreFields(event.Event{}, "UID", "Time")); d != "" {
		t.Errorf("record: want (-), got (+):\n%s", d)
	}
}

func TestWithoutADeviceNothingSpeaksOfOne(t *testing.T) {
	w := newWorld(t, storetest.Open(t))
	certs := w.issue(t, func(r *UserRequest) { r.Identity.Device = identity.Device{} })
	for name := range certs.SSH.Extensions {
		if strings.HasPrefix(name, "teleport-device-") {
			t.Errorf("SSH extension %s", name)
		}
	}
	if caller, err := w.ca.VerifyTLSClient(mustParse(t, certs.TLS)); err != nil || caller.Identity().Device.Trusted() {
		t.Errorf("X.509: %+v %v", caller, err)
	}
	if e := w.certEvents(t)[0]; e.Device != nil {
		t.Errorf("record: %+v", e.Device)
	}
}

func TestSomebodyWithoutLoginsGetsAPrincipalOfNobody(t *testing.T) {
	w := newWorld(t, storetest.Open(t))
	for _, none := range [][]string{nil, {}} {
		certs := w.issue(t, func(r *UserRequest) { r.Identity.Logins, r.Identity.Roles = none, none })
		if d := cmp.Diff([]string{identity.NoLogin}, certs.SSH.ValidPrincipals); d != "" {
			t.Error(d)
		}
	}
}

func TestSerialsRiseAcrossCallersAndReplicas(t *testing.T) {
	storetest.Run(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db)
		replicas := []*CA{w.ca, w.open(t)}
		var mu sync.Mutex
		var serials []uint64
		var wg sync.WaitGroup
		for i := range 8 {
			req := w.request(t)
			wg.Go(func() {
				certs, err := replicas[i%2].IssueUser(t.Context(), req, allow)
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				defer mu.Unlock()
				serials = append(serials, certs.SSH.Serial, tlsSerial(t, certs.TLS))
			})
		}
		wg.Wait()
		slices.Sort(serials)
		want := make([]uint64, 16)
		for i := range want {
			want[i] = uint64(i) + 1
		}
		if d := cmp.Diff(want, serials); d != "" {
			t.Error(d)
		}
		if last := w.issue(t, nil).SSH.Serial; last != 17 {
			t.Errorf("the next serial is %d", last)
		}
	})
}

func TestRequestsThatAreRefusedBeforeAnythingIsWritten(t *testing.T) {
	w := newWorld(t, storetest.Open(t))
	signatures := w.countSignatures()
	for name, row := range map[string]struct {
		fault func(*UserRequest)
		want  connect.Code // 0: not for people
	}{
		"an expired one":        {func(r *UserRequest) { r.Identity.ValidBefore = w.clock.now() }, connect.CodeFailedPrecondition},
		"less than a second":    {func(r *UserRequest) { r.Identity.ValidBefore = w.clock.now().Add(time.Second - 1) }, connect.CodeFailedPrecondition},
		"without an end":        {func(r *UserRequest) { r.Identity.ValidBefore = time.Time{} }, connect.CodeFailedPrecondition},
		"longer than a year":    {func(r *UserRequest) { r.Identity.ValidBefore = w.clock.now().Add(maxUserLife + time.Second) }, connect.CodeInvalidArgument},
		"without an SSH key":    {func(r *UserRequest) { r.SSHKey = nil }, connect.CodeInvalidArgument},
		"without a TLS key":     {func(r *UserRequest) { r.TLSKey = nil }, connect.CodeInvalidArgument},
		"with a garbage key":    {func(r *UserRequest) { r.TLSKey = []byte("key") }, connect.CodeInvalidArgument},
		"without a login":       {func(r *UserRequest) { r.LoginID = "" }, 0},
		"for nobody":            {func(r *UserRequest) { r.Identity.User = "" }, 0},
		"for a login of two":    {func(r *UserRequest) { r.Identity.Logins = []string{"a,b"} }, 0},
		"for half a device":     {func(r *UserRequest) { r.Identity.Device.AssetTag = "" }, 0},
		"pinned to no address":  {func(r *UserRequest) { r.Identity.LoginIP = netip.Addr{} }, 0},
		"with an unknown trait": {func(r *UserRequest) { r.Identity.Traits = map[string][]string{"": {"x"}} }, 0},
	} {
		t.Run(name, func(t *testing.T) {
			req := w.request(t)
			row.fault(&req)
			_, err := w.ca.IssueUser(t.Context(), req, allow)
			var refusal *api.Refusal
			switch {
			case err == nil:
				t.Fatal("was issued")
			case row.want == 0 && errors.As(err, &refusal):
				t.Errorf("is for people: %v", err)
			case row.want != 0 && (!errors.As(err, &refusal) || refusal.Code != row.want):
				t.Errorf("got %v, want code %v", err, row.want)
			}
		})
	}
	if n := w.count(t, `SELECT (SELECT count(*) FROM certificates) + (SELECT last FROM certificate_serial)`); n != 0 {
		t.Errorf("%d rows or serials were taken", n)
	}
	if n := signatures.Load(); n != 0 {
		t.Errorf("%d signatures were made", n)
	}
}

// countSignatures counts what the authorities sign from now on.
func (w *world) countSignatures() *atomic.Int64 {
	n := new(atomic.Int64)
	w.ca.user, w.ca.host, w.ca.tls = countingSSH{w.ca.user, n}, countingSSH{w.ca.host, n}, countingTLS{w.ca.tls, n}
	return n
}

type countingSSH struct {
	ssh.Signer
	n *atomic.Int64
}

func (c countingSSH) Sign(rand io.Reader, data []byte) (*ssh.Signature, error) {
	c.n.Add(1)
	return c.Signer.Sign(rand, data)
}

type countingTLS struct {
	crypto.Signer
	n *atomic.Int64
}

func (c countingTLS) Sign(rand io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	c.n.Add(1)
	return c.Signer.Sign(rand, digest, opts)
}

var errFault = errors.New("fault")

// Each write of the order fails once; and the commit, once unstored and once
// stored. No signature may exist after any of them.
func TestNothingIsSignedWhereAWriteFails(t *testing.T) {
	drop := func(table string) func(*testing.T, *world) func(*store.Tx) error {
		return func(t *testing.T, w *world) func(*store.Tx) error {
			w.exec(t, `ALTER TABLE `+table+` RENAME TO gone`)
			return allow
		}
	}
	for name, row := range map[string]struct {
		fault  func(t *testing.T, w *world) (check func(*store.Tx) error)
		stored bool
	}{
		"there is no check": {fault: func(*testing.T, *world) func(*store.Tx) error { return nil }},
		"the check fails": {fault: func(*testing.T, *world) func(*store.Tx) error {
			return func(*store.Tx) error { return errFault }
		}},
		"the serials cannot be taken": {fault: drop("certificate_serial")},
		"the rows cannot be written":  {fault: drop("certificates")},
		"the audit record cannot be written": {fault: func(t *testing.T, w *world) func(*store.Tx) error {
			return func(tx *store.Tx) error {
				_, err := tx.Exec(`ALTER TABLE audit_log RENAME TO gone`) // undone with the transaction
				return err
			}
		}},
		"the commit fails": {fault: func(t *testing.T, w *world) func(*store.Tx) error {
			w.exec(t, `CREATE TABLE parent (id BIGINT PRIMARY KEY)`)
			w.exec(t, `CREATE TABLE child (id BIGINT REFERENCES parent (id) DEFERRABLE INITIALLY DEFERRED)`)
			return func(tx *store.Tx) error {
				_, err := tx.Exec(`INSERT INTO child (id) VALUES (1)`) // noticed at commit
				return err
			}
		}},
		"the commit is stored and its answer lost": {stored: true, fault: func(t *testing.T, w *world) func(*store.Tx) error {
			write := w.ca.write
			w.ca.write = func(ctx context.Context, fn func(*store.Tx) error) error {
				return errors.Join(write(ctx, fn), errFault)
			}
			return allow
		}},
		"the caller leaves before the commit": {fault: func(_ *testing.T, w *world) func(*store.Tx) error {
			write := w.ca.write
			w.ca.write = func(ctx context.Context, fn func(*store.Tx) error) error {
				ctx, leave := context.WithCancel(ctx)
				return write(ctx, func(tx *store.Tx) error {
					err := fn(tx)
					leave()
					return err
				})
			}
			return allow
		}},
	} {
		t.Run(name, func(t *testing.T) {
			storetest.Run(t, func(t *testing.T, db *store.DB) {
				w := newWorld(t, db)
				signatures := w.countSignatures()
				req := w.request(t)
				check := row.fault(t, w)
				certs, err := w.ca.IssueUser(t.Context(), req, check)
				if err == nil || certs.SSH != nil || certs.TLS != nil {
					t.Fatalf("was issued: %v", err)
				}
				if n := signatures.Load(); n != 0 {
					t.Errorf("%d signatures were made", n)
				}
				stored := len(w.certEvents(t))
				if row.stored != (stored > 0) {
					t.Errorf("%d records are stored, want some: %v", stored, row.stored)
				}
			})
		})
	}
}

func TestWhatTheCheckRefusesIsRecordedAsRefused(t *testing.T) {
	storetest.Run(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db)
		refusal := api.Refuse(connect.CodePermissionDenied, "the device was removed")
		_, err := w.ca.IssueUser(t.Context(), w.request(t), func(*store.Tx) error { return refusal })
		if !errors.Is(err, refusal) {
			t.Errorf("got %v", err)
		}
		events := w.certEvents(t)
		if len(events) != 1 || events[0].Success || events[0].Code != "TC000E" || events[0].Message != refusal.Message || len(events[0].Serials) > 0 {
			t.Errorf("recorded: %+v", events)
		}
		if serial := w.issue(t, nil).SSH.Serial; serial != 1 {
			t.Errorf("the refused one took a serial: the next is %d", serial)
		}
	})
}

func TestARefusalThatCannotBeRecordedIsAFaultOfOurs(t *testing.T) {
	w := newWorld(t, storetest.Open(t))
	w.exec(t, `DROP TABLE audit_log`)
	_, err := w.ca.IssueUser(t.Context(), w.request(t), func(*store.Tx) error {
		return api.Refuse(connect.CodePermissionDenied, "the device was removed")
	})
	var r *api.Refusal
	if err == nil || errors.As(err, &r) {
		t.Errorf("got %v, which hides that the log is gone", err)
	}
}

func TestARecordIsSignedOnce(t *testing.T) {
	w := newWorld(t, storetest.Open(t))
	p, err := w.ca.prepareUser(w.request(t))
	if err != nil {
		t.Fatal(err)
	}
	r, err := w.ca.record(t.Context(), p, allow)
	if err != nil {
		t.Fatal(err)
	}
	signatures := w.countSignatures()
	r.authority = w.ca.user
	var done atomic.Int64
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			if _, err := w.ca.sign(r); err == nil {
				done.Add(1)
			}
		})
	}
	wg.Wait()
	if done.Load() != 1 || signatures.Load() != 2 {
		t.Errorf("signed %d times, with %d signatures", done.Load(), signatures.Load())
	}
}

// brokenSigner gives signatures of something else.
type brokenSigner struct{ ssh.Signer }

func (s brokenSigner) Sign(rand io.Reader, data []byte) (*ssh.Signature, error) {
	return s.Signer.Sign(rand, append([]byte("x"), data...))
}

func TestWhatDoesNotReadBackIsWithdrawn(t *testing.T) {
	storetest.Run(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db)
		w.ca.user = brokenSigner{w.ca.user}
		certs, err := w.ca.IssueUser(t.Context(), w.request(t), allow)
		if identity.ReasonOf(err) != identity.ReasonSignature || certs.SSH != nil || certs.TLS != nil {
			t.Fatalf("got %v", err)
		}
		if d := cmp.Diff([]uint64{1, 2}, w.revoked(t)); d != "" {
			t.Error(d)
		}
		events := w.certEvents(t)
		if len(events) != 2 || events[1].Success || !slices.Equal(events[1].Serials, []uint64{1, 2}) {
			t.Errorf("recorded: %+v", events)
		}
	})
}

// A host authority that signs users' certificates, or the other way round,
// must not get past the reading back.
func TestAnExchangedAuthorityDoesNotGetOut(t *testing.T) {
	w := newWorld(t, storetest.Open(t))
	p, err := w.ca.prepareUser(w.request(t))
	if err != nil {
		t.Fatal(err)
	}
	p.authority = w.ca.host
	r, err := w.ca.record(t.Context(), p, allow)
	if err != nil {
		t.Fatal(err)
	}
	s, err := w.ca.sign(r)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.ca.verifyUser(s, w.request(t).Identity, p); identity.ReasonOf(err) != identity.ReasonAuthority {
		t.Errorf("got %v", err)
	}
}

func TestReadingBackComparesWithWhatWasAskedFor(t *testing.T) {
	w := newWorld(t, storetest.Open(t))
	req := w.request(t)
	attested(&req)
	p, err := w.ca.prepareUser(req)
	if err != nil {
		t.Fatal(err)
	}
	r, err := w.ca.record(t.Context(), p, allow)
	if err != nil {
		t.Fatal(err)
	}
	s, err := w.ca.sign(r)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.ca.verifyUser(s, req.Identity, p); err != nil {
		t.Fatal(err)
	}
	for name, other := range map[string]func(*identity.Identity){
		"a user":           func(id *identity.Identity) { id.User = "bob" },
		"a role more":      func(id *identity.Identity) { id.Roles = id.Roles[:1] },
		"a login more":     func(id *identity.Identity) { id.Logins = id.Logins[:1] },
		"a device":         func(id *identity.Identity) { id.Device = identity.Device{} },
		"a permission":     func(id *identity.Identity) { id.Permit = identity.Permit{} },
		"an address":       func(id *identity.Identity) { id.LoginIP = netip.MustParseAddr("192.0.2.8") },
		"no pin":           func(id *identity.Identity) { id.PinSourceIP = false },
		"a longer life":    func(id *identity.Identity) { id.ValidBefore = id.ValidBefore.Add(-time.Second) },
		"a login for none": func(id *identity.Identity) { id.Logins = nil },
		"a key in the TPM": func(id *identity.Identity) { id.PrivateKeyPolicy = identity.KeyPolicyNone },
		"another's proof":  func(id *identity.Identity) { id.KeyAttestation = strings.Repeat("cd", 32) },
	} {
		t.Run(name, func(t *testing.T) {
			want := req.Identity
			other(&want)
			if err := w.ca.verifyUser(s, want, p); err == nil {
				t.Error("was not noticed")
			}
		})
	}
	for name, other := range map[string]func(*prepared){
		"another SSH key": func(p *prepared) { p.sshKey = sshKey(t) },
		"another TLS key": func(p *prepared) { key, _ := tlsKey(t); p.tlsKey = key.Public() },
	} {
		t.Run(name, func(t *testing.T) {
			want := p
			other(&want)
			if err := w.ca.verifyUser(s, req.Identity, want); err == nil {
				t.Error("was not noticed")
			}
		})
	}
}

func TestLifeIsNeverLongerThanAskedFor(t *testing.T) {
	w := newWorld(t, storetest.Open(t))
	for name, ask := range map[string]time.Duration{"an hour": time.Hour, "a second and a half": 1500 * time.Millisecond, "a year": maxUserLife} {
		t.Run(name, func(t *testing.T) {
			until := w.clock.now().Add(ask)
			certs := w.issue(t, func(r *UserRequest) { r.Identity.ValidBefore = until })
			if end := time.Unix(int64(certs.SSH.ValidBefore), 0); end.After(until) || until.Sub(end) >= time.Second {
				t.Errorf("SSH ends %v, asked for %v", end, until)
			}
			if end := mustParse(t, certs.TLS).NotAfter; end.After(until) || until.Sub(end) >= time.Second {
				t.Errorf("X.509 ends %v, asked for %v", end, until)
			}
		})
	}
	w.clock.move(rootLife - time.Hour)
	certs := w.issue(t, func(r *UserRequest) { r.Identity.ValidBefore = w.clock.now().Add(24 * time.Hour) })
	if end := mustParse(t, certs.TLS).NotAfter; end.After(w.ca.root.NotAfter) {
		t.Errorf("it ends %v, its authority %v", end, w.ca.root.NotAfter)
	}
}
