package node

import (
	"crypto/rand"
	"crypto/rsa"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	glider "github.com/gliderlabs/ssh"
	gossh "golang.org/x/crypto/ssh"

	"devicetrust/audit/event"
	"devicetrust/identity"
	"devicetrust/policy"
)

func TestWhoQueriesAsOneAndSignsAsAnotherIsJudgedAsTheOther(t *testing.T) {
	n := startNode(t)
	id := alice()
	id.Logins = []string{tester}
	signer := n.cluster.certify(t, id, newSigner(t))

	c := dialRaw(t, n.address)
	if got := c.query(tester, signer.PublicKey()); got != authKeyOK {
		t.Fatalf("query: message %d", got)
	}
	if got := c.sign("root", signer.PublicKey(), signer); got != authFailure {
		t.Errorf("signed as root with a certificate for %s: message %d", tester, got)
	}
	// And the other way round: what was asked first is forgotten.
	c = dialRaw(t, n.address)
	c.query("root", signer.PublicKey())
	if got := c.sign(tester, signer.PublicKey(), signer); got != authSuccess {
		t.Fatalf("signed as %s: message %d", tester, got)
	}
	channel, ok := c.openSession(0)
	if !ok || !c.request(channel, "exec", gossh.Marshal(struct{ C string }{"true"})) {
		t.Fatal("no session")
	}
	if e := n.recorded(event.SessionStart); e.Login != tester {
		t.Errorf("the session is recorded as %q's", e.Login)
	}
}

func TestAQueryWithAColleaguesCertificateLendsNothing(t *testing.T) {
	n := startNode(t)
	n.decideBy(access(t, requireDevice))
	colleague := n.cluster.certify(t, onDevice(alice()), newSigner(t)).PublicKey()
	own := n.cluster.certify(t, alice(), newSigner(t))

	c := dialRaw(t, n.address)
	c.query(tester, colleague)
	if got := c.sign(tester, own.PublicKey(), own); got != authFailure {
		t.Errorf("entered with the colleague's device: message %d", got)
	}
	// Where none is demanded, the session still has no device.
	n.decideBy(access(t))
	c = dialRaw(t, n.address)
	c.query(tester, colleague)
	if got := c.sign(tester, own.PublicKey(), own); got != authSuccess {
		t.Fatalf("message %d", got)
	}
	channel, _ := c.openSession(0)
	c.request(channel, "exec", gossh.Marshal(struct{ C string }{"true"}))
	if e := n.recorded(event.SessionStart); e.TrustedDevice != nil {
		t.Errorf("the session has %+v", e.TrustedDevice)
	}
}

func TestNobodyEntersWithoutAuthentication(t *testing.T) {
	n := startNode(t)
	c := dialRaw(t, n.address)
	for range 2 {
		if got := c.none("root"); got != authFailure {
			t.Fatalf("none: message %d", got)
		}
	}
	_, err := gossh.Dial("tcp", n.address, &gossh.ClientConfig{
		User: "root", HostKeyCallback: gossh.InsecureIgnoreHostKey(),
		Auth: []gossh.AuthMethod{gossh.Password(""), gossh.KeyboardInteractive(func(string, string, []string, []bool) ([]string, error) { return nil, nil })},
	})
	if err == nil {
		t.Error("entered with a password")
	}
}

func TestTheConfigurationAsGliderlabsBuildsItWantsAKey(t *testing.T) {
	n := startNode(t)
	client, peer := net.Pipe()
	defer client.Close()
	c := n.newConnection(peer, &pass{guard: n.guard})
	srv := c.transportServer()
	built := make(chan *gossh.ServerConfig, 1)
	inner := srv.ServerConfigCallback
	srv.ServerConfigCallback = func(ctx glider.Context) *gossh.ServerConfig {
		config := inner(ctx)
		built <- config
		return config
	}
	ended := make(chan struct{})
	go func() { srv.HandleConn(peer); close(ended) }()
	config := <-built
	client.Close()
	<-ended
	if config.NoClientAuth || config.VerifiedPublicKeyCallback == nil || config.PublicKeyCallback == nil ||
		config.PasswordCallback != nil || config.KeyboardInteractiveCallback != nil || config.GSSAPIWithMICConfig != nil {
		t.Errorf("%+v", config)
	}
	if _, err := config.NoClientAuthCallback(nil); err == nil {
		t.Error("none would be let in")
	}
	for _, list := range [][]string{config.KeyExchanges, config.MACs, config.PublicKeyAuthAlgorithms, config.Ciphers} {
		if len(list) == 0 {
			t.Error("a list of algorithms is left to the library")
		}
		for _, a := range list {
			if strings.Contains(a, "sha1") || a == "ssh-rsa" || strings.Contains(a, "cbc") {
				t.Errorf("algorithm %s", a)
			}
		}
	}
}

