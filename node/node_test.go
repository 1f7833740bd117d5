package node

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	gossh "golang.org/x/crypto/ssh"
	"golang.org/x/sys/unix"

	"devicetrust/api"
	"devicetrust/api/dtv1"
	"devicetrust/audit/event"
	"devicetrust/policy"
)

// running is a node of this process, as Run runs it but for its accounts.
type running struct {
	t       testing.TB
	plane   *plane
	config  Config
	log     *syncBuffer
	cancel  context.CancelFunc
	ended   chan error
	address string
}

func configFor(t testing.TB, p *plane) (Config, *syncBuffer) {
	log := &syncBuffer{}
	return Config{
		AuthServer: p.address, Token: "good-token", CAPins: []Pin{p.pin()}, DataDir: filepath.Join(t.TempDir(), "data"),
		Listen: "127.0.0.1:0", Name: "server-1", Labels: map[string]string{"env": "claimed"}, Version: "test",
		Log: slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug})), Now: time.Now,
	}, log
}

// start runs a node until the test or stop ends it.
func start(t testing.TB, p *plane, config Config, log *syncBuffer) *running {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	r := &running{t: t, plane: p, config: config, log: log, cancel: cancel, ended: make(chan error, 1)}
	before := len(log.String())
	passwd, group := testPasswd()
	go func() { r.ended <- runFor(ctx, config, testAccounts(t, passwd, group, "")) }()
	t.Cleanup(r.stop)
	eventually(t, "it serves", func() bool {
		select {
		case err := <-r.ended:
			r.ended <- err
			t.Fatalf("%v\n%s", err, log.String())
		default:
		}
		_, rest, ok := strings.Cut(log.String()[before:], "msg=serving addr=")
		if ok {
			r.address, _, ok = strings.Cut(rest, " ")
		}
		return ok
	})
	return r
}

// runFor is Run on a machine with these accounts: a session as the one who
// runs the tests would run what that person's shell starts up.
func runFor(ctx context.Context, config Config, accounts accounts) error {
	n, err := prepare(ctx, config)
	if err != nil {
		return err
	}
	defer n.close()
	n.accounts = accounts
	return n.run(ctx)
}

func (r *running) stop() {
	r.cancel()
	select {
	case err := <-r.ended:
		r.ended <- err
		if err != nil {
			r.t.Error(err)
		}
	case <-time.After(20 * time.Second):
		r.t.Error("it does not stop")
	}
	if r.t.Failed() {
		r.t.Log(r.log.String())
	}
}

func (r *running) dial(banner *string) (*gossh.Client, error) {
	r.t.Helper()
	id := alice()
	id.Logins = []string{tester}
	id.Traits = map[string][]string{"logins": id.Logins}
	c, err := gossh.Dial("tcp", r.address, &gossh.ClientConfig{
		User: tester, Auth: []gossh.AuthMethod{gossh.PublicKeys(r.plane.ssh.certify(r.t, id, newSigner(r.t)))},
		HostKeyCallback: gossh.InsecureIgnoreHostKey(), Timeout: 10 * time.Second,
		BannerCallback: func(text string) error {
			if banner != nil {
				*banner += text
			}
			return nil
		},
	})
	if err == nil {
		r.t.Cleanup(func() { c.Close() })
	}
	return c, err
}

// shown is the host certificate that clients see now.
func (r *running) shown() *gossh.Certificate {
	r.t.Helper()
	var shown *gossh.Certificate
	if _, err := gossh.Dial("tcp", r.address, &gossh.ClientConfig{User: "x", HostKeyAlgorithms: []string{gossh.CertAlgoED25519v01},
		HostKeyCallback: func(_ string, _ net.Addr, key gossh.PublicKey) error { shown, _ = key.(*gossh.Certificate); return nil }}); err == nil {
		r.t.Error("entered without a key")
	}
	if shown == nil {
		r.t.Fatal("no host certificate is shown")
	}
	return shown
}

