package agent

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
	xagent "golang.org/x/crypto/ssh/agent"
)

func TestTheToolsOfOpenSSHKnowTheAgent(t *testing.T) {
	w := newWorld(t, permitAll)
	cert := w.logins[0].Certificate
	if got := w.must("", "ssh-add", "-L"); !strings.HasPrefix(got, strings.TrimSpace(string(ssh.MarshalAuthorizedKey(cert)))+" alice@example") {
		t.Errorf("ssh-add -L: %s", got)
	}

	// Keys of one's own, of each kind.
	dir := t.TempDir()
	for _, kind := range []string{"ed25519", "ecdsa-256", "ecdsa-384", "ecdsa-521", "rsa-2048"} {
		typ, bits, _ := strings.Cut(kind, "-")
		path := filepath.Join(dir, kind)
		args := []string{"-q", "-t", typ, "-N", "", "-f", path}
		if bits != "" {
			args = append(args, "-b", bits)
		}
		w.must("", "ssh-keygen", args...)
		w.must("", "ssh-add", path)
		if out := w.must("", "ssh-add", "-T", path+".pub"); out != "" {
			t.Errorf("%s: ssh-add -T: %s", kind, out)
		}
		// With a certificate.
		ca := filepath.Join(dir, "ca")
		if kind == "ed25519" {
			w.must("", "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", ca)
		}
		w.must("", "ssh-keygen", "-q", "-s", ca, "-I", "me", "-n", "root", path+".pub")
		w.must("", "ssh-add", "-d", path+".pub")
		w.must("", "ssh-add", path)
		if out := w.must("", "ssh-add", "-T", path+"-cert.pub"); out != "" {
			t.Errorf("%s: ssh-add -T of its certificate: %s", kind, out)
		}
	}
	if got := strings.Count(w.must("", "ssh-add", "-l"), "\n"); got != 2+2*5 {
		t.Errorf("%d identities: %s", got, w.must("", "ssh-add", "-l"))
	}
	w.must("", "ssh-add", "-D")
	if out, err := w.run("", "ssh-add", "-l"); err == nil {
		t.Errorf("after ssh-add -D: %s", out)
	}
}

func TestAConstraintThatCannotBeHeldKeepsTheKeyOut(t *testing.T) {
	w := newWorld(t, permitAll)
	path, _ := keyFile(t, "mine")
	if out, err := w.run("", "ssh-add", "-c", path); err == nil {
		t.Errorf("a key to be confirmed: %s", out)
	}
	if out, err := w.run("\n", "ssh-add", "-s", "/usr/lib/none.so"); err == nil {
		t.Errorf("a PKCS#11 provider: %s", out)
	}
	key := newKeyMessage(t)
	for name, c := range map[string][]byte{
		"confirm":           {2},
		"maxsign":           {3, 0, 0, 0, 1},
		"unknown":           {77},
		"unknown extension": appendString([]byte{255}, "else@example.com"),
		"sk provider":       appendString(appendString([]byte{255}, "sk-provider@openssh.com"), "internal"),
		"cut lifetime":      {1, 0, 0},
		"two lifetimes":     {1, 0, 0, 1, 0, 1, 0, 0, 1, 0},
		"no destination":    appendString(appendString([]byte{255}, extRestrictDestination), ""),
		"cut destination":   appendString(appendString([]byte{255}, extRestrictDestination), "\x00\x00\x00\x09x"),
	} {
		if w.talk().succeeds(append(append([]byte{msgAddConstrained}, key...), c...)) {
			t.Errorf("%s: the key was added", name)
		}
	}
	if w.talk().succeeds(append(append([]byte{msgAdd}, key...), 1, 0, 0, 1, 0)) {
		t.Error("a key with something behind it was added")
	}
	if n := w.agent.Added(); n != 0 {
		t.Errorf("%d keys", n)
	}
	if !w.talk().succeeds(append(append([]byte{msgAddConstrained}, key...), 1, 0, 0, 1, 0)) {
		t.Error("a lifetime was refused")
	}
}

func TestALifetimeEndsByTheWallClock(t *testing.T) {
	w := newWorld(t, permitAll)
	path, public := keyFile(t, "mine")
	w.must("", "ssh-add", "-t", "60", path)
	k := w.talk()
	if k.sign(public, []byte("anything")) == nil {
		t.Error("not signed")
	}
	w.advance(61 * time.Second)
	if k.sign(public, []byte("anything")) != nil {
		t.Error("signed after the lifetime")
	}
	if keys := k.keys(); len(keys) != 2 {
		t.Errorf("%d keys after the lifetime", len(keys))
	}
	w.advance(time.Hour)
	if keys := k.keys(); len(keys) != 0 {
		t.Errorf("%d keys after the certificate's end", len(keys))
	}
	cert := w.logins[0].Certificate
	if k.sign(cert, authRequest(session(1), "root", cert, nil)) != nil {
		t.Error("signed with a certificate that has expired")
	}
}

