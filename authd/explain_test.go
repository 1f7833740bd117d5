package authd

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/crypto/ssh"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/timestamppb"

	"devicetrust/api/dtv1"
	"devicetrust/identity"
	"devicetrust/login"
	"devicetrust/policy"
	"devicetrust/policy/vectors"
	"devicetrust/resource"
	"devicetrust/store"
)

// desk is a server that nobody can reach, with alice, node web, and a clock.
type desk struct {
	*Server
	t  testing.TB
	at time.Time
}

func newDesk(t testing.TB) *desk {
	t.Helper()
	d := &desk{t: t, at: vectors.Now}
	d.Server = openedAt(t, func() time.Time { return d.at })
	u := resource.User{Header: resource.NewHeader(resource.KindUser, "alice"), Spec: resource.UserSpec{
		Roles: []string{"access"}, Traits: map[string][]string{"logins": {"root"}},
	}}
	password := login.NewSecret(goodPassword)
	if err := d.login.CreateUser(t.Context(), "test", u, &password); err != nil {
		t.Fatal(err)
	}
	d.write(func(tx *store.Tx) error { return d.nodes.put(tx, "node-id", nodeInfo("web"), nil) })
	return d
}

func (d *desk) write(f func(tx *store.Tx) error) {
	d.t.Helper()
	if err := d.db.Write(d.t.Context(), f); err != nil {
		d.t.Fatal(err)
	}
}

// certificate of alice's for root.
func (d *desk) certificate(change ...func(*identity.Identity)) *ssh.Certificate {
	d.t.Helper()
	cert, err := certify(d.t.Context(), d.Server, policy.Subject{
		User: "alice", Roles: []string{"access"}, Traits: map[string][]string{"logins": {"root"}}, Principals: []string{"root"},
	}, change...)
	if err != nil {
		d.t.Fatal(err)
	}
	return cert
}

func (d *desk) ask(m *dtv1.ExplainRequest) (*dtv1.ExplainResponse, error) {
	res, err := adminService{d.Server}.Explain(d.t.Context(), connect.NewRequest(m))
	if err != nil {
		return nil, err
	}
	return res.Msg, nil
}

func (d *desk) explain(m *dtv1.ExplainRequest) *dtv1.ExplainResponse {
	d.t.Helper()
	m.Node = "web"
	res, err := d.ask(m)
	if err != nil {
		d.t.Fatal(err)
	}
	return res
}

func pinned(id *identity.Identity) {
	id.PinSourceIP, id.LoginIP = true, netip.MustParseAddr("192.0.2.7")
}

func newSigner(t testing.TB) ssh.Signer {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.NewSignerFromKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return signer
}

// signedBy is cert with the signature of another authority.
func signedBy(t testing.TB, cert *ssh.Certificate, authority ssh.Signer) *ssh.Certificate {
	t.Helper()
	other := *cert
	if err := other.SignCert(rand.Reader, authority); err != nil {
		t.Fatal(err)
	}
	return &other
}

const refusedBy = "the node refuses the certificate: "

