package authd

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/hiddeco/sshsig"
	"golang.org/x/crypto/ssh"

	"devicetrust/api/dtv1"
	"devicetrust/api/dtv1/dtv1connect"
	"devicetrust/identity"
	"devicetrust/identity/krl"
	"devicetrust/store"
	"devicetrust/store/storetest"
)

// fetched is an answer over HTTPS, as nobody in particular.
type fetched struct {
	status int
	header http.Header
	body   []byte
}

func (r *running) fetch(method, path string, header ...string) fetched {
	r.t.Helper()
	req, err := http.NewRequestWithContext(r.t.Context(), method, r.url()+path, nil)
	if err != nil {
		r.t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	res, err := r.https(nil).Do(req)
	if err != nil {
		r.t.Fatal(err)
	}
	defer res.Body.Close() //nolint:errcheck // nothing was written
	body, err := io.ReadAll(res.Body)
	if err != nil {
		r.t.Fatal(err)
	}
	return fetched{res.StatusCode, res.Header, body}
}

// krl fetches the list.
func (r *running) krl() (krl.List, fetched) {
	r.t.Helper()
	got := r.fetch(http.MethodGet, "/v1/krl")
	if got.status != http.StatusOK {
		r.t.Fatalf("status %d: %s", got.status, got.body)
	}
	list, err := krl.Check(got.body, []ssh.PublicKey{r.userAuthority()})
	if err != nil {
		r.t.Fatal(err)
	}
	return list, got
}

func (r *running) userAuthority() ssh.PublicKey {
	r.t.Helper()
	res, err := r.adminService().ExportAuthority(r.t.Context(), connect.NewRequest(&dtv1.ExportAuthorityRequest{Type: "user"}))
	if err != nil {
		r.t.Fatal(err)
	}
	key, _, _, _, err := ssh.ParseAuthorizedKey([]byte(res.Msg.GetText()))
	if err != nil {
		r.t.Fatal(err)
	}
	return key
}

// onKRL tells which of some certificates are on the list.
func (r *running) onKRL(all ...*keys) (out []bool) {
	r.t.Helper()
	list, _ := r.krl()
	for _, k := range all {
		out = append(out, list.Revokes(r.userAuthority(), k.sshCert.Serial))
	}
	return out
}

func (r *running) create(kind, document string) {
	r.t.Helper()
	_, err := r.resources().CreateResource(r.t.Context(), connect.NewRequest(&dtv1.CreateResourceRequest{Kind: kind, Resource: []byte(document)}))
	if err != nil {
		r.t.Fatal(err)
	}
}

func (r *running) remove(kind, name string) {
	r.t.Helper()
	_, err := r.resources().DeleteResource(r.t.Context(), connect.NewRequest(&dtv1.DeleteResourceRequest{Kind: kind, Name: name}))
	if err != nil {
		r.t.Fatal(err)
	}
}

func (r *running) logout(k *keys) {
	r.t.Helper()
	_, err := dtv1connect.NewLoginServiceClient(r.https(k), r.url()).Logout(r.t.Context(), connect.NewRequest(&dtv1.LogoutRequest{}))
	if err != nil {
		r.t.Fatal(err)
	}
}

func krlSignedBy(t *testing.T, key ssh.PublicKey, list, armored []byte) error {
	t.Helper()
	signature, err := sshsig.Unarmor(armored)
	if err != nil {
		t.Fatal(err)
	}
	return identity.VerifyMessage([]ssh.PublicKey{key}, identity.NamespaceKRL, list, signature.Marshal())
}

func TestTheRevocationListAndItsSignatureGoTogether(t *testing.T) {
	r := start(t)
	list, got := r.krl()
	sum := sha256.Sum256(got.body)
	etag := `"` + hex.EncodeToString(sum[:]) + `"`
	if list.Comment != "test" || list.Version == 0 || len(list.Authorities[0].Revoked) > 0 {
		t.Errorf("the list: %+v", list)
	}
	signature := r.fetch(http.MethodGet, "/v1/krl.sig")
	for path, got := range map[string]fetched{"/v1/krl": got, "/v1/krl.sig": signature} {
		for name, want := range map[string]string{
			"ETag": etag, "Cache-Control": "no-cache", "X-Content-Type-Options": "nosniff",
			"Content-Type": map[string]string{"/v1/krl": "application/octet-stream", "/v1/krl.sig": "text/plain; charset=utf-8"}[path],
		} {
			if got := got.header.Get(name); got != want {
				t.Errorf("%s: %s is %q, want %q", path, name, got, want)
			}
		}
		for name, row := range map[string]struct {
			method string
			header []string
			status int
			body   string
		}{
			"none":             {http.MethodGet, []string{"If-None-Match", etag}, http.StatusNotModified, ""},
			"another":          {http.MethodGet, []string{"If-None-Match", `"0"`}, http.StatusOK, string(got.body)},
			"of that list":     {http.MethodGet, []string{"If-Match", etag}, http.StatusOK, string(got.body)},
			"of another list":  {http.MethodGet, []string{"If-Match", `"0"`}, http.StatusPreconditionFailed, ""},
			"the head":         {http.MethodHead, nil, http.StatusOK, ""},
			"nothing to write": {http.MethodPost, nil, http.StatusMethodNotAllowed, "Method Not Allowed\n"},
		} {
			again := r.fetch(row.method, path, row.header...)
			if again.status != row.status || string(again.body) != row.body {
				t.Errorf("%s, %s: status %d, %d bytes", path, name, again.status, len(again.body))
			}
		}
	}
	if err := krlSignedBy(t, r.userAuthority(), got.body, signature.body); err != nil {
		t.Error(err)
	}
	res, err := dtv1connect.NewAdminServiceClient(r.https(nil), r.url()).ExportKRL(t.Context(), connect.NewRequest(&dtv1.ExportKRLRequest{}))
	if err != nil || string(res.Msg.GetKrl()) != string(got.body) || res.Msg.GetSignature() != string(signature.body) {
		t.Errorf("the call gives another one: %v", err)
	}
}

// What policy would not let anybody hold is on the list, and leaves it when
// policy would again.
func TestWhatEndsACertificateIsOnTheRevocationList(t *testing.T) {
	for name, row := range map[string]struct {
		end    func(r *running, k *keys)
		repair func(r *running)
	}{
		"a logout":                  {end: func(r *running, k *keys) { r.logout(k) }},
		"the user is removed":       {end: func(r *running, _ *keys) { r.remove("user", "alice") }},
		"the user's roles change":   {end: func(r *running, _ *keys) { r.replaceRoles("alice", "auditor") }},
		"the user is locked":        {end: lock("user: alice"), repair: unlock},
		"a role is locked":          {end: lock("role: extra"), repair: unlock},
		"the device is locked":      {end: lock("device: 4c3b1f7e-0000-4000-8000-000000000001"), repair: unlock},
		"the user is locked on it":  {end: lock("user: alice, device: 4c3b1f7e-0000-4000-8000-000000000001"), repair: unlock},
		"the role is there no more": {end: func(r *running, _ *keys) { r.execute(`DELETE FROM policy_objects WHERE name = 'extra'`); r.touch() }},
		"the user is nobody's any more": {end: func(r *running, _ *keys) {
			r.execute(`UPDATE certificates SET subject = 'carol' WHERE subject = 'alice'`)
			r.touch()
		}},
	} {
		t.Run(name, func(t *testing.T) {
			r := start(t)
			r.create("role", extraRole)
			r.addUser("alice", "access", "extra")
			r.addUser("bob", "access")
			alice, bob := r.login("alice"), r.login("bob")
			r.execute(fmt.Sprintf(`UPDATE certificates SET device_id = '4c3b1f7e-0000-4000-8000-000000000001' WHERE serial = %d`, alice.sshCert.Serial))
			if got := r.onKRL(alice, bob); got[0] || got[1] {
				t.Fatalf("before: alice %v, bob %v", got[0], got[1])
			}
			row.end(r, alice)
			if got := r.onKRL(alice, bob); !got[0] || got[1] {
				t.Errorf("after: alice %v, bob %v", got[0], got[1])
			}
			if row.repair == nil {
				return
			}
			row.repair(r)
			if got := r.onKRL(alice, bob); got[0] || got[1] {
				t.Errorf("repaired: alice %v, bob %v", got[0], got[1])
			}
		})
	}
}

const extraRole = `{kind: role, version: v7, metadata: {name: extra}, spec: {allow: {logins: [x]}}}`

func lock(target string) func(*running, *keys) {
	return func(r *running, _ *keys) {
		r.create("lock", `{kind: lock, version: v2, metadata: {name: l1}, spec: {target: {`+target+`}}}`)
	}
}

func unlock(r *running) { r.remove("lock", "l1") }

// touch is a change that says nothing.
func (r *running) touch() { r.execute(`UPDATE change_sequence SET seq = seq + 1`) }

func (r *running) replaceRoles(user string, roles ...string) {
	r.t.Helper()
	u := fmt.Sprintf(`{"kind":"user","version":"v2","metadata":{"name":%q},"spec":{"roles":[%q]}}`, user, roles[0])
	_, err := r.resources().UpdateResource(r.t.Context(), connect.NewRequest(&dtv1.UpdateResourceRequest{Kind: "user", Resource: []byte(u)}))
	if err != nil {
		r.t.Fatal(err)
	}
}

// A login or a server can be locked for sessions alone: the certificate is good
// elsewhere.
func TestALockOnASessionIsNotOneOnACertificate(t *testing.T) {
	r := start(t)
	r.addUser("alice", "access")
	alice := r.login("alice")
	lock("user: alice, login: root")(r, nil)
	if r.onKRL(alice)[0] {
		t.Error("it is on the list")
	}
}

func TestALockThatRunsOutLeavesTheRevocationList(t *testing.T) {
	r, c := startWithClock(t)
	r.addUser("alice", "access")
	alice := r.login("alice")
	r.create("lock", `{kind: lock, version: v2, metadata: {name: l1}, spec: {target: {user: alice}, expires: "`+
		c.now().Add(5*time.Minute).UTC().Format(time.RFC3339)+`"}}`)
	if !r.onKRL(alice)[0] {
		t.Error("it is not on the list")
	}
	c.forward(6 * time.Minute)
	if r.onKRL(alice)[0] {
		t.Error("it is still on the list")
	}
}

func TestTheRevocationListStaysAsLongAsItSaysTheSame(t *testing.T) {
	r, c := startWithClock(t)
	r.addUser("alice", "access")
	alice := r.login("alice")
	first, got := r.krl()
	for what, change := range map[string]func(){
		"time":            func() { c.forward(krlLife + time.Minute) },
		"another change":  func() { r.create("role", extraRole) },
		"a new login":     func() { r.login("alice") },
		"a new user":      func() { r.addUser("bob", "access") },
		"asking for more": func() { r.fetch(http.MethodGet, "/v1/krl.sig") },
	} {
		change()
		if again := r.fetch(http.MethodGet, "/v1/krl", "If-None-Match", got.header.Get("ETag")); again.status != http.StatusNotModified {
			t.Errorf("%s: status %d", what, again.status)
		}
	}
	r.logout(alice)
	second, again := r.krl()
	if second.Version <= first.Version || again.header.Get("ETag") == got.header.Get("ETag") {
		t.Errorf("version %d after %d, ETag %s after %s", second.Version, first.Version, again.header.Get("ETag"), got.header.Get("ETag"))
	}
	if err := krlSignedBy(t, r.userAuthority(), again.body, r.fetch(http.MethodGet, "/v1/krl.sig").body); err != nil {
		t.Error(err)
	}
}

// Expired certificates leave the list although nothing changed.
func TestTheRevocationListIsPruned(t *testing.T) {
	r, c := startWithClock(t)
	r.addUser("alice", "access")
	alice := r.login("alice")
	r.logout(alice)
	if !r.onKRL(alice)[0] {
		t.Fatal("it is not on the list")
	}
	c.forward(defaultCertTTL + time.Hour)
	r.execute(`UPDATE certificates SET valid_before = 1`) // whatever roles say
	if r.onKRL(alice)[0] {
		t.Error("it is still on the list")
	}
}

// Anybody may ask: no more is read for it than whether something changed.
func TestTheRevocationListIsMadeOnceForEachChange(t *testing.T) {
	r := start(t)
	r.krl()
	r.execute(`ALTER TABLE certificates RENAME TO elsewhere`)
	for range 10 {
		r.krl()
	}
	// What the store cannot say is not answered from memory, nor what it said
	// before it went back to a backup.
	for _, change := range []string{"+ 1", "- 2"} {
		r.execute(`UPDATE change_sequence SET seq = seq ` + change)
		for _, path := range []string{"/v1/krl", "/v1/krl.sig"} {
			if got := r.fetch(http.MethodGet, path); got.status != http.StatusServiceUnavailable {
				t.Errorf("%s after %s: status %d", path, change, got.status)
			}
		}
	}
	r.execute(`ALTER TABLE elsewhere RENAME TO certificates`)
	r.krl()
}

// Callers come in crowds and leave again: what they have made is one list for
// all of them, which goes on without who asked first, and no other at once.
func TestACrowdHasOneRevocationListMade(t *testing.T) {
	db := storetest.Open(t)
	change := func() {
		if err := db.Write(t.Context(), func(tx *store.Tx) error { tx.Changed(); return nil }); err != nil {
			t.Fatal(err)
		}
	}
	change() // number 1
	var made, at, inside atomic.Int64
	began, goOn := make(chan struct{}, 10), make(chan struct{})
	m := newKRLMaker(&Server{db: db, now: func() time.Time { return time.Unix(at.Load(), 0) }})
	m.make = func(ctx context.Context, now time.Time) (*signedKRL, error) {
		defer inside.Add(-1)
		if inside.Add(1) > 1 {
			return nil, errors.New("two at once")
		}
		began <- struct{}{}
		<-goOn
		at.Add(1) // it took a second
		return &signedKRL{sequence: uint64(made.Add(1)), until: now.Add(time.Hour)}, ctx.Err()
	}
	first, leave := context.WithCancel(t.Context())
	answers := make(chan *signedKRL, 20)
	ask := func(ctx context.Context) {
		k, err := m.current(ctx)
		if err != nil {
			t.Error(err)
		}
		answers <- k
	}
	go ask(first)
	<-began
	leave()
	wait := func() error {
		short, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		defer cancel()
		_, err := m.current(short)
		return err
	}
	if err := wait(); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("another one while one is made: %v", err)
	}
	for range cap(answers) - 1 {
		go ask(t.Context())
	}
	close(goOn)
	one := <-answers
	for range cap(answers) - 1 {
		if k := <-answers; k != one {
			t.Error("another list")
		}
	}
	change() // number 2, and the list is of number 1
	if err := wait(); !errors.Is(err, context.DeadlineExceeded) || made.Load() != 1 {
		t.Errorf("without a rest: %v, %d made", err, made.Load())
	}
	at.Add(krlRest)
	if k, err := m.current(t.Context()); err != nil || k == one || made.Load() != 2 {
		t.Errorf("after it: %v, %d made", err, made.Load())
	}
}

