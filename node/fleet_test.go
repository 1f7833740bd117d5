package node

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"connectrpc.com/connect"
	gossh "golang.org/x/crypto/ssh"

	"devicetrust/api/dtv1"
	"devicetrust/api/dtv1/dtv1connect"
	"devicetrust/e2e/stage"
	"devicetrust/feed"
	"devicetrust/identity"
	"devicetrust/policy"
	"devicetrust/resource"
	"devicetrust/store"
)

// realPlane is the built dtauthd, once or several times on one store, with a
// person in it.
type realPlane struct {
	stage  *stage.Stage
	authds []*stage.Daemon
	pin    Pin
	// admin speaks over the first one's admin socket.
	admin     dtv1connect.AdminServiceClient
	resources dtv1connect.ResourceServiceClient
	// person is alice, who may enter as login.
	person gossh.Signer
	who    identity.Identity
	login  string
}

// startRealPlane starts as many dtauthd as there are names, with flags.
func startRealPlane(b *testing.B, names []string, flags ...string) *realPlane {
	b.Helper()
	bin := os.Getenv("DT_E2E_BIN")
	if bin == "" {
		b.Skip("it measures the built programs, whose folder is in DT_E2E_BIN: make bench")
	}
	me, err := user.Current()
	must(b, err)
	dir, err := os.MkdirTemp("", "dt-fleet") //nolint:usetesting // its path is too long for a socket
	must(b, err)
	p := &realPlane{stage: &stage.Stage{Dir: dir, Bin: bin}, login: me.Username}
	b.Cleanup(func() { must(b, errors.Join(p.stage.Close(), os.RemoveAll(dir))) })
	for _, name := range names {
		p.addAuthd(b, name, flags)
	}
	text, err := p.authds[0].Pin(b.Context())
	must(b, err)
	p.pin, err = ParsePin(text)
	must(b, err)
	socket := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", filepath.Join(p.authds[0].DataDir, "admin.sock"))
	}}}
	p.admin = dtv1connect.NewAdminServiceClient(socket, "http://admin")
	p.resources = dtv1connect.NewResourceServiceClient(socket, "http://admin")
	p.addPerson(b)
	return p
}

// addAuthd starts one with the key file of the first.
func (p *realPlane) addAuthd(b *testing.B, name string, flags []string) {
	b.Helper()
	if len(p.authds) > 0 {
		key, err := os.ReadFile(filepath.Join(p.authds[0].DataDir, "ca.key"))
		must(b, err)
		must(b, os.Mkdir(filepath.Join(p.stage.Dir, name), 0o700))
		must(b, os.WriteFile(filepath.Join(p.stage.Dir, name, "ca.key"), key, 0o600))
	}
	d, err := p.stage.Authd(b.Context(), name, flags...)
	must(b, err)
	p.authds = append(p.authds, d)
}

// addPerson makes alice and logs her in.
func (p *realPlane) addPerson(b *testing.B) {
	b.Helper()
	const password = "correct horse battery"
	secret := password
	_, err := p.admin.AddUser(b.Context(), connect.NewRequest(&dtv1.AddUserRequest{
		Name: "alice", Roles: []string{"access"}, Logins: []string{p.login}, Password: &secret,
	}))
	must(b, err)
	m := p.newMember(b, p.authds[0], b.TempDir(), "")
	m.control.use(trust{pins: []Pin{p.pin}}, nil)
	login := dtv1connect.NewLoginServiceClient(&http.Client{Transport: m.control.transport}, "https://"+m.control.address)
	signer := newSigner(b)
	res, err := login.Login(b.Context(), connect.NewRequest(&dtv1.LoginRequest{
		User: "alice", Password: password, SshPublicKey: signer.PublicKey().Marshal(), TlsPublicKey: m.tlsPublic(b),
	}))
	must(b, err)
	key, err := gossh.ParsePublicKey(res.Msg.GetCertificates().GetSsh())
	must(b, err)
	cert, ok := key.(*gossh.Certificate)
	if !ok {
		b.Fatalf("alice was given a %s", key.Type())
	}
	p.who, err = identity.UnverifiedFromSSH(cert)
	must(b, err)
	p.person, err = gossh.NewCertSigner(cert, signer)
	must(b, err)
}

