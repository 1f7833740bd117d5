package node

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	gossh "golang.org/x/crypto/ssh"

	"devicetrust/audit/event"
	"devicetrust/identity"
	"devicetrust/node/sshd"
	"devicetrust/policy"
	"devicetrust/resource"
)

// aside is a side-car that decides, with nobody on the machine.
func aside(t *testing.T) (*sidecar, gossh.Signer, *time.Time) {
	t.Helper()
	now := time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)
	authority := newSigner(t)
	spool, err := openSpool(filepath.Join(t.TempDir(), "spool"), quiet())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(spool.close)
	c := &sidecar{
		config: SyncConfig{SSHDConfig: "/somewhere/sshd_config", Log: quiet(), Now: func() time.Time { return now }},
		node:   sshd.Node{Cluster: "example.com", ID: "n1", Name: "server", Installed: now.Add(-time.Hour)},
		states: newHolder(), sessions: map[string]*stockSession{}, spool: spool,
	}
	c.decider = decider{c.states, "n1", "server"}
	c.recorder = recorder{spool, "example.com", "n1", "server", c.config.Now}
	c.decideBy(access(t), authority)
	return c, authority, &now
}

func (c *sidecar) decideBy(p *policy.State, authority gossh.Signer) {
	c.states.set(&state{authorities: []gossh.PublicKey{authority.PublicKey()}, policy: p})
	c.states.heard(c.config.Now())
}

func (c *sidecar) in(l *sshd.Connection) *stockSession {
	l.Login = tester
	if l.Began.IsZero() {
		l.Began = c.config.Now()
	}
	l.Seen, l.Found = c.config.Now(), c.config.Now()
	return &stockSession{connection: l, since: c.states.get().policy}
}

// numbered is alice with a serial, as a CA gives one.
func numbered() identity.Identity {
	id := alice()
	id.Serial = 7
	return id
}

func whole(authority gossh.Signer, id identity.Identity) sshd.Proof {
	id.ValidBefore = time.Date(2026, 5, 1, 13, 0, 0, 0, time.UTC)
	return sshd.Proof{Identity: id, Authority: string(authority.PublicKey().Marshal()), Whole: true}
}

// partly is what the log tells of id.
func partly(authority gossh.Signer, id identity.Identity) sshd.Proof {
	return sshd.Proof{Identity: identity.Identity{User: id.User, Serial: id.Serial}, Authority: gossh.FingerprintSHA256(authority.PublicKey())}
}

