package resource

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"devicetrust/policy"
)

const (
	roleDoc       = `{"kind":"role","version":"v7","metadata":{"name":"dev"},"spec":{"allow":{"logins":["root"],"node_labels":{"env":"dev"}}}}`
	preferenceDoc = `{"kind":"cluster_auth_preference","version":"v2","metadata":{"name":"cluster-auth-preference"},"spec":{"device_trust":{"mode":"required"}}}`
	lockDoc       = `{"kind":"lock","version":"v2","metadata":{"name":"l"},"spec":{"target":{"user":"bob"},"message":"m","expires":"2026-02-03T04:05:06Z"}}`
)

func TestPolicyIsMadeOfItsDocuments(t *testing.T) {
	s, err := PolicyState([][]byte{[]byte(roleDoc)}, []byte(preferenceDoc), [][]byte{[]byte(lockDoc)})
	if err != nil {
		t.Fatal(err)
	}
	if got := s.Roles["dev"].Name(); got != "dev" || len(s.Roles) != 1 {
		t.Errorf("roles: got %v", s.Roles)
	}
	if got := s.Preference.DeviceTrust.Mode; got != policy.ModeRequired {
		t.Errorf("mode: got %q", got)
	}
	locks := []policy.Lock{{Name: "l", Target: policy.LockTarget{User: "bob"}, Message: "m", Expires: time.Date(2026, 2, 3, 4, 5, 6, 0, time.UTC)}}
	if diff := cmp.Diff(locks, s.Locks); diff != "" {
		t.Errorf("locks: want (-), got (+):\n%s", diff)
	}
}

// One document that cannot be read denies everything: it may be the one that
// shuts somebody out.
func TestPolicyThatCannotBeReadIsNone(t *testing.T) {
	role, preference, lock := []byte(roleDoc), []byte(preferenceDoc), []byte(lockDoc)
	bad := []byte(`{"kind":"lock","metadata":{"name":"l"},"spec":{"target":{"desktop":"x"}}}`)
	for name, row := range map[string]struct {
		roles      [][]byte
		preference []byte
		locks      [][]byte
	}{
		"no preference":               {[][]byte{role}, nil, nil},
		"an unknown mode":             {[][]byte{role}, []byte(`{"kind":"cluster_auth_preference","spec":{"device_trust":{"mode":"strict"}}}`), nil},
		"a preference that is a role": {[][]byte{role}, role, nil},
		"a role that is a lock":       {[][]byte{lock}, preference, nil},
		"a role twice":                {[][]byte{role, role}, preference, nil},
		"a role with a new option":    {[][]byte{[]byte(`{"kind":"role","metadata":{"name":"r"},"spec":{"options":{"new":1}}}`)}, preference, nil},
		"a lock of a new kind":        {[][]byte{role}, preference, [][]byte{lock, bad}},
		"an empty role":               {[][]byte{{}}, preference, nil},
	} {
		s, err := PolicyState(row.roles, row.preference, row.locks)
		if err == nil || s != nil {
			t.Errorf("%s: got %v, %v", name, s, err)
		}
	}
}

func BenchmarkPolicyState(b *testing.B) {
	var roles [][]byte
	for _, p := range policy.Presets() {
		doc, err := MarshalJSON(&Role{Header: NewHeader(KindRole, p.Name), Spec: p.Spec})
		if err != nil {
			b.Fatal(err)
		}
		roles = append(roles, doc)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := PolicyState(roles, []byte(preferenceDoc), [][]byte{[]byte(lockDoc)}); err != nil {
			b.Fatal(err)
		}
	}
}
