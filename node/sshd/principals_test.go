package sshd

import (
	"math"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"devicetrust/identity"
	"devicetrust/policy"
)

const goodLine = `restrict,pty,expiry-time="20260301130000" root` + "\n"

func TestAGoodCertificateIsAdmittedWithNothingButItsOptions(t *testing.T) {
	s := newSite(t, noon)
	line, no := ask(s.good(), noon)
	if no != nil || line != goodLine {
		t.Errorf("got %q, %v", line, no)
	}
}

// Each row is one thing that ends access, and the cause that is told.
func TestWhatEndsAccessRefuses(t *testing.T) {
	device := func(id *identity.Identity) {
		id.Device = identity.Device{ID: "d-1", AssetTag: "TAG", CredentialID: "c-1"}
	}
	for name, row := range map[string]struct {
		change func(s *site)
		of     func(*identity.Identity)
		login  string
		cause  policy.Cause
		reason string
	}{
		"a lock on the user": {change: func(s *site) {
			s.content.Locks = []policy.Lock{lock(policy.LockTarget{User: "alice"}, "under investigation")}
		}, cause: policy.CauseLocked, reason: "under investigation"},
		"a lock on the login": {change: func(s *site) {
			s.content.Locks = []policy.Lock{lock(policy.LockTarget{Login: "root"}, "")}
		}, cause: policy.CauseLocked},
		"a lock on the device": {change: func(s *site) {
			s.content.Locks = []policy.Lock{lock(policy.LockTarget{Device: "d-1"}, "stolen")}
		}, of: device, cause: policy.CauseLocked, reason: "stolen"},
		"a lock on the node": {change: func(s *site) {
			s.content.Locks = []policy.Lock{lock(policy.LockTarget{Node: s.node.ID}, "")}
		}, cause: policy.CauseLocked},
		"a lock on the node's name": {change: func(s *site) {
			s.content.Locks = []policy.Lock{lock(policy.LockTarget{Node: s.node.Name}, "")}
		}, cause: policy.CauseLocked},
		"a revoked certificate": {change: func(s *site) {
			s.content.Revoked = []policy.Revocation{{First: 40, Last: 50, Reason: "logged out"}}
		}, cause: policy.CauseRevoked, reason: "logged out"},
		"the role removed":      {change: func(s *site) { delete(s.content.Roles, "access") }, cause: policy.CauseUnknownRole, reason: "log in again"},
		"one of the roles gone": {of: func(id *identity.Identity) { id.Roles = append(id.Roles, "editor") }, cause: policy.CauseUnknownRole},
		"no role":               {of: func(id *identity.Identity) { id.Roles = nil }, cause: policy.CauseNoState},
		"the role narrowed":     {change: func(s *site) { s.setRole("access", nil, map[string]any{"logins": []string{"alice"}}) }, cause: policy.CauseNotGranted},
		"the role for others":   {change: func(s *site) { s.setRole("access", nil, map[string]any{"node_labels": map[string]any{"env": "test"}}) }, cause: policy.CauseNotGranted},
		"labels that changed": {change: func(s *site) {
			s.setRole("access", nil, map[string]any{"node_labels": map[string]any{"env": "prod"}})
			s.labels = nil
		}, cause: policy.CauseNotGranted},
		"no device":              {change: func(s *site) { s.content.Preference = []byte(preference("required")) }, cause: policy.CauseTrustedDevice, reason: policy.ReasonTrustedDevice},
		"no device for the role": {change: func(s *site) { s.setRole("access", map[string]any{"device_trust_mode": "required"}, nil) }, cause: policy.CauseTrustedDevice},
		"a software key": {change: func(s *site) { s.setRole("access", map[string]any{"require_attested_key": true}, nil) },
			of: device, cause: policy.CauseAttestedKey, reason: policy.ReasonAttestedKey},
		"no device for the key": {change: func(s *site) { s.setRole("access", map[string]any{"require_attested_key": true}, nil) },
			cause: policy.CauseTrustedDevice, reason: policy.ReasonTrustedDevice},
		"another principal":          {of: func(id *identity.Identity) { id.Logins = []string{"alice"} }, cause: "certificate-not-a-principal"},
		"no principal":               {of: func(id *identity.Identity) { id.Logins = nil }, cause: "certificate-not-a-principal"},
		"an expired certificate":     {of: func(id *identity.Identity) { id.ValidBefore = noon }, cause: "certificate-expired"},
		"one that is not valid yet":  {of: func(id *identity.Identity) { id.ValidAfter = noon.Add(time.Second) }, cause: "certificate-not-yet-valid"},
		"a login that no role gives": {of: func(id *identity.Identity) { id.Logins = []string{"bob"} }, login: "bob", cause: policy.CauseNotGranted},
		"an authority that is no longer one": {change: func(s *site) {
			// sshd does not know yet: its file has both.
			s.must(s.dir.WriteUserCA([]ssh.PublicKey{newKey(s.t, 1).PublicKey(), newKey(s.t, 2).PublicKey()}))
			s.ca = newKey(s.t, 2)
			s.content.UserAuthorities = []ssh.PublicKey{s.ca.PublicKey()}
		}, cause: "certificate-unknown-authority"},
		"a preference that cannot be read": {change: func(s *site) { s.content.Preference = []byte(preference("maybe")) }, cause: policy.CauseNoState, reason: "maybe"},
		"a role that cannot be read":       {change: func(s *site) { s.content.Roles["access"] = []byte(`{"kind":"role"}`) }, cause: policy.CauseUnknownRole, reason: "cannot be read"},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t, noon)
			login := row.login
			if login == "" {
				login = "root"
			}
			args := s.arguments(login, s.certify(newKey(t, 9).PublicKey(), row.of))
			if row.of == nil {
				if line, no := ask(args, noon); no != nil {
					t.Fatalf("refused before: %q, %v", line, no)
				}
			}
			if row.change != nil {
				s.publish(func() { row.change(s) })
			}
			line, no := ask(args, noon)
			if line != "" || no == nil || no.cause != string(row.cause) || !strings.Contains(no.reason, row.reason) {
				t.Errorf("got %q, %v; want %s", line, no, row.cause)
			}
		})
	}
}