func TestACertificateMustBeTheClustersAndForTheLogin(t *testing.T) {
	n := startNode(t)
	key := newSigner(t)
	other := &testCluster{user: newSigner(t)}
	revoked := alice()
	revoked.Serial = 999
	policyInForce := access(t)
	policyInForce.Revoked = policy.RevokedOnly(999, "")
	policyInForce.Locks = []policy.Lock{{Name: "l", Target: policy.LockTarget{Device: "locked"}}}
	n.decideBy(policyInForce)
	lockedDevice := onDevice(alice())
	lockedDevice.Device.ID = "locked"
	pinned := alice()
	pinned.PinSourceIP, pinned.LoginIP = true, netip.MustParseAddr("192.0.2.1")
	expired := alice()
	expired.ValidAfter, expired.ValidBefore = time.Now().Add(-2*time.Hour), time.Now().Add(-time.Hour)
	early := alice()
	early.ValidAfter = time.Now().Add(30 * time.Minute)
	noRole := alice()
	noRole.Roles = []string{"gone"}
	unlucky := alice()
	unlucky.Logins = nil
	nobodyHere := alice()
	nobodyHere.Logins = []string{"nobodyhere"}
	nobodyHere.Traits = map[string][]string{"logins": {"nobodyhere"}}

	for _, tt := range []struct {
		name   string
		login  string
		signer gossh.Signer
		reason string
	}{
		{"of another authority", tester, other.certify(t, alice(), key), "not from this cluster"},
		{"not for the login", "daemon", n.cluster.certify(t, alice(), key), "not for this login\nSee which it is for with: dtsh status\n"},
		{"for no login", tester, n.cluster.certify(t, unlucky, key), "not for this login"},
		{"for everybody, as the library has it", tester, n.cluster.certify(t, alice(), key, func(c *gossh.Certificate) { c.ValidPrincipals = nil }), "not acceptable"},
		{"for the word nobody may have", identity.NoLogin, n.cluster.certify(t, unlucky, key), "no account"},
		{"expired", tester, n.cluster.certify(t, expired, key), "expired"},
		{"not valid yet", tester, n.cluster.certify(t, early, key), "not valid yet"},
		{"for ever", tester, n.cluster.certify(t, alice(), key, func(c *gossh.Certificate) { c.ValidBefore = gossh.CertTimeInfinity }), "not acceptable"},
		{"of a host", tester, n.cluster.certify(t, alice(), key, func(c *gossh.Certificate) { c.CertType = gossh.HostCert }), "not acceptable"},
		{"with an option nobody knows", tester, n.cluster.certify(t, alice(), key, func(c *gossh.Certificate) { c.CriticalOptions = map[string]string{"x": ""} }), "not acceptable"},
		{"for another address", tester, n.cluster.certify(t, pinned, key), "another address"},
		{"revoked", tester, n.cluster.certify(t, revoked, key), "revoked"},
		{"on a locked device", tester, n.cluster.certify(t, lockedDevice, key), "lock"},
		{"with a role that is gone", tester, n.cluster.certify(t, noRole, key), "no longer exists"},
		{"for an account that is not here", "nobodyhere", n.cluster.certify(t, nobodyHere, key), "no such account"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var banner string
			if _, err := n.dial(tt.login, tt.signer, &banner); err == nil {
				t.Fatal("entered")
			}
			if !strings.Contains(banner, tt.reason) || strings.Count(banner, "\n") > 2 {
				t.Errorf("banner %q, want %q", banner, tt.reason)
			}
		})
	}
	if c, err := n.dial(tester, n.cluster.certify(t, alice(), key)); err != nil {
		t.Errorf("a good one: %v", err)
	} else if out, _, _ := run(t, c, "echo $DT_USER"); out != "alice\n" {
		t.Errorf("%q", out)
	}
}

func TestAKeyThatIsNoCertificateIsNotEvenAskedToSign(t *testing.T) {
	n := startNode(t)
	key := newSigner(t)
	c := dialRaw(t, n.address)
	if got := c.query(tester, key.PublicKey()); got != authFailure {
		t.Errorf("query with a plain key: message %d", got)
	}
	if got := c.query(tester, n.cluster.user.PublicKey()); got != authFailure {
		t.Errorf("query with the authority's own key: message %d", got)
	}
	if got := c.sign(tester, key.PublicKey(), key); got != authFailure {
		t.Errorf("signature by a plain key: message %d", got)
	}
}

