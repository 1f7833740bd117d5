package node

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"
	gossh "golang.org/x/crypto/ssh"

	"devicetrust/api"
	"devicetrust/api/dtv1"
	"devicetrust/api/dtv1/dtv1connect"
	"devicetrust/audit/event"
	"devicetrust/feed"
	"devicetrust/policy"
	"devicetrust/resource"
)

// tlsAuthority is a TLS authority made by hand.
type tlsAuthority struct {
	t    testing.TB
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
}

func newTLSAuthority(t testing.TB) *tlsAuthority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	a := &tlsAuthority{t: t, key: key}
	a.cert = a.sign(&x509.Certificate{
		Subject: pkix.Name{CommonName: "test TLS authority"}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
	}, &key.PublicKey)
	return a
}

// sign certifies key by template; without an authority's certificate it signs
// its own.
func (a *tlsAuthority) sign(template *x509.Certificate, key *ecdsa.PublicKey) *x509.Certificate {
	a.t.Helper()
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	if err != nil {
		a.t.Fatal(err)
	}
	template.SerialNumber = serial
	parent := a.cert
	if parent == nil {
		parent = template
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key, a.key)
	if err != nil {
		a.t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		a.t.Fatal(err)
	}
	return cert
}

// server gives a server's certificate for 127.0.0.1, with the authority behind
// it.
func (a *tlsAuthority) server(change ...func(*x509.Certificate)) tls.Certificate {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	template := &x509.Certificate{
		Subject: pkix.Name{CommonName: "dtauthd"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	for _, f := range change {
		f(template)
	}
	leaf := a.sign(template, &key.PublicKey)
	return tls.Certificate{Certificate: [][]byte{leaf.Raw, a.cert.Raw}, PrivateKey: key}
}

// plane is a control plane: a real NodeService over real TLS, with authorities
// made by hand.
type plane struct {
	t       testing.TB
	tls     *tlsAuthority
	ssh     *testCluster
	server  *httptest.Server
	door    *door
	address string
	// life of what it certifies.
	life time.Duration

	mu         sync.Mutex
	token      string // "" is spent
	tooLate    bool   // certificates are refused as authd refuses expired ones
	joins      int
	renewals   int
	heartbeats []*dtv1.NodeInfo
	events     []event.Event
	refuseAll  bool // of RecordEvents
	sequence   uint64
	roles      map[string][]byte
	preference []byte
	locks      []policy.Lock
	timeOff    time.Duration
	follows    int  // streams so far
	mute       bool // streams say nothing at all
	changed    chan struct{}
}

func startPlane(t testing.TB, change ...func(*x509.Certificate)) *plane {
	t.Helper()
	p := &plane{
		t: t, tls: newTLSAuthority(t), ssh: newTestCluster(t), life: time.Hour, token: "good-token",
		sequence: 1, changed: make(chan struct{}),
	}
	p.setRole(policy.RoleSpec{Allow: policy.RoleConditions{
		Logins: []string{"{{internal.logins}}"}, NodeLabels: map[string]policy.Values{"*": {"*"}},
	}})
	p.preference = document(t, &resource.Preference{Header: resource.NewHeader(resource.KindPreference, resource.PreferenceName)})
	p.serve(change...)
	t.Cleanup(func() {
		p.stop()
		p.server.Close()
	})
	return p
}

func (p *plane) serve(change ...func(*x509.Certificate)) {
	p.t.Helper()
	mux := http.NewServeMux()
	mux.Handle(dtv1connect.NewNodeServiceHandler(p))
	p.server = httptest.NewUnstartedServer(mux)
	p.door = &door{Listener: p.server.Listener, inside: map[net.Conn]struct{}{}}
	p.server.Listener = p.door
	p.server.EnableHTTP2 = true
	p.server.Config.ErrorLog = log.New(io.Discard, "", 0)
	p.server.TLS = &tls.Config{
		Certificates: []tls.Certificate{p.tls.server(change...)}, MinVersion: tls.VersionTLS13,
		ClientAuth: tls.RequestClientCert, // as authd, which refuses in words
	}
	p.server.StartTLS()
	p.address = p.door.Addr().String()
}

// stop sends all away, until goOn.
func (p *plane) stop() { p.door.set(true) }

func (p *plane) goOn() { p.door.set(false) }

// door is a listener that can be shut and keeps its port: another process
// could have it before it is open again.
type door struct {
	net.Listener

	mu     sync.Mutex
	shut   bool
	inside map[net.Conn]struct{}
}

func (d *door) set(shut bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.shut = shut
	for c := range d.inside {
		if shut {
			c.Close()
		}
	}
}

func (d *door) Accept() (net.Conn, error) {
	for {
		c, err := d.Listener.Accept()
		if err != nil {
			return nil, err
		}
		d.mu.Lock()
		shut := d.shut
		if !shut {
			d.inside[c] = struct{}{}
		}
		d.mu.Unlock()
		if !shut {
			return &guest{c, d}, nil
		}
		c.Close()
	}
}

// guests is how many connections there are.
func (d *door) guests() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.inside)
}

