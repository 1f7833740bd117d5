package feed

import (
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
	"google.golang.org/protobuf/proto"

	"devicetrust/api/dtv1"
	"devicetrust/identity"
	"devicetrust/policy"
	"devicetrust/resource"
)

var now = time.Date(2026, 2, 3, 4, 5, 6, 0, time.UTC)

// plane is a control plane with something to say.
type plane struct {
	t        testing.TB
	user     ssh.Signer
	sequence uint64
	content  Content
}

func newPlane(t testing.TB) *plane {
	t.Helper()
	p := &plane{t: t, user: newSigner(t), sequence: 5}
	p.content = Content{
		UserAuthorities: []ssh.PublicKey{p.user.PublicKey()}, TLSAuthorities: [][]byte{{1}},
		Preference: doc(t, &resource.Preference{Header: resource.NewHeader(resource.KindPreference, resource.PreferenceName)}),
		Roles:      map[string][]byte{},
		Locks:      []policy.Lock{{Name: "l", Target: policy.LockTarget{User: "bob"}, Message: "away", Expires: now.Add(time.Hour)}},
		Revoked:    []policy.Revocation{{First: 7, Last: 8, Reason: "logged out"}, {First: 4090, Last: 9000, Reason: "the device was removed"}},
	}
	for i := range 20 {
		p.role(fmt.Sprintf("role-%d", i), "root")
	}
	return p
}