func TestACertificateSignedByACertificateIsRefused(t *testing.T) {
	n := startNode(t)
	// The authority certified a key; that key's certificate signs another.
	between := n.cluster.certify(t, alice(), newSigner(t))
	key := newSigner(t)
	id := alice()
	id.Serial = 5
	cert, err := id.SSHCertificate(key.PublicKey())
	if err != nil {
		t.Fatal(err)
	}
	// SignCert refuses to do it.
	cert.Nonce, cert.SignatureKey = make([]byte, 32), between.PublicKey()
	unsigned := cert.Marshal()
	if cert.Signature, err = between.Sign(rand.Reader, unsigned[:len(unsigned)-4]); err != nil {
		t.Fatal(err)
	}
	if _, err := n.dial(tester, withCertificate(t, cert, key)); err == nil {
		t.Error("entered")
	}
	c := dialRaw(t, n.address)
	if got := c.sign(tester, cert, key); got == authSuccess {
		t.Error("entered")
	}
}

func TestSHA1SignaturesAreRefused(t *testing.T) {
	n := startNode(t)
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := gossh.NewSignerFromKey(key)
	if err != nil {
		t.Fatal(err)
	}
	certified := n.cluster.certify(t, alice(), signer)
	if _, err := n.dial(tester, certified); err != nil {
		t.Errorf("RSA with SHA-2: %v", err)
	}
	c := dialRaw(t, n.address)
	old := sha1Signer{signer.(gossh.AlgorithmSigner)}
	if got := c.sign(tester, certified.PublicKey(), old); got != authFailure {
		t.Errorf("RSA with SHA-1: message %d", got)
	}
}

type sha1Signer struct{ gossh.AlgorithmSigner }

func (s sha1Signer) Sign(r io.Reader, data []byte) (*gossh.Signature, error) {
	return s.SignWithAlgorithm(r, data, gossh.KeyAlgoRSA)
}

func TestADenialTellsAStockClientWhy(t *testing.T) {
	n := startNode(t)
	n.decideBy(access(t, requireDevice))
	signer := n.cluster.certify(t, alice(), newSigner(t))
	_, port, _ := net.SplitHostPort(n.address)
	want := fmt.Sprintf("access denied to root connecting to server:%s: access to resource requires a trusted device\n%s\n", port, enrollHint)

	c := dialRaw(t, n.address)
	for range 3 {
		c.query("root", signer.PublicKey())
	}
	if len(c.Banners) > 0 {
		t.Errorf("a query is answered with %q", c.Banners)
	}
	if got := c.sign("root", signer.PublicKey(), signer); got != authFailure || len(c.Banners) != 1 || c.Banners[0] != want {
		t.Errorf("message %d, banners %q, want %q", got, c.Banners, want)
	}
	e := n.recorded(event.SessionRejected)
	if e.User != "alice" || e.Login != "root" || e.Success || e.Message != policy.ReasonTrustedDevice || len(e.Reasons) == 0 ||
		e.NodeID != "n1" || e.NodeName != "server" || e.Code != "T1006W" || !strings.HasPrefix(e.RemoteAddr, "127.0.0.1:") {
		t.Errorf("record %+v", e)
	}
}

func TestWhatTheClientCallsItselfIsNotRepeated(t *testing.T) {
	n := startNode(t)
	signer := n.cluster.certify(t, alice(), newSigner(t))
	for _, login := range []string{"", "root,x", "Root", "a b", "a'b", "\x1b]0;title\x07", "ro\not", "rööt", "-x", "../x"} {
		c := dialRaw(t, n.address)
		if got := c.sign(login, signer.PublicKey(), signer); got != authFailure {
			t.Errorf("%q: message %d", login, got)
		}
		if len(c.Banners) != 1 || !strings.HasPrefix(c.Banners[0], "access denied to that login connecting to server:") ||
			login != "" && strings.Contains(c.Banners[0], login) {
			t.Errorf("%q: %q", login, c.Banners)
		}
	}
	for _, e := range n.records() {
		if e.Login != "" {
			t.Errorf("recorded as %q", e.Login)
		}
	}
}