func TestANodeJoinsServesAndTellsWhatHappened(t *testing.T) {
	p := startPlane(t)
	config, log := configFor(t, p)
	r := start(t, p, config, log)
	c, err := r.dial(nil)
	if err != nil {
		t.Fatal(err)
	}
	if out, _, status := run(t, c, "echo hello"); out != "hello\n" || status != 0 {
		t.Errorf("%q, %d", out, status)
	}
	eventually(t, "the records arrive", func() bool { return get(p, func() bool { return len(p.events) == 3 }) })
	for i, want := range []event.Type{event.SessionStart, event.Exec, event.SessionEnd} {
		e := get(p, func() event.Event { return p.events[i] })
		if e.Type != want || e.NodeID != "node-1" || e.NodeName != "server-1" || e.Cluster != "test" || e.UID == "" || e.Code == "" {
			t.Errorf("%d: %+v", i, e)
		}
	}
	eventually(t, "a heartbeat", func() bool { return get(p, func() bool { return len(p.heartbeats) > 0 }) })
	if got := get(p, func() *dtv1.NodeInfo { return p.heartbeats[0] }); got.GetName() != "server-1" || len(got.GetAddresses()) != 1 || got.GetAddresses()[0] != r.address || got.GetLabels()["env"] != "claimed" {
		t.Errorf("%v", got)
	}
	for name, mode := range map[string]os.FileMode{
		".": 0o700, hostKeyFile: 0o600, tlsKeyFile: 0o600, identityFile: 0o600, stateFile: 0o600, spoolDir: 0o700,
	} {
		info, err := os.Stat(filepath.Join(config.DataDir, name))
		if err != nil || info.Mode().Perm() != mode {
			t.Errorf("%s: %v, %v", name, info, err)
		}
	}
}

func TestAfterTheFirstStartTheTokenIsNotUsed(t *testing.T) {
	p := startPlane(t)
	config, log := configFor(t, p)
	start(t, p, config, log).stop()
	config.Token = "another"
	r := start(t, p, config, log)
	if n := get(p, func() int { return p.joins }); n != 1 {
		t.Errorf("joined %d times", n)
	}
	if !strings.Contains(log.String(), "the token is not used") {
		t.Error("and it does not say so")
	}
	if _, err := r.dial(nil); err != nil {
		t.Error(err)
	}
	r.stop()
	config.Token, config.CAPins, config.AuthServer = "", nil, ""
	if _, err := start(t, p, config, log).dial(nil); err != nil {
		t.Errorf("without token, pin and address: %v", err)
	}
}

func TestWithoutItsControlPlaneANodeGoesByWhatItKnew(t *testing.T) {
	p := startPlane(t)
	config, log := configFor(t, p)
	p.lock(policy.LockTarget{User: "mallory"})
	r := start(t, p, config, log)
	p.stop()
	if _, err := r.dial(nil); err != nil {
		t.Errorf("while it is away: %v", err)
	}
	r.stop()
	r = start(t, p, config, log)
	c, err := r.dial(nil)
	if err != nil {
		t.Fatalf("after a restart: %v", err)
	}
	run(t, c, "true")

	// It comes back with news, and gets what happened meanwhile.
	p.lock(policy.LockTarget{User: "alice"})
	p.goOn()
	var banner string
	eventually(t, "the news are heard", func() bool { banner = ""; _, err := r.dial(&banner); return err != nil })
	if !strings.Contains(banner, "lock") {
		t.Errorf("%q", banner)
	}
	eventually(t, "who was in is out", func() bool { _, _, err := c.SendRequest("x", true, nil); return err != nil })
	eventually(t, "the records arrive", func() bool { return get(p, func() bool { return len(p.events) >= 3 }) })
}

func TestAControlPlaneThatIsConnectedAndSilentIsNotHeard(t *testing.T) {
	p := startPlane(t) // says nothing while nothing changes
	p.setRole(policy.RoleSpec{
		Options: policy.RoleOptions{Lock: "strict"},
		Allow:   policy.RoleConditions{Logins: []string{"{{internal.logins}}"}, NodeLabels: map[string]policy.Values{"*": {"*"}}},
	})
	config, log := configFor(t, p)
	clock := stopped()
	config.Now = clock.now
	r := start(t, p, config, log)
	clock.forward(staleLocks - time.Minute)
	if _, err := r.dial(nil); err != nil {
		t.Errorf("not yet too old: %v", err)
	}
	clock.forward(time.Minute)
	var banner string
	if _, err := r.dial(&banner); err == nil || !strings.Contains(banner, "has not heard of new locks for 6m0s") {
		t.Errorf("%v, %q", err, banner)
	}
	p.change(func() {}) // a word
	eventually(t, "it is heard again", func() bool { _, err := r.dial(nil); return err == nil })
}