// guest is one connection through a door.
type guest struct {
	net.Conn
	door *door
}

func (g *guest) Close() error {
	g.door.mu.Lock()
	defer g.door.mu.Unlock()
	delete(g.door.inside, g.Conn)
	return g.Conn.Close()
}

func document(t testing.TB, r resource.Resource) []byte {
	t.Helper()
	doc, err := resource.MarshalJSON(r)
	if err != nil {
		t.Fatal(err)
	}
	return doc
}

// setRole replaces role "access", the only one.
func (p *plane) setRole(spec policy.RoleSpec) {
	doc := document(p.t, &resource.Role{Header: resource.NewHeader(resource.KindRole, "access"), Spec: spec})
	p.change(func() { p.roles = map[string][]byte{"access": doc} })
}

func (p *plane) lock(target policy.LockTarget) {
	p.change(func() { p.locks = append(p.locks, policy.Lock{Name: "l" + strconv.Itoa(len(p.locks)), Target: target}) })
}

// change changes something that nodes hear of.
func (p *plane) change(f func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	f()
	p.sequence++
	close(p.changed)
	p.changed = make(chan struct{})
}

// get reads something that calls change.
func get[T any](p *plane, f func() T) T {
	p.mu.Lock()
	defer p.mu.Unlock()
	return f()
}

func (p *plane) Join(_ context.Context, req *connect.Request[dtv1.JoinRequest]) (*connect.Response[dtv1.JoinResponse], error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	good := p.token != "" && req.Msg.GetToken() == p.token
	p.token = ""
	if !good {
		e, _ := api.ToWire(api.Refuse(connect.CodeUnauthenticated, "the join token is spent, has expired or never was"))
		return nil, e
	}
	p.joins++
	return p.certify(req.Msg.GetNode(), req.Msg.GetSshPublicKey(), req.Msg.GetTlsPublicKey())
}

func (p *plane) Renew(_ context.Context, req *connect.Request[dtv1.RenewRequest]) (*connect.Response[dtv1.JoinResponse], error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.renewals++
	if p.tooLate {
		e, _ := api.ToWire(api.Refuse(connect.CodeUnauthenticated, "the certificate was refused: it expired").WithHint("log in again: dtsh login"))
		return nil, e
	}
	return p.certify(req.Msg.GetNode(), req.Msg.GetSshPublicKey(), req.Msg.GetTlsPublicKey())
}

