package agent

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"devicetrust/identity"
)

// world is an agent with alice's login at a cluster, and what certifies both.
type world struct {
	t      *testing.T
	agent  *Agent
	socket string
	log    *syncBuffer

	userCA, hostCA ssh.Signer
	key            ed25519.PrivateKey
	signatures     atomic.Int32

	mu     sync.Mutex
	now    time.Time
	logins []Identity
}

type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

func (w *world) Identities(context.Context) ([]Identity, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.logins, nil
}

func (w *world) clock() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.now
}

func (w *world) advance(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.now = w.now.Add(d)
}

var permitAll = identity.Permit{PTY: true, PortForwarding: true, AgentForwarding: true}

func newWorld(t *testing.T, permit identity.Permit) *world {
	t.Helper()
	w := &world{t: t, now: time.Now(), log: &syncBuffer{}, userCA: newSigner(t), hostCA: newSigner(t)}
	_, w.key, _ = ed25519.GenerateKey(rand.Reader)
	w.logins = []Identity{w.login(permit, 1)}
	w.agent = New(Config{Source: w, Now: w.clock, Log: slog.New(slog.NewTextHandler(w.log, nil))})
	w.socket = filepath.Join(shortDir(t), "agent.sock")
	l, err := Listen(w.socket)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- w.agent.Serve(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return w
}

// shortDir is a folder whose name leaves room for that of a socket.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "dta")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

func newSigner(t testing.TB) ssh.Signer {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	s, err := ssh.NewSignerFromKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func (w *world) login(permit identity.Permit, serial uint64) Identity {
	w.t.Helper()
	signer, err := ssh.NewSignerFromKey(w.key)
	if err != nil {
		w.t.Fatal(err)
	}
	cert, err := identity.Identity{
		User: "alice", Logins: []string{"root", "git"}, Roles: []string{"access"}, Serial: serial, Permit: permit,
		ValidAfter: w.now.Add(-time.Minute), ValidBefore: w.now.Add(time.Hour),
	}.SSHCertificate(signer.PublicKey())
	if err != nil {
		w.t.Fatal(err)
	}
	if err := cert.SignCert(rand.Reader, w.userCA); err != nil {
		w.t.Fatal(err)
	}
	return Identity{
		Certificate: cert, Comment: "alice@example", HostAuthorities: []ssh.PublicKey{w.hostCA.PublicKey()},
		Sign: func(_ context.Context, data []byte) (*ssh.Signature, error) {
			w.signatures.Add(1)
			return signer.Sign(rand.Reader, data)
		},
	}
}

// host gives a host with a certificate of the cluster's.
func (w *world) host(name string) (plain, certified ssh.Signer) {
	w.t.Helper()
	return hostOf(w.t, name, w.hostCA)
}

func hostOf(t testing.TB, name string, ca ssh.Signer) (plain, certified ssh.Signer) {
	t.Helper()
	key := newSigner(t)
	cert := &ssh.Certificate{Key: key.PublicKey(), CertType: ssh.HostCert, ValidPrincipals: []string{name}, ValidBefore: ssh.CertTimeInfinity}
	if err := cert.SignCert(rand.Reader, ca); err != nil {
		t.Fatal(err)
	}
	certified, err := ssh.NewCertSigner(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	return key, certified
}

// dial gives a connection.
func (w *world) dial() net.Conn {
	w.t.Helper()
	c, err := Dial(w.t.Context(), w.socket)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = c.Close() })
	return c
}

// talk is a connection that messages are sent on.
type talk struct {
	t testing.TB
	c net.Conn
}

func (w *world) talk() talk { return talk{w.t, w.dial()} }

func (k talk) ask(msg []byte) []byte {
	k.t.Helper()
	if err := writeMessage(k.c, msg); err != nil {
		k.t.Fatal(err)
	}
	answer, err := readMessage(k.c)
	if err != nil {
		k.t.Fatal(err)
	}
	return answer
}

func (k talk) succeeds(msg []byte) bool {
	k.t.Helper()
	return k.ask(msg)[0] == msgSuccess
}

func (k talk) keys() []ssh.PublicKey {
	k.t.Helper()
	r := reader{rest: k.ask([]byte{msgRequestIdentities})}
	r.byte()
	var keys []ssh.PublicKey
	for range r.uint32() {
		keys = append(keys, r.key())
		r.string()
	}
	if !r.done() {
		k.t.Fatal("a malformed list")
	}
	return keys
}

func (k talk) sign(key ssh.PublicKey, data []byte) *ssh.Signature {
	k.t.Helper()
	msg := appendString(appendString([]byte{msgSign}, key.Marshal()), data)
	answer := k.ask(append(msg, 0, 0, 0, 0))
	if answer[0] != msgSignature {
		return nil
	}
	r := reader{rest: answer[1:]}
	var sig ssh.Signature
	if err := ssh.Unmarshal(r.string(), &sig); err != nil {
		k.t.Fatal(err)
	}
	if err := plain(key).Verify(data, &sig); err != nil {
		k.t.Fatal(err)
	}
	return &sig
}

// bind makes a session-bind as ssh does.
func bindMessage(t testing.TB, host ssh.Signer, session []byte, forwarding bool) []byte {
	t.Helper()
	sig, err := host.Sign(rand.Reader, session)
	if err != nil {
		t.Fatal(err)
	}
	msg := appendString([]byte{msgExtension}, extSessionBind)
	msg = appendString(msg, host.PublicKey().Marshal())
	msg = appendString(msg, session)
	msg = appendString(msg, ssh.Marshal(sig))
	if forwarding {
		return append(msg, 1)
	}
	return append(msg, 0)
}

func (k talk) bind(host ssh.Signer, session []byte, forwarding bool) bool {
	k.t.Helper()
	return k.succeeds(bindMessage(k.t, host, session, forwarding))
}

// session is an identifier of one.
func session(b byte) []byte { return bytes.Repeat([]byte{b}, 32) }

// authRequest is what ssh signs; host is nil for one that names none.
func authRequest(session []byte, user string, key, host ssh.PublicKey) []byte {
	b := appendString(nil, session)
	b = append(b, msgUserAuthRequest)
	b = appendString(appendString(b, user), "ssh-connection")
	method := "publickey"
	if host != nil {
		method = "publickey-hostbound-v00@openssh.com"
	}
	b = append(appendString(b, method), 1)
	b = appendString(appendString(b, key.Type()), key.Marshal())
	if host != nil {
		b = appendString(b, host.Marshal())
	}
	return b
}

// sshsigRequest is what ssh-keygen -Y signs.
func sshsigRequest() []byte {
	b := appendString([]byte("SSHSIG"), "git")
	b = appendString(appendString(b, ""), "sha512")
	return appendString(b, bytes.Repeat([]byte{7}, 64))
}

// run runs one of OpenSSH's programs with the agent.
func (w *world) run(stdin, name string, args ...string) (string, error) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = append(os.Environ(), "SSH_AUTH_SOCK="+w.socket, "SSH_ASKPASS_REQUIRE=never")
	cmd.Stdin = strings.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func (w *world) must(stdin, name string, args ...string) string {
	w.t.Helper()
	out, err := w.run(stdin, name, args...)
	if err != nil {
		w.t.Fatalf("%s %q: %v: %s", name, args, err, out)
	}
	return out
}

// keyFile makes a key file for ssh-add.
func keyFile(t *testing.T, name string) (path string, public ssh.PublicKey) {
	t.Helper()
	pub, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	block, err := ssh.MarshalPrivateKey(crypto.PrivateKey(key), name)
	if err != nil {
		t.Fatal(err)
	}
	public, err = ssh.NewPublicKey(pub)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	path = filepath.Join(dir, name)
	writePEM(t, path, block)
	write(t, path+".pub", ssh.MarshalAuthorizedKey(public))
	return path, public
}