func TestWhatKeepsANodeFromJoiningIsSaidWithARemedy(t *testing.T) {
	noNames(t)
	p := startPlane(t)
	other := newTLSAuthority(t)
	elsewhere := startPlane(t, func(c *x509.Certificate) { c.IPAddresses, c.DNSNames = nil, []string{"auth.example.com"} })
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name   string
		change func(*Config)
		want   string
		hint   string
		spends bool
	}{
		{"the pin of another authority", func(c *Config) { c.CAPins = []Pin{pinOf(other.cert)} }, "not the one that --ca-pin names", "Compare --ca-pin", false},
		{"nothing listens", func(c *Config) { c.AuthServer = deaf(t) }, "connection refused", "Check --auth-server", false},
		{"no such host", func(c *Config) { c.AuthServer = "no-such-host.invalid:3080" }, "lookup no-such-host.invalid", "Check --auth-server", false},
		{"no address", func(c *Config) { c.AuthServer = "" }, "is not known", "--auth-server", false},
		{"no port", func(c *Config) { c.AuthServer = "auth.example.com" }, "not HOST:PORT", "", false},
		{"the certificate is for another name", func(c *Config) { c.AuthServer = elsewhere.address; c.CAPins = []Pin{elsewhere.pin()} }, "auth.example.com", "--public-addr", false},
		{"our clock is behind", func(c *Config) { c.Now = func() time.Time { return time.Now().Add(-10 * 365 * 24 * time.Hour) } }, "clock", "clock", false},
		{"our clock is a little ahead", func(c *Config) { c.Now = func() time.Time { return time.Now().Add(20 * time.Minute) } }, "ahead of", "timedatectl", false},
		{"no token", func(c *Config) { c.Token = "" }, "which needs --auth-server, --token and --ca-pin", "dtctl tokens add", false},
		{"no pin", func(c *Config) { c.CAPins = nil }, "which needs --auth-server, --token and --ca-pin", "dtctl tokens add", false},
		{"the port is taken", func(c *Config) { c.Listen = taken.Addr().String() }, "address already in use", "--listen", false},
		{"the data directory is a file", func(c *Config) { c.DataDir = file }, "cannot use the data directory", "--data-dir", false},
		{"others may write there", func(c *Config) {
			c.DataDir = t.TempDir()
			if err := os.Chmod(c.DataDir, 0o777); err != nil {
				t.Fatal(err)
			}
		}, "others may write", "0700", false},
		{"a name that is none", func(c *Config) { c.Name = "a b" }, "cannot be called", "--nodename", false},
		{"an address that is none", func(c *Config) { c.PublicAddrs = []string{"a b:22"} }, "not HOST:PORT", "", false},
		{"a name that no certificate can have", func(c *Config) { c.Name = "a_b" }, "cannot be called", "--nodename", false},
		{"a label that is none", func(c *Config) { c.Labels = map[string]string{"a b": "c"} }, `label "a b"="c"`, "--labels", false},
		{"a label of control characters", func(c *Config) { c.Labels = map[string]string{"a": "\x1b[2J"} }, `label "a"=`, "--labels", false},
		{"an address of too many", func(c *Config) { c.PublicAddrs = slices.Repeat([]string{"a:22"}, 17) }, "1 to 16 addresses", "--public-addr", false},
		{"an address that no certificate can have", func(c *Config) { c.PublicAddrs = []string{"a_b:22"} }, "is not host:port", "--public-addr", false},
		{"a token that is not good", func(c *Config) { c.Token = "spent" }, "the join token is spent", "dtctl tokens add", true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			config, _ := configFor(t, p)
			tt.change(&config)
			ctx, cancel := context.WithTimeout(t.Context(), 15*time.Second)
			defer cancel()
			err := Run(ctx, config)
			var r *api.Refusal
			if !errors.As(err, &r) || !strings.Contains(err.Error(), tt.want) || !strings.Contains(r.Hint, tt.hint) || strings.Contains(err.Error(), "\n") {
				t.Fatalf("%v, want %q", err, tt.want)
			}
			if _, err := os.Stat(config.DataDir); err == nil && strings.Contains(tt.want, "which needs") {
				t.Error("a data directory was made for nothing")
			}
			if left := get(p, func() string { return p.token }); (left == "") != tt.spends {
				t.Errorf("the token is %q afterwards", left)
			}
		})
	}
}

// noNames lets no name be found: the machine's own resolver may be slow, or
// answer for names that do not exist.
func noNames(t *testing.T) {
	before := net.DefaultResolver
	t.Cleanup(func() { net.DefaultResolver = before })
	net.DefaultResolver = &net.Resolver{PreferGo: true, Dial: func(context.Context, string, string) (net.Conn, error) {
		return nil, errors.New("there is no network in this test")
	}}
}

