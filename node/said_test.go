package node

import (
	"testing"
	"time"

	gossh "golang.org/x/crypto/ssh"

	"devicetrust/api/dtv1"
	"devicetrust/feed"
	"devicetrust/identity"
	"devicetrust/policy"
	"devicetrust/resource"
)

// said is what a control plane has to say.
type said struct {
	sequence uint64
	cluster  string
	time     time.Time
	user     gossh.Signer
	content  feed.Content
	labels   map[string]string
}

// saying is a cluster with one role, "access", of which spec.
func saying(t testing.TB, user gossh.Signer, sequence uint64, spec policy.RoleSpec) said {
	t.Helper()
	return said{
		sequence: sequence, cluster: "test", time: time.Unix(1e9, 0), user: user, labels: map[string]string{"env": "token"},
		content: feed.Content{
			UserAuthorities: []gossh.PublicKey{user.PublicKey()}, TLSAuthorities: [][]byte{{1}},
			Roles:      map[string][]byte{"access": document(t, &resource.Role{Header: resource.NewHeader(resource.KindRole, "access"), Spec: spec})},
			Preference: document(t, &resource.Preference{Header: resource.NewHeader(resource.KindPreference, resource.PreferenceName)}),
		},
	}
}

func (s said) sign(ns identity.Namespace, message []byte) ([]byte, error) {
	return identity.SignMessage(s.user, ns, message)
}

// update is for node-1, which has has.
func (s said) update(has *feed.Has) (*dtv1.StateUpdate, error) {
	source, err := feed.NewSource(s.cluster, s.sequence, s.content)
	if err != nil {
		return nil, err
	}
	statement, err := source.Statement(s.time, s.sign)
	if err != nil {
		return nil, err
	}
	facts, err := feed.NewFacts(s.cluster, "node-1", "server", s.labels, s.sign)
	if err != nil {
		return nil, err
	}
	return statement.Update(has, facts), nil
}

// state is what node-1 makes of it.
func (s said) state(t testing.TB) *feed.State {
	t.Helper()
	u, err := s.update(&feed.Has{})
	if err != nil {
		t.Fatal(err)
	}
	state, err := (*feed.State)(nil).Apply(u, s.cluster, "node-1")
	if err != nil {
		t.Fatal(err)
	}
	return state
}
