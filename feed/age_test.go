package feed_test

import (
	"bytes"
	"crypto/ed25519"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/crypto/ssh"

	"devicetrust/feed"
	"devicetrust/identity"
	"devicetrust/policy"
)

var confirmed = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// confirmedState is one that was in force then, and whose signature it has.
func confirmedState(t *testing.T) (*feed.State, []ssh.PublicKey) {
	t.Helper()
	return confirmedRoles(t, nil)
}

func confirmedRoles(t *testing.T, roles map[string][]byte) (*feed.State, []ssh.PublicKey) {
	t.Helper()
	signer, err := ssh.NewSignerFromKey(ed25519.NewKeyFromSeed(bytes.Repeat([]byte{1}, ed25519.SeedSize)))
	if err != nil {
		t.Fatal(err)
	}
	sign := func(ns identity.Namespace, message []byte) ([]byte, error) {
		return identity.SignMessage(signer, ns, message)
	}
	authorities := []ssh.PublicKey{signer.PublicKey()}
	source, err := feed.NewSource("example.com", 7, feed.Content{
		UserAuthorities: authorities, TLSAuthorities: [][]byte{{1}}, Preference: []byte(`{"kind":"cluster_auth_preference","version":"v2","metadata":{"name":"cluster-auth-preference"},"spec":{}}`),
		Roles: roles,
	})
	if err != nil {
		t.Fatal(err)
	}
	statement, err := source.Statement(confirmed, sign)
	if err != nil {
		t.Fatal(err)
	}
	facts, err := feed.NewFacts("example.com", "node-1", "db1", nil, sign)
	if err != nil {
		t.Fatal(err)
	}
	var none *feed.State
	state, err := none.Apply(statement.Update(&feed.Has{}, facts), "example.com", "node-1")
	if err != nil {
		t.Fatal(err)
	}
	return state, authorities
}

func TestAStateIsAsOldAsItsLastConfirmation(t *testing.T) {
	state, _ := confirmedState(t)
	for name, row := range map[string]struct {
		state *feed.State
		now   time.Time
		want  time.Duration
	}{
		"at once":                      {state, confirmed, 0},
		"an hour later":                {state, confirmed.Add(time.Hour), time.Hour},
		"by a clock that is behind":    {state, confirmed.Add(-5 * time.Minute), 0},
		"by one that is far behind":    {state, confirmed.Add(-5*time.Minute - time.Second), math.MaxInt64},
		"by one that jumped to 1970":   {state, time.Unix(1, 0), math.MaxInt64},
		"by one that does not know":    {state, time.Time{}, math.MaxInt64},
		"by one that jumped to 9999":   {state, time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC), math.MaxInt64},
		"where there is none":          {nil, confirmed, math.MaxInt64},
		"where there is nothing in it": {&feed.State{}, confirmed, math.MaxInt64},
		"where neither is known":       {nil, time.Time{}, math.MaxInt64},
	} {
		if got := row.state.Age(row.now); got != row.want {
			t.Errorf("%s: it is %v old, want %v", name, got, row.want)
		}
	}
}

func TestWhatIsNoFileIsNoState(t *testing.T) {
	state, authorities := confirmedState(t)
	for name, fault := range map[string]func(path string) error{
		"a pipe":                  func(path string) error { return syscall.Mkfifo(path, 0o600) },
		"a folder":                func(path string) error { return os.Mkdir(path, 0o700) },
		"a device":                func(path string) error { return os.Symlink("/dev/zero", path) },
		"a file beyond all bound": func(path string) error { return truncated(path, feed.MaxMessage+1) },
	} {
		for _, suffix := range []string{"", ".newest"} {
			f := feed.File{Path: filepath.Join(t.TempDir(), "state")}
			if err := f.Save(state); err != nil {
				t.Fatal(err)
			}
			if _, err := f.Load(authorities, "example.com", "node-1"); err != nil {
				t.Fatal(err)
			}
			if err := os.Remove(f.Path + suffix); err != nil {
				t.Fatal(err)
			}
			if err := fault(f.Path + suffix); err != nil {
				t.Fatal(err)
			}
			answered := make(chan error, 1)
			go func() {
				_, err := f.Load(authorities, "example.com", "node-1")
				answered <- err
			}()
			select {
			case err := <-answered:
				if err == nil || !strings.Contains(err.Error(), f.Path+suffix) {
					t.Errorf("%s as state%s: %v", name, suffix, err)
				}
			case <-time.After(10 * time.Second):
				t.Fatalf("%s as state%s: still waiting", name, suffix)
			}
		}
	}
}

// truncated is a file of a size that takes no room.
func truncated(path string, size int64) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Truncate(size)
}

