package agent

import (
	"bytes"
	"context"
	"io"
	"net"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"

	"devicetrust/identity"
)

// The ways in which a connection comes from another machine: bound by OpenSSH's
// client, or marked by ours. One replaces the one before.
func (w *world) fromHop(hop ssh.Signer) map[string]func() talk {
	var last talk
	fresh := func() talk {
		if last.c != nil {
			_ = last.c.Close()
			poll(w.t, func() bool {
				w.agent.mu.Lock()
				defer w.agent.mu.Unlock()
				return w.agent.forwarded == 0
			})
		}
		last = w.talk()
		return last
	}
	return map[string]func() talk{
		"bound": func() talk {
			k := fresh()
			if !k.bind(hop, session(1), true) {
				w.t.Fatal("not bound")
			}
			return k
		},
		"marked": func() talk {
			k := fresh()
			if err := markForwarded(k.c, "hop", hop.PublicKey()); err != nil {
				w.t.Fatal(err)
			}
			return k
		},
		"marked, of a machine whose key is not known": func() talk {
			k := fresh()
			if err := markForwarded(k.c, "hop", nil); err != nil {
				w.t.Fatal(err)
			}
			return k
		},
	}
}

func TestAHopUsesTheLoginsKeyInSessionsAtTheClustersHosts(t *testing.T) {
	w := newWorld(t, permitAll)
	cert := w.logins[0].Certificate
	_, hop := w.host("hop")
	_, next := w.host("next")
	for way, dial := range w.fromHop(hop) {
		k := dial()
		if len(k.keys()) != 1 {
			t.Errorf("%s: the login is not shown", way)
		}
		if !k.bind(next, session(2), false) {
			t.Fatalf("%s: not bound", way)
		}
		if k.sign(cert, authRequest(session(2), "root", cert, next.PublicKey())) == nil {
			t.Errorf("%s: refused where the request names the host", way)
		}
		if k.sign(cert, authRequest(session(2), "root", cert, nil)) == nil {
			t.Errorf("%s: refused where it does not", way)
		}
		// And from there further on.
		k = dial()
		_, third := w.host("third")
		if !k.bind(next, session(2), true) || !k.bind(third, session(3), false) ||
			k.sign(cert, authRequest(session(3), "git", cert, nil)) == nil {
			t.Errorf("%s: refused at the second hop", way)
		}
	}
}

