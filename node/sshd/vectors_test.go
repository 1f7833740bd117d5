package sshd

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"devicetrust/identity"
	"devicetrust/policy"
	"devicetrust/policy/vectors"
	"devicetrust/resource"
)

// The helper answers the golden vectors as Decide does: from the state as it
// lies on the disk, and from what a certificate says.
func TestTheHelperDecidesByTheGoldenVectors(t *testing.T) {
	files, err := vectors.Read("../../policy/testdata")
	if err != nil {
		t.Fatal(err)
	}
	asked := 0
	for _, f := range files {
		t.Run(f.Name, func(t *testing.T) {
			s := newSite(t, vectors.Now)
			for _, c := range f.Cases {
				// The helper is asked about sessions, by whoever has a state;
				// certificates carry neither half of this nor a mark of machines.
				if c.Action != policy.OpenSession || c.Bot || c.HalfDevice || c.Key && !c.Device || c.Age == policy.NeverHeard {
					continue
				}
				asked++
				if err := s.vector(f, c); err != nil {
					t.Errorf("%s: %v", c.Line, err)
				}
			}
		})
	}
	if asked < 50 {
		t.Errorf("only %d vectors were asked", asked)
	}
}

func (s *site) vector(f vectors.File, c vectors.Case) error {
	s.t.Helper()
	st, err := f.State(c)
	s.must(err)
	s.node.ID, s.node.Name, s.labels = c.Node.Metadata.Name, c.Node.Spec.Hostname, c.Node.Metadata.Labels
	s.must(s.dir.WriteNode(s.node))
	s.now = vectors.Now.Add(-c.Age)
	s.publish(func() {
		s.content.Roles, s.content.Locks, s.content.Revoked = map[string][]byte{}, nil, nil
		for _, doc := range f.Roles {
			r, err := resource.PolicyRole(doc)
			s.must(err)
			s.content.Roles[r.Name()] = doc
		}
		s.content.Preference = f.Preference
		for _, doc := range f.Locks {
			l, err := resource.PolicyLock(doc)
			s.must(err)
			s.content.Locks = append(s.content.Locks, l)
		}
		if c.Revoked {
			s.content.Revoked = []policy.Revocation{{First: vectors.Serial, Last: vectors.Serial}}
		}
	})
	sub := c.Request(st).Subject
	cert := s.certify(newKey(s.t, 9).PublicKey(), func(id *identity.Identity) {
		*id = identity.Identity{
			User: sub.User, Roles: sub.Roles, Traits: sub.Traits, Logins: sub.Principals, Serial: sub.Serial,
			Device:     identity.Device{ID: sub.DeviceID, AssetTag: sub.DeviceAssetTag, CredentialID: sub.DeviceCredentialID},
			ValidAfter: vectors.Now.Add(-time.Hour), ValidBefore: vectors.Now.Add(time.Hour),
		}
		if ev := sub.DeviceEvidence; c.Device {
			id.Evidence = identity.Evidence{Level: string(ev.Level), TPMManufacturer: ev.TPMManufacturer, TPMFirmware: ev.TPMFirmware}
		}
		if sub.KeyAttested {
			id.PrivateKeyPolicy, id.KeyAttestation = identity.KeyPolicyHardware, strings.Repeat("ab", 32)
		}
	})
	line, no := ask(s.arguments(c.Login, cert), vectors.Now)
	if c.Effect == policy.Allow {
		if line == "" || no != nil {
			return fmt.Errorf("refused: %v", no)
		}
		return nil
	}
	cause := string(c.Cause)
	if !slices.Contains(sub.Principals, c.Login) { // before policy is asked
		cause = "certificate-not-a-principal"
	}
	if line != "" || no == nil || no.cause != cause {
		return fmt.Errorf("got %q, %v, want a refusal because of %s", line, no, cause)
	}
	return nil
}