func TestADeviceInTheCertificateOpensWhatDemandsOne(t *testing.T) {
	n := startNode(t)
	n.decideBy(access(t, requireDevice))
	c := n.mustDial(tester, n.cluster.certify(t, onDevice(alice()), newSigner(t)))
	if _, _, status := run(t, c, "true"); status != 0 {
		t.Errorf("status %d", status)
	}
	for _, typ := range []event.Type{event.SessionStart, event.Exec, event.SessionEnd} {
		e := n.recorded(typ)
		if e.TrustedDevice == nil || e.TrustedDevice.AssetTag != "C00AA0AAAA0A" || e.TrustedDevice.CredentialID != "cafe" {
			t.Errorf("%s: device %+v", typ, e.TrustedDevice)
		}
		if e.User != "alice" || e.Login != tester || e.SessionID == "" || e.NodeID != "n1" || !e.Success {
			t.Errorf("%s: %+v", typ, e)
		}
	}
	// Two of its three fields are no device.
	partial := onDevice(alice())
	signer := n.cluster.certify(t, partial, newSigner(t), func(c *gossh.Certificate) { delete(c.Extensions, "teleport-device-credential-id") })
	if _, err := n.dial(tester, signer); err == nil {
		t.Error("entered with a part of a device")
	}
}

func TestANodeThatHasNoPolicyLetsNobodyIn(t *testing.T) {
	n := startNode(t)
	signer := n.cluster.certify(t, alice(), newSigner(t))
	for name, st := range map[string]*state{
		"the zero value":  {},
		"no authority":    {policy: access(t)},
		"an empty policy": {authorities: []gossh.PublicKey{n.cluster.user.PublicKey()}, policy: &policy.State{}},
		"no policy":       {authorities: []gossh.PublicKey{n.cluster.user.PublicKey()}},
	} {
		n.states.set(st)
		if _, err := n.dial(tester, signer); err == nil {
			t.Errorf("%s: entered", name)
		}
	}
}

func TestWithoutRootOnlyOurOwnAccountIsServed(t *testing.T) {
	n := startNode(t, func(c *serverConfig) { c.uid = 4711 })
	var banner string
	if _, err := n.dial(tester, n.cluster.certify(t, alice(), newSigner(t)), &banner); err == nil || !strings.Contains(banner, "own account only") {
		t.Errorf("%v, banner %q", err, banner)
	}
}

// Nothing happens on the connection, and nothing is looked at for long.
func TestWhoIsInIsCutWhenWhatIsKnownOfLocksBecomesTooOld(t *testing.T) {
	n := startNode(t, func(c *serverConfig) { c.limits.recheck = time.Hour })
	strict := access(t)
	strict.Preference = policy.Preference{LockingMode: policy.LockingStrict, StalenessLimit: policy.Duration(time.Second)}
	n.states.heard(time.Now())
	n.decideBy(strict)
	s := newSession(t, n.mustDial(tester, n.cluster.certify(t, alice(), newSigner(t))))
	var told syncBuffer
	s.Stderr = &told
	if err := s.Start("exec sleep 1000"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the person is told", func() bool {
		return strings.Contains(told.String(), "the cluster (locking_mode: strict) wants none older than 1s")
	})
}

// staleLocks are older than policy's limit, where the preference sets none.
const staleLocks = 6 * time.Minute

func TestStaleLocksKeepOutWhoseRoleWantsCurrentOnes(t *testing.T) {
	n := startNode(t, func(c *serverConfig) { c.limits.recheck = 50 * time.Millisecond })
	strict := func(s *policy.RoleSpec) { s.Options.Lock = "strict" }
	signer := n.cluster.certify(t, alice(), newSigner(t))

	n.decideBy(access(t, strict))
	c := n.mustDial(tester, signer)
	n.states.heard(time.Now().Add(-staleLocks))
	var banner string
	if _, err := n.dial(tester, signer, &banner); err == nil || !strings.Contains(banner, "has not heard of new locks") {
		t.Errorf("%v, banner %q", err, banner)
	}
	eventually(t, "who is in is cut off", func() bool { _, _, err := c.SendRequest("x", true, nil); return err != nil })

	n.decideBy(access(t))
	if _, err := n.dial(tester, signer); err != nil {
		t.Errorf("best effort: %v", err)
	}
	n.decideBy(access(t, strict))
	n.states.heard(time.Time{})
	banner = ""
	if _, err := n.dial(tester, signer, &banner); err == nil || !strings.Contains(banner, "since it started") {
		t.Errorf("after a restart: %v, banner %q", err, banner)
	}
	n.states.heard(time.Now())
	if _, err := n.dial(tester, signer); err != nil {
		t.Errorf("heard again: %v", err)
	}
}
