package sshd

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"devicetrust/feed"
	"devicetrust/identity"
	"devicetrust/policy"
)

var netipLoopback = netip.MustParseAddr("127.0.0.1")

// noon is when most tests ask.
var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// site is the machine of a stock sshd, and as much of a cluster as it sees.
type site struct {
	t   testing.TB
	dir Dir
	// group may read the state.
	group int
	node  Node
	ca    ssh.Signer
	// now is the time of the cluster and, where nobody says otherwise, of the
	// machine.
	now      time.Time
	sequence uint64
	content  feed.Content
	labels   map[string]string
}

// newSite is one in which role access allows root and alice on it.
func newSite(t testing.TB, now time.Time) *site {
	t.Helper()
	return newSiteIn(t, Dir(t.TempDir()), os.Getegid(), now)
}

func newSiteIn(t testing.TB, dir Dir, group int, now time.Time) *site {
	t.Helper()
	s := &site{
		t: t, dir: dir, group: group, node: node1(), ca: newKey(t, 1), now: now,
		labels: map[string]string{"env": "prod"},
	}
	s.content = feed.Content{
		UserAuthorities: []ssh.PublicKey{s.ca.PublicKey()}, TLSAuthorities: [][]byte{{1}},
		Preference: []byte(preference("optional")),
		Roles:      map[string][]byte{},
	}
	s.setRole("access", nil, nil)
	s.must(s.dir.WriteNode(s.node))
	s.must(s.dir.WriteUserCA(s.content.UserAuthorities))
	s.publish(nil)
	return s
}

func (s *site) must(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

func preference(mode string) string {
	return `{"kind":"cluster_auth_preference","version":"v2","metadata":{"name":"cluster-auth-preference"},"spec":{"device_trust":{"mode":"` + mode + `"}}}`
}

// setRole makes a role of the content; allow is laid over {logins, node_labels}.
func (s *site) setRole(name string, options, allow map[string]any) {
	s.t.Helper()
	all := map[string]any{"logins": []string{"root", "alice"}, "node_labels": map[string]any{"*": "*"}}
	maps.Copy(all, allow)
	text, err := json.Marshal(map[string]any{
		"kind": "role", "version": "v7", "metadata": map[string]any{"name": name},
		"spec": map[string]any{"options": options, "allow": all},
	})
	s.must(err)
	s.content.Roles[name] = text
}

func (s *site) sign(ns identity.Namespace, message []byte) ([]byte, error) {
	return identity.SignMessage(s.ca, ns, message)
}

// publish makes the change in the cluster, and keeps what it then is.
func (s *site) publish(change func()) {
	s.t.Helper()
	if change != nil {
		change()
	}
	s.sequence++
	s.must(s.dir.StateFile(s.group).Save(s.state()))
}

// state is what the cluster says at now.
func (s *site) state() *feed.State {
	s.t.Helper()
	source, err := feed.NewSource(s.node.Cluster, s.sequence, s.content)
	s.must(err)
	statement, err := source.Statement(s.now, s.sign)
	s.must(err)
	facts, err := feed.NewFacts(s.node.Cluster, s.node.ID, s.node.Name, s.labels, s.sign)
	s.must(err)
	state, err := (*feed.State)(nil).Apply(statement.Update(&feed.Has{}, facts), s.node.Cluster, s.node.ID)
	s.must(err)
	return state
}

// alice is whom certificates are for: one of an hour.
func (s *site) alice() identity.Identity {
	return identity.Identity{
		User: "alice", Roles: []string{"access"}, Logins: []string{"root", "alice"}, Serial: 42,
		Permit:     identity.Permit{PTY: true, PortForwarding: true, AgentForwarding: true, X11Forwarding: true},
		ValidAfter: s.now.Add(-time.Minute), ValidBefore: s.now.Add(time.Hour),
	}
}

// inTPM puts id's key into the TPM of a device.
func inTPM(id *identity.Identity) {
	id.Device = identity.Device{ID: "d-1", AssetTag: "TAG", CredentialID: "c-1"}
	id.PrivateKeyPolicy, id.KeyAttestation = identity.KeyPolicyHardware, strings.Repeat("ab", 32)
}

// certify gives a certificate for key: alice's, with the change.
func (s *site) certify(key ssh.PublicKey, change func(*identity.Identity)) *ssh.Certificate {
	s.t.Helper()
	id := s.alice()
	if change != nil {
		change(&id)
	}
	cert, err := id.SSHCertificate(key)
	s.must(err)
	return s.signed(cert, s.ca)
}

// signed is the certificate as it came off the wire.
func (s *site) signed(cert *ssh.Certificate, ca ssh.Signer) *ssh.Certificate {
	s.t.Helper()
	s.must(cert.SignCert(cryptoRand{}, ca))
	key, err := ssh.ParsePublicKey(cert.Marshal())
	s.must(err)
	return key.(*ssh.Certificate)
}

// cryptoRand makes certificates the same each time.
type cryptoRand struct{}

func (cryptoRand) Read(b []byte) (int, error) { clear(b); return len(b), nil }

// arguments are those with which sshd asks about cert.
func (s *site) arguments(login string, cert *ssh.Certificate) []string {
	b64 := base64.StdEncoding.EncodeToString
	return []string{
		"--dir=" + string(s.dir), login, cert.Type(), b64(cert.Marshal()), cert.SignatureKey.Type(), b64(cert.SignatureKey.Marshal()),
		ssh.FingerprintSHA256(cert.SignatureKey), ssh.FingerprintSHA256(cert.Key), cert.KeyId, strconv.FormatUint(cert.Serial, 10),
	}
}

// good are those about alice's certificate, which is all right.
func (s *site) good() []string {
	return s.arguments("root", s.certify(newKey(s.t, 9).PublicKey(), nil))
}

// ask answers them at a time; there is a line or a refusal.
func ask(args []string, now time.Time) (line string, no *refusal) {
	h := Helper{Now: func() time.Time { return now }, Location: time.UTC}
	o := h.answer(args)
	return o.line, o.no
}

// lock is one of a target.
func lock(target policy.LockTarget, message string) policy.Lock {
	return policy.Lock{Name: fmt.Sprintf("%08x-0000-4000-8000-000000000000", len(message)), Target: target, Message: message}
}
