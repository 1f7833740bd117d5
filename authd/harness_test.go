package authd

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"
	"golang.org/x/crypto/ssh"

	"devicetrust/api"
	"devicetrust/api/dtv1"
	"devicetrust/api/dtv1/dtv1connect"
)

// running is a whole dtauthd in this process, on real ports.
type running struct {
	t    *testing.T
	addr string
	dir  string
	pins []string
	stop func() error
	log  *syncBuffer
	// admin speaks over the admin socket.
	admin *http.Client
	roots *x509.CertPool
	// now is the clock of the server, and of clients that look at its
	// certificate.
	now func() time.Time
}

// patience is for what an idle machine does at once.
const patience = time.Minute

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

func start(t *testing.T) *running { return startAt(t, dataDir(t), "") }

// dataDir is a data directory whatever the umask, which t.TempDir follows.
func dataDir(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	return dir
}

func startAt(t *testing.T, dir, storage string) *running { return startWith(t, dir, storage, time.Now) }

func startWith(t *testing.T, dir, storage string, now func() time.Time, change ...func(*Config)) *running {
	t.Helper()
	r := &running{t: t, dir: dir, log: &syncBuffer{}, now: now}
	ctx, cancel := context.WithCancel(context.Background())
	up, down := make(chan struct{}), make(chan error, 1)
	cfg := Config{
		DataDir: r.dir, ClusterName: "test", Listen: "127.0.0.1:0", DiagListen: "off", Storage: storage, Version: "0.0.0",
		Log: slog.New(slog.NewTextHandler(r.log, nil)), Now: now,
	}
	for _, f := range change {
		f(&cfg)
	}
	go func() {
		down <- Run(ctx, cfg, nil, func(a net.Addr, pins []string) {
			r.addr, r.pins = a.String(), pins
			close(up)
		})
	}()
	r.stop = sync.OnceValue(func() error {
		cancel()
		return <-down
	})
	select {
	case <-up:
	case err := <-down:
		t.Fatalf("dtauthd did not start: %v\n%s", err, r.log)
	}
	t.Cleanup(func() {
		if err := r.stop(); err != nil {
			t.Errorf("dtauthd ended with: %v", err)
		}
		if t.Failed() {
			t.Logf("log:\n%s", r.log)
		}
	})
	r.admin = &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", filepath.Join(r.dir, "admin.sock"))
	}}}
	t.Cleanup(r.admin.CloseIdleConnections)
	r.roots = x509.NewCertPool()
	res, err := r.adminService().ExportAuthority(t.Context(), connect.NewRequest(&dtv1.ExportAuthorityRequest{Type: "tls"}))
	if err != nil {
		t.Fatal(err)
	}
	if !r.roots.AppendCertsFromPEM([]byte(res.Msg.GetText())) {
		t.Fatal("auth export --type=tls is not PEM")
	}
	return r
}

func (r *running) adminService() dtv1connect.AdminServiceClient {
	return dtv1connect.NewAdminServiceClient(r.admin, "http://admin")
}

func (r *running) resources() dtv1connect.ResourceServiceClient {
	return dtv1connect.NewResourceServiceClient(r.admin, "http://admin")
}

// keys are what a person wants certified, and what came of it.
type keys struct {
	ssh ssh.Signer
	tls *ecdsa.PrivateKey
	der []byte
	// certificate is set by login or join.
	certificate *tls.Certificate
	sshCert     *ssh.Certificate
}

