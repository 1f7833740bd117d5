package authd

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"log/slog"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"golang.org/x/crypto/ssh"

	"devicetrust/api/dtv1"
	"devicetrust/ca"
	"devicetrust/identity"
	"devicetrust/policy"
	"devicetrust/policy/vectors"
	"devicetrust/resource"
	"devicetrust/store"
	"devicetrust/store/storetest"
)

// dtctl explain answers the golden vectors as Decide does: from a certificate
// that the CA issued, with the policy and the node as stored.
func TestExplainAnswersTheGoldenVectors(t *testing.T) {
	files, err := vectors.Read("../policy/testdata")
	if err != nil {
		t.Fatal(err)
	}
	asked := 0
	for _, f := range files {
		t.Run(f.Name, func(t *testing.T) {
			s := explainer(t, f)
			for _, c := range f.Cases {
				// Explain is about sessions, and certificates carry neither
				// half a device, evidence of none, a key in the TPM of none nor a
				// mark of machines. The control plane knows what is in force.
				ofNone := !c.Device && (c.Evidence != (policy.Evidence{}) || c.Key)
				if c.Action != policy.OpenSession || c.HalfDevice || ofNone || c.Bot || c.Age != 0 {
					continue
				}
				asked++
				if err := explainCase(t, s, f, c); err != nil {
					t.Errorf("%s: %v", c.Line, err)
				}
			}
		})
	}
	if asked < 50 {
		t.Errorf("only %d vectors were asked", asked)
	}
}

// opened is a server that nobody can reach, with a new cluster's policy, at the
// time of the vectors.
func opened(t testing.TB) *Server {
	return openedAt(t, func() time.Time { return vectors.Now })
}

func openedAt(t testing.TB, now func() time.Time) *Server {
	t.Helper()
	db := storetest.Open(t)
	cfg := Config{
		DataDir: dataDir(t), ClusterName: "vectors", Listen: "127.0.0.1:0",
		Log: slog.New(slog.DiscardHandler), Now: now,
	}
	if err := cfg.check(); err != nil {
		t.Fatal(err)
	}
	s, err := open(t.Context(), cfg, db, &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 3080})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.audit.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func explainer(t *testing.T, f vectors.File) *Server {
	t.Helper()
	s := opened(t)
	for _, doc := range slices.Concat(f.Roles, [][]byte{f.Preference}, f.Locks) {
		r, err := resource.ParseJSON(doc)
		if err != nil {
			t.Fatal(err)
		}
		if l, ok := r.(*resource.Lock); ok && !l.Spec.Expires.IsZero() && !l.Spec.Expires.After(vectors.Now) {
			continue // none can be made that is over; not having it is the same
		}
		if err = s.catalog.Update(t.Context(), "test", r, ""); isNotFound(err) {
			err = s.catalog.Create(t.Context(), "test", r)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return s
}

func explainCase(t *testing.T, s *Server, f vectors.File, c vectors.Case) error {
	t.Helper()
	state, err := f.State(c)
	if err != nil {
		return err
	}
	cert, err := certify(t.Context(), s, c.Request(state).Subject)
	if err != nil {
		return err
	}
	node := &dtv1.NodeInfo{Name: c.Node.Spec.Hostname, Addresses: []string{"127.0.0.1:22"}, Labels: c.Node.Metadata.Labels}
	err = s.db.Write(t.Context(), func(tx *store.Tx) error {
		if c.Revoked {
			if _, err := s.ca.RevokeLogin(tx, vectorLogin(cert), "revoked by the vector"); err != nil {
				return err
			}
		}
		if err := s.nodes.put(tx, c.Node.Metadata.Name, node, nil); err != nil {
			return err
		}
		said := report{} // of a state that nobody has heard of
		if c.Age != policy.NeverHeard {
			said = report{sequence: 1, confirmed: vectors.Now.Add(-c.Age), said: vectors.Now}
		}
		_, err := s.nodes.heard(tx, c.Node.Metadata.Name, node, nil, said)
		return err
	})
	if err != nil {
		return err
	}
	res, err := adminService{s}.Explain(t.Context(), connect.NewRequest(&dtv1.ExplainRequest{
		Login: c.Login, Node: c.Node.Spec.Hostname, Certificate: cert.Marshal(),
	}))
	if err != nil {
		return err
	}
	if res.Msg.GetAllowed() != (c.Effect == policy.Allow) {
		return errors.New("explained as the contrary: " + res.Msg.GetReason())
	}
	if c.Rule != "" && !slices.ContainsFunc(res.Msg.GetRules(), func(r *dtv1.ExplainRule) bool { return r.GetSource() == c.Rule }) {
		return errors.New("the rule is not among those explained")
	}
	return nil
}

// certify issues what the vector says that the subject holds.
func certify(ctx context.Context, s *Server, sub policy.Subject, change ...func(*identity.Identity)) (*ssh.Certificate, error) {
	pub, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	key, err := ssh.NewPublicKey(pub)
	if err != nil {
		return nil, err
	}
	der, err := tlsKeyDER()
	if err != nil {
		return nil, err
	}
	id := identity.Identity{
		User: sub.User, Roles: sub.Roles, Traits: sub.Traits, Logins: sub.Principals,
		Device:      identity.Device{ID: sub.DeviceID, AssetTag: sub.DeviceAssetTag, CredentialID: sub.DeviceCredentialID},
		Evidence:    identity.Evidence{Level: string(sub.DeviceEvidence.Level), TPMManufacturer: sub.DeviceEvidence.TPMManufacturer, TPMFirmware: sub.DeviceEvidence.TPMFirmware},
		ValidBefore: vectors.Now.Add(time.Hour),
	}
	if sub.KeyAttested {
		id.PrivateKeyPolicy, id.KeyAttestation = identity.KeyPolicyHardware, strings.Repeat("ab", 32)
	}
	for _, f := range change {
		f(&id)
	}
	certs, err := s.ca.IssueUser(ctx, ca.UserRequest{
		Identity: id, LoginID: sub.User + ssh.FingerprintSHA256(key), SSHKey: key, TLSKey: der,
	}, func(*store.Tx) error { return nil })
	if err != nil {
		return nil, err
	}
	return certs.SSH, nil
}

func vectorLogin(cert *ssh.Certificate) string {
	return cert.KeyId + ssh.FingerprintSHA256(cert.Key)
}