func TestExplainSaysWhatANodeMakesOfACertificate(t *testing.T) {
	for name, tt := range map[string]struct {
		issue    func(*identity.Identity)
		change   func(*desk, *ssh.Certificate) ssh.PublicKey
		login    string
		from     string
		allowed  bool
		reason   string // begins with
		changes  []string
		rule     string // one of them
		stranger bool   // and nothing is asked of policy
	}{
		"a good one": {allowed: true, reason: `granted by role "access"`},
		"expired": {
			change: func(d *desk, c *ssh.Certificate) ssh.PublicKey { d.at = d.at.Add(2 * time.Hour); return c },
			reason: refusedBy + "it expired", changes: []string{"log in again"}, rule: "certificate",
		},
		"not valid yet": {
			change: func(d *desk, c *ssh.Certificate) ssh.PublicKey { d.at = d.at.Add(-time.Hour); return c },
			reason: refusedBy + "it is not valid yet", changes: []string{"log in again"}, rule: "certificate",
		},
		"of another cluster": {
			change: func(_ *desk, c *ssh.Certificate) ssh.PublicKey { return signedBy(t, c, newSigner(t)) },
			reason: refusedBy + "authority SHA256:", rule: "certificate", stranger: true,
		},
		"of nobody": {
			change:   func(_ *desk, c *ssh.Certificate) ssh.PublicKey { c.Signature = nil; return c },
			stranger: true, reason: "",
		},
		"changed afterwards": {
			change: func(_ *desk, c *ssh.Certificate) ssh.PublicKey { c.Extensions["permit-pty"] = ""; c.Serial++; return c },
			reason: refusedBy + "its signature does not verify", rule: "certificate", stranger: true,
		},
		"changed afterwards, and expired": {
			change: func(d *desk, c *ssh.Certificate) ssh.PublicKey { c.Serial++; d.at = d.at.Add(2 * time.Hour); return c },
			reason: refusedBy + "its signature does not verify", rule: "certificate", stranger: true,
		},
		"of another cluster, for another login": {
			change: func(_ *desk, c *ssh.Certificate) ssh.PublicKey { return signedBy(t, c, newSigner(t)) },
			login:  "postgres", reason: refusedBy + "authority SHA256:", stranger: true,
		},
		"of another cluster, for a login that is none": {
			change: func(_ *desk, c *ssh.Certificate) ssh.PublicKey { return signedBy(t, c, newSigner(t)) },
			login:  "Root;", reason: refusedBy + `login "Root;" is not of the form`, stranger: true,
		},
		"a host's": {
			change: func(d *desk, c *ssh.Certificate) ssh.PublicKey {
				c.CertType = ssh.HostCert
				return c
			},
			reason: refusedBy + "it is of type 2", stranger: true,
		},
		"a key": {
			change: func(_ *desk, c *ssh.Certificate) ssh.PublicKey { return c.Key },
			reason: refusedBy + "it is a key, and not a certificate", stranger: true,
		},
		"another login": {
			login: "postgres", reason: refusedBy + `login "postgres" is not among its logins`, rule: "certificate",
			changes: []string{`add "postgres" to the logins of user "alice"`},
		},
		"a login that is none":          {login: "Root;", reason: refusedBy + `login "Root;" is not of the form`, rule: "certificate"},
		"pinned, from its own address":  {issue: pinned, from: "192.0.2.7", allowed: true, reason: "granted"},
		"pinned, from somewhere":        {issue: pinned, allowed: true, reason: "granted", rule: "certificate source-address"},
		"pinned, from another address":  {issue: pinned, from: "192.0.2.8", reason: refusedBy + "it is for connections from 192.0.2.7 only", changes: []string{"log in again"}},
		"not pinned, from some address": {from: "192.0.2.8", allowed: true, reason: "granted"},
		"revoked": {
			change: func(d *desk, c *ssh.Certificate) ssh.PublicKey {
				d.write(func(tx *store.Tx) error { return d.endUser(tx, "alice", "the user was reset") })
				return c
			},
			reason: "certificate 1 has been revoked: the user was reset", changes: []string{"log in again"}, rule: "revocation list",
		},
		"of a user who was removed": {
			change: func(d *desk, c *ssh.Certificate) ssh.PublicKey {
				if err := d.deleteUser(t.Context(), "alice"); err != nil {
					t.Fatal(err)
				}
				return c
			},
			reason: "certificate 1 has been revoked: the user was removed", rule: `user "alice"`,
		},
		"expired, and revoked": {
			change: func(d *desk, c *ssh.Certificate) ssh.PublicKey {
				d.write(func(tx *store.Tx) error { return d.endUser(tx, "alice", "the user was reset") })
				d.at = d.at.Add(2 * time.Hour)
				return c
			},
			reason: refusedBy + "it expired", changes: []string{"log in again"}, rule: "revocation list",
		},
		"expired, and the role is gone": {
			change: func(d *desk, c *ssh.Certificate) ssh.PublicKey {
				d.at = d.at.Add(2 * time.Hour)
				d.write(func(tx *store.Tx) error {
					_, err := tx.Exec(`DELETE FROM policy_objects WHERE name = 'access'`)
					return err
				})
				return c
			},
			reason: refusedBy + "it expired", rule: `role "access"`,
		},
		"of no record": {
			change: func(d *desk, c *ssh.Certificate) ssh.PublicKey {
				d.write(func(tx *store.Tx) error { _, err := tx.Exec(`DELETE FROM certificates`); return err })
				return c
			},
			allowed: true, reason: "granted", rule: "record of certificates",
		},
	} {
		t.Run(name, func(t *testing.T) {
			d := newDesk(t)
			var issue []func(*identity.Identity)
			if tt.issue != nil {
				issue = append(issue, tt.issue)
			}
			cert := d.certificate(issue...)
			var key ssh.PublicKey = cert
			if tt.change != nil {
				key = tt.change(d, cert)
			}
			m := &dtv1.ExplainRequest{Login: "root", Node: "web", Certificate: key.Marshal(), SourceAddress: tt.from}
			if tt.login != "" {
				m.Login = tt.login
			}
			if name == "of nobody" { // no parser takes it
				_, err := d.ask(m)
				wantRefused(t, err, connect.CodeInvalidArgument)
				return
			}
			got := d.explain(m)
			if got.GetAllowed() != tt.allowed || !strings.HasPrefix(got.GetReason(), tt.reason) {
				t.Errorf("allowed %t: %s", got.GetAllowed(), got.GetReason())
			}
			if diff := cmp.Diff(tt.changes, got.GetChanges()); diff != "" {
				t.Errorf("changes (-want +got):\n%s", diff)
			}
			var sources []string
			for _, r := range got.GetRules() {
				sources = append(sources, r.GetSource())
			}
			if tt.rule != "" && !slices.Contains(sources, tt.rule) {
				t.Errorf("no rule of %q among %q", tt.rule, sources)
			}
			if tt.stranger && !slices.Equal(sources, []string{"certificate"}) {
				t.Errorf("of a stranger's certificate is said: %q", sources)
			}
			if got.GetState().GetEnforcer() != "dtnoded" {
				t.Errorf("the node's state: %v", got.GetState())
			}
		})
	}
}