// deaf is an address where nothing listens, and that nothing else can take.
func deaf(t *testing.T) string {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	bound, err := unix.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("127.0.0.1:%d", bound.(*unix.SockaddrInet4).Port)
}

func TestOneDataDirectoryHasOneNode(t *testing.T) {
	p := startPlane(t)
	config, log := configFor(t, p)
	start(t, p, config, log)
	if err := Run(t.Context(), config); err == nil || !strings.Contains(err.Error(), "another dtnoded") {
		t.Errorf("%v", err)
	}
}

func TestAKeyThatOthersMayReadIsRefused(t *testing.T) {
	p := startPlane(t)
	config, log := configFor(t, p)
	start(t, p, config, log).stop()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	for _, name := range []string{hostKeyFile, tlsKeyFile} {
		path := filepath.Join(config.DataDir, name)
		if err := os.Chmod(path, 0o640); err != nil {
			t.Fatal(err)
		}
		if err := Run(ctx, config); err == nil || !strings.Contains(err.Error(), "others may read") {
			t.Errorf("%s: %v", name, err)
		}
		if err := os.Chmod(path, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	// Keys that the certificates are not for.
	if err := os.Remove(filepath.Join(config.DataDir, hostKeyFile)); err != nil {
		t.Fatal(err)
	}
	if err := Run(ctx, config); err == nil || !strings.Contains(err.Error(), "saved identity") {
		t.Errorf("another host key: %v", err)
	}
}

func TestANodeUsesNothingThatSomebodyElseCouldHaveMade(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can give files away")
	}
	p := startPlane(t)
	config, log := configFor(t, p)
	start(t, p, config, log).stop()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	refused := func(what, want string) {
		t.Helper()
		err := Run(ctx, config)
		var r *api.Refusal
		if !errors.As(err, &r) || !strings.Contains(err.Error(), want) || r.Hint == "" || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v, want %q", what, err, want)
		}
	}
	for _, name := range []string{".", hostKeyFile, tlsKeyFile, identityFile, stateFile, lockFile, spoolDir} {
		path := filepath.Join(config.DataDir, name)
		if err := os.Chown(path, 54321, -1); err != nil {
			t.Fatal(err)
		}
		refused(name, "belongs to uid 54321")
		if err := os.Chown(path, 0, -1); err != nil {
			t.Fatal(err)
		}
		if name == "." {
			continue
		}
		// Ours, and somewhere else.
		elsewhere := filepath.Join(t.TempDir(), name)
		if err := errors.Join(os.Rename(path, elsewhere), os.Symlink(elsewhere, path)); err != nil {
			t.Fatal(err)
		}
		refused("a link "+name, "is not what dtnoded makes there")
		if err := errors.Join(os.Remove(path), os.Rename(elsewhere, path)); err != nil {
			t.Fatal(err)
		}
	}
	path := filepath.Join(config.DataDir, stateFile)
	if err := os.Chmod(path, 0o602); err != nil {
		t.Fatal(err)
	}
	refused("a file that others may write", "others may write")
	if err := os.Chmod(path, 0o600); err != nil {
		t.Fatal(err)
	}
	start(t, p, config, log) // nothing of it was changed
}

func TestCertificatesAreRenewedBeforeTheyExpire(t *testing.T) {
	p := startPlane(t)
	p.life = 10 * time.Second
	config, log := configFor(t, p)
	r := start(t, p, config, log)
	first := r.shown().ValidBefore
	eventually(t, "another certificate is shown", func() bool { return r.shown().ValidBefore > first })
	if time.Now().Unix() >= int64(first) {
		t.Error("the first one had expired by then")
	}
	// And the node is still heard: by the certificate it has now.
	p.lock(policy.LockTarget{User: "mallory"})
	eventually(t, "the change is heard", func() bool {
		return strings.Contains(log.String(), "msg=policy sequence="+strconv.FormatUint(get(p, func() uint64 { return p.sequence }), 10))
	})
}