func TestAnAttestedKeyIsAdmittedWhereOneIsDemanded(t *testing.T) {
	s := newSite(t, noon)
	s.publish(func() { s.setRole("access", map[string]any{"require_attested_key": true}, nil) })
	attested := func() *ssh.Certificate { return s.certify(newKey(t, 9).PublicKey(), inTPM) }
	if line, no := ask(s.arguments("root", attested()), noon); no != nil || line != goodLine {
		t.Errorf("got %q, %v", line, no)
	}
	// The authority says it whole, or not at all.
	for name, spoil := range map[string]func(map[string]string){
		"no digest":           func(e map[string]string) { delete(e, "key-attestation@devicetrust") },
		"no digest's form":    func(e map[string]string) { e["key-attestation@devicetrust"] = "yes" },
		"no policy":           func(e map[string]string) { delete(e, "private-key-policy") },
		"the policy of files": func(e map[string]string) { e["private-key-policy"] = "none" },
	} {
		cert := attested()
		spoil(cert.Extensions)
		if line, no := ask(s.arguments("root", s.signed(cert, s.ca)), noon); line != "" || no == nil || no.cause != string(policy.CauseAttestedKey) {
			t.Errorf("%s: got %q, %v", name, line, no)
		}
	}
}

func TestWhoIsRefusedIsNamedWhereTheAuthoritySaidSo(t *testing.T) {
	s := newSite(t, noon)
	key := newKey(t, 9).PublicKey()
	expired := s.certify(key, func(id *identity.Identity) { id.ValidBefore = noon })
	forged := *expired
	id := s.alice()
	id.User = "mallory"
	cert, err := id.SSHCertificate(key)
	if err != nil {
		t.Fatal(err)
	}
	forged = *s.signed(cert, newKey(t, 3))
	s.publish(func() { s.content.Locks = []policy.Lock{lock(policy.LockTarget{User: "alice"}, "gone\n\x1b[2J")} })
	for name, row := range map[string]struct {
		cert *ssh.Certificate
		want string
	}{
		"expired": {expired, "refused: user=alice serial=42 login=root cause=certificate-expired state_age=2s: certificate refused: it expired"},
		"locked":  {s.certify(key, nil), "refused: user=alice serial=42 login=root cause=locked state_age=2s: lock targeting"},
		"forged":  {&forged, "refused: login=root cause=certificate-unknown-authority state_age=2s: certificate refused: authority SHA256:"},
	} {
		_, no := ask(s.arguments("root", row.cert), noon.Add(2*time.Second))
		if no == nil || !strings.HasPrefix(no.String(), row.want) || strings.ContainsAny(no.String(), "\n\x1b") || strings.Contains(no.String(), "mallory") {
			t.Errorf("%s: said %q, want %q", name, no, row.want)
		}
	}
}

func TestPolicyIsToldWhereAndHowOldTheStateIs(t *testing.T) {
	s := newSite(t, noon)
	for name, row := range map[string]struct {
		now  time.Time
		want time.Duration
	}{
		"at once":           {noon, 0},
		"a day later":       {noon.Add(24 * time.Hour), 24 * time.Hour},
		"a clock that lags": {noon.Add(-time.Minute), 0},
		"a clock gone back": {noon.Add(-24 * time.Hour), math.MaxInt64},
	} {
		r := sessionRequest(s.state(), s.alice(), "root", row.now)
		if r.StateAge != row.want || r.Node.ID != s.node.ID || r.Node.Name != s.node.Name || r.Node.Labels["env"] != "prod" || r.Action != policy.OpenSession || !r.Now.Equal(row.now) {
			t.Errorf("%s: %+v", name, r)
		}
	}
}

func TestACertificateThatIsPinnedToAnAddressIsLeftToSshd(t *testing.T) {
	s := newSite(t, noon)
	pinned := s.certify(newKey(t, 9).PublicKey(), func(id *identity.Identity) {
		id.LoginIP, id.PinSourceIP = netipLoopback, true
	})
	if line, no := ask(s.arguments("root", pinned), noon); no != nil || line != goodLine {
		t.Errorf("got %q, %v", line, no)
	}
	untouched := s.certify(newKey(t, 9).PublicKey(), nil)
	untouched.Extensions["no-touch-required"] = ""
	if line, no := ask(s.arguments("root", s.signed(untouched, s.ca)), noon); no == nil || no.cause != "certificate-no-touch-required" {
		t.Errorf("one that nobody has to touch: %q, %v", line, no)
	}
}