// fill puts roles and locks beside those that are there, while the first
// dtauthd is away.
func (p *realPlane) fill(b *testing.B, roles, locks int) {
	b.Helper()
	authd := p.authds[0]
	must(b, authd.Stop(b.Context()))
	db, err := store.Open(b.Context(), "sqlite:"+filepath.Join(authd.DataDir, "dt.db"), quiet())
	must(b, err)
	must(b, db.Write(b.Context(), func(tx *store.Tx) error {
		tx.Changed()
		put := func(r resource.Resource) error {
			_, err := tx.Exec(`INSERT INTO policy_objects (kind, name, document, revision) VALUES ($1, $2, $3, 1)`,
				r.Head().Kind, r.Head().Metadata.Name, string(document(b, r)))
			return err
		}
		for i := range roles {
			must(b, put(&resource.Role{Header: resource.NewHeader(resource.KindRole, fmt.Sprintf("team-%d", i)), Spec: policy.RoleSpec{
				Allow: policy.RoleConditions{Logins: []string{"{{internal.logins}}"}, NodeLabels: map[string]policy.Values{"team": {fmt.Sprint(i)}, "env": {"prod", "test"}}},
			}}))
		}
		for i := range locks {
			must(b, put(&resource.Lock{Header: resource.NewHeader(resource.KindLock, fmt.Sprintf("gone-%d", i)), Spec: resource.LockSpec{
				Target: policy.LockTarget{User: fmt.Sprintf("user-%d@example.com", i)}, Message: "left the company", CreatedAt: time.Now().UTC(), CreatedBy: "alice",
			}}))
		}
		return nil
	}))
	must(b, db.Close())
	must(b, authd.Restart(b.Context()))
}

// lock locks alice.
func (p *realPlane) lock(b *testing.B, name string) {
	b.Helper()
	doc := document(b, &resource.Lock{
		Header: resource.NewHeader(resource.KindLock, name),
		Spec:   resource.LockSpec{Target: policy.LockTarget{User: "alice"}, Message: "measured"},
	})
	_, err := p.resources.CreateResource(b.Context(), connect.NewRequest(&dtv1.CreateResourceRequest{Kind: resource.KindLock, Resource: doc}))
	must(b, err)
}

func (p *realPlane) unlock(b *testing.B, name string) {
	b.Helper()
	_, err := p.resources.DeleteResource(b.Context(), connect.NewRequest(&dtv1.DeleteResourceRequest{Kind: resource.KindLock, Name: name}))
	must(b, err)
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// benchMember is a node as a member, that comes from an address of its own.
type benchMember struct {
	*member
	from string
	made net.Conn // the last connection
}

// newMember makes one that has not joined. dtauthd bounds what comes from one
// address, as which all would come.
func (p *realPlane) newMember(b *testing.B, authd *stage.Daemon, dir, from string) *benchMember {
	b.Helper()
	k, err := loadKeys(dir)
	must(b, err)
	control, err := newControl(authd.Addr, time.Now)
	must(b, err)
	name := "follower-" + filepath.Base(dir)
	return &benchMember{from: from, member: &member{
		dir: dir, keys: k, control: control, log: quiet(), now: time.Now,
		info: &dtv1.NodeInfo{Name: name, Hostname: name, Addresses: []string{"127.0.0.1:22"}, Version: "0.0.0"},
	}}
}

func (m *benchMember) tlsPublic(b *testing.B) []byte {
	b.Helper()
	der, err := x509.MarshalPKIXPublicKey(&m.keys.tls.PublicKey)
	must(b, err)
	return der
}

// comeFrom has connections that are made from now on come from m's address.
func (m *benchMember) comeFrom() {
	m.control.mu.Lock()
	defer m.control.mu.Unlock()
	dialer := &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(m.from)}}
	m.control.transport.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
		c, err := dialer.DialContext(ctx, network, address)
		m.made = c
		return c, err
	}
}