func TestARemovedLoginIsAwayUntilItsCertificateIsAnother(t *testing.T) {
	w := newWorld(t, permitAll)
	k := w.talk()
	cert := w.logins[0].Certificate
	if !k.succeeds(appendString([]byte{msgRemove}, cert.Marshal())) || len(k.keys()) != 0 {
		t.Error("not removed")
	}
	if k.sign(cert, authRequest(session(1), "root", cert, nil)) != nil || k.sign(cert.Key, sshsigRequest()) != nil {
		t.Error("a removed key signed")
	}
	if k.succeeds(appendString([]byte{msgRemove}, cert.Marshal())) {
		t.Error("removed twice")
	}
	w.mu.Lock()
	w.logins = []Identity{w.login(permitAll, 2)}
	w.mu.Unlock()
	if len(k.keys()) != 2 {
		t.Error("not there after a renewal")
	}
}

func TestOnlySoManyKeysAreAdded(t *testing.T) {
	w := newWorld(t, permitAll)
	k := w.talk()
	for i := range maxAdded {
		if !k.succeeds(append([]byte{msgAdd}, newKeyMessage(t)...)) {
			t.Fatalf("key %d was refused", i)
		}
	}
	if k.succeeds(append([]byte{msgAdd}, newKeyMessage(t)...)) {
		t.Error("one too many")
	}
	if got := len(k.keys()); got != 2+maxAdded {
		t.Errorf("%d keys", got)
	}
}

func TestALockedAgentDoesNothing(t *testing.T) {
	w := newWorld(t, permitAll)
	path, public := keyFile(t, "mine")
	w.must("", "ssh-add", path)
	k := w.talk()
	cert := w.logins[0].Certificate
	if k.succeeds(appendString([]byte{msgLock}, "")) || k.succeeds(appendString([]byte{msgUnlock}, "x")) {
		t.Error("locked without a passphrase, or unlocked what is open")
	}
	if !k.succeeds(appendString([]byte{msgLock}, "sesame")) {
		t.Fatal("not locked")
	}
	if len(k.keys()) != 0 {
		t.Error("keys of a locked agent are shown")
	}
	if k.sign(public, []byte("x")) != nil || k.sign(cert, authRequest(session(1), "root", cert, nil)) != nil {
		t.Error("a locked agent signs")
	}
	if n := w.signatures.Load(); n != 0 {
		t.Errorf("%d signatures were made, and kept back", n)
	}
	for name, msg := range map[string][]byte{
		"add": append([]byte{msgAdd}, newKeyMessage(t)...), "remove": appendString([]byte{msgRemove}, public.Marshal()),
		"remove all": {msgRemoveAll}, "lock": appendString([]byte{msgLock}, "other"),
		"wrong": appendString([]byte{msgUnlock}, "sesam"), "empty": appendString([]byte{msgUnlock}, ""),
	} {
		if k.succeeds(msg) {
			t.Errorf("%s succeeds", name)
		}
	}
	before := time.Now()
	if k.succeeds(appendString([]byte{msgUnlock}, "wrong again")) {
		t.Error("unlocked")
	}
	if d := time.Since(before); d < 2*unlockDelay {
		t.Errorf("the second failure was answered after %v", d)
	}
	if !k.succeeds(appendString([]byte{msgUnlock}, "sesame")) || len(k.keys()) != 3 {
		t.Error("not unlocked")
	}
	if text := w.log.String(); strings.Contains(text, "sesam") || strings.Contains(text, "wrong") {
		t.Errorf("the log: %s", text)
	}
}

func TestALoginsKeySignsOnlyWhatSSHSigns(t *testing.T) {
	w := newWorld(t, permitAll)
	cert := w.logins[0].Certificate
	other := newSigner(t).PublicKey()
	good := authRequest(session(1), "root", cert, nil)
	if w.talk().sign(cert, good) == nil || w.talk().sign(cert, sshsigRequest()) == nil || w.talk().sign(cert.Key, good) == nil {
		t.Fatal("what ssh signs was refused")
	}
	replace := func(old, with string) []byte { return bytes.Replace(good, []byte(old), []byte(with), 1) }
	for name, data := range map[string][]byte{
		"nothing":                {},
		"TLS 1.3":                append(bytes.Repeat([]byte{' '}, 64), "TLS 1.3, client CertificateVerify\x00................................"...),
		"a digest":               bytes.Repeat([]byte{3}, 32),
		"a certificate":          cert.Marshal(),
		"something behind it":    append(bytes.Clone(good), 0),
		"cut":                    good[:len(good)-1],
		"another service":        replace("ssh-connection", "ssh-userauth\x00\x00"),
		"another method":         replace("publickey", "hostbased"),
		"of another key":         authRequest(session(1), "root", other, nil),
		"no user":                authRequest(session(1), "", cert, nil),
		"no session":             authRequest(nil, "root", cert, nil),
		"a short session":        authRequest([]byte("short"), "root", cert, nil),
		"another algorithm":      bytes.Replace(good, []byte(cert.Type()), []byte("ssh-ed25518-cert-v01@openssh.com"), 1),
		"SSHSIG of nothing":      []byte("SSHSIG"),
		"SSHSIG cut":             sshsigRequest()[:60],
		"SSHSIG with a tail":     append(sshsigRequest(), 0),
		"SSHSIG without purpose": bytes.Replace(sshsigRequest(), []byte("\x00\x00\x00\x03git"), []byte("\x00\x00\x00\x00"), 1),
		"SSHSIG by another hash": bytes.Replace(sshsigRequest(), []byte("sha512"), []byte("sha256"), 1),
		"a kind of message":      bytes.Replace(good, []byte{msgUserAuthRequest}, []byte{51}, 1),
		"not signed":             bytes.Replace(good, []byte("publickey\x01"), []byte("publickey\x00"), 1),
		"signed by 2":            bytes.Replace(good, []byte("publickey\x01"), []byte("publickey\x02"), 1),
	} {
		if bytes.Equal(data, good) {
			t.Fatalf("%s: nothing was changed", name)
		}
		if w.talk().sign(cert, data) != nil || w.talk().sign(cert.Key, data) != nil {
			t.Errorf("%s: signed", name)
		}
	}
}