func newSigner(t testing.TB) ssh.Signer {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	s, err := ssh.NewSignerFromKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func doc(t testing.TB, r resource.Resource) []byte {
	t.Helper()
	text, err := resource.MarshalJSON(r)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func (p *plane) role(name, login string) {
	p.content.Roles[name] = doc(p.t, &resource.Role{Header: resource.NewHeader(resource.KindRole, name), Spec: policy.RoleSpec{
		Allow: policy.RoleConditions{Logins: []string{login}, NodeLabels: map[string]policy.Values{"*": {"*"}}},
	}})
}

func (p *plane) sign(ns identity.Namespace, message []byte) ([]byte, error) {
	return identity.SignMessage(p.user, ns, message)
}

func (p *plane) statement() *Statement {
	p.t.Helper()
	source, err := NewSource("test", p.sequence, p.content)
	if err != nil {
		p.t.Fatal(err)
	}
	s, err := source.Statement(now, p.sign)
	if err != nil {
		p.t.Fatal(err)
	}
	return s
}

func (p *plane) facts() *Facts {
	p.t.Helper()
	f, err := NewFacts("test", "n-1", "server-1", map[string]string{"env": "prod"}, p.sign)
	if err != nil {
		p.t.Fatal(err)
	}
	return f
}

// tell gives what a node that has s makes of it.
func (p *plane) tell(s *State) *State {
	p.t.Helper()
	has, err := ParseHas(s.Request())
	if err != nil {
		p.t.Fatal(err)
	}
	next, err := s.Apply(p.statement().Update(&has, p.facts()), "test", "n-1")
	if err != nil {
		p.t.Fatal(err)
	}
	return next
}

func (p *plane) authorities() []ssh.PublicKey { return []ssh.PublicKey{p.user.PublicKey()} }

func view(t *testing.T, s *State, before *View) *View {
	t.Helper()
	v, err := s.View(before)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func TestANodeDecidesByWhatItIsTold(t *testing.T) {
	p := newPlane(t)
	s := p.tell(nil)
	v := view(t, s, nil)
	if len(v.Policy.Roles) != 20 || len(v.Policy.Locks) != 1 || v.Policy.Locks[0] != (policy.Lock{
		Name: "l", Target: policy.LockTarget{User: "bob"}, Message: "away", Expires: now.Add(time.Hour).Local(),
	}) {
		t.Errorf("got %+v", v.Policy)
	}
	for serial, want := range map[uint64]string{6: "", 7: "logged out", 8: "logged out", 9: "", 4089: "", 4090: "the device was removed", 4096: "the device was removed", 9000: "the device was removed", 9001: ""} {
		if r, is := v.Policy.Revoked.Find(serial); is != (want != "") || r.Reason != want {
			t.Errorf("serial %d: got %v %v, want %q", serial, r, is, want)
		}
	}
	if id, name, labels := s.Node(); id != "n-1" || name != "server-1" || labels["env"] != "prod" {
		t.Errorf("got %q %q %v", id, name, labels)
	}
	if s.Sequence() != 5 || !s.Time().Equal(now) || s.Cluster() != "test" {
		t.Errorf("got %d %v %q", s.Sequence(), s.Time(), s.Cluster())
	}
}

func TestOnlyWhatDiffersIsSentAndReadAgain(t *testing.T) {
	p := newPlane(t)
	s := p.tell(nil)
	before := view(t, s, nil)
	has, err := ParseHas(s.Request())
	if err != nil {
		t.Fatal(err)
	}
	if u := p.statement().Update(&has, nil); len(u.GetBuckets()) != 0 {
		t.Errorf("%d buckets are sent though nothing has changed", len(u.GetBuckets()))
	}
	p.sequence++
	p.content.Locks = append(p.content.Locks, policy.Lock{Name: "m", Target: policy.LockTarget{Role: "role-1"}})
	u := p.statement().Update(&has, nil)
	if len(u.GetBuckets()) != 1 {
		t.Fatalf("%d buckets are sent for one lock", len(u.GetBuckets()))
	}
	next, err := s.Apply(u, "test", "n-1")
	if err != nil {
		t.Fatal(err)
	}
	after := view(t, next, before)
	if len(after.Policy.Locks) != 2 || len(before.Policy.Locks) != 1 || len(after.Policy.Roles) != 20 {
		t.Errorf("got %d locks and %d before", len(after.Policy.Locks), len(before.Policy.Locks))
	}
	kept := 0
	for i := range buckets {
		if after.parts[i] == before.parts[i] {
			kept++
		}
	}
	if kept != buckets-1 {
		t.Errorf("%d buckets are read again", buckets-kept)
	}
}

// Whatever was missed, by whatever accident: who asks with what it has gets
// the rest.
func TestAGapIsSeenAndHeals(t *testing.T) {
	p := newPlane(t)
	s := p.tell(nil)
	has, err := ParseHas(s.Request())
	if err != nil {
		t.Fatal(err)
	}
	p.sequence, p.content.Locks = 6, nil
	p.statement().Update(&has, nil) // is lost
	p.sequence = 7
	p.role("late", "root")
	lost := p.statement().Update(&has, nil)
	if _, err := s.Apply(lost, "test", "n-1"); !errors.Is(err, ErrGap) {
		t.Fatalf("got %v", err)
	}
	healed := p.tell(s)
	if v := view(t, healed, nil); len(v.Policy.Locks) != 0 || v.Policy.Roles["late"].Name() == "" {
		t.Errorf("got %+v", v.Policy)
	}
}

func TestWhatIsNotSaidByTheClusterOfTheNodeIsNotBelieved(t *testing.T) {
	p, other := newPlane(t), newPlane(t)
	for name, spoil := range map[string]func(u *dtv1.StateUpdate){
		"a statement signed by another authority": func(u *dtv1.StateUpdate) {
			u.StatementSignature, _ = other.sign(identity.NamespaceState, u.GetStatement())
		},
		"facts signed by another authority": func(u *dtv1.StateUpdate) {
			u.FactsSignature, _ = other.sign(identity.NamespaceNode, u.GetFacts())
		},
		"a statement signed for something else": func(u *dtv1.StateUpdate) {
			u.StatementSignature, _ = p.sign(identity.NamespaceNode, u.GetStatement())
		},
		"facts signed for something else": func(u *dtv1.StateUpdate) {
			u.FactsSignature, _ = p.sign(identity.NamespaceState, u.GetFacts())
		},
		"no signature":        func(u *dtv1.StateUpdate) { u.StatementSignature = nil },
		"no facts":            func(u *dtv1.StateUpdate) { u.Facts, u.FactsSignature = nil, nil },
		"a statement of junk": func(u *dtv1.StateUpdate) { u.Statement = []byte{0xff} },
		"a bucket changed":    func(u *dtv1.StateUpdate) { u.Buckets[3].Content = append(u.Buckets[3].Content, 0) },
		"a bucket missing":    func(u *dtv1.StateUpdate) { u.Buckets = u.Buckets[1:] },
		"a bucket too many":   func(u *dtv1.StateUpdate) { u.Buckets[3].Index = buckets },
		"another version":     func(u *dtv1.StateUpdate) { resaid(p, u, func(s *dtv1.StateStatement) { s.Version = 2 }) },
		"another cluster":     func(u *dtv1.StateUpdate) { resaid(p, u, func(s *dtv1.StateStatement) { s.Cluster = "other" }) },
		"no time":             func(u *dtv1.StateUpdate) { resaid(p, u, func(s *dtv1.StateStatement) { s.Time = nil }) },
		"no number":           func(u *dtv1.StateUpdate) { resaid(p, u, func(s *dtv1.StateStatement) { s.Sequence = 0 }) },
		"another node's facts": func(u *dtv1.StateUpdate) {
			f, err := NewFacts("test", "n-2", "server-1", nil, p.sign)
			if err != nil {
				t.Fatal(err)
			}
			u.Facts, u.FactsSignature = f.signed.message, f.signed.signature
		},
		"another cluster's facts": func(u *dtv1.StateUpdate) {
			f, err := NewFacts("other", "n-1", "server-1", nil, p.sign)
			if err != nil {
				t.Fatal(err)
			}
			u.Facts, u.FactsSignature = f.signed.message, f.signed.signature
		},
	} {
		u := p.statement().Update(&Has{}, p.facts())
		spoil(u)
		if s, err := (*State)(nil).Apply(u, "test", "n-1"); err == nil {
			t.Errorf("%s: got %v", name, s)
		}
	}
}

// What of an update is as it was is not verified again; what is not, is.
func TestALaterUpdateIsBelievedAsLittle(t *testing.T) {
	other := newPlane(t)
	rotated := func(p *plane) {
		p.user = other.user
		p.content.UserAuthorities = p.authorities()
	}
	for name, tt := range map[string]struct {
		change func(p *plane)
		spoil  func(p *plane, u *dtv1.StateUpdate)
		ok     bool
	}{
		"nothing but the time": {ok: true},
		"other authorities":    {change: rotated, ok: true},
		"other authorities, and facts signed by those before": {
			change: rotated, spoil: func(_ *plane, u *dtv1.StateUpdate) { u.Facts, u.FactsSignature = nil, nil },
		},
		"other authorities, which have signed nothing": {
			change: func(p *plane) { p.content.UserAuthorities = other.authorities() },
			spoil:  func(_ *plane, u *dtv1.StateUpdate) { u.Facts, u.FactsSignature = nil, nil },
		},
		"a statement signed by another authority": {spoil: func(_ *plane, u *dtv1.StateUpdate) {
			u.StatementSignature, _ = other.sign(identity.NamespaceState, u.GetStatement())
		}},
		"facts signed by another authority": {spoil: func(_ *plane, u *dtv1.StateUpdate) {
			u.FactsSignature, _ = other.sign(identity.NamespaceNode, u.GetFacts())
		}},
		"the same facts without a signature": {spoil: func(_ *plane, u *dtv1.StateUpdate) { u.FactsSignature = nil }},
	} {
		p := newPlane(t)
		s := p.tell(nil)
		if tt.change != nil {
			tt.change(p)
		}
		has, err := ParseHas(s.Request())
		if err != nil {
			t.Fatal(err)
		}
		u := p.statement().Update(&has, p.facts())
		if tt.spoil != nil {
			tt.spoil(p, u)
		}
		if next, err := s.Apply(u, "test", "n-1"); (err == nil) != tt.ok || (next == nil) == tt.ok {
			t.Errorf("%s: got one of change %d, %v", name, next.Sequence(), err)
		}
	}
}

// What was joined before is not taken for another, nor what could not be.
func TestRolesAreThoseOfTheStateThatIsThere(t *testing.T) {
	p := newPlane(t)
	s := p.tell(nil)
	first := view(t, s, nil)
	p.sequence++
	delete(p.content.Roles, "role-3")
	s = p.tell(s)
	second := view(t, s, first)
	if _, there := second.Policy.Roles["role-3"]; there || len(first.Policy.Roles) != 20 || len(second.Policy.Roles) != 19 {
		t.Errorf("got %d roles, then %d", len(first.Policy.Roles), len(second.Policy.Roles))
	}
	p.sequence++
	p.content.Roles["role-4 again"] = p.content.Roles["role-4"]
	var v *View
	for range 2 { // again, though nothing of the roles has changed
		s = p.tell(s)
		if v = view(t, s, v); v.Policy.Roles != nil || len(v.Problems) == 0 {
			t.Errorf("a role that is there twice: %d roles, %v", len(v.Policy.Roles), v.Problems)
		}
		p.sequence++
		p.content.Locks = nil
	}
}

// resaid changes the statement, and signs it as it ought to be.
func resaid(p *plane, u *dtv1.StateUpdate, change func(*dtv1.StateStatement)) {
	p.t.Helper()
	s := &dtv1.StateStatement{}
	if err := proto.Unmarshal(u.GetStatement(), s); err != nil {
		p.t.Fatal(err)
	}
	change(s)
	var err error
	if u.Statement, err = proto.Marshal(s); err != nil {
		p.t.Fatal(err)
	}
	if u.StatementSignature, err = p.sign(identity.NamespaceState, u.GetStatement()); err != nil {
		p.t.Fatal(err)
	}
}

func TestWhatIsKeptIsBelievedAsItWasSaid(t *testing.T) {
	p := newPlane(t)
	f := File{Path: filepath.Join(t.TempDir(), "state")}
	s := p.tell(nil)
	if err := f.Save(s); err != nil {
		t.Fatal(err)
	}
	got, err := f.Load(p.authorities(), "test", "n-1")
	if err != nil {
		t.Fatal(err)
	}
	if !SameContent(s, got) || !got.Time().Equal(now) || len(view(t, got, nil).Policy.Roles) != 20 {
		t.Errorf("got %v", got)
	}
	some, err := got.ViewFor([]string{"role-3"}, 4096)
	if err != nil {
		t.Fatal(err)
	}
	if some.Policy.Roles["role-3"].Name() == "" || len(some.Policy.Locks) != 1 {
		t.Errorf("got %+v", some.Policy)
	}
	if _, is := some.Policy.Revoked.Find(4097); !is {
		t.Error("the serial's page is not there")
	}
	// A node that has it is sent no more than the rest.
	p.content.Locks = nil
	if has, _ := ParseHas(got.Request()); len(p.statement().Update(&has, nil).GetBuckets()) != 1 {
		t.Error("more is sent than what is new")
	}
	if err := f.Remove(); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Load(p.authorities(), "test", "n-1"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v", err)
	}
}

func TestWhatIsKeptOfAnotherOrAnEarlierTimeIsNotBelieved(t *testing.T) {
	p := newPlane(t)
	f := File{Path: filepath.Join(t.TempDir(), "state")}
	older := p.tell(nil)
	if err := f.Save(older); err != nil {
		t.Fatal(err)
	}
	olderFile, err := os.ReadFile(f.Path)
	if err != nil {
		t.Fatal(err)
	}
	p.sequence++
	if err := f.Save(p.tell(older)); err != nil {
		t.Fatal(err)
	}
	refused := func(name, want string, authorities []ssh.PublicKey, cluster, node string) {
		t.Helper()
		if s, err := f.Load(authorities, cluster, node); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, %v, want %q", name, s, err, want)
		}
	}
	refused("another authority", "not one of this cluster's", newPlane(t).authorities(), "test", "n-1")
	refused("no authority", "not one of this cluster's", nil, "test", "n-1")
	refused("another cluster", "cluster", p.authorities(), "other", "n-1")
	refused("another node", "node", p.authorities(), "test", "n-2")
	for name, text := range map[string]string{"empty": "", "junk": "junk\n", "a negative number": "-1\n"} {
		if err := os.WriteFile(f.newest(), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		refused("a newest number that is "+name, "no number", p.authorities(), "test", "n-1")
	}
	if err := os.Remove(f.newest()); err != nil {
		t.Fatal(err)
	}
	refused("no newest number", "no such file", p.authorities(), "test", "n-1")
	if err := f.Save(p.tell(older)); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(f.Path, olderFile, 0o600); err != nil {
		t.Fatal(err)
	}
	refused("an older file", "older file", p.authorities(), "test", "n-1")
}

// Whichever byte is changed: nothing that it says is believed, or it says the
// same.
func TestATamperedFileIsNotBelieved(t *testing.T) {
	p := newPlane(t)
	f := File{Path: filepath.Join(t.TempDir(), "state")}
	s := p.tell(nil)
	if err := f.Save(s); err != nil {
		t.Fatal(err)
	}
	whole, err := os.ReadFile(f.Path)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(whole); i += 1 + len(whole)/3000 {
		data := append([]byte{}, whole...)
		data[i] ^= 1 << (i % 8)
		got, err := parse(data, "test", "n-1")
		if err == nil {
			err = got.verify(p.authorities())
		}
		if err != nil {
			continue
		}
		if v, err := got.View(nil); err == nil && !SameContent(s, got) {
			t.Fatalf("byte %d: %+v is believed", i, v.Policy)
		}
	}
	for n := range 64 {
		if got, err := parse(whole[:len(whole)*n/64], "test", "n-1"); err == nil && got.verify(p.authorities()) == nil {
			if _, err := got.View(nil); err == nil {
				t.Errorf("%d/64 of it is believed", n)
			}
		}
	}
}

func TestWhatCannotBeReadDenies(t *testing.T) {
	ask := policy.Request{
		Action: policy.OpenSession, Login: "root", Node: policy.Node{ID: "n-1"}, Now: now,
		Subject: policy.Subject{User: "alice", Roles: []string{"role-1"}, Principals: []string{"root"}, Serial: 1},
	}
	unknown := []byte{0xfa, 0x01, 0x01, 0x78} // field 31
	for name, tt := range map[string]struct {
		spoil func(e *dtv1.StateEntry)
		allow bool
	}{
		"nothing is wrong": {func(*dtv1.StateEntry) {}, true},
		"somebody else's role": {func(e *dtv1.StateEntry) {
			if strings.Contains(string(e.GetRole()), `"role-2"`) {
				e.What = &dtv1.StateEntry_Role{Role: []byte(`{"kind":"role","metadata":{"name":"role-2"},"spec":{"options":{"new":1}}}`)}
			}
		}, true},
		"the role": {func(e *dtv1.StateEntry) {
			if strings.Contains(string(e.GetRole()), `"role-1"`) {
				e.What = &dtv1.StateEntry_Role{Role: []byte(`{}`)}
			}
		}, false},
		// As one of today is to a server of yesterday: what it demands is not known.
		"the role, with an option of a later version": {func(e *dtv1.StateEntry) {
			if r := string(e.GetRole()); strings.Contains(r, `"role-1"`) {
				later := strings.Replace(r, `"spec":{`, `"spec":{"options":{"require_what_is_new":true},`, 1)
				if later == r {
					t.Fatalf("the role is written otherwise: %s", r)
				}
				e.What = &dtv1.StateEntry_Role{Role: []byte(later)}
			}
		}, false},
		"a role twice": {func(e *dtv1.StateEntry) {
			if strings.Contains(string(e.GetRole()), `"role-2"`) {
				e.What = &dtv1.StateEntry_Role{Role: newPlane(t).content.Roles["role-1"]}
			}
		}, false},
		"the preference": {func(e *dtv1.StateEntry) {
			if e.GetPreference() != nil {
				e.What = &dtv1.StateEntry_Preference{Preference: []byte(`{"kind":"what"}`)}
			}
		}, false},
		"no preference": {func(e *dtv1.StateEntry) {
			if e.GetPreference() != nil {
				e.What = &dtv1.StateEntry_HostAuthority{}
			}
		}, false},
		"an entry of a new kind": {func(e *dtv1.StateEntry) {
			if e.GetPreference() != nil {
				e.ProtoReflect().SetUnknown(unknown)
				e.What = nil
			}
		}, false},
		"a lock with a new target": {func(e *dtv1.StateEntry) {
			if l := e.GetLock(); l != nil {
				l.ProtoReflect().SetUnknown(unknown)
			}
		}, false},
		"a lock on nothing": {func(e *dtv1.StateEntry) {
			if l := e.GetLock(); l != nil {
				l.User = ""
			}
		}, false},
		"revoked serials without their reasons": {func(e *dtv1.StateEntry) {
			if r := e.GetRevoked(); r != nil {
				r.Reasons = nil
			}
		}, false},
		"revoked serials that overlap": {func(e *dtv1.StateEntry) {
			if r := e.GetRevoked(); r != nil {
				r.Ranges = append(r.Ranges, r.GetRanges()[0])
			}
		}, false},
		"revoked serials beyond all serials": {func(e *dtv1.StateEntry) {
			if r := e.GetRevoked(); r != nil {
				r.Page = maxPage + 1
			}
		}, false},
		"revoked serials beyond their page": {func(e *dtv1.StateEntry) {
			if r := e.GetRevoked(); r != nil {
				r.Ranges[0].More = policy.RevocationPage
			}
		}, false},
	} {
		s := spoiled(t, newPlane(t), tt.spoil)
		v := view(t, s, nil)
		if d := policy.Decide(v.Policy, ask); d.Allowed() != tt.allow {
			t.Errorf("%s: %s", name, d.Reason)
		}
		if !tt.allow && len(v.Problems) == 0 && name != "a lock on nothing" {
			t.Errorf("%s: it does not say so", name)
		}
	}
}

// spoiled is what a node is told whose control plane speaks of what it does
// not know.
func spoiled(t *testing.T, p *plane, spoil func(*dtv1.StateEntry)) *State {
	t.Helper()
	st := p.statement()
	for i, content := range st.source.contents {
		entries := &dtv1.StateEntries{}
		if err := proto.Unmarshal(content, entries); err != nil {
			t.Fatal(err)
		}
		for _, e := range entries.GetEntries() {
			spoil(e)
		}
		var err error
		if st.source.contents[i], err = proto.Marshal(entries); err != nil {
			t.Fatal(err)
		}
		st.source.digests[i] = digest(st.source.contents[i])
	}
	again, err := st.source.Statement(now, p.sign)
	if err != nil {
		t.Fatal(err)
	}
	s, err := (*State)(nil).Apply(again.Update(&Has{}, p.facts()), "test", "n-1")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestAStateWithoutAuthoritiesIsNone(t *testing.T) {
	for name, spoil := range map[string]func(*Content){
		"no user authority": func(c *Content) { c.UserAuthorities = nil },
		"no TLS authority":  func(c *Content) { c.TLSAuthorities = nil },
		"no preference":     func(c *Content) { c.Preference = nil },
		"revoked serials that overlap": func(c *Content) {
			c.Revoked = []policy.Revocation{{First: 1, Last: 5}, {First: 5, Last: 6}}
		},
		"revoked serials that end before they begin": func(c *Content) { c.Revoked = []policy.Revocation{{First: 2, Last: 1}} },
	} {
		p := newPlane(t)
		spoil(&p.content)
		if s, err := NewSource("test", 1, p.content); err == nil {
			t.Errorf("%s: got %v", name, s)
		}
	}
	if _, err := NewSource("test", 0, newPlane(t).content); err == nil {
		t.Error("a state without a number is one")
	}
	drop := func(e *dtv1.StateEntry) {
		if e.GetUserAuthority() != nil || e.GetTlsAuthority() != nil {
			e.What = &dtv1.StateEntry_HostAuthority{}
		}
	}
	p := newPlane(t)
	st := p.statement()
	entries := &dtv1.StateEntries{}
	if err := proto.Unmarshal(st.source.contents[clusterBucket], entries); err != nil {
		t.Fatal(err)
	}
	for _, e := range entries.GetEntries() {
		drop(e)
	}
	content, err := proto.Marshal(entries)
	if err != nil {
		t.Fatal(err)
	}
	st.source.contents[clusterBucket], st.source.digests[clusterBucket] = content, digest(content)
	again, err := st.source.Statement(now, p.sign)
	if err != nil {
		t.Fatal(err)
	}
	if s, err := (*State)(nil).Apply(again.Update(&Has{}, p.facts()), "test", "n-1"); err == nil {
		t.Errorf("got %v", s)
	}
}

// The zero value and nil say nothing, and are sent everything.
func TestNothingIsNothing(t *testing.T) {
	for _, s := range []*State{nil, {}} {
		if s.Sequence() != 0 || !s.Time().IsZero() || s.Cluster() != "" || SameContent(s, s) && s == nil || len(s.Request().GetDigests()) != 0 {
			t.Errorf("%+v says something", s)
		}
	}
	if _, err := (&State{}).View(nil); err == nil {
		t.Error("nothing can be decided by")
	}
	if _, err := ParseHas(&dtv1.FollowRequest{Digests: make([]byte, 33)}); err == nil {
		t.Error("33 bytes are digests")
	}
}
