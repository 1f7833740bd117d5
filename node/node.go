// Package node is the SSH server that enforces: it joins a cluster, keeps what
// the control plane says about authorities, roles and locks, and decides by it
// alone, with the same policy.Decide as everybody, who may have a session.
package node

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"connectrpc.com/connect"
	gossh "golang.org/x/crypto/ssh"
	"golang.org/x/sys/unix"

	"devicetrust/api"
	"devicetrust/api/dtv1"
	"devicetrust/feed"
	"devicetrust/identity"
	"devicetrust/resource"
)

// Config is what a node is started with.
type Config struct {
	// AuthServer is the control plane's HOST:PORT; empty: where the node
	// joined.
	AuthServer string
	// Token and CAPins are for the first start, which joins the cluster.
	Token  string
	CAPins []Pin
	// DataDir holds keys, identity, the last policy and the audit spool. It is
	// made 0700 where there is none; one that others may write to is refused.
	DataDir string
	// Listen is ADDRESS:PORT; port 0 lets the system choose.
	Listen string
	// ProxyProtocolFrom are proxies, each of whose connections has to say with
	// a PROXY header whose it is; nobody else is asked.
	ProxyProtocolFrom []netip.Prefix
	// Inherited is what Inherit gave; with sockets in it Listen is not used.
	Inherited Inheritance
	// Command starts this program again, its file first; on each signal of
	// Reload a successor is started so, which takes our place. Empty: none is.
	Command []string
	Reload  <-chan os.Signal
	// ShutdownGrace is how long sessions may go on when ctx ends (0: 5 s), and
	// DrainTimeout when a successor has taken our place (0: 24 h).
	ShutdownGrace, DrainTimeout time.Duration
	// PublicAddrs are HOST:PORT, or HOST for the port that we listen on, as
	// clients reach the node; empty: the address that we listen on or, where
	// that is all of them, the host name.
	PublicAddrs []string
	// Name is how people call the node; empty: the host name.
	Name   string
	Labels map[string]string
	// Version is told to the control plane.
	Version string
	// DiagListen is ADDRESS:PORT of /healthz, /readyz and /metrics; empty or
	// "off": there are none.
	DiagListen string
	// SSH is what the zero value is good for.
	SSH SSHConfig

	Log *slog.Logger
	Now func() time.Time
}

// Run joins the cluster where the node has not yet, and serves until ctx
// ends; then it lets sessions end and returns nil. Errors that a person can
// mend are *api.Refusal.
func Run(ctx context.Context, config Config) error {
	n, err := prepare(ctx, config)
	if err != nil {
		return err
	}
	defer n.close()
	return n.run(ctx)
}

// node is a Run on its way.
type node struct {
	config    Config
	ssh       sshSettings
	login     loginSettings
	accounts  accounts
	lock      *os.File
	listeners []net.Listener
	diag      net.Listener // may be nil
	serving   atomic.Bool
	link
	creds     *credentials
	signers   atomic.Pointer[[]gossh.Signer]
	states    *holder
	spool     *spool
	spoolLock *os.File
	server    *server
	keeper    *keeper
	// ceaseLeading and leading are lead's.
	ceaseLeading context.CancelFunc
	leading      sync.WaitGroup
	// named is closed when the host certificate is for the names that we go
	// by, or as many of them as the control plane gives.
	named    chan struct{}
	nowNamed func()
}

