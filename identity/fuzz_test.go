package identity

import (
	"crypto/x509"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"golang.org/x/crypto/ssh"
)

// Whatever parses as a certificate is either refused or reads again as the
// same after it was written.
func FuzzSSHCertificate(f *testing.F) {
	authority, key := fixedSigner(f, 1), fixedSigner(f, 2).PublicKey()
	f.Add(wire(f, encode(f, alice(), key), authority).Marshal())
	plain := alice()
	plain.Device, plain.Evidence, plain.Traits, plain.Logins, plain.PinSourceIP = Device{}, Evidence{}, nil, nil, false
	f.Add(wire(f, encode(f, plain, key), authority).Marshal())
	f.Add(wire(f, encode(f, attested(), key), authority).Marshal())
	half := encode(f, attested(), key)
	delete(half.Extensions, extKeyAttestation)
	f.Add(wire(f, half, authority).Marshal())
	f.Fuzz(func(t *testing.T, data []byte) {
		parsed, err := ssh.ParsePublicKey(data)
		if err != nil {
			return
		}
		if _, err := goodCheck(authority).Check(parsed); err != nil && ReasonOf(err) == "" {
			t.Errorf("refused without a reason: %v", err)
		}
		cert, ok := parsed.(*ssh.Certificate)
		if !ok {
			return
		}
		id, err := UnverifiedFromSSH(cert)
		if err != nil {
			return
		}
		checkStable(t, id, key)
	})
}

func checkStable(t *testing.T, id Identity, key ssh.PublicKey) {
	t.Helper()
	again, err := id.SSHCertificate(key)
	if err != nil {
		t.Fatalf("was read and cannot be written: %v\n%+v", err, id)
	}
	back, err := UnverifiedFromSSH(again)
	if err != nil {
		t.Fatalf("was written and cannot be read: %v", err)
	}
	if d := cmp.Diff(id, back, cmpopts.EquateComparable(netip.Addr{})); d != "" {
		t.Errorf("differs after a second reading:\n%s", d)
	}
}

// The text of the JSON extensions: one form, or refused.
func FuzzSSHExtensions(f *testing.F) {
	key := fixedSigner(f, 2).PublicKey()
	f.Add(`{"version":"v1","roles":["access"]}`, `{"logins":["root"]}`, "192.0.2.1", "tag", `{"version":"v1","level":"quote"}`)
	f.Add(`{"version":"v1","roles":["a<b"]}`, `{"a":["b"],"logins":["root"]}`, "fe80::1", "", ``)
	f.Add(`{"version":"v1","roles":["access"]}`, `{"logins":["root"]}`, "192.0.2.1", "tag",
		`{"version":"v1","level":"event_log","tpm_manufacturer":"I\u0026X","tpm_firmware":"7.85.4555.0"}`)
	f.Fuzz(func(t *testing.T, roles, traits, ip, tag, evidence string) {
		cert := encode(t, alice(), key)
		cert.CriticalOptions = nil
		cert.Extensions[extRoles], cert.Extensions[extTraits] = roles, traits
		cert.Extensions[extLoginIP], cert.Extensions[extDeviceAssetTag] = ip, tag
		cert.Extensions[extDeviceEvidence] = evidence
		id, err := UnverifiedFromSSH(cert)
		if err != nil {
			return
		}
		checkStable(t, id, key)
		again := encode(t, id, key)
		if again.Extensions[extRoles] != roles || again.Extensions[extTraits] != traits || again.Extensions[extLoginIP] != ip {
			t.Errorf("what was read is written otherwise: %q", again.Extensions)
		}
		if id.Evidence != (Evidence{}) && again.Extensions[extDeviceEvidence] != evidence {
			t.Errorf("evidence that was read is written otherwise: %q", again.Extensions)
		}
	})
}

// Whatever can be written survives signing, the wire and the check.
func FuzzIdentity(f *testing.F) {
	authority, key, ca := fixedSigner(f, 1), fixedSigner(f, 2).PublicKey(), newTLSCA(f)
	f.Add("alice", "access,editor", "root,ubuntu", "v1,v2", "id", "tag", "cred", "quote", "IFX", "7.85", uint64(1), int64(60))
	f.Add("bob@example.com", "", "", "", "", "", "", "", "", "", uint64(1<<63), int64(1<<40))
	f.Fuzz(func(t *testing.T, user, roles, logins, traits, deviceID, tag, cred, level, maker, firmware string, serial uint64, life int64) {
		id := Identity{
			Cluster: "example.com", User: user, Roles: split(roles), Logins: split(logins),
			Device: Device{ID: deviceID, AssetTag: tag, CredentialID: cred}, Evidence: Evidence{level, maker, firmware}, Serial: serial,
			ValidAfter: now, ValidBefore: now.Add(time.Duration(life) * time.Second),
		}
		if t := split(traits); t != nil {
			id.Traits = map[string][]string{"logins": t}
		}
		cert, err := id.SSHCertificate(key)
		if err != nil {
			return
		}
		want := id
		want.Cluster = ""
		check := goodCheck(authority)
		if len(logins) > 0 {
			check.Login = id.Logins[0]
			got, err := check.Check(wire(t, cert, authority))
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(want, got, cmpopts.EquateComparable(netip.Addr{})); d != "" {
				t.Errorf("SSH: %s", d)
			}
		}
		if id.ValidBefore.After(ca.cert.NotAfter) {
			return
		}
		caller, err := VerifyX509(ca.sign(t, userTemplate(t, id)), []*x509.Certificate{ca.cert}, now)
		if err != nil {
			t.Fatal(err)
		}
		want.Cluster, want.Logins, want.Traits, want.Evidence = "example.com", nil, nil, Evidence{}
		if d := cmp.Diff(want, caller.Identity(), cmpopts.EquateComparable(netip.Addr{})); d != "" {
			t.Errorf("X.509: %s", d)
		}
	})
}

func split(s string) []string {
	if s == "" {
		return nil
	}
	return strings.Split(s, ",")
}

func FuzzX509(f *testing.F) {
	ca := newTLSCA(f)
	f.Add(ca.sign(f, userTemplate(f, aliceTLS())).Raw)
	node, err := NodeTemplate("example.com", "n", 1, now, now.Add(time.Hour))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(ca.sign(f, node).Raw)
	f.Fuzz(func(t *testing.T, der []byte) {
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			return
		}
		if _, err := VerifyX509(cert, []*x509.Certificate{ca.cert}, now); err != nil && ReasonOf(err) == "" {
			t.Errorf("refused without a reason: %v", err)
		}
		id, err := UnverifiedFromX509(cert)
		if err != nil {
			return
		}
		back, err := UnverifiedFromX509(ca.sign(t, userTemplate(t, id)))
		if err != nil {
			t.Fatalf("was written and cannot be read: %v", err)
		}
		if d := cmp.Diff(id, back, cmpopts.EquateComparable(netip.Addr{})); d != "" {
			t.Errorf("differs after a second reading:\n%s", d)
		}
	})
}