func TestExplainRefusesWhatIsNoQuestion(t *testing.T) {
	d := newDesk(t)
	cert := d.certificate().Marshal()
	for name, tt := range map[string]struct {
		m    *dtv1.ExplainRequest
		want connect.Code
	}{
		"garbage":            {&dtv1.ExplainRequest{Node: "web", Login: "root", Certificate: []byte("garbage")}, connect.CodeInvalidArgument},
		"half a certificate": {&dtv1.ExplainRequest{Node: "web", Login: "root", Certificate: cert[:len(cert)/2]}, connect.CodeInvalidArgument},
		"one and more":       {&dtv1.ExplainRequest{Node: "web", Login: "root", Certificate: append(slices.Clone(cert), 0)}, connect.CodeInvalidArgument},
		"no address":         {&dtv1.ExplainRequest{Node: "web", Login: "root", Certificate: cert, SourceAddress: "home"}, connect.CodeInvalidArgument},
		"no port":            {&dtv1.ExplainRequest{Node: "web", Login: "root", Certificate: cert, Forward: &dtv1.ExplainForward{Host: "db", Port: 65536}}, connect.CodeInvalidArgument},
		"an unknown node":    {&dtv1.ExplainRequest{Node: "no-such-node", Login: "root", Certificate: cert}, connect.CodeNotFound},
		"an unknown user":    {&dtv1.ExplainRequest{Node: "web", Login: "root", User: "nobody"}, connect.CodeNotFound},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := d.ask(tt.m)
			wantRefused(t, err, tt.want)
		})
	}
}

func TestExplainTellsWhatTheNodeDecidesBy(t *testing.T) {
	d := newDesk(t)
	m := &dtv1.ExplainRequest{User: "alice", Login: "root"}
	current := d.explain(m).GetState().GetCurrentSequence()
	if current == 0 {
		t.Error("the cluster is at change 0")
	}
	want := &dtv1.NodeStateReport{Enforcer: "dtnoded", CurrentSequence: current}
	if diff := cmp.Diff(want, d.explain(m).GetState(), protocmp.Transform()); diff != "" {
		t.Errorf("of one that has said nothing (-want +got):\n%s", diff)
	}
	info := nodeInfo("web")
	info.Enforcer = resource.EnforcerSSHD
	confirmed := d.at.Add(-3 * time.Second)
	d.write(func(tx *store.Tx) error {
		_, err := d.nodes.heard(tx, "node-id", info, nil, report{sequence: 2, confirmed: confirmed, said: d.at})
		return err
	})
	want = &dtv1.NodeStateReport{
		Enforcer: "sshd", Sequence: 2, Confirmed: timestamppb.New(confirmed), Reported: timestamppb.New(d.at), CurrentSequence: current,
	}
	d.at = d.at.Add(time.Minute)
	if diff := cmp.Diff(want, d.explain(m).GetState(), protocmp.Transform()); diff != "" {
		t.Errorf("of one that has (-want +got):\n%s", diff)
	}
}