func TestASubjectIsAllThatTheCertificateSays(t *testing.T) {
	id := identity.Identity{
		User: "alice", Roles: []string{"access"}, Traits: map[string][]string{"logins": {"root"}}, Serial: 9,
		Device:   identity.Device{ID: "d", AssetTag: "t", CredentialID: "c"},
		Evidence: identity.Evidence{Level: "quote", TPMManufacturer: "IFX", TPMFirmware: "7.2"},

		PrivateKeyPolicy: identity.KeyPolicyHardware, KeyAttestation: strings.Repeat("ab", 32),
	}
	want := policy.Subject{
		User: "alice", Roles: []string{"access"}, Traits: map[string][]string{"logins": {"root"}}, Serial: 9,
		// None, and not unknown.
		Principals: []string{},
		DeviceID:   "d", DeviceAssetTag: "t", DeviceCredentialID: "c",
		DeviceEvidence: policy.Evidence{Level: "quote", TPMManufacturer: "IFX", TPMFirmware: "7.2"},
		KeyAttested:    true,
	}
	if diff := cmp.Diff(want, feed.Subject(id)); diff != "" {
		t.Error(diff)
	}
	id.Logins, want.Principals = []string{"root"}, []string{"root"}
	if diff := cmp.Diff(want, feed.Subject(id)); diff != "" {
		t.Error(diff)
	}
}

// Policy, digest and all of the device, or the key is in no TPM.
func TestAKeyThatIsHalfSaidToBeAttestedIsNot(t *testing.T) {
	for name, spoil := range map[string]func(*identity.Identity){
		"the device alone":     func(id *identity.Identity) { id.PrivateKeyPolicy, id.KeyAttestation = identity.KeyPolicyNone, "" },
		"no policy":            func(id *identity.Identity) { id.PrivateKeyPolicy = "" },
		"a software key's":     func(id *identity.Identity) { id.PrivateKeyPolicy = identity.KeyPolicyNone },
		"an unknown policy":    func(id *identity.Identity) { id.PrivateKeyPolicy = "hardware_key_touch" },
		"no digest":            func(id *identity.Identity) { id.KeyAttestation = "" },
		"no device":            func(id *identity.Identity) { id.Device = identity.Device{} },
		"no ID":                func(id *identity.Identity) { id.Device.ID = "" },
		"no asset tag":         func(id *identity.Identity) { id.Device.AssetTag = "" },
		"no credential ID":     func(id *identity.Identity) { id.Device.CredentialID = "" },
		"nothing of it at all": func(id *identity.Identity) { *id = identity.Identity{User: "alice"} },
	} {
		id := identity.Identity{
			User: "alice", Device: identity.Device{ID: "d", AssetTag: "t", CredentialID: "c"},
			PrivateKeyPolicy: identity.KeyPolicyHardware, KeyAttestation: strings.Repeat("ab", 32),
		}
		if !feed.Subject(id).KeyAttested {
			t.Fatal("it is not attested as it is")
		}
		if spoil(&id); feed.Subject(id).KeyAttested {
			t.Errorf("%s: it is attested", name)
		}
	}
}

func TestARoleThatDoesNotExistIsToldFromOneThatWasNotLookedFor(t *testing.T) {
	state, _ := confirmedState(t)
	view, err := state.ViewFor([]string{"gone"}, 9)
	if err != nil {
		t.Fatal(err)
	}
	d := policy.Decide(view.Policy, policy.Request{
		Action: policy.OpenSession, Login: "root", Node: policy.Node{ID: "node-1"},
		Subject: policy.Subject{User: "alice", Roles: []string{"gone"}, Serial: 9},
	})
	if d.Cause != policy.CauseUnknownRole {
		t.Errorf("got %q: %s", d.Cause, d.Reason)
	}
}

func TestOfTheRolesNoMoreAreReadThanTheCertificateHas(t *testing.T) {
	roles := map[string][]byte{}
	for i := range 1000 {
		name := fmt.Sprint("role-", i)
		roles[name] = []byte(`{"kind":"role","version":"v7","metadata":{"name":"` + name + `"},"spec":{}}`)
	}
	roles["role-7"] = []byte(`{"kind":"role","version":"v7","metadata":{"name":"role-7"},"spec":{"x":1}}`)
	state, _ := confirmedRoles(t, roles)
	view, err := state.ViewFor([]string{"role-7", "role-8", "role-9", "role-x"}, 9)
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for name, role := range view.Policy.Roles {
		got[name] = role.Name()
	}
	want := map[string]string{"role-7": "", "role-8": "role-8", "role-9": "role-9", "role-x": ""}
	if diff := cmp.Diff(want, got); diff != "" || len(view.Problems) != 1 || !strings.Contains(view.Problems[0].Error(), "x") {
		t.Error(diff, view.Problems)
	}
	all, err := state.View(nil)
	if err != nil || len(all.Policy.Roles) != 999 || len(all.Problems) != 1 {
		t.Errorf("of all, %d roles are read, problems %v: %v", len(all.Policy.Roles), all.Problems, err)
	}
}