func TestAHostileHopGetsNothingElse(t *testing.T) {
	w := newWorld(t, permitAll)
	path, mine := keyFile(t, "mine")
	w.must("", "ssh-add", path)
	cert := w.logins[0].Certificate
	plainHop, hop := w.host("hop")
	plainNext, next := w.host("next")
	_, stranger := hostOf(t, "next", newSigner(t))
	expired := *next.PublicKey().(*ssh.Certificate)
	expired.ValidBefore = 1
	old := certifiedAs(t, w, expired, plainNext)
	user := *next.PublicKey().(*ssh.Certificate)
	user.CertType = ssh.UserCert
	userAsHost := certifiedAs(t, w, user, plainNext)

	refused := func(way, what string, sig *ssh.Signature) {
		t.Helper()
		if sig != nil {
			t.Errorf("%s: %s: signed", way, what)
		}
	}
	ways := w.fromHop(hop)
	for way, dial := range ways {
		before := w.signatures.Load()
		k := dial()
		// Before it binds a session.
		refused(way, "SSHSIG", k.sign(cert, sshsigRequest()))
		refused(way, "anything", k.sign(cert, []byte("anything")))
		refused(way, "a session that was not bound", k.sign(cert, authRequest(session(2), "root", cert, next.PublicKey())))
		refused(way, "the hop's own session", k.sign(cert, authRequest(session(1), "root", cert, hop.PublicKey())))
		for what, msg := range map[string][]byte{
			"add":               append([]byte{msgAdd}, newKeyMessage(t)...),
			"add constrained":   append(append([]byte{msgAddConstrained}, newKeyMessage(t)...), 1, 0, 0, 1, 0),
			"remove":            appendString([]byte{msgRemove}, cert.Marshal()),
			"remove mine":       appendString([]byte{msgRemove}, mine.Marshal()),
			"remove all":        {msgRemoveAll},
			"remove all of old": {msgRemoveAllOfVersion1},
			"lock":              appendString([]byte{msgLock}, "x"),
			"unlock":            appendString([]byte{msgUnlock}, "x"),
			"stop":              appendString([]byte{msgExtension}, extStop),
			"smart card":        appendString(appendString([]byte{20}, "/usr/lib/x.so"), ""),
			"unknown":           {200},
			"mark again":        appendString(appendString([]byte{msgExtension}, extForwarded), "elsewhere"),
			"forged binding":    bytes.Replace(bindMessage(t, next, session(2), false), session(2), session(3), 1),
		} {
			// Those that cannot be undone on a connection, on one of their own.
			k = dial()
			if k.succeeds(msg) {
				t.Errorf("%s: %s succeeds", way, what)
			}
			refused(way, "after "+what, k.sign(cert, authRequest(session(3), "root", cert, nil)))
		}
		// In a session that it has bound.
		k = dial()
		if !k.bind(next, session(2), false) {
			t.Fatal("not bound")
		}
		refused(way, "SSHSIG in a session", k.sign(cert, sshsigRequest()))
		refused(way, "anything in a session", k.sign(cert, []byte("anything")))
		refused(way, "another session", k.sign(cert, authRequest(session(3), "root", cert, next.PublicKey())))
		refused(way, "another host", k.sign(cert, authRequest(session(2), "root", cert, hop.PublicKey())))
		refused(way, "another user", k.sign(cert, authRequest(session(2), "mallory", cert, next.PublicKey())))
		refused(way, "another key", k.sign(cert, authRequest(session(2), "root", mine, next.PublicKey())))
		if k.succeeds(appendString([]byte{msgRemove}, cert.Marshal())) {
			t.Errorf("%s: removed in a session", way)
		}
		// At hosts that are not the cluster's.
		for what, host := range map[string]ssh.Signer{
			"a plain key": plainNext, "a stranger's host": stranger, "an expired host": old, "a user as host": userAsHost,
		} {
			k = dial()
			if !k.bind(host, session(2), false) {
				t.Fatalf("%s: not bound", what)
			}
			refused(way, what, k.sign(cert, authRequest(session(2), "root", cert, host.PublicKey())))
			refused(way, what, k.sign(cert, authRequest(session(2), "root", cert, nil)))
		}
		if got := w.signatures.Load(); got != before {
			t.Errorf("%s: %d signatures", way, got-before)
		}
	}
	// The hop signs the identifier of a session elsewhere with its own key.
	for way, dial := range ways {
		k := dial()
		if !k.bind(hop, session(2), false) {
			t.Fatal("not bound")
		}
		refused(way, "a session that the hop vouches for", k.sign(cert, authRequest(session(2), "root", cert, nil)))
		if way == "marked, of a machine whose key is not known" {
			continue
		}
		// With another certificate of the same key.
		again := certifiedAs(t, w, *next.PublicKey().(*ssh.Certificate), plainHop)
		k = dial()
		if !k.bind(again, session(2), false) {
			t.Fatal("not bound")
		}
		refused(way, "with another certificate of the hop", k.sign(cert, authRequest(session(2), "root", cert, nil)))
	}
	// Of a machine that has no name either, each could be the one that vouches.
	k := w.talk()
	if err := markForwarded(k.c, "", nil); err != nil || !k.bind(next, session(2), false) {
		t.Fatalf("not bound: %v", err)
	}
	refused("no name", "without the host", k.sign(cert, authRequest(session(2), "root", cert, nil)))
	if len(w.talk().keys()) != 3 {
		t.Error("keys have gone")
	}
	if text := w.log.String(); strings.Contains(text, "mallory") || strings.Contains(text, "anything") {
		t.Errorf("the log tells what the hop chose: %s", text)
	}
}