func TestAStateGrowsOldWhenItsNodeIsSilent(t *testing.T) {
	now := vectors.Now
	for name, tt := range map[string]struct {
		confirmed, reported time.Duration // ago
		want                time.Duration
	}{
		"just now":                   {0, 0, 0},
		"a moment ago":               {12 * time.Second, 10 * time.Second, 2 * time.Second},
		"between two reports":        {reportSpeaks + 14*time.Second, reportSpeaks, 14 * time.Second},
		"a report that did not come": {reportSpeaks + 15*time.Second, reportSpeaks + time.Second, reportSpeaks + 15*time.Second},
		"reports, and hears nothing": {time.Hour, time.Second, time.Hour - time.Second},
		"a clock that went back":     {-time.Hour, -time.Hour, 0},
		"confirmed after the report": {-time.Second, 0, 0},
	} {
		st := &resource.NodeState{Sequence: 1, Confirmed: now.Add(-tt.confirmed), Reported: now.Add(-tt.reported)}
		if got := stateAge(st, now); got != tt.want {
			t.Errorf("%s: %v, want %v", name, got, tt.want)
		}
	}
	if got := stateAge(nil, now); got != policy.NeverHeard {
		t.Errorf("one that has said nothing is %v old", got)
	}
}

func TestExplainNamesWhatAStockSSHDDoesNotHold(t *testing.T) {
	d := newDesk(t)
	role, err := resource.ParseJSON([]byte(`{"kind":"role","version":"v7","metadata":{"name":"access"},"spec":{
		"options":{"max_sessions":2,"client_idle_timeout":"5m"},"allow":{"logins":["root"],"node_labels":{"*":"*"}}}}`))
	if err != nil {
		t.Fatal(err)
	}
	if err := d.catalog.Update(t.Context(), "test", role, ""); err != nil {
		t.Fatal(err)
	}
	info := nodeInfo("web")
	for enforcer, want := range map[string][]string{"dtnoded": nil, "sshd": {"options.max_sessions", "options.client_idle_timeout"}} {
		info.Enforcer = enforcer
		d.write(func(tx *store.Tx) error { return d.nodes.enforcedBy(tx, "node-id", info) })
		got := d.explain(&dtv1.ExplainRequest{User: "alice", Login: "root"})
		var skipped []string
		for _, r := range got.GetRules() {
			if r.GetEffect() == string(policy.RuleSkip) && strings.HasPrefix(r.GetSource(), "options.") {
				skipped = append(skipped, r.GetSource())
			}
		}
		if diff := cmp.Diff(want, skipped); diff != "" || !got.GetAllowed() {
			t.Errorf("%s: allowed %t (-want +got):\n%s", enforcer, got.GetAllowed(), diff)
		}
	}
}

func TestExplainAsksForForwarding(t *testing.T) {
	d := newDesk(t)
	role, err := resource.ParseJSON([]byte(`{"kind":"role","version":"v7","metadata":{"name":"access"},"spec":{
		"options":{"port_forwarding":true,"permit_open":["db:5432","/run/db/*"],"permit_listen":["*:8080"]},
		"allow":{"logins":["root"],"node_labels":{"*":"*"}}}}`))
	if err != nil {
		t.Fatal(err)
	}
	if err := d.catalog.Update(t.Context(), "test", role, ""); err != nil {
		t.Fatal(err)
	}
	may := d.certificate(func(id *identity.Identity) { id.Permit.PortForwarding = true })
	old := d.certificate()
	for name, tt := range map[string]struct {
		forward *dtv1.ExplainForward
		cert    *ssh.Certificate
		reason  string
		changes []string
	}{
		"a port":                    {&dtv1.ExplainForward{Host: "db", Port: 5432}, may, "", nil},
		"another port":              {&dtv1.ExplainForward{Host: "db", Port: 22}, may, `lists "db:22" in permit_open`, nil},
		"a socket":                  {&dtv1.ExplainForward{Path: "/run/db/s"}, may, "", nil},
		"another socket":            {&dtv1.ExplainForward{Path: "/run/s"}, may, `lists "/run/s" in permit_open`, nil},
		"a listener":                {&dtv1.ExplainForward{Listen: true, Host: "localhost", Port: 8080}, may, "", nil},
		"another listener":          {&dtv1.ExplainForward{Listen: true, Port: 22}, may, `lists ":22" in permit_listen`, nil},
		"a socket to listen at":     {&dtv1.ExplainForward{Listen: true, Path: "/run/db/s"}, may, `in permit_listen`, nil},
		"nothing":                   {&dtv1.ExplainForward{}, may, "it is not known which host and port are asked for", nil},
		"before the role permitted": {&dtv1.ExplainForward{Host: "db", Port: 5432}, old, "it does not permit port forwarding", []string{"log in again"}},
		"no certificate yet":        {&dtv1.ExplainForward{Host: "db", Port: 5432}, nil, "", nil},
	} {
		m := &dtv1.ExplainRequest{User: "alice", Login: "root", Forward: tt.forward}
		if tt.cert != nil {
			m.Certificate = tt.cert.Marshal()
		}
		got := d.explain(m)
		if got.GetAllowed() != (tt.reason == "") || !strings.Contains(got.GetReason(), tt.reason) {
			t.Errorf("%s: allowed %t: %s", name, got.GetAllowed(), got.GetReason())
		}
		if diff := cmp.Diff(tt.changes, got.GetChanges()); diff != "" {
			t.Errorf("%s: changes (-want +got):\n%s", name, diff)
		}
	}
}

