// Package feed is what the control plane tells the servers that enforce: the
// authorities, the policy, what is revoked; in a form that can be followed and
// resumed, kept on a disk, and believed again.
//
// The state lies in buckets. A server says which it has, by their digests, and
// is sent those that differ, so that what it missed heals whatever it was and
// whoever it asks. The digest of all of them is signed by the SSH user
// authority with the time at which it was in force: who holds that key decides
// who is let in anyhow, and a server that believes certificates knows it.
package feed

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"math"
	"time"

	"golang.org/x/crypto/ssh"
	"google.golang.org/protobuf/proto"

	"devicetrust/api/dtv1"
	"devicetrust/identity"
)

// version of what is signed and of the file; there is no other.
const version = 1

// Signer signs a message for a purpose, as the SSH user authority
// (identity.SignMessage).
type Signer func(ns identity.Namespace, message []byte) ([]byte, error)

// State is the whole of what one server follows, as it was signed. It does not
// change. The zero value, and nil, are that there is nothing.
type State struct {
	statement signed
	said      *dtv1.StateStatement // what is in statement
	facts     signed
	known     *dtv1.NodeFacts // what is in facts
	contents  [buckets][]byte
	digests   digests
	// users are the user authorities in it, and those by which facts were
	// verified; nil where nobody has looked.
	users []ssh.PublicKey
}

// signed is a message with the signature over it.
type signed struct{ message, signature []byte }

// digests are SHA-256 of the contents.
type digests [buckets][sha256.Size]byte

func digest(content []byte) [sha256.Size]byte { return sha256.Sum256(content) }

// all is the digest of all.
func (d *digests) all() [sha256.Size]byte { return digest(d.wire()) }

func (d *digests) wire() []byte {
	wire := make([]byte, 0, digestsSize)
	for i := range d {
		wire = append(wire, d[i][:]...)
	}
	return wire
}

const digestsSize = buckets * sha256.Size

func parseDigests(wire []byte) (d digests, err error) {
	if len(wire) != digestsSize {
		return d, fmt.Errorf("feed: %d bytes of digests, want %d", len(wire), digestsSize)
	}
	for i := range d {
		d[i] = [sha256.Size]byte(wire[i*sha256.Size:])
	}
	return d, nil
}

// Sequence is the number of the store's change that the state is of; 0 where
// there is nothing.
func (s *State) Sequence() uint64 {
	if s == nil {
		return 0
	}
	return s.said.GetSequence()
}

// Time is when the control plane last saw that this is the state; the zero time
// where there is nothing.
func (s *State) Time() time.Time {
	if s == nil || s.said.GetTime() == nil {
		return time.Time{}
	}
	return s.said.GetTime().AsTime()
}

// Age is how long ago that was, at now, for who has not heard it themselves.
// Where it is not known, because there is no state or one from the future, the
// state is as old as can be.
func (s *State) Age(now time.Time) time.Duration {
	then := s.Time()
	if then.IsZero() || then.After(now.Add(maxSkew)) {
		return math.MaxInt64
	}
	return max(0, now.Sub(then))
}

// Cluster whose state it is.
func (s *State) Cluster() string {
	if s == nil {
		return ""
	}
	return s.said.GetCluster()
}

// Node is what the cluster knows of the server: its ID, name and labels.
func (s *State) Node() (id, name string, labels map[string]string) {
	if s == nil {
		return "", "", nil
	}
	return s.known.GetNodeId(), s.known.GetName(), s.known.GetLabels()
}

// SameContent tells whether a and b say the same, at whatever times.
func SameContent(a, b *State) bool {
	return a != nil && b != nil && a.digests == b.digests && string(a.facts.message) == string(b.facts.message) &&
		a.Cluster() == b.Cluster()
}

// Request is what a server that has s asks to follow with.
func (s *State) Request() *dtv1.FollowRequest {
	if s == nil || s.said == nil {
		return &dtv1.FollowRequest{}
	}
	return &dtv1.FollowRequest{Digests: s.digests.wire()}
}

