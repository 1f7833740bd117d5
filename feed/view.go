package feed

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/crypto/ssh"
	"google.golang.org/protobuf/proto"

	"devicetrust/api/dtv1"
	"devicetrust/identity"
	"devicetrust/policy"
	"devicetrust/resource"
)

// View is a state as a server decides by it. It does not change.
type View struct {
	State *State
	// UserAuthorities are those whose certificates are believed; there is one.
	UserAuthorities []ssh.PublicKey
	// TLSAuthorities are those by which the control plane is known, DER.
	TLSAuthorities [][]byte
	// Policy is never nil. What of it cannot be read denies: a role that is left
	// out is one that does not exist; without the preference, or with a lock or
	// a list of revoked serials that cannot be read, nobody is let in.
	Policy *policy.State
	// Problems are what could not be read.
	Problems []error

	parts [buckets]*part
	// roles are those in Policy, joined of rolesOf; nil where that could not be
	// done.
	roles   map[string]policy.Role
	rolesOf []*part
}

// part is one bucket, read.
type part struct {
	users      []ssh.PublicKey
	tls        [][]byte
	preference *policy.Preference
	roles      []policy.Role
	locks      []policy.Lock
	revoked    []revokedPage
	unread     []error // roles
	blind      error   // it is not known whom this keeps out
}

type revokedPage struct {
	number uint64
	ranges []policy.Revocation
}

// View reads the state. Buckets that before has read, which may be nil, are not
// read again. Without authorities there is an error.
func (s *State) View(before *View) (*View, error) {
	return s.view(before, func(int) bool { return true }, everyRole)
}

// ViewFor reads of the roles and of the revoked serials no more than what is
// needed for the roles and the serial of one certificate.
func (s *State) ViewFor(roles []string, serial uint64) (*View, error) {
	wanted := map[int]bool{revokedBucket(serial / policy.RevocationPage): true}
	for _, name := range roles {
		wanted[roleBucket(name)] = true
	}
	v, err := s.view(nil, func(i int) bool { return i < firstRevoked || wanted[i] }, func(doc []byte) bool {
		name, known := nameOf(doc)
		return !known || slices.Contains(roles, name)
	})
	if err != nil || v.Policy.Roles == nil {
		return v, err
	}
	// A role that does not exist is not one that was not looked for.
	for _, name := range roles {
		if _, there := v.Policy.Roles[name]; !there {
			v.Policy.Roles[name] = policy.Role{}
		}
	}
	return v, nil
}

// everyRole reads all of a bucket.
func everyRole([]byte) bool { return true }

// nameOf gives the name of a role without checking all the rest of it, which
// takes ten times as long.
func nameOf(doc []byte) (name string, known bool) {
	var r struct {
		Metadata struct {
			Name string `json:"name"`
		} `json:"metadata"`
	}
	if err := json.Unmarshal(doc, &r); err != nil || r.Metadata.Name == "" {
		return "", false
	}
	return r.Metadata.Name, true
}

func (s *State) view(before *View, wanted func(int) bool, role func(doc []byte) bool) (*View, error) {
	v := &View{State: s}
	for i := range buckets {
		if !wanted(i) {
			continue
		}
		if before != nil && before.parts[i] != nil && before.State.digests[i] == s.digests[i] {
			v.parts[i] = before.parts[i]
			continue
		}
		var err error
		if v.parts[i], err = s.readBucket(i, role); err != nil {
			return nil, err
		}
	}
	return v, v.join(before)
}

// Subject is id as policy knows it. Principals are never nil: that would say
// that there is no certificate.
func Subject(id identity.Identity) policy.Subject {
	return policy.Subject{
		User: id.User, Roles: id.Roles, Traits: id.Traits,
		Principals: append([]string{}, id.Logins...),
		DeviceID:   id.Device.ID, DeviceAssetTag: id.Device.AssetTag, DeviceCredentialID: id.Device.CredentialID,
		DeviceEvidence: policy.Evidence{
			Level: policy.EvidenceLevel(id.Evidence.Level), TPMManufacturer: id.Evidence.TPMManufacturer, TPMFirmware: id.Evidence.TPMFirmware,
		},
		KeyAttested: id.KeyAttested(),
		Serial:      id.Serial,
	}
}

// join makes one of the parts.
func (v *View) join(before *View) error {
	blind := v.joinRoles(before)
	p := &policy.State{Roles: v.roles}
	var preferences int
	for _, part := range v.parts {
		if part == nil {
			continue
		}
		v.UserAuthorities = append(v.UserAuthorities, part.users...)
		v.TLSAuthorities = append(v.TLSAuthorities, part.tls...)
		v.Problems = append(v.Problems, part.unread...)
		blind = errors.Join(blind, part.blind)
		if part.preference != nil {
			p.Preference = *part.preference
			preferences++
		}
		p.Locks = append(p.Locks, part.locks...)
		for _, page := range part.revoked {
			blind = errors.Join(blind, p.Revoked.AddPage(page.number, page.ranges))
		}
	}
	if len(v.UserAuthorities) == 0 || len(v.TLSAuthorities) == 0 {
		return errors.New("feed: the state has no authorities")
	}
	if preferences != 1 {
		blind = errors.Join(blind, fmt.Errorf("there are %d preferences, want 1", preferences))
	}
	v.Policy = p
	if blind != nil {
		v.Policy = &policy.State{}
		v.Problems = append(v.Problems, blind)
	}
	return nil
}