// Whatever bytes come, only what the authority signed is taken for somebody's.
func FuzzACertificateIsShown(f *testing.F) {
	d := newDesk(f)
	good := d.certificate(pinned)
	signed := [][]byte{good.Marshal(), d.certificate().Marshal()}
	f.Add(signed[0], "root")
	f.Add(signed[1], "postgres")
	f.Add(signed[1], "Root;")
	f.Add(signedBy(f, good, newSigner(f)).Marshal(), "root")
	f.Add(good.Key.Marshal(), "root")
	f.Add([]byte{}, "")
	f.Fuzz(func(t *testing.T, wire []byte, login string) {
		key, err := ssh.ParsePublicKey(wire)
		if err != nil {
			return
		}
		about, id := shown(identity.SSHCheck{Authorities: d.ca.UserAuthorities(), Login: login, Now: vectors.Now}, key)
		if about.stranger {
			if id.User != "" || about.subject.User != "" || about.refused == "" {
				t.Errorf("a stranger is %+v, %+v", about, id)
			}
			return
		}
		if id.User != "alice" || identity.CheckLogin(login) != nil && about.refused == "" {
			t.Errorf("%+v, %+v", about, id)
		}
		if !slices.ContainsFunc(signed, func(b []byte) bool { return bytes.Equal(b, key.Marshal()) }) {
			t.Errorf("what nobody signed passes for alice's: %x", wire)
		}
	})
}

func TestExplainDecidesWithTheAgeOfTheNodesState(t *testing.T) {
	for name, tt := range map[string]struct {
		lock   string
		report *report
		later  time.Duration
		reason string // of a denial
	}{
		"fresh":              {"strict", &report{3, vectors.Now.Add(-time.Second), vectors.Now}, 30 * time.Second, ""},
		"old, and it may be": {"best_effort", &report{3, vectors.Now, vectors.Now}, time.Hour, ""},
		"stopped":            {"strict", &report{3, vectors.Now, vectors.Now}, time.Hour, "the node has not heard of new locks for 1h0m0s"},
		"alive, and cut off": {"strict", &report{3, vectors.Now.Add(-time.Hour), vectors.Now}, 0, "the node has not heard of new locks for 1h0m0s"},
		"has said nothing":   {"strict", nil, 0, "the node has not heard of new locks since it started"},
	} {
		t.Run(name, func(t *testing.T) {
			d := newDesk(t)
			role, err := resource.ParseJSON([]byte(`{"kind":"role","version":"v7","metadata":{"name":"access"},"spec":{
				"options":{"lock":"` + tt.lock + `"},"allow":{"logins":["root"],"node_labels":{"*":"*"}}}}`))
			if err != nil {
				t.Fatal(err)
			}
			if err := d.catalog.Update(t.Context(), "test", role, ""); err != nil {
				t.Fatal(err)
			}
			if tt.report != nil {
				d.write(func(tx *store.Tx) error {
					_, err := d.nodes.heard(tx, "node-id", nodeInfo("web"), nil, *tt.report)
					return err
				})
			}
			d.at = d.at.Add(tt.later)
			cert := d.certificate(func(id *identity.Identity) { id.ValidBefore = d.at.Add(time.Hour) })
			for what, m := range map[string]*dtv1.ExplainRequest{
				"a certificate": {Login: "root", Certificate: cert.Marshal()},
				"a user":        {Login: "root", User: "alice"},
			} {
				got := d.explain(m)
				if got.GetAllowed() != (tt.reason == "") || !strings.HasPrefix(got.GetReason(), tt.reason) {
					t.Errorf("%s: allowed %t: %s", what, got.GetAllowed(), got.GetReason())
				}
				if tt.reason != "" && !slices.Equal(got.GetChanges(), []string{"let the node reach the control plane"}) {
					t.Errorf("%s: changes %q", what, got.GetChanges())
				}
			}
		})
	}
}