// prepare does all that can fail before the node serves. The port is opened
// before the token is spent.
func prepare(ctx context.Context, config Config) (n *node, err error) {
	n = &node{config: config, accounts: systemAccounts(), named: make(chan struct{})}
	n.nowNamed = sync.OnceFunc(func() { close(n.named) })
	defer func() {
		if err != nil {
			n.close()
		}
	}()
	if n.ssh, err = config.SSH.check(); err != nil {
		return n, err
	}
	if n.login, err = config.SSH.login(); err != nil {
		return n, err
	}
	if err := config.enough(); err != nil {
		return n, err
	}
	if n.lock, err = openDataDir(config.DataDir, config.Inherited.predecessor); err != nil {
		return n, err
	}
	k, err := loadKeys(config.DataDir)
	if err != nil {
		return n, dataDirRefusal(config.DataDir, err)
	}
	saved, err := loadIdentity(config.DataDir)
	if err != nil {
		return n, broken(err)
	}
	if config.AuthServer == "" && saved != nil {
		config.AuthServer = saved.AuthServer
	}
	control, err := newControl(config.AuthServer, config.Now)
	if err != nil {
		return n, err
	}
	if n.listeners, err = config.listen(ctx); err != nil {
		return n, err
	}
	if config.Inherited.predecessor == nil { // it has the port still
		if n.diag, err = listenDiag(ctx, config.DiagListen); err != nil {
			return n, err
		}
	}
	info, err := config.info(n.listeners[0].Addr())
	if err != nil {
		return n, err
	}
	n.link.member = &member{dir: config.DataDir, keys: k, info: info, control: control, log: config.Log, now: config.Now}
	if n.creds, err = n.member.credentials(ctx, saved, config.Token, config.CAPins); err != nil {
		return n, err
	}
	var spoolPath string
	if spoolPath, n.spoolLock, err = takeSpool(config.DataDir); err != nil {
		return n, dataDirRefusal(config.DataDir, err)
	}
	if n.spool, err = openSpool(spoolPath, config.Log); err != nil {
		return n, dataDirRefusal(config.DataDir, err)
	}
	if err := n.take(n.creds); err != nil {
		return n, err
	}
	if n.creds.bears(info) {
		n.nowNamed()
	}
	n.states = newHolder()
	n.keeper = n.member.keeper(feed.File{Path: filepath.Join(config.DataDir, stateFile)})
	return n, nil
}

// enough tells whether a first start has what it needs, before anything is
// made for it.
func (c Config) enough() error {
	if saved, err := loadIdentity(c.DataDir); err != nil || saved != nil {
		return nil //nolint:nilerr // what is wrong with the folder is found, and said, where it is opened
	}
	if c.Token == "" || len(c.CAPins) == 0 {
		return cannotJoin()
	}
	_, err := newControl(c.AuthServer, c.Now)
	return err
}

// openDataDir makes the folder where there is none, and keeps a second dtnoded
// out of it, unless that takes over from a predecessor, whose lock it has.
func openDataDir(dir string, from *predecessor) (*os.File, error) {
	if err := makeDataDir(dir); err != nil {
		return nil, err
	}
	if from != nil {
		return from.lock, nil
	}
	return lockDataDir(dir)
}

// makeDataDir makes the folder where there is none, and refuses one in which
// somebody else put something.
func makeDataDir(dir string) error {
	if dir == "" {
		return api.Refuse(connect.CodeInvalidArgument, "no data directory is given")
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return dataDirRefusal(dir, err)
	}
	info, err := os.Stat(dir)
	if err != nil {
		return dataDirRefusal(dir, err)
	}
	if err := checkOwn(dir, info); err != nil {
		return err
	}
	names := []string{hostKeyFile, tlsKeyFile, identityFile, claimsFile, stateFile, stateFile + ".newest", lockFile}
	for i := range maxProcesses {
		names = append(names, spoolName(i))
	}
	for _, name := range names {
		path := filepath.Join(dir, name)
		info, err := os.Lstat(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return dataDirRefusal(dir, err)
		}
		if strings.HasPrefix(name, spoolDir) != info.IsDir() || !info.IsDir() && !info.Mode().IsRegular() {
			return dataDirRefusal(dir, fmt.Errorf("%s is not what dtnoded makes there but %s", name, info.Mode()))
		}
		if err := checkOwn(path, info); err != nil {
			return err
		}
	}
	return nil
}