// ErrGap is that an update is none of the state that the server has. Who asks
// again, with what it has, is sent all that differs.
var ErrGap = errors.New("feed: the update is not one of the state that is here")

// Apply gives the state that u makes of s, which may be nil. It believes u of
// whoever sent it: the control plane is known by its TLS certificate. The
// signatures must all the same be those of one of the user authorities in the
// new state, of the cluster and about the node: what is kept has to be believed
// without the sender.
func (s *State) Apply(u *dtv1.StateUpdate, cluster, nodeID string) (*State, error) {
	next := &State{}
	if s != nil {
		*next = *s
	}
	next.statement = signed{u.GetStatement(), u.GetStatementSignature()}
	if len(u.GetFacts()) > 0 {
		next.facts, next.users = signed{u.GetFacts(), u.GetFactsSignature()}, nil
	}
	for _, b := range u.GetBuckets() {
		if b.GetIndex() >= buckets {
			return nil, fmt.Errorf("feed: bucket %d, of %d", b.GetIndex(), buckets)
		}
		next.contents[b.GetIndex()] = b.GetContent()
		next.digests[b.GetIndex()] = digest(b.GetContent())
		if b.GetIndex() == clusterBucket {
			next.users = nil
		}
	}
	// Authorities of a state that has gaps are not those of the signature.
	if err := next.read(cluster, nodeID); err != nil {
		return nil, err
	}
	if err := next.verifyNew(); err != nil {
		return nil, err
	}
	return next, nil
}

// verifyNew leaves out the facts where they and the authorities are those that
// were verified: most changes are of neither.
func (s *State) verifyNew() (err error) {
	if s.users != nil {
		return s.verifyStatement(s.users)
	}
	if s.users, err = s.userAuthorities(); err != nil {
		return err
	}
	return s.verify(s.users)
}

// read takes apart what is signed, and tells whether it is about the contents
// that are here; it is not believed yet.
func (s *State) read(cluster, nodeID string) error {
	s.said, s.known = &dtv1.StateStatement{}, &dtv1.NodeFacts{}
	if err := proto.Unmarshal(s.statement.message, s.said); err != nil {
		return fmt.Errorf("feed: the statement: %w", err)
	}
	if err := proto.Unmarshal(s.facts.message, s.known); err != nil {
		return fmt.Errorf("feed: the node's facts: %w", err)
	}
	for what, v := range map[string]uint32{"a statement": s.said.GetVersion(), "facts": s.known.GetVersion()} {
		if v != version {
			return fmt.Errorf("feed: %s of version %d, and version %d is known", what, v, version)
		}
	}
	for _, got := range []string{s.said.GetCluster(), s.known.GetCluster()} {
		if got != cluster {
			return fmt.Errorf("feed: it is of cluster %.128q and not of %q", got, cluster)
		}
	}
	if s.known.GetNodeId() != nodeID {
		return fmt.Errorf("feed: it is for node %.64q and not for %q", s.known.GetNodeId(), nodeID)
	}
	if s.said.GetTime() == nil || s.said.GetSequence() == 0 {
		return errors.New("feed: the statement has no time or no number")
	}
	if all := s.digests.all(); string(all[:]) != string(s.said.GetDigest()) {
		return ErrGap
	}
	return nil
}

// verify tells whether one of authorities signed all that is signed.
func (s *State) verify(authorities []ssh.PublicKey) error {
	if err := s.verifyStatement(authorities); err != nil {
		return err
	}
	if err := identity.VerifyMessage(authorities, identity.NamespaceNode, s.facts.message, s.facts.signature); err != nil {
		return fmt.Errorf("feed: the node's facts: %w", err)
	}
	return nil
}

func (s *State) verifyStatement(authorities []ssh.PublicKey) error {
	if err := identity.VerifyMessage(authorities, identity.NamespaceState, s.statement.message, s.statement.signature); err != nil {
		return fmt.Errorf("feed: the statement: %w", err)
	}
	return nil
}