// certifiedAs gives key the certificate c, signed by the cluster.
func certifiedAs(t *testing.T, w *world, c ssh.Certificate, key ssh.Signer) ssh.Signer {
	t.Helper()
	c.Key = key.PublicKey()
	if err := c.SignCert(strings.NewReader(strings.Repeat("n", 64)), w.hostCA); err != nil {
		t.Fatal(err)
	}
	s, err := ssh.NewCertSigner(&c, key)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestWithoutThePermissionAHopDoesNotSeeTheLogin(t *testing.T) {
	for name, change := range map[string]func(*Identity){
		"not permitted":            func(*Identity) {},
		"no authority of hosts":    func(id *Identity) { id.HostAuthorities = nil },
		"a certificate of nothing": func(id *Identity) { id.Certificate.Extensions["teleport-roles"] = "x" },
	} {
		permit := permitAll
		permit.AgentForwarding = name != "not permitted"
		w := newWorld(t, permit)
		change(&w.logins[0])
		cert := w.logins[0].Certificate
		_, hop := w.host("hop")
		_, next := w.host("next")
		for way, dial := range w.fromHop(hop) {
			k := dial()
			if len(k.keys()) != 0 {
				t.Errorf("%s, %s: the login is shown", name, way)
			}
			if !k.bind(next, session(2), false) || len(k.keys()) != 0 || k.sign(cert, authRequest(session(2), "root", cert, next.PublicKey())) != nil {
				t.Errorf("%s, %s: used in a session", name, way)
			}
		}
		if len(w.talk().keys()) != 2 || w.talk().sign(cert, authRequest(session(2), "root", cert, nil)) == nil {
			t.Errorf("%s: of no use on the person's machine", name)
		}
	}
}

func TestAHopCannotKeepThePersonOut(t *testing.T) {
	w := newWorld(t, permitAll)
	_, hop := w.host("hop")
	for range maxForwarded {
		if !w.talk().bind(hop, session(1), true) {
			t.Fatal("not bound")
		}
	}
	k := w.talk()
	if err := markForwarded(k.c, "hop", nil); err == nil {
		t.Error("one too many from other machines")
	}
	if len(w.talk().keys()) != 2 {
		t.Error("the person's own connection is not answered")
	}
}

func TestKeysForDestinationsAreUsedThereOnly(t *testing.T) {
	w := newWorld(t, identity.Permit{})
	dir := t.TempDir()
	firstKey, first := w.host("first.example.com")
	secondKey, second := w.host("second.example.com")
	thirdKey, third := w.host("third.example.com")
	known := dir + "/known_hosts"
	write(t, known, []byte("@cert-authority first.example.com,second.example.com "+string(ssh.MarshalAuthorizedKey(w.hostCA.PublicKey()))+
		"third.example.com "+string(ssh.MarshalAuthorizedKey(thirdKey.PublicKey()))))
	path, mine := keyFile(t, "mine")
	w.must("", "ssh-add", "-q", "-H", known, "-h", "first.example.com", "-h", "first.example.com>ro*@second.example.com", "-h", "third.example.com", path)

	ask := func(hosts ...ssh.Signer) talk {
		k := w.talk()
		for i, h := range hosts {
			if !k.bind(h, session(byte(i+1)), i < len(hosts)-1) {
				t.Fatal("not bound")
			}
		}
		return k
	}
	signs := func(k talk, n byte, user string, host ssh.PublicKey) bool {
		return k.sign(mine, authRequest(session(n), user, mine, host)) != nil
	}
	shown := func(k talk) bool {
		for _, key := range k.keys() {
			if equal(key, mine) {
				return true
			}
		}
		return false
	}
	if !shown(w.talk()) || signs(w.talk(), 1, "root", nil) {
		t.Error("unbound: want it shown, and signing nothing")
	}
	if k := ask(first); !shown(k) || !signs(k, 1, "root", nil) || !signs(k, 1, "x", first.PublicKey()) {
		t.Error("the first host: refused")
	}
	if k := ask(thirdKey); !signs(k, 1, "root", nil) {
		t.Error("the third host by its plain key: refused")
	}
	if k := ask(first); signs(k, 2, "root", nil) || signs(k, 1, "root", second.PublicKey()) || k.sign(mine, []byte("x")) != nil || k.sign(mine, sshsigRequest()) != nil {
		t.Error("the first host: signed for something else")
	}
	// A host key is no authority, nor an authority a host.
	_, byThird := hostOf(t, "third.example.com", thirdKey)
	for name, h := range map[string]ssh.Signer{"by the third's key": byThird, "the authority itself": w.hostCA, "second": second, "third with a certificate": third, "first without": firstKey, "second without": secondKey} {
		if k := ask(h); shown(k) || signs(k, 1, "root", nil) {
			t.Errorf("%s: used directly", name)
		}
	}
	if k := ask(first, second); !shown(k) || !signs(k, 2, "root", second.PublicKey()) {
		t.Error("second by first: refused")
	}
	if k := ask(first, second); signs(k, 2, "root", nil) || signs(k, 2, "alice", second.PublicKey()) || signs(k, 1, "root", first.PublicKey()) {
		t.Error("second by first: signed without the host, for another user, or for the hop")
	}
	if k := ask(third, second); shown(k) || signs(k, 2, "root", second.PublicKey()) {
		t.Error("second by third: used")
	}
	// Permitted at the third, and not from there.
	k := w.talk()
	if !k.bind(thirdKey, session(1), true) || shown(k) {
		t.Error("shown beyond the third")
	}
	k = w.talk()
	if !k.bind(first, session(1), true) || !shown(k) || signs(k, 1, "root", first.PublicKey()) {
		t.Error("beyond the first: want it shown, and signing nothing before a session")
	}
	k = w.talk()
	if err := markForwarded(k.c, "hop", nil); err != nil || shown(k) || !k.bind(first, session(1), false) || signs(k, 1, "root", first.PublicKey()) {
		t.Errorf("a connection of an unknown way: used (%v)", err)
	}
}

func TestPatternsAreOpenSSHs(t *testing.T) {
	for _, c := range []struct {
		s, pattern string
		want       bool
	}{
		{"root", "root", true}, {"root", "ro*", true}, {"root", "*", true}, {"", "*", true}, {"root", "r??t", true},
		{"root", "r?t", false}, {"root", "", false}, {"", "", true}, {"root", "root*", true}, {"root", "*o?", true},
		{"root", "*x*", false}, {"aaaab", "*a*b", true}, {"root", "ROOT", false}, {"roo", "root", false}, {"", "?", false},
	} {
		if got := matches(c.s, c.pattern); got != c.want {
			t.Errorf("%q by %q: %v", c.s, c.pattern, got)
		}
	}
}

func TestASignatureEndsWithItsConnection(t *testing.T) {
	w := newWorld(t, permitAll)
	cert := w.logins[0].Certificate
	ended := make(chan error, 1)
	started := make(chan struct{})
	w.mu.Lock()
	w.logins[0].Sign = func(ctx context.Context, _ []byte) (*ssh.Signature, error) {
		close(started)
		<-ctx.Done()
		ended <- ctx.Err()
		return nil, ctx.Err()
	}
	w.mu.Unlock()
	c := w.dial()
	msg := appendString(appendString([]byte{msgSign}, cert.Marshal()), sshsigRequest())
	if err := writeMessage(c, append(msg, 0, 0, 0, 0)); err != nil {
		t.Fatal(err)
	}
	<-started
	_ = c.Close()
	if err := <-ended; err == nil {
		t.Error("no reason")
	}
}

func TestWhatIsSignedWhileTheAgentIsLockedIsKeptBack(t *testing.T) {
	w := newWorld(t, permitAll)
	cert, sign := w.logins[0].Certificate, w.logins[0].Sign
	w.mu.Lock()
	w.logins[0].Sign = func(ctx context.Context, data []byte) (*ssh.Signature, error) {
		if !w.talk().succeeds(appendString([]byte{msgLock}, "sesame")) {
			t.Error("not locked")
		}
		return sign(ctx, data)
	}
	w.mu.Unlock()
	if w.talk().sign(cert, sshsigRequest()) != nil {
		t.Error("the signature was given to somebody")
	}
}

func TestAFaultEndsOneConnectionOnly(t *testing.T) {
	w := newWorld(t, permitAll)
	cert := w.logins[0].Certificate
	w.mu.Lock()
	w.logins[0].Sign = func(context.Context, []byte) (*ssh.Signature, error) { panic("a fault") }
	w.mu.Unlock()
	c := w.dial()
	msg := appendString(appendString([]byte{msgSign}, cert.Marshal()), sshsigRequest())
	if err := writeMessage(c, append(msg, 0, 0, 0, 0)); err != nil {
		t.Fatal(err)
	}
	if answer, err := readMessage(c); err == nil {
		t.Errorf("answered %v", answer)
	}
	if len(w.talk().keys()) != 2 {
		t.Error("the agent is gone")
	}
	poll(t, func() bool { return strings.Contains(w.log.String(), "internal error") })
}

// answers serves a socket whose agent answers the first message of a connection.
func answers(t *testing.T, answer string, heard chan<- string) (path string) {
	t.Helper()
	path = filepath.Join(shortDir(t), "agent.sock")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer func() { _ = c.Close() }()
		msg, _ := readMessage(c)
		heard <- string(msg)
		_, _ = c.Write([]byte(answer + "more"))
		_, _ = io.Copy(io.Discard, c)
	}()
	return path
}

