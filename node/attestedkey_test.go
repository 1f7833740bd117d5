package node

import (
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	gossh "golang.org/x/crypto/ssh"

	"devicetrust/audit/event"
	"devicetrust/identity"
	"devicetrust/policy"
)

func requireAttestedKey(s *policy.RoleSpec) {
	yes := true
	s.Options.RequireAttestedKey = &yes
}

func inTPM(id identity.Identity) identity.Identity {
	id = onDevice(id)
	id.PrivateKeyPolicy, id.KeyAttestation = identity.KeyPolicyHardware, strings.Repeat("ab", 32)
	return id
}

const (
	keyPolicyExtension      = "private-key-policy"
	keyAttestationExtension = "key-attestation@devicetrust"
)

// What a certificate says of its key counts whole or not at all.
func TestOnlyAKeyThatIsAttestedOpensWhatDemandsOne(t *testing.T) {
	n := startNode(t)
	n.decideBy(access(t, requireAttestedKey))
	attested := n.cluster.certify(t, inTPM(alice()), newSigner(t))
	if c := dialRaw(t, n.address); c.sign(tester, attested.PublicKey(), attested) != authSuccess || len(c.Banners) > 0 {
		t.Errorf("the attested key is refused: %q", c.Banners)
	}
	_, port, _ := net.SplitHostPort(n.address)
	with := func(name, value string) func(*gossh.Certificate) {
		return func(c *gossh.Certificate) { c.Extensions[name] = value }
	}
	drop := func(name string) func(*gossh.Certificate) {
		return func(c *gossh.Certificate) { delete(c.Extensions, name) }
	}
	refused := 0
	for name, row := range map[string]struct {
		id     identity.Identity
		spoil  func(*gossh.Certificate)
		reason string
	}{
		"a software key":             {onDevice(alice()), nil, policy.ReasonAttestedKey},
		"a digest alone":             {onDevice(alice()), with(keyAttestationExtension, strings.Repeat("ab", 32)), policy.ReasonAttestedKey},
		"the policy alone":           {onDevice(alice()), with(keyPolicyExtension, "hardware_key"), policy.ReasonAttestedKey},
		"no policy":                  {inTPM(alice()), drop(keyPolicyExtension), policy.ReasonAttestedKey},
		"a software key's policy":    {inTPM(alice()), with(keyPolicyExtension, "none"), policy.ReasonAttestedKey},
		"no digest":                  {inTPM(alice()), drop(keyAttestationExtension), policy.ReasonAttestedKey},
		"an empty digest":            {inTPM(alice()), with(keyAttestationExtension, ""), policy.ReasonAttestedKey},
		"half a digest":              {inTPM(alice()), with(keyAttestationExtension, strings.Repeat("ab", 16)), policy.ReasonAttestedKey},
		"a digest in capitals":       {inTPM(alice()), with(keyAttestationExtension, strings.Repeat("AB", 32)), policy.ReasonAttestedKey},
		"no device":                  {alice(), nil, policy.ReasonTrustedDevice},
		"an attested key of none":    {inTPM(alice()), drop("teleport-device-id"), policy.ReasonTrustedDevice},
		"an attested key of no tag":  {inTPM(alice()), drop("teleport-device-asset-tag"), policy.ReasonTrustedDevice},
		"an attested key of no cred": {inTPM(alice()), drop("teleport-device-credential-id"), policy.ReasonTrustedDevice},
	} {
		var spoil []func(*gossh.Certificate)
		if row.spoil != nil {
			spoil = append(spoil, row.spoil)
		}
		hint := attestedKeyHint
		if row.reason == policy.ReasonTrustedDevice {
			hint = enrollHint
		}
		want := fmt.Sprintf("access denied to %s connecting to server:%s: %s\n%s\n", tester, port, row.reason, hint)
		signer := n.cluster.certify(t, row.id, newSigner(t), spoil...)
		c := dialRaw(t, n.address)
		if got := c.sign(tester, signer.PublicKey(), signer); got != authFailure || !slices.Equal(c.Banners, []string{want}) {
			t.Errorf("%s: message %d, banners %q, want %q", name, got, c.Banners, want)
		}
		refused++
	}
	for _, e := range n.records() {
		if e.Type != event.SessionRejected {
			continue
		}
		refused--
		const rule = `role "access" options.require_attested_key: `
		if e.User != "alice" || !slices.ContainsFunc(e.Reasons, func(r string) bool { return strings.Contains(r, rule) }) {
			t.Errorf("record %+v", e)
		}
	}
	if refused > 0 {
		t.Errorf("%d refusals are not recorded", refused)
	}
}

// A role may begin to demand what those who are in do not have.
func TestADemandForAnAttestedKeyEndsSessionsOfSoftwareKeys(t *testing.T) {
	n := startNode(t)
	start := func(id identity.Identity) (*gossh.Client, io.Writer, *syncBuffer) {
		c := n.mustDial(tester, n.cluster.certify(t, id, newSigner(t)))
		s := newSession(t, c)
		out := &syncBuffer{}
		s.Stdout, s.Stderr = out, out
		in, err := s.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Start("exec cat"); err != nil {
			t.Fatal(err)
		}
		return c, in, out
	}
	software, _, _ := start(onDevice(alice()))
	_, in, out := start(inTPM(alice()))
	n.decideBy(access(t, requireAttestedKey))
	eventually(t, "the connection is closed", func() bool { _, _, err := software.SendRequest("x", true, nil); return err != nil })
	if e := n.recorded(event.SessionEnd); e.Success || e.Message != policy.ReasonAttestedKey {
		t.Errorf("%+v", e)
	}
	if _, err := io.WriteString(in, "still here\n"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the session of the attested key goes on", func() bool { return strings.Contains(out.String(), "still here") })
}

// The digest leads from a session to the proof in the record of its login. What
// is done in a session does not say it again.
func TestRecordsOfSessionsSayWhichKeyOpenedThem(t *testing.T) {
	n := startNode(t)
	digest := strings.Repeat("ab", 32)
	come := func(id identity.Identity) {
		c := n.mustDial(tester, n.cluster.certify(t, id, newSigner(t)))
		if err := newSession(t, c).Run("true"); err != nil {
			t.Error(err)
		}
	}
	attested, software, silent := inTPM(alice()), onDevice(alice()), alice()
	attested.User, software.User, silent.User = "attested", "software", "silent"
	software.PrivateKeyPolicy = identity.KeyPolicyNone
	for _, id := range []identity.Identity{attested, software, silent} {
		come(id)
	}
	n.decideBy(access(t, requireAttestedKey))
	signer := n.cluster.certify(t, software, newSigner(t))
	if dialRaw(t, n.address).sign(tester, signer.PublicKey(), signer) != authFailure {
		t.Error("a software key is let in")
	}
	wants := map[string]*event.Key{
		"attested": {Policy: "hardware_key", Attestation: digest}, "software": {Policy: "none"}, "silent": nil,
	}
	n.recorded(event.SessionRejected)
	seen := map[string]int{}
	for _, e := range n.records() {
		var want *event.Key
		if e.Type == event.SessionStart || e.Type == event.SessionRejected {
			want = wants[e.User]
			seen[e.User]++
		}
		if diff := cmp.Diff(want, e.Key); diff != "" {
			t.Errorf("%s of %s: %s", e.Type, e.User, diff)
		}
	}
	if diff := cmp.Diff(map[string]int{"attested": 1, "software": 2, "silent": 1}, seen); diff != "" {
		t.Error(diff)
	}
}