func TestWhoIsOnAStockSSHDIsJudgedAsOnOurOwn(t *testing.T) {
	locked := func(target policy.LockTarget) func(*policy.State) {
		return func(p *policy.State) { p.Locks = []policy.Lock{{Name: "l", Target: target}} }
	}
	for name, row := range map[string]struct {
		proof  func(gossh.Signer, identity.Identity) sshd.Proof
		change func(*policy.State)
		reason string // "": stays
	}{
		"nothing changed":                     {whole, func(*policy.State) {}, ""},
		"nothing changed, by the log":         {partly, func(*policy.State) {}, ""},
		"a lock on the user":                  {whole, locked(policy.LockTarget{User: "alice"}), "lock targeting user"},
		"a lock on the user, by the log":      {partly, locked(policy.LockTarget{User: "alice"}), "lock targeting user"},
		"a lock on the login, by the log":     {partly, locked(policy.LockTarget{Login: tester}), "lock targeting login"},
		"a lock on the node, by the log":      {partly, locked(policy.LockTarget{Node: "server"}), "lock targeting node"},
		"a lock on somebody else":             {whole, locked(policy.LockTarget{User: "bob"}), ""},
		"a lock on somebody else, by the log": {partly, locked(policy.LockTarget{User: "bob"}), ""},
		"a lock on a role":                    {whole, locked(policy.LockTarget{Role: "access"}), "lock targeting role"},
		"a lock on another role":              {whole, locked(policy.LockTarget{Role: "other"}), ""},
		"a lock on some role, by the log":     {partly, locked(policy.LockTarget{Role: "other"}), partlyKnown},
		"a lock on some device, by the log":   {partly, locked(policy.LockTarget{Device: "d"}), partlyKnown},
		"a revoked serial":                    {whole, func(p *policy.State) { p.Revoked = policy.RevokedOnly(numbered().Serial, "stolen") }, "stolen"},
		"a revoked serial, by the log":        {partly, func(p *policy.State) { p.Revoked = policy.RevokedOnly(numbered().Serial, "stolen") }, "stolen"},
		"a device is asked for":               {whole, func(p *policy.State) { *p = *access(t, requireDevice) }, policy.ReasonTrustedDevice},
		"a device is asked for, by the log":   {partly, func(p *policy.State) { *p = *access(t, requireDevice) }, partlyKnown},
		"an attested key is asked for": {func(a gossh.Signer, id identity.Identity) sshd.Proof { return whole(a, onDevice(id)) },
			func(p *policy.State) { *p = *access(t, requireAttestedKey) }, policy.ReasonAttestedKey},
		"an attested key is asked for, and it is one": {func(a gossh.Signer, id identity.Identity) sshd.Proof { return whole(a, inTPM(id)) },
			func(p *policy.State) { *p = *access(t, requireAttestedKey) }, ""},
		"an attested key is asked for, by the log": {partly, func(p *policy.State) { *p = *access(t, requireAttestedKey) }, partlyKnown},
		"a role is gone":          {whole, func(p *policy.State) { delete(p.Roles, "access") }, "no policy"},
		"all is gone, by the log": {partly, func(p *policy.State) { *p = policy.State{} }, "no policy"},
	} {
		t.Run(name, func(t *testing.T) {
			c, authority, _ := aside(t)
			s := c.in(&sshd.Connection{Proofs: []sshd.Proof{row.proof(authority, numbered())}})
			p := access(t)
			row.change(p)
			c.decideBy(p, authority)
			no := c.judge(s)
			if row.reason == "" {
				if no != nil {
					t.Errorf("refused: %s", no.reason)
				}
				return
			}
			if no == nil || !strings.Contains(no.reason, row.reason) || no.identity.User != "alice" {
				t.Errorf("%+v, want %q", no, row.reason)
			}
		})
	}
}

func TestOneRefusedCertificateAmongSeveralEndsTheConnection(t *testing.T) {
	c, authority, _ := aside(t)
	other := numbered()
	other.User, other.Serial = "bob", 900
	s := c.in(&sshd.Connection{Proofs: []sshd.Proof{whole(authority, numbered()), partly(authority, other)}})
	if no := c.judge(s); no != nil {
		t.Fatal(no.reason)
	}
	p := access(t)
	p.Revoked = policy.RevokedOnly(900, "stolen")
	c.decideBy(p, authority)
	if no := c.judge(s); no == nil || no.identity.User != "bob" {
		t.Errorf("%+v", no)
	}
}

func TestAnAuthorityThatIsTakenOutOfUseEndsWhatItSigned(t *testing.T) {
	for name, proof := range map[string]func(gossh.Signer, identity.Identity) sshd.Proof{"whole": whole, "by the log": partly} {
		c, authority, _ := aside(t)
		s := c.in(&sshd.Connection{Proofs: []sshd.Proof{proof(authority, numbered())}})
		c.decideBy(access(t), newSigner(t))
		if no := c.judge(s); no == nil || no.reason != distrustedReason {
			t.Errorf("%s: %+v", name, no)
		}
		c.states.set(&state{policy: &policy.State{}, removed: true})
		if no := c.judge(s); no == nil || no.reason != removedReason {
			t.Errorf("%s: %+v", name, no)
		}
	}
}

func TestAConnectionOfNobodyEndsUnlessItIsNoneOfOurs(t *testing.T) {
	for name, row := range map[string]struct {
		connection sshd.Connection
		before     bool
		ends       bool
	}{
		"of nobody":                             {sshd.Connection{}, false, true},
		"without a certificate":                 {sshd.Connection{Otherwise: true}, false, false},
		"of an sshd that does not follow us":    {sshd.Connection{}, true, false},
		"older than the installation":           {sshd.Connection{Began: time.Date(2026, 5, 1, 10, 0, 0, 0, time.UTC)}, false, false},
		"of which sshd cannot be told":          {sshd.Connection{Orphan: true}, false, false},
		"younger than the installation, barely": {sshd.Connection{Began: time.Date(2026, 5, 1, 11, 0, 1, 0, time.UTC)}, false, true},
	} {
		t.Run(name, func(t *testing.T) {
			c, _, now := aside(t)
			s := c.in(&row.connection)
			s.before = row.before
			if no := c.judge(s); no != nil {
				t.Fatalf("at once: %s", no.reason)
			}
			*now = now.Add(companionGrace)
			no := c.judge(s)
			if (no != nil) != row.ends || no != nil && no.reason != unknownSession {
				t.Errorf("%+v", no)
			}
			// A server that was removed knows no authority to find out by.
			*now = now.Add(-companionGrace)
			c.states.current.Store(&state{policy: &policy.State{}, removed: true})
			if no := c.judge(s); (no != nil) != row.ends || no != nil && no.reason != removedReason {
				t.Errorf("the server was removed: %+v", no)
			}
		})
	}
}