func TestAnAgentIsToldWhoUsesIt(t *testing.T) {
	w := newWorld(t, permitAll)
	_, hop := w.host("hop")
	for name, tt := range map[string]struct {
		answer, complaint string
		ours              bool
	}{
		"ours agrees":                         {"\x00\x00\x00\x01\x06", "", true},
		"ours does not":                       {"\x00\x00\x00\x01\x05", "it does not serve this node", true},
		"ours does not know the word":         {"\x00\x00\x00\x01\x1c", "it does not serve this node", true},
		"another one does not know the word":  {"\x00\x00\x00\x01\x05", "", false},
		"another one agrees with much to say": {"\x00\x00\x00\x04\x06abc", "", false},
		"an answer too long":                  {"\x00\x10\x00\x00\x06", "it does not answer: ", false},
		"an answer of nothing":                {"\x00\x00\x00\x00", "it does not answer: ", false},
	} {
		t.Run(name, func(t *testing.T) {
			heard := make(chan string, 1)
			c, err := DialForwarded(t.Context(), answers(t, tt.answer, heard), "hop", hop.PublicKey(), tt.ours)
			want := string(appendString(appendString(appendString([]byte{msgExtension}, "forwarded@devicetrust"), "hop"), hop.PublicKey().Marshal()))
			if got := <-heard; got != want {
				t.Errorf("it heard %q, want %q", got, want)
			}
			if tt.complaint != "" {
				if err == nil || !strings.HasPrefix(err.Error(), tt.complaint) {
					t.Errorf("error %v", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = c.Close() }()
			// What follows is the machine's.
			more := make([]byte, 4)
			if _, err := io.ReadFull(c, more); err != nil || string(more) != "more" {
				t.Errorf("%q, %v", more, err)
			}
		})
	}
}