// lockDataDir keeps a second dtnoded out.
func lockDataDir(dir string) (*os.File, error) {
	lock, err := os.OpenFile(filepath.Join(dir, lockFile), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, dataDirRefusal(dir, err)
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		lock.Close()
		return nil, api.Refuse(connect.CodeFailedPrecondition, "another dtnoded uses the data directory %s", dir).
			WithHint("Stop it first, or give this one another --data-dir.")
	}
	return lock, nil
}

func dataDirRefusal(dir string, err error) error {
	return api.Refuse(connect.CodeFailedPrecondition, "cannot use the data directory %s: %v", dir, err).
		WithHint("Give a folder that this user may write, with --data-dir, or run as root.")
}

// info is what the node says of itself.
func (c Config) info(listening net.Addr) (*dtv1.NodeInfo, error) {
	hostname, err := os.Hostname()
	if err != nil {
		return nil, fmt.Errorf("the host name is not known: %w", err)
	}
	hostname = strings.ToLower(hostname)
	name := strings.ToLower(c.Name)
	if name == "" {
		name = hostname
	}
	if err := resource.CheckNodeName(name); err != nil {
		return nil, api.Refuse(connect.CodeInvalidArgument, "the node cannot be called %q: %v", name, err).
			WithHint("Give another name with --nodename.")
	}
	at := addrPort(listening)
	addresses := c.PublicAddrs
	if len(addresses) == 0 {
		host := hostname
		if !at.Addr().IsUnspecified() {
			host = at.Addr().String()
		}
		addresses = []string{host}
	}
	info := &dtv1.NodeInfo{Name: name, Hostname: hostname, Labels: maps.Clone(c.Labels), Version: c.Version}
	for _, a := range addresses {
		address, err := withPort(a, at.Port())
		if err != nil {
			return nil, err
		}
		info.Addresses = append(info.Addresses, address)
	}
	// What the control plane would refuse costs the token once it is asked.
	if err := (resource.NodeClaims{
		Name: name, Hostname: hostname, Addresses: info.GetAddresses(), Labels: info.GetLabels(), Version: c.Version,
	}).Check(); err != nil {
		return nil, api.Refuse(connect.CodeInvalidArgument, "the control plane would not take this node: %v", err).
			WithHint("Mend --labels, --public-addr, or the machine's host name.")
	}
	return info, nil
}

// withPort reads HOST:PORT, or HOST (an IPv6 address with or without
// brackets), which gets port.
func withPort(address string, port uint16) (string, error) {
	host, p, err := net.SplitHostPort(address)
	if err != nil {
		host, p = strings.Trim(address, "[]"), strconv.Itoa(int(port))
	}
	if n, err := strconv.ParseUint(p, 10, 16); err != nil || n == 0 || identity.CheckHostName(strings.ToLower(host)) != nil {
		return "", api.Refuse(connect.CodeInvalidArgument, "the public address %q is not HOST:PORT", address)
	}
	return net.JoinHostPort(strings.ToLower(host), p), nil
}

// take puts credentials to use: for clients at once, and for the control
// plane.
func (n *node) take(c *credentials) error {
	signers, err := c.hostSigners(n.member.keys)
	if err != nil {
		return err
	}
	n.signers.Store(&signers)
	return n.show(c)
}