func newKeys(t *testing.T) *keys {
	t.Helper()
	_, priv, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.NewSignerFromKey(priv)
	if err != nil {
		t.Fatal(err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	return &keys{ssh: signer, tls: key, der: der}
}

func tlsKeyDER() ([]byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	return x509.MarshalPKIXPublicKey(key.Public())
}

// https is a client that shows k's certificate, or none. It has no timeout: a
// login waits for its turn at hashing, which under the race detector on a busy
// machine is long.
func (r *running) https(k *keys) *http.Client {
	conf := &tls.Config{RootCAs: r.roots, MinVersion: tls.VersionTLS13, Time: r.now}
	if k != nil && k.certificate != nil {
		conf.Certificates = []tls.Certificate{*k.certificate}
	}
	c := &http.Client{Transport: &http.Transport{TLSClientConfig: conf, ForceAttemptHTTP2: true}}
	r.t.Cleanup(c.CloseIdleConnections)
	return c
}

func (r *running) url() string { return "https://" + r.addr }

const goodPassword = "correct horse battery"

func (r *running) addUser(name string, roles ...string) {
	r.t.Helper()
	password := goodPassword
	_, err := r.adminService().AddUser(r.t.Context(), connect.NewRequest(&dtv1.AddUserRequest{
		Name: name, Roles: roles, Logins: []string{"root"}, Password: &password,
	}))
	if err != nil {
		r.t.Fatal(err)
	}
}

func (r *running) login(name string) *keys {
	r.t.Helper()
	k := newKeys(r.t)
	res, err := dtv1connect.NewLoginServiceClient(r.https(nil), r.url()).Login(r.t.Context(), connect.NewRequest(&dtv1.LoginRequest{
		User: name, Password: goodPassword, SshPublicKey: k.ssh.PublicKey().Marshal(), TlsPublicKey: k.der,
	}))
	if err != nil {
		r.t.Fatal(err)
	}
	k.take(r.t, res.Msg.GetCertificates().GetSsh(), res.Msg.GetCertificates().GetTls())
	return k
}

func (k *keys) take(t *testing.T, sshCert, tlsCert []byte) {
	t.Helper()
	pub, err := ssh.ParsePublicKey(sshCert)
	if err != nil {
		t.Fatal(err)
	}
	k.sshCert = pub.(*ssh.Certificate)
	k.certificate = &tls.Certificate{Certificate: [][]byte{tlsCert}, PrivateKey: k.tls}
}

func (r *running) joinToken(labels map[string]string) string {
	r.t.Helper()
	res, err := r.adminService().AddToken(r.t.Context(), connect.NewRequest(&dtv1.AddTokenRequest{Type: "node", Labels: labels}))
	if err != nil {
		r.t.Fatal(err)
	}
	return res.Msg.GetToken()
}

func nodeInfo(name string) *dtv1.NodeInfo {
	return &dtv1.NodeInfo{Name: name, Hostname: name, Addresses: []string{"127.0.0.1:3022"}, Labels: map[string]string{"env": "test"}}
}

func (r *running) tryJoin(name, token string) (*keys, error) {
	k := newKeys(r.t)
	res, err := dtv1connect.NewNodeServiceClient(r.https(nil), r.url()).Join(r.t.Context(), connect.NewRequest(&dtv1.JoinRequest{
		Token: token, Node: nodeInfo(name), SshPublicKey: k.ssh.PublicKey().Marshal(), TlsPublicKey: k.der,
	}))
	if err != nil {
		return nil, err
	}
	k.take(r.t, res.Msg.GetHostCertificate(), res.Msg.GetTlsCertificate())
	return k, nil
}

func (r *running) join(name string) *keys {
	r.t.Helper()
	k, err := r.tryJoin(name, r.joinToken(nil))
	if err != nil {
		r.t.Fatal(err)
	}
	return k
}

// post sends one raw request body to a procedure.
func post(t *testing.T, c *http.Client, url, contentType string, body []byte) (status int, answer string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", contentType)
	req.Header.Set("Connect-Protocol-Version", "1")
	res, err := c.Do(req)
	if err != nil {
		t.Fatalf("POST %s: %v", url, err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(io.LimitReader(res.Body, 1<<20))
	if err != nil {
		t.Fatalf("POST %s: %v", url, err)
	}
	return res.StatusCode, string(text)
}

func wantCode(t *testing.T, err error, want connect.Code) {
	t.Helper()
	if err == nil {
		t.Fatalf("no error, want %v", want)
	}
	if got := connect.CodeOf(err); got != want {
		t.Fatalf("got %v (%v), want %v", got, err, want)
	}
}

// wantRefused is wantCode for what our own clients made a refusal of.
func wantRefused(t *testing.T, err error, want connect.Code) {
	t.Helper()
	var r *api.Refusal
	if !errors.As(err, &r) || r.Code != want {
		t.Fatalf("got %v, want a refusal with %v", err, want)
	}
}