// useOwn has the next call make a connection, as c.
func (m *benchMember) useOwn(c *credentials) {
	m.control.use(trust{authorities: c.tlsAuthorities}, c.tlsCertificate(m.keys))
	m.comeFrom()
}

// benchFollower is what follows in a dtnoded, and what decides there; but it
// keeps no state on the disk: a thousand servers have a thousand disks.
type benchFollower struct {
	*follower
	creds    *credentials
	from     string
	nodeName string
	barred   atomic.Bool
	// at is when alice came to be refused, or not any more, in nanoseconds.
	at atomic.Int64
}

// join makes a node that follows authd.
func (p *realPlane) join(b *testing.B, authd *stage.Daemon, dir, from, token string) (*benchFollower, error) {
	m := p.newMember(b, authd, dir, from)
	m.control.use(trust{pins: []Pin{p.pin}}, nil)
	m.comeFrom()
	client, _ := m.control.current()
	answer, err := call(b.Context(), client.Join, &dtv1.JoinRequest{
		Token: token, Node: m.info, SshPublicKey: m.keys.host.Marshal(), TlsPublicKey: m.tlsPublic(b),
	})
	if err != nil {
		return nil, err
	}
	c, err := fromJoin(answer, authd.Addr).check(m.keys)
	if err != nil {
		return nil, err
	}
	m.useOwn(c)
	f := &benchFollower{creds: c, from: from, nodeName: m.info.GetName(), follower: &follower{
		member: m.member, states: newHolder(), keeper: &keeper{}, log: quiet(), now: time.Now,
		cluster: c.cluster, nodeID: c.nodeID, onAuthorities: func([][]byte) {}, silence: followSilence,
	}}
	f.barred.Store(true) // nothing is known yet
	f.states.onChange = func() { f.decide(p) }
	return f, nil
}

// restart is what the control plane sees of a node that had at: it gives what
// the node has then.
func (f *benchFollower) restart(b *testing.B, at *feed.State) *feed.State {
	b.Helper()
	own := &benchMember{member: f.member, from: f.from}
	own.useOwn(f.creds)
	defer func() { own.made.Close() }() // dtauthd bounds how many there are
	ctx, cancel := context.WithCancel(b.Context())
	defer cancel()
	client, _ := f.member.control.current()
	_, err := call(ctx, client.Heartbeat, &dtv1.HeartbeatRequest{Node: f.member.info})
	must(b, err)
	stream, err := client.Follow(ctx, connect.NewRequest(at.Request()))
	must(b, err)
	defer stream.Close()
	if !stream.Receive() {
		b.Fatal(stream.Err())
	}
	at, err = at.Apply(stream.Msg(), f.cluster, f.nodeID)
	must(b, err)
	return at
}

// decide notes when what is decided about alice becomes another thing.
func (f *benchFollower) decide(p *realPlane) {
	st, at := f.states.get(), time.Now()
	allowed := policy.Decide(st.policy, policy.Request{
		Action: policy.OpenSession, Subject: feed.Subject(p.who), Login: p.login,
		Node: policy.Node{ID: f.nodeID, Name: f.nodeName, Labels: st.labels}, Now: at,
	}).Allowed()
	if f.barred.Load() == allowed {
		f.at.Store(time.Now().UnixNano())
		f.barred.Store(!allowed)
	}
}

// follow has n nodes follow, spread over all dtauthd, until the benchmark ends.
func (p *realPlane) follow(b *testing.B, n int) []*benchFollower {
	b.Helper()
	all := make([]*benchFollower, n)
	root := b.TempDir()
	var joining sync.WaitGroup
	for worker := range 8 {
		joining.Go(func() {
			for i := worker; i < n && !b.Failed(); i += 8 {
				var err error
				if all[i], err = p.joinOne(b, root, i); err != nil {
					b.Errorf("node %d: %v", i, err)
				}
			}
		})
	}
	joining.Wait()
	if b.Failed() {
		b.FailNow()
	}
	ctx, cancel := context.WithCancel(context.Background())
	var following sync.WaitGroup
	b.Cleanup(func() { cancel(); following.Wait() })
	for _, f := range all {
		following.Go(func() { f.run(ctx) })
	}
	return all
}