func TestRenewalsLeaveNoConnectionsBehind(t *testing.T) {
	p := startPlane(t)
	config, _ := configFor(t, p)
	ctx, cancel := context.WithCancel(t.Context())
	n, err := prepare(ctx, config)
	if err != nil {
		t.Fatal(err)
	}
	defer n.close()
	n.member.control.idle = 100 * time.Millisecond
	ended := make(chan error, 1)
	go func() { ended <- n.run(ctx) }()
	for i := range 10 {
		eventually(t, "it follows by the certificate that it has", func() bool { return get(p, func() int { return p.follows }) > i })
		c, err := n.member.renew(ctx)
		if err != nil {
			t.Fatal(err)
		}
		n.renewed(c)
	}
	// One is in use, and the first, of the join, has the time that it was
	// opened with.
	eventually(t, "the connections are closed", func() bool { return p.door.guests() <= 2 })
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

func TestANodeThatWasRenamedShowsItsNewNamesFromTheStart(t *testing.T) {
	for name, rename := range map[string]func(*Config){
		"another name":    func(c *Config) { c.Name = "renamed" },
		"another address": func(c *Config) { c.PublicAddrs = []string{"renamed:22"} },
	} {
		t.Run(name, func(t *testing.T) {
			p := startPlane(t)
			config, log := configFor(t, p)
			start(t, p, config, log).stop()
			start(t, p, config, log).stop()
			if n := get(p, func() int { return p.renewals }); n != 0 {
				t.Errorf("renewed %d times though nothing is new", n)
			}
			rename(&config)
			r := start(t, p, config, log)
			if shown := r.shown(); !slices.Contains(shown.ValidPrincipals, "renamed") {
				t.Errorf("the first certificate shown is for %q", shown.ValidPrincipals)
			}
			if n := get(p, func() int { return p.renewals }); n != 1 {
				t.Errorf("renewed %d times", n)
			}
		})
	}
}

func TestANodeThatWasRenamedWhileItsControlPlaneIsAwayServesAndIsRenewedLater(t *testing.T) {
	p := startPlane(t)
	config, log := configFor(t, p)
	start(t, p, config, log).stop()
	p.stop()
	config.Name = "renamed"
	r := start(t, p, config, log)
	if shown := r.shown(); !slices.Contains(shown.ValidPrincipals, "server-1") {
		t.Errorf("meanwhile the certificate is for %q", shown.ValidPrincipals)
	}
	p.goOn()
	eventually(t, "it has its new name", func() bool { return slices.Contains(r.shown().ValidPrincipals, "renamed") })
}

func TestARunningNodeWhoseCertificateIsPastSaysOnceWhatToDo(t *testing.T) {
	p := startPlane(t)
	p.life, p.tooLate = 3*time.Second, true
	config, log := configFor(t, p)
	end := time.Now().Add(p.life - time.Second) // certificates count whole seconds
	start(t, p, config, log)
	const what = "dtctl rm node/node-1"
	eventually(t, "it says so", func() bool { return strings.Contains(log.String(), what) })
	if time.Now().Before(end) {
		t.Error("said while there was time")
	}
	if strings.Contains(log.String(), "dtsh login") || !strings.Contains(log.String(), "--token") {
		t.Errorf("that helps nobody: %s", log.String())
	}
	tries := get(p, func() int { return p.renewals })
	eventually(t, "it still tries", func() bool { return get(p, func() int { return p.renewals }) > tries })
	if n := strings.Count(log.String(), what); n != 1 {
		t.Errorf("said %d times", n)
	}
}

func TestANodeThatWasAwayForTooLongJoinsAgain(t *testing.T) {
	p := startPlane(t)
	p.life = 30 * time.Second
	config, log := configFor(t, p)
	start(t, p, config, log).stop()
	config.Now = func() time.Time { return time.Now().Add(time.Minute) }
	config.Token = ""
	if err := Run(t.Context(), config); err == nil || !strings.Contains(err.Error(), "expired") {
		t.Errorf("%v", err)
	}
	p.life = time.Hour
	config.Token = "second"
	p.change(func() { p.token = "second" })
	start(t, p, config, log)
}

func TestAClockThatIsFarOffIsSaid(t *testing.T) {
	p := startPlane(t)
	p.change(func() { p.timeOff = time.Hour })
	config, log := configFor(t, p)
	start(t, p, config, log)
	eventually(t, "it is said", func() bool { return strings.Contains(log.String(), "1h0m0s behind the control plane's") })
}

func TestRecordsWaitForAControlPlaneThatDoesNotTakeThem(t *testing.T) {
	p := startPlane(t)
	p.change(func() { p.refuseAll = true })
	config, log := configFor(t, p)
	r := start(t, p, config, log)
	c, err := r.dial(nil)
	if err != nil {
		t.Fatal(err)
	}
	run(t, c, "true")
	eventually(t, "it is refused", func() bool { return strings.Contains(log.String(), "did not take audit records") })
	r.stop()
	p.change(func() { p.refuseAll = false })
	start(t, p, config, log)
	eventually(t, "they arrive after all", func() bool { return get(p, func() bool { return len(p.events) == 3 }) })
}