func TestStrangersHoldNoMoreCopiesOfTheRevocationListThanTheirShare(t *testing.T) {
	s := &Server{now: time.Now, log: slog.New(slog.DiscardHandler), answers: shares{total: 3 * krlCopies * 1000, place: krlCopies * 1000}}
	s.krl = newKRLMaker(s)
	s.krl.latest.Store(&signedKRL{list: make([]byte, 1000)})
	busy, answered := make(chan struct{}), make(chan struct{})
	h := s.withBounds(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		busy <- struct{}{}
		<-answered
	}))
	ask := func(path string) chan int {
		status := make(chan int, 1)
		go func() {
			w := httptest.NewRecorder()
			h.ServeHTTP(w, httptest.NewRequest(http.MethodPost, path, nil))
			status <- w.Code
		}()
		return status
	}
	first := ask(dtv1connect.AdminServiceExportKRLProcedure)
	<-busy
	if got := <-ask(dtv1connect.AdminServiceExportKRLProcedure); got != http.StatusTooManyRequests {
		t.Errorf("beyond the share: %d", got)
	}
	other := ask(dtv1connect.AdminServiceExportAuthorityProcedure)
	<-busy
	close(answered)
	if a, b := <-first, <-other; a != http.StatusOK || b != http.StatusOK {
		t.Errorf("got %d and %d", a, b)
	}
	next := ask(dtv1connect.AdminServiceExportKRLProcedure)
	<-busy
	if got := <-next; got != http.StatusOK {
		t.Errorf("after the first was answered: %d", got)
	}
	s.krl.latest.Store(nil)
	if got := <-ask(dtv1connect.AdminServiceExportKRLProcedure); got != http.StatusTooManyRequests {
		t.Errorf("where the list is not known, beyond what one may be: %d", got)
	}
}