func (p *plane) certify(info *dtv1.NodeInfo, sshKey, tlsKey []byte) (*connect.Response[dtv1.JoinResponse], error) {
	key, err := gossh.ParsePublicKey(sshKey)
	if err != nil {
		return nil, err
	}
	from, to := time.Now().Add(-time.Second), time.Now().Add(p.life)
	names := []string{info.GetName(), info.GetHostname()}
	for _, address := range info.GetAddresses() {
		name, _, err := net.SplitHostPort(address)
		if err != nil {
			return nil, err
		}
		names = append(names, name)
	}
	host := &gossh.Certificate{
		Key: key, CertType: gossh.HostCert, KeyId: "node-1", Serial: 1, ValidPrincipals: names,
		ValidAfter: uint64(from.Unix()), ValidBefore: uint64(to.Unix()),
	}
	if err := host.SignCert(rand.Reader, p.ssh.host); err != nil {
		return nil, err
	}
	public, err := x509.ParsePKIXPublicKey(tlsKey)
	if err != nil {
		return nil, err
	}
	ec, ok := public.(*ecdsa.PublicKey)
	if !ok {
		return nil, fmt.Errorf("a key of type %T", public)
	}
	cert := p.tls.sign(&x509.Certificate{
		Subject: pkix.Name{CommonName: "node-1"}, NotBefore: from, NotAfter: to,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}, ec)
	return connect.NewResponse(&dtv1.JoinResponse{
		NodeId: "node-1", HostCertificate: host.Marshal(), TlsCertificate: cert.Raw,
		Cluster: &dtv1.ClusterInfo{Name: "test", TlsAuthorities: [][]byte{p.tls.cert.Raw}, HostAuthorities: [][]byte{p.ssh.host.PublicKey().Marshal()}, UserAuthorities: [][]byte{p.ssh.user.PublicKey().Marshal()}},
		Labels:  map[string]string{"env": "token"},
	}), nil
}

func (p *plane) Heartbeat(_ context.Context, req *connect.Request[dtv1.HeartbeatRequest]) (*connect.Response[dtv1.HeartbeatResponse], error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.heartbeats = append(p.heartbeats, req.Msg.GetNode())
	return connect.NewResponse(&dtv1.HeartbeatResponse{}), nil
}

func (p *plane) Follow(ctx context.Context, req *connect.Request[dtv1.FollowRequest], stream *connect.ServerStream[dtv1.StateUpdate]) error {
	p.mu.Lock()
	p.follows++
	mute := p.mute
	p.mu.Unlock()
	if mute {
		<-ctx.Done()
		return ctx.Err()
	}
	has, err := feed.ParseHas(req.Msg)
	if err != nil {
		return err
	}
	for { // a word for each change, and no other
		p.mu.Lock()
		u, err := said{
			sequence: p.sequence, cluster: "test", time: time.Now().Add(p.timeOff), user: p.ssh.user, labels: map[string]string{"env": "token"},
			content: feed.Content{
				UserAuthorities: []gossh.PublicKey{p.ssh.user.PublicKey()}, TLSAuthorities: [][]byte{p.tls.cert.Raw},
				Roles: p.roles, Preference: p.preference, Locks: p.locks,
			},
		}.update(&has)
		changed := p.changed
		p.mu.Unlock()
		if err != nil {
			return err
		}
		if err := stream.Send(u); err != nil {
			return err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (p *plane) RecordEvents(_ context.Context, req *connect.Request[dtv1.RecordEventsRequest]) (*connect.Response[dtv1.RecordEventsResponse], error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.refuseAll {
		return nil, connect.NewError(connect.CodeUnavailable, io.ErrUnexpectedEOF)
	}
	for _, raw := range req.Msg.GetEvents() {
		var e event.Event
		if err := json.Unmarshal(raw, &e); err != nil {
			return nil, connect.NewError(connect.CodeInvalidArgument, err)
		}
		p.events = append(p.events, e)
	}
	return connect.NewResponse(&dtv1.RecordEventsResponse{}), nil
}

// pin is what --ca-pin takes.
func (p *plane) pin() Pin { return pinOf(p.tls.cert) }
