package feed

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/crypto/ssh"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"devicetrust/api/dtv1"
	"devicetrust/identity"
	"devicetrust/policy"
)

// Content is what the cluster has to tell.
type Content struct {
	UserAuthorities, HostAuthorities []ssh.PublicKey
	TLSAuthorities                   [][]byte // DER
	// Preference and Roles are resources as JSON.
	Preference []byte
	Roles      map[string][]byte // by name
	Locks      []policy.Lock
	Revoked    []policy.Revocation
}

// Source is the state that all servers share, as the control plane has it. It
// does not change.
type Source struct {
	cluster  string
	sequence uint64
	contents [buckets][]byte
	digests  digests
}

// NewSource arranges c, which is what change sequence of the store left.
func NewSource(cluster string, sequence uint64, c Content) (*Source, error) {
	if cluster == "" || sequence == 0 || len(c.UserAuthorities) == 0 || len(c.TLSAuthorities) == 0 || len(c.Preference) == 0 {
		return nil, errors.New("feed: a state without a name, number, authorities or preference is none")
	}
	var all [buckets][]*dtv1.StateEntry
	add := func(bucket int, e *dtv1.StateEntry) { all[bucket] = append(all[bucket], e) }
	for _, k := range c.UserAuthorities {
		add(clusterBucket, &dtv1.StateEntry{What: &dtv1.StateEntry_UserAuthority{UserAuthority: k.Marshal()}})
	}
	for _, k := range c.HostAuthorities {
		add(clusterBucket, &dtv1.StateEntry{What: &dtv1.StateEntry_HostAuthority{HostAuthority: k.Marshal()}})
	}
	for _, der := range c.TLSAuthorities {
		add(clusterBucket, &dtv1.StateEntry{What: &dtv1.StateEntry_TlsAuthority{TlsAuthority: der}})
	}
	add(clusterBucket, &dtv1.StateEntry{What: &dtv1.StateEntry_Preference{Preference: c.Preference}})
	// In one order, whoever builds it.
	for _, name := range sortedKeys(c.Roles) {
		add(roleBucket(name), &dtv1.StateEntry{What: &dtv1.StateEntry_Role{Role: c.Roles[name]}})
	}
	for _, l := range slices.SortedFunc(slices.Values(c.Locks), func(a, b policy.Lock) int { return cmp.Compare(a.Name, b.Name) }) {
		add(lockBucket(l.Name), &dtv1.StateEntry{What: &dtv1.StateEntry_Lock{Lock: lockEntry(l)}})
	}
	pages, err := revokedPages(c.Revoked)
	if err != nil {
		return nil, err
	}
	for _, page := range pages {
		add(revokedBucket(page.GetPage()), &dtv1.StateEntry{What: &dtv1.StateEntry_Revoked{Revoked: page}})
	}
	s := &Source{cluster: cluster, sequence: sequence}
	for i, entries := range all {
		if s.contents[i], err = deterministic.Marshal(&dtv1.StateEntries{Entries: entries}); err != nil {
			return nil, fmt.Errorf("feed: %w", err)
		}
		s.digests[i] = digest(s.contents[i])
	}
	return s, nil
}

var deterministic = proto.MarshalOptions{Deterministic: true}

func lockEntry(l policy.Lock) *dtv1.StateLock {
	e := &dtv1.StateLock{
		Name: l.Name, Message: l.Message,
		User: l.Target.User, Role: l.Target.Role, Login: l.Target.Login, Device: l.Target.Device, Node: l.Target.Node,
	}
	if !l.Expires.IsZero() {
		e.Expires = l.Expires.UnixMicro()
	}
	return e
}

// revokedPages are in the order of their numbers.
func revokedPages(revoked []policy.Revocation) ([]*dtv1.RevokedPage, error) {
	checked, err := policy.NewRevocations(revoked...)
	if err != nil {
		return nil, fmt.Errorf("feed: %w", err)
	}
	var pages []*dtv1.RevokedPage
	for _, r := range checked.All() {
		page := r.First / policy.RevocationPage
		if len(pages) == 0 || pages[len(pages)-1].GetPage() != page {
			pages = append(pages, &dtv1.RevokedPage{Page: page})
		}
		p := pages[len(pages)-1]
		reason := slices.Index(p.GetReasons(), r.Reason)
		if reason < 0 {
			reason = len(p.GetReasons())
			p.Reasons = append(p.Reasons, r.Reason)
		}
		p.Ranges = append(p.Ranges, &dtv1.RevokedRange{
			First: uint32(r.First % policy.RevocationPage), More: uint32(r.Last - r.First), Reason: uint32(reason),
		})
	}
	return pages, nil
}

// Sequence is the number of the store's change.
func (s *Source) Sequence() uint64 { return s.sequence }

// Same tells whether servers are told the same of s and o, though they may be
// of different changes.
func (s *Source) Same(o *Source) bool {
	return s != nil && o != nil && s.cluster == o.cluster && s.digests == o.digests
}

// State says, signed, that s is the state at now.
func (s *Source) Statement(now time.Time, sign Signer) (*Statement, error) {
	all := s.digests.all()
	message, err := deterministic.Marshal(&dtv1.StateStatement{
		Version: version, Cluster: s.cluster, Sequence: s.sequence, Time: timestamppb.New(now), Digest: all[:],
	})
	if err != nil {
		return nil, fmt.Errorf("feed: %w", err)
	}
	signature, err := sign(identity.NamespaceState, message)
	if err != nil {
		return nil, err
	}
	return &Statement{source: s, Time: now, signed: signed{message, signature}}, nil
}

// Statement is that a Source is the state at a Time. It does not change.
type Statement struct {
	Time   time.Time
	source *Source
	signed signed
}

// Sequence is that of the state.
func (s *Statement) Sequence() uint64 { return s.source.sequence }

// Facts are what the cluster knows of one server, signed. They do not change.
type Facts struct{ signed signed }

// NewFacts signs them.
func NewFacts(cluster, nodeID, name string, labels map[string]string, sign Signer) (*Facts, error) {
	message, err := deterministic.Marshal(&dtv1.NodeFacts{Version: version, Cluster: cluster, NodeId: nodeID, Name: name, Labels: labels})
	if err != nil {
		return nil, fmt.Errorf("feed: %w", err)
	}
	signature, err := sign(identity.NamespaceNode, message)
	if err != nil {
		return nil, err
	}
	return &Facts{signed{message, signature}}, nil
}

// Has is what a server says that it has; the zero value is nothing.
type Has struct{ digests digests }

// ParseHas reads a request.
func ParseHas(r *dtv1.FollowRequest) (Has, error) {
	if len(r.GetDigests()) == 0 {
		return Has{}, nil
	}
	d, err := parseDigests(r.GetDigests())
	return Has{d}, err
}

// Update is what makes what a server has into s, and has into what it then has.
// Facts that are nil are left as they are.
func (s *Statement) Update(has *Has, f *Facts) *dtv1.StateUpdate {
	u := &dtv1.StateUpdate{Statement: s.signed.message, StatementSignature: s.signed.signature}
	if f != nil {
		u.Facts, u.FactsSignature = f.signed.message, f.signed.signature
	}
	for i := range s.source.digests {
		if has.digests[i] != s.source.digests[i] {
			u.Buckets = append(u.Buckets, &dtv1.StateBucket{Index: uint32(i), Content: s.source.contents[i]})
		}
	}
	has.digests = s.source.digests
	return u
}