// run serves until ctx ends.
func (n *node) run(ctx context.Context) error {
	// The conversations go on while sessions come to their end.
	talk, hush := context.WithCancel(context.WithoutCancel(ctx))
	var talking sync.WaitGroup
	defer n.leading.Wait()
	defer talking.Wait()
	defer hush()

	limits := n.ssh.limits
	limits.shutdown = cmp.Or(n.config.ShutdownGrace, limits.shutdown)
	limits.drain = cmp.Or(n.config.DrainTimeout, limits.drain)
	n.server = newServer(talk, serverConfig{
		log: n.config.Log, now: n.config.Now, limits: limits, accounts: n.accounts, uid: uint32(os.Geteuid()),
		cluster: n.creds.cluster, nodeID: n.creds.nodeID, name: n.member.info.GetName(),
		hostSigners: func() []gossh.Signer { return *n.signers.Load() },
		states:      n.states, spool: n.spool, proxies: n.config.ProxyProtocolFrom,
		algorithms: n.ssh.algorithms, noTCPKeepAlive: n.ssh.noTCPKeepAlive, gatewayPorts: n.config.SSH.GatewayPorts,
		login: n.login, loginFiles: systemLoginFiles(os.Geteuid() == 0),
	})
	f := &follower{
		member: n.member, states: n.states, keeper: n.keeper, log: n.config.Log, now: n.config.Now,
		cluster: n.creds.cluster, nodeID: n.creds.nodeID, onAuthorities: n.believe, silence: followSilence,
	}
	f.restore()
	diagnose := func(l net.Listener) { talking.Go(func() { n.diagnose(talk, ctx, l) }) }
	diagnose(n.diag)
	talking.Go(func() { f.run(talk) })
	talking.Go(func() { n.spool.ship(talk, n.send) })
	n.lead(talk)

	if !n.awaitNews(ctx) {
		return nil
	}
	err := n.config.Inherited.predecessor.relieve()
	if err != nil {
		return err
	}
	if n.config.Inherited.predecessor != nil { // which has closed it
		if n.diag, err = listenDiag(ctx, n.config.DiagListen); err != nil {
			n.config.Log.Error("no diagnosis", "error", err)
		}
		diagnose(n.diag)
	}
	addresses := make([]string, 0, len(n.listeners))
	for _, l := range n.listeners {
		addresses = append(addresses, l.Addr().String())
	}
	n.config.Log.Info("serving", "addr", strings.Join(addresses, ","), "name", n.member.info.GetName(),
		"node_id", n.creds.nodeID, "cluster", n.creds.cluster, "public_addr", strings.Join(n.member.info.GetAddresses(), ","), "pid", os.Getpid())
	n.serving.Store(true)
	notify := n.config.Inherited.notify
	notify.tell(n.config.Now(), "READY=1")
	handing, enough := context.WithCancel(ctx)
	defer enough()
	talking.Go(func() { n.awaitHandOver(handing, talk) })
	stopping := context.AfterFunc(ctx, func() { notify.tell(n.config.Now(), "STOPPING=1") })
	defer stopping()
	err = n.server.serve(ctx, n.listeners...)
	n.flush()
	n.config.Log.Info("stopped", "pid", os.Getpid())
	return err
}

// awaitNews waits a little while for the current state, and for a certificate
// with the node's present names; false where ctx ends.
func (n *node) awaitNews(ctx context.Context) bool {
	limit, cancel := context.WithTimeout(ctx, firstNews)
	defer cancel()
	for _, awaited := range []struct {
		news    <-chan struct{}
		without string
	}{
		{n.states.first, "serving without news from the control plane"},
		{n.named, "serving with a certificate that is not for all of the node's names and addresses; clients refuse it by the others"},
	} {
		select {
		case <-awaited.news:
		case <-limit.Done():
			if ctx.Err() != nil {
				return false
			}
			n.config.Log.Warn(awaited.without)
		}
	}
	return true
}

func (n *node) renewed(c *credentials) {
	if err := n.take(c); err != nil {
		n.config.Log.Error("the node's new certificates cannot be used", "error", err)
		return
	}
	n.nowNamed()
}

// flush sends what the last sessions left, once; the rest waits on the disk.
func (n *node) flush() {
	ctx, cancel := context.WithTimeout(context.Background(), lastFlush)
	defer cancel()
	for {
		if sent, err := n.spool.shipOnce(ctx, n.send); err != nil || sent == 0 {
			return
		}
	}
}

func (n *node) close() {
	if n.spool != nil {
		n.spool.close()
	}
	if n.member != nil {
		n.member.control.close()
	}
	closeAll(n.listeners)
	if n.diag != nil {
		n.diag.Close()
	}
	for _, lock := range []*os.File{n.spoolLock, n.lock} {
		if lock != nil {
			lock.Close()
		}
	}
}