func TestACertificateThatExpiresEndsAConnectionWhereARoleSaysSo(t *testing.T) {
	for _, asked := range []bool{false, true} {
		c, authority, now := aside(t)
		p := access(t)
		if asked {
			p = access(t, func(r *policy.RoleSpec) { r.Options.DisconnectExpiredCert = &asked })
		}
		c.decideBy(p, authority)
		s := c.in(&sshd.Connection{Proofs: []sshd.Proof{whole(authority, numbered())}})
		c.sessions["x"] = s
		*now = now.Add(time.Hour - time.Millisecond)
		c.states.heard(*now)
		if no := c.judge(s); no != nil {
			t.Errorf("before: %s", no.reason)
		}
		if left := c.untilNext(time.Second); left > 10*time.Millisecond {
			t.Errorf("it is looked at in %s", left)
		}
		*now = now.Add(time.Millisecond)
		if no := c.judge(s); (no != nil) != asked {
			t.Errorf("asked %v: %+v", asked, no)
		}
	}
}

// While nothing is known of the cluster, nothing can be told of anybody.
func TestWithoutAnyNewsNobodyIsCut(t *testing.T) {
	c, authority, now := aside(t)
	c.states.current.Store(&state{policy: &policy.State{}})
	s := c.in(&sshd.Connection{})
	c.sessions["x"] = s
	*now = now.Add(companionGrace)
	if no := c.judge(s); no != nil {
		t.Errorf("%+v", no)
	}
	// What is heard first is for those who are known; the others are looked at.
	c.decideBy(access(t), authority)
	c.judgeAll(true)
	if s.cut {
		t.Error("it is cut before it was looked at again")
	}
}

// A disk that hangs, or is full, keeps nobody in.
func TestACutDoesNotWaitForTheDisk(t *testing.T) {
	c, _, _ := aside(t)
	c.spool = &spool{work: make(chan pending), stop: make(chan struct{}), done: make(chan struct{})} // nobody writes
	c.recorder.spool = c.spool
	t.Cleanup(func() { close(c.spool.stop) })
	recorded := make(chan error, 1)
	go func() { recorded <- c.record(event.Event{Type: event.SessionEnd}) }()
	select {
	case err := <-recorded:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(10 * time.Second):
		t.Error("it waits for the disk")
	}
}

func TestWhatInstallSaysOfAServerIsReadAgain(t *testing.T) {
	dir := t.TempDir()
	if _, err := loadClaims(dir, "2"); err == nil {
		t.Error("there is none")
	}
	info, err := CompanionConfig{Name: "db1", Version: "1", Labels: map[string]string{"env": "prod"}}.info([]string{"192.0.2.1:22"})
	if err != nil {
		t.Fatal(err)
	}
	if err := saveClaims(dir, info); err != nil {
		t.Fatal(err)
	}
	got, err := loadClaims(dir, "2")
	if err != nil || got.GetName() != "db1" || got.GetAddresses()[0] != "192.0.2.1:22" || got.GetLabels()["env"] != "prod" || got.GetVersion() != "2" || got.GetEnforcer() != resource.EnforcerSSHD {
		t.Errorf("%v %v", got, err)
	}
	for _, text := range []string{"", "{}", "x", `{"name":"db1","addresses":["192.0.2.1:22"]}`} {
		if err := os.WriteFile(filepath.Join(dir, claimsFile), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := loadClaims(dir, "2"); err == nil {
			t.Errorf("%q: %v", text, got)
		}
	}
}