func TestABoundConnectionSignsForThatSession(t *testing.T) {
	w := newWorld(t, permitAll)
	cert := w.logins[0].Certificate
	plainHost, host := w.host("server-1")
	k := w.talk()
	// A host outside of the cluster is nobody's business on the person's machine.
	if !k.bind(plainHost, session(1), false) {
		t.Fatal("not bound")
	}
	if k.sign(cert, authRequest(session(1), "root", cert, nil)) == nil ||
		k.sign(cert, authRequest(session(1), "root", cert, plainHost.PublicKey())) == nil || k.sign(cert, sshsigRequest()) == nil {
		t.Error("refused in the session")
	}
	if k.sign(cert, authRequest(session(2), "root", cert, nil)) != nil {
		t.Error("signed for another session")
	}
	if k.sign(cert, authRequest(session(1), "root", cert, host.PublicKey())) != nil {
		t.Error("signed for another host")
	}
	if k.bind(host, session(2), false) || k.bind(host, session(2), true) {
		t.Error("bound once more after a session")
	}
}

func TestABindingIsWhatTheHostHasSigned(t *testing.T) {
	w := newWorld(t, permitAll)
	_, host := w.host("server-1")
	_, other := w.host("server-2")
	good := bindMessage(t, host, session(1), true)
	cert := w.logins[0].Certificate
	for name, msg := range map[string][]byte{
		"of another session": bytes.Replace(good, session(1), session(2), 1),
		"of another host":    bytes.Replace(good, host.PublicKey().Marshal(), other.PublicKey().Marshal(), 1),
		"cut":                good[:len(good)-1],
		"with a tail":        append(bytes.Clone(good), 0),
		"by 2":               append(bytes.Clone(good[:len(good)-1]), 2),
		"of a short session": bindMessage(t, host, []byte("short"), true),
		"of a long session":  bindMessage(t, host, make([]byte, 65), true),
	} {
		k := w.talk()
		if k.succeeds(msg) {
			t.Errorf("%s: bound", name)
		}
		// Whoever speaks next may be a hop.
		if k.bind(host, session(1), false) {
			t.Errorf("%s: bound afterwards", name)
		}
		if len(k.keys()) != 0 || k.sign(cert, authRequest(session(1), "root", cert, host.PublicKey())) != nil || k.sign(cert, sshsigRequest()) != nil {
			t.Errorf("%s: used afterwards", name)
		}
		if k.succeeds([]byte{msgRemoveAll}) {
			t.Errorf("%s: removed keys afterwards", name)
		}
	}
	k := w.talk()
	if !k.bind(host, session(0), true) || k.bind(other, session(0), true) {
		t.Error("a session of two hosts was bound")
	}
	k = w.talk()
	for i := range maxBindings {
		if !k.bind(host, session(byte(i)), true) {
			t.Fatalf("binding %d was refused", i)
		}
	}
	if !k.bind(host, session(0), true) {
		t.Error("the same once more was refused")
	}
	if k.bind(host, session(99), false) {
		t.Error("one too many")
	}
}

// newKeyMessage is a key as in a message that adds it.
func newKeyMessage(t testing.TB) []byte {
	t.Helper()
	pub, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	b := appendString(appendString(appendString(nil, ssh.KeyAlgoED25519), pub), key)
	return appendString(b, "mine")
}

func TestXCryptosClientKnowsTheAgent(t *testing.T) {
	w := newWorld(t, permitAll)
	client := xagent.NewClient(w.dial())
	keys, err := client.List()
	if err != nil || len(keys) != 2 {
		t.Fatalf("%v, %v", keys, err)
	}
	if _, err := client.Sign(keys[0], sshsigRequest()); err != nil {
		t.Error(err)
	}
	if _, err := client.Extension("else@example.com", nil); !errors.Is(err, xagent.ErrExtensionUnsupported) {
		t.Errorf("an unknown extension: %v", err)
	}
}
