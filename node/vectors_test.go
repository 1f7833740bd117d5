package node

import (
	"strconv"
	"strings"
	"testing"

	"devicetrust/identity"
	"devicetrust/policy"
	"devicetrust/policy/vectors"
	"devicetrust/resource"
)

// The node answers the golden vectors as Decide does: from documents as the
// control plane sends them, and from what a certificate says.
func TestTheNodeDecidesByTheGoldenVectors(t *testing.T) {
	files, err := vectors.Read("../policy/testdata")
	if err != nil {
		t.Fatal(err)
	}
	asked := 0
	for _, f := range files {
		t.Run(f.Name, func(t *testing.T) {
			for _, c := range f.Cases {
				if c.Action != policy.OpenSession && c.Action != policy.Forward || c.Bot { // certificates do not say who is a machine
					continue
				}
				asked++
				if got := decideVector(t, f, c); got != nil {
					t.Errorf("%s\n\t%s", c.Line, *got)
				}
			}
		})
	}
	if asked < 50 {
		t.Errorf("only %d vectors were asked", asked)
	}
}

func decideVector(t *testing.T, f vectors.File, c vectors.Case) *string {
	t.Helper()
	wrong := func(s string) *string { return &s }
	say := saying(t, newSigner(t), 1, policy.RoleSpec{})
	say.content.Roles, say.content.Preference, say.labels = map[string][]byte{}, f.Preference, c.Node.Metadata.Labels
	for i, doc := range f.Roles {
		say.content.Roles[strconv.Itoa(i)] = doc
	}
	for _, doc := range f.Locks {
		lock, err := resource.PolicyLock(doc)
		if err != nil {
			t.Fatal(err)
		}
		say.content.Locks = append(say.content.Locks, lock)
	}
	if c.Revoked {
		say.content.Revoked = []policy.Revocation{{First: vectors.Serial, Last: vectors.Serial}}
	}
	st, err := readState(say.state(t), &state{}, quiet())
	if err != nil {
		t.Fatal(err)
	}
	sub := c.Request(st.policy).Subject
	id := identity.Identity{
		User: sub.User, Roles: sub.Roles, Traits: sub.Traits, Logins: sub.Principals, Serial: sub.Serial,
		Device:   identity.Device{ID: sub.DeviceID, AssetTag: sub.DeviceAssetTag, CredentialID: sub.DeviceCredentialID},
		Evidence: identity.Evidence{Level: string(sub.DeviceEvidence.Level), TPMManufacturer: sub.DeviceEvidence.TPMManufacturer, TPMFirmware: sub.DeviceEvidence.TPMFirmware},
	}
	if sub.KeyAttested {
		id.PrivateKeyPolicy, id.KeyAttestation = identity.KeyPolicyHardware, strings.Repeat("ab", 32)
	}
	s := &server{nodeID: c.Node.Metadata.Name, name: c.Node.Spec.Hostname, states: heardAt(vectors.Now.Add(-c.Age))}
	if c.Age == policy.NeverHeard {
		s.states = newHolder()
	}
	_, no := s.decide(st, id, policy.Request{Action: c.Action, Login: c.Login, Target: c.Target, Now: vectors.Now})
	if (no == nil) != (c.Effect == policy.Allow) {
		if no != nil {
			return wrong("refused: " + no.reason)
		}
		return wrong("let in")
	}
	if no == nil {
		return nil
	}
	if no.cause != rejectCause(c.Cause) {
		return wrong("the cause is " + string(no.cause))
	}
	if (c.Cause == policy.CauseTrustedDevice) != (no.reason == policy.ReasonTrustedDevice) {
		return wrong("the reason is " + no.reason)
	}
	if (c.Cause == policy.CauseEvidence) != (no.hint == evidenceHint) {
		return wrong("the hint is " + no.hint)
	}
	if (c.Cause == policy.CauseAttestedKey) != (no.hint == attestedKeyHint) {
		return wrong("the hint is " + no.hint)
	}
	if c.Rule != "" && !strings.Contains(strings.Join(no.details, "\n"), c.Rule+":") {
		return wrong("the rule is not in the record: " + strings.Join(no.details, "; "))
	}
	return nil
}