func (p *realPlane) joinOne(b *testing.B, root string, i int) (*benchFollower, error) {
	dir := filepath.Join(root, fmt.Sprint(i))
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, err
	}
	token, err := p.admin.AddToken(b.Context(), connect.NewRequest(&dtv1.AddTokenRequest{Type: "node"}))
	if err != nil {
		return nil, err
	}
	return p.join(b, p.authds[i%len(p.authds)], dir, fmt.Sprintf("127.1.%d.%d", i/200, 1+i%200), token.Msg.GetToken())
}

// awaitAll waits until all decide so about alice, and gives how long after begin
// each came to it.
func awaitAll(b *testing.B, all []*benchFollower, barred bool, begin time.Time) []time.Duration {
	b.Helper()
	must(b, stage.Poll(b.Context(), func() bool {
		return !slices.ContainsFunc(all, func(f *benchFollower) bool { return f.barred.Load() != barred })
	}))
	took := make([]time.Duration, 0, len(all))
	for _, f := range all {
		took = append(took, time.Unix(0, f.at.Load()).Sub(begin))
	}
	return took
}

// liveShell is a session with a terminal on a real node.
type liveShell struct {
	client *gossh.Client
	// told is when a line came that says why it ends, ended when there was
	// nothing more.
	told, ended chan time.Time
}

// enter opens a shell, as soon as the node lets alice in.
func (p *realPlane) enter(b *testing.B, noded *stage.Daemon) *liveShell {
	b.Helper()
	shell := &liveShell{told: make(chan time.Time, 1), ended: make(chan time.Time, 1)}
	must(b, stage.Poll(b.Context(), func() (in bool) {
		var err error
		shell.client, err = gossh.Dial("tcp", noded.Addr, &gossh.ClientConfig{
			User: p.login, Auth: []gossh.AuthMethod{gossh.PublicKeys(p.person)}, HostKeyCallback: gossh.InsecureIgnoreHostKey(),
		})
		return err == nil
	}))
	s, err := shell.client.NewSession()
	must(b, err)
	must(b, s.RequestPty("xterm", 24, 80, gossh.TerminalModes{}))
	in, err := s.StdinPipe()
	must(b, err)
	ready := make(chan time.Time, 1)
	s.Stdout, s.Stderr = &screen{word: "ready", shown: ready}, &screen{word: "measured", shown: shell.told}
	must(b, s.Start("cat"))
	_, err = io.WriteString(in, "ready\n")
	must(b, err)
	await(b, ready)
	go func() {
		_ = s.Wait() // however it ended
		shell.ended <- time.Now()
		shell.client.Close()
	}()
	return shell
}

// screen says when a word was on it.
type screen struct {
	text  []byte
	word  string
	shown chan time.Time
}

func (s *screen) Write(p []byte) (int, error) {
	s.text = append(s.text, p...)
	if bytes.Contains(s.text, []byte(s.word)) {
		select {
		case s.shown <- time.Now():
		default: // once is enough
		}
	}
	return len(p), nil
}

func await(b *testing.B, c chan time.Time) time.Time {
	b.Helper()
	select {
	case at := <-c:
		return at
	case <-time.After(30 * time.Second):
		b.Fatal("it never came")
		return time.Time{}
	}
}

// processorTime is what a process has taken of it.
func processorTime(b *testing.B, pid int) time.Duration {
	b.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	must(b, err)
	// utime and stime, from the state on (proc_pid_stat(5)).
	f := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
	var ticks int64
	for _, field := range f[11:13] {
		n, err := strconv.ParseInt(field, 10, 64)
		must(b, err)
		ticks += n
	}
	const userHZ = 100 // sysconf(_SC_CLK_TCK), on all systems that we run on
	return time.Duration(ticks) * time.Second / userHZ
}
