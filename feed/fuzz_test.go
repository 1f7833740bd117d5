package feed

import (
	"bytes"
	"crypto/ed25519"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/crypto/ssh"
	"google.golang.org/protobuf/proto"

	"devicetrust/api/dtv1"
	"devicetrust/identity"
	"devicetrust/policy"
)

// fuzzPlane is the same in each run: what is kept as a corpus is signed by it.
func fuzzPlane(t testing.TB) *plane {
	t.Helper()
	p := newPlane(t)
	signer, err := ssh.NewSignerFromKey(ed25519.NewKeyFromSeed(bytes.Repeat([]byte{7}, ed25519.SeedSize)))
	if err != nil {
		t.Fatal(err)
	}
	p.user = signer
	p.content.UserAuthorities = p.authorities()
	return p
}

// resign makes of an update or a file one that the authority has signed,
// whatever it says: without that nothing behind the signatures is reached.
func resign(t testing.TB, p *plane, statement, facts []byte, content func(i int) []byte) (said, saidBy, knownBy []byte) {
	t.Helper()
	m := &dtv1.StateStatement{}
	if proto.Unmarshal(statement, m) == nil {
		var d digests
		for i := range d {
			d[i] = digest(content(i))
		}
		all := d.all()
		m.Digest = all[:]
		statement, _ = proto.Marshal(m)
	}
	saidBy, err := p.sign(identity.NamespaceState, statement)
	if err != nil {
		t.Fatal(err)
	}
	knownBy, err = p.sign(identity.NamespaceNode, facts)
	if err != nil {
		t.Fatal(err)
	}
	return statement, saidBy, knownBy
}

// FuzzApply is told anything, with and without the authority's signature.
func FuzzApply(f *testing.F) {
	p := fuzzPlane(f)
	first := p.tell(nil)
	f.Add([]byte{}, true)
	f.Fuzz(func(t *testing.T, wire []byte, sign bool) {
		u := &dtv1.StateUpdate{}
		if proto.Unmarshal(wire, u) != nil {
			return
		}
		for _, before := range []*State{nil, first} {
			if sign {
				signUpdate(t, p, before, u)
			}
			next, err := before.Apply(u, "test", "n-1")
			if (err == nil) != (next != nil) {
				t.Fatalf("a state %v, and %v", next != nil, err)
			}
			if err == nil {
				believed(t, p, next)
			}
		}
	})
}

func signUpdate(t testing.TB, p *plane, before *State, u *dtv1.StateUpdate) {
	t.Helper()
	var contents [buckets][]byte
	facts := u.GetFacts()
	if before != nil {
		contents = before.contents
		if len(facts) == 0 {
			facts = before.facts.message
		}
	}
	for _, b := range u.GetBuckets() {
		if b.GetIndex() < buckets {
			contents[b.GetIndex()] = b.GetContent()
		}
	}
	u.Statement, u.StatementSignature, u.FactsSignature = resign(t, p, u.GetStatement(), facts, func(i int) []byte { return contents[i] })
}

// believed holds of each state that was accepted: it is of the cluster and
// about the node, has a number, comes back from a disk as it is, and
// denies where it cannot be read.
func believed(t testing.TB, p *plane, s *State) {
	t.Helper()
	if id, _, _ := s.Node(); s.Cluster() != "test" || id != "n-1" || s.Sequence() == 0 {
		t.Fatalf("it is of %q, for %q, change %d", s.Cluster(), id, s.Sequence())
	}
	v, err := s.View(nil)
	if err != nil {
		return
	}
	if len(v.UserAuthorities) == 0 || v.Policy == nil {
		t.Fatalf("%d authorities, policy %v", len(v.UserAuthorities), v.Policy)
	}
	d := policy.Decide(v.Policy, policy.Request{
		Action: policy.OpenSession, Login: "root", Node: policy.Node{ID: "n-1", Name: "server-1"}, Now: now,
		Subject: policy.Subject{User: "alice", Roles: []string{"no-such-role"}, Principals: []string{"root"}, Serial: 5},
	})
	if d.Allowed() {
		t.Fatalf("who has a role that does not exist is let in: %v", d)
	}
	file := File{Path: filepath.Join(t.TempDir(), "state")}
	if err := file.Save(s); err != nil {
		t.Fatal(err)
	}
	again, err := file.Load(p.authorities(), "test", "n-1")
	if err != nil || !SameContent(s, again) {
		t.Fatalf("what was saved comes back as another, or not: %v", err)
	}
}

// FuzzLoad finds anything in the file, and in the one with the number.
func FuzzLoad(f *testing.F) {
	p := fuzzPlane(f)
	f.Add([]byte{}, []byte("5\n"), true)
	f.Fuzz(func(t *testing.T, data, newest []byte, sign bool) {
		m := &dtv1.SavedState{}
		if sign && proto.Unmarshal(data, m) == nil {
			m.Statement, m.StatementSignature, m.FactsSignature = resign(t, p, m.GetStatement(), m.GetFacts(), func(i int) []byte {
				if i < len(m.GetBuckets()) {
					return m.GetBuckets()[i]
				}
				return nil
			})
			data, _ = proto.Marshal(m)
		}
		file := File{Path: filepath.Join(t.TempDir(), "state")}
		for path, text := range map[string][]byte{file.Path: data, file.newest(): newest} {
			if err := os.WriteFile(path, text, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		s, err := file.Load(p.authorities(), "test", "n-1")
		if (err == nil) != (s != nil) {
			t.Fatalf("a state %v, and %v", s != nil, err)
		}
		if err == nil {
			loaded(t, p, s)
		}
	})
}

// loaded is believed without the buckets having been looked at: those that are
// not what was signed are found when they are read.
func loaded(t testing.TB, p *plane, s *State) {
	t.Helper()
	if _, err := s.View(nil); err != nil {
		return
	}
	var d digests
	for i := range d {
		d[i] = digest(s.contents[i])
	}
	if all := d.all(); string(all[:]) != string(s.said.GetDigest()) {
		t.Fatal("buckets that nobody has signed are read")
	}
	// Whatever lies in a bucket where it is not looked for: no panic.
	if part, err := s.ViewFor([]string{"role-1"}, 5); err == nil && part.Policy == nil {
		t.Fatal("no policy")
	}
	believed(t, p, s)
}

// A corpus that is gone would test nothing.
func TestTheCorporaAreThere(t *testing.T) {
	for _, target := range []string{"FuzzApply", "FuzzLoad"} {
		files, err := filepath.Glob(filepath.Join("testdata", "fuzz", target, "*"))
		if err != nil || len(files) < 24 {
			t.Errorf("%s: %d files, %v", target, len(files), err)
		}
	}
}