// joinRoles does not do again what before has done: there are thousands, and
// most changes are of none.
func (v *View) joinRoles(before *View) (err error) {
	for _, p := range v.parts {
		if p != nil && len(p.roles) > 0 {
			v.rolesOf = append(v.rolesOf, p)
		}
	}
	if before != nil && before.roles != nil && slices.Equal(v.rolesOf, before.rolesOf) {
		v.roles = before.roles
		return nil
	}
	roles := map[string]policy.Role{}
	for _, part := range v.rolesOf {
		for _, r := range part.roles {
			if _, twice := roles[r.Name()]; twice {
				err = errors.Join(err, fmt.Errorf("role %q is there twice", r.Name()))
			}
			roles[r.Name()] = r
		}
	}
	if err == nil {
		v.roles = roles
	}
	return err
}

// userAuthorities are those in the state, which is not believed yet.
func (s *State) userAuthorities() ([]ssh.PublicKey, error) {
	p, err := s.readBucket(clusterBucket, everyRole)
	if err != nil {
		return nil, err
	}
	return p.users, nil
}

// readBucket gives an error where authorities cannot be read, or the content
// is not the one that was signed. Of the roles it reads those that role picks.
func (s *State) readBucket(i int, role func(doc []byte) bool) (*part, error) {
	// What was loaded has not been looked at before.
	if digest(s.contents[i]) != s.digests[i] {
		return nil, fmt.Errorf("feed: bucket %d was tampered with", i)
	}
	entries := &dtv1.StateEntries{}
	if err := proto.Unmarshal(s.contents[i], entries); err != nil {
		return nil, fmt.Errorf("feed: bucket %d: %w", i, err)
	}
	p := &part{}
	for _, e := range entries.GetEntries() {
		if r, is := e.GetWhat().(*dtv1.StateEntry_Role); is && !role(r.Role) {
			continue
		}
		if err := p.take(e); err != nil {
			return nil, err
		}
	}
	return p, nil
}

func (p *part) take(e *dtv1.StateEntry) error {
	switch what := e.GetWhat().(type) {
	case *dtv1.StateEntry_UserAuthority:
		key, err := ssh.ParsePublicKey(what.UserAuthority)
		if err == nil {
			err = identity.CheckSSHKey(key)
		}
		if err != nil {
			return fmt.Errorf("feed: a user authority: %w", err)
		}
		p.users = append(p.users, key)
	case *dtv1.StateEntry_HostAuthority: // for those who reach servers
	case *dtv1.StateEntry_TlsAuthority:
		p.tls = append(p.tls, what.TlsAuthority)
	case *dtv1.StateEntry_Preference:
		preference, err := resource.PolicyPreference(what.Preference)
		p.preference = &preference
		p.cannot(err)
	case *dtv1.StateEntry_Role:
		role, err := resource.PolicyRole(what.Role)
		if err != nil {
			p.unread = append(p.unread, err)
			return nil
		}
		p.roles = append(p.roles, role)
	case *dtv1.StateEntry_Lock:
		p.takeLock(what.Lock)
	case *dtv1.StateEntry_Revoked:
		p.takePage(what.Revoked)
	default:
		p.cannot(errors.New("an entry of a kind that this version does not know"))
	}
	return nil
}

func (p *part) cannot(err error) { p.blind = errors.Join(p.blind, err) }

// takeLock: a target that this version does not know keeps out others than
// those that the rest of it names.
func (p *part) takeLock(l *dtv1.StateLock) {
	if len(l.ProtoReflect().GetUnknown()) > 0 {
		p.cannot(fmt.Errorf("lock %.64q has a part that this version does not know", l.GetName()))
		return
	}
	lock := policy.Lock{
		Name: l.GetName(), Message: l.GetMessage(),
		Target: policy.LockTarget{User: l.GetUser(), Role: l.GetRole(), Login: l.GetLogin(), Device: l.GetDevice(), Node: l.GetNode()},
	}
	if l.GetExpires() != 0 {
		lock.Expires = time.UnixMicro(l.GetExpires())
	}
	p.locks = append(p.locks, lock)
}

func (p *part) takePage(m *dtv1.RevokedPage) {
	page := revokedPage{number: m.GetPage(), ranges: make([]policy.Revocation, 0, len(m.GetRanges()))}
	if page.number > maxPage {
		p.cannot(fmt.Errorf("page %d of the revoked serials", page.number))
		return
	}
	for _, r := range m.GetRanges() {
		if int(r.GetReason()) >= len(m.GetReasons()) {
			p.cannot(errors.New("a revocation without a reason"))
			return
		}
		first := page.number*policy.RevocationPage + uint64(r.GetFirst())
		page.ranges = append(page.ranges, policy.Revocation{
			First: first, Last: first + uint64(r.GetMore()), Reason: m.GetReasons()[r.GetReason()],
		})
	}
	p.revoked = append(p.revoked, page)
}
