package node

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"connectrpc.com/connect"
	gossh "golang.org/x/crypto/ssh"

	"devicetrust/api"
	"devicetrust/api/dtv1"
	"devicetrust/feed"
	"devicetrust/identity/krl"
	"devicetrust/node/sshd"
	"devicetrust/resource"
)

// CompanionConfig is what a stock sshd joins the cluster with. The fields are as
// those of Config.
type CompanionConfig struct {
	AuthServer  string
	Token       string
	CAPins      []Pin
	DataDir     string
	PublicAddrs []string
	Name        string
	Labels      map[string]string
	Version     string
	Log         *slog.Logger
	Now         func() time.Time
	// SSHD is the server. Its DataDir is set from ours.
	SSHD sshd.Installation
}

// Installed is what InstallSSHD has done.
type Installed struct {
	sshd.Report
	Cluster, NodeID, Name string
	// Addresses are those that people reach it by.
	Addresses []string
	// Again: it was installed already, and is as it should be now.
	Again bool
}

// InstallSSHD joins a stock sshd to the cluster: its host key is certified, and
// it lets in whom the cluster lets in. The token is spent when all else has been
// looked at. An error leaves the machine as it was, but for the identity in the
// data directory where the server has joined: with that it needs no token to
// install again.
func InstallSSHD(ctx context.Context, c CompanionConfig) (Installed, error) {
	c.SSHD.DataDir = c.DataDir
	if err := c.node().enough(); err != nil {
		return Installed{}, err
	}
	p, err := sshd.Prepare(ctx, c.SSHD)
	if err != nil {
		return Installed{}, err
	}
	defer p.Close()
	info, err := c.info(p.Listens)
	if err != nil {
		return Installed{}, err
	}
	forget, err := remember(c.DataDir)
	if err != nil {
		return Installed{}, dataDirRefusal(c.DataDir, err)
	}
	m, creds, err := c.join(ctx, p.HostKey, info)
	if err != nil {
		return Installed{}, errors.Join(err, forget())
	}
	defer m.control.close()
	if err := saveClaims(c.DataDir, info); err != nil {
		return Installed{}, hasJoined(err)
	}
	joined, err := m.joined(ctx, creds)
	if err != nil {
		return Installed{}, hasJoined(err)
	}
	report, err := p.Install(ctx, joined, c.Now())
	if err != nil {
		return Installed{}, hasJoined(err)
	}
	return Installed{
		Report: report, Cluster: creds.cluster, NodeID: creds.nodeID, Name: joined.Name,
		Addresses: info.GetAddresses(), Again: p.Before != nil && p.Before.ID == creds.nodeID,
	}, nil
}

// hasJoined says what is left of an installation that failed later.
func hasJoined(err error) error {
	const left = "The server has joined the cluster, and needs no token to install again."
	if r, ok := errors.AsType[*api.Refusal](err); ok {
		return r.WithHint("%s", strings.TrimSpace(r.Hint+" "+left))
	}
	return api.Refuse(connect.CodeUnavailable, "%v", err).WithHint("%s", left)
}

// node is what a companion has in common with a node.
func (c CompanionConfig) node() Config {
	return Config{
		AuthServer: c.AuthServer, Token: c.Token, CAPins: c.CAPins, DataDir: c.DataDir, PublicAddrs: c.PublicAddrs,
		Name: c.Name, Labels: c.Labels, Version: c.Version, Log: c.Log, Now: c.Now,
	}
}

// info is what the server says of itself; listens are sshd's addresses.
func (c CompanionConfig) info(listens []string) (*dtv1.NodeInfo, error) {
	n := c.node()
	var first *net.TCPAddr
	for _, text := range listens {
		text, _, _ := strings.Cut(text, " ") // rdomain
		at, err := netip.ParseAddrPort(text)
		if err != nil {
			return nil, fmt.Errorf("sshd listens at %q: %w", text, err)
		}
		if first == nil {
			first = net.TCPAddrFromAddrPort(at)
		}
		if len(c.PublicAddrs) == 0 && !at.Addr().IsUnspecified() {
			n.PublicAddrs = append(n.PublicAddrs, at.String())
		}
	}
	info, err := n.info(first)
	if err == nil {
		info.Enforcer = resource.EnforcerSSHD
	}
	return info, err
}

// join takes the saved identity, or joins. The data directory is locked for a
// join only: the side-car, which has it, goes on while all is installed again.
func (c CompanionConfig) join(ctx context.Context, hostKey gossh.PublicKey, info *dtv1.NodeInfo) (*member, *credentials, error) {
	if err := makeDataDir(c.DataDir); err != nil {
		return nil, nil, err
	}
	saved, err := loadIdentity(c.DataDir)
	if err != nil {
		return nil, nil, broken(err)
	}
	if saved == nil {
		lock, err := lockDataDir(c.DataDir)
		if err != nil {
			return nil, nil, err
		}
		defer lock.Close()
	}
	m, err := c.member(saved, hostKey, info)
	if err != nil {
		return nil, nil, err
	}
	creds, err := m.credentials(ctx, saved, c.Token, c.CAPins)
	if err != nil {
		return nil, nil, err
	}
	m.control.use(trust{authorities: creds.tlsAuthorities}, creds.tlsCertificate(m.keys))
	if saved != nil && !creds.bears(info) { // it goes by other names now
		creds, err = m.renew(ctx)
	}
	return m, creds, err
}

func (c CompanionConfig) member(saved *savedIdentity, hostKey gossh.PublicKey, info *dtv1.NodeInfo) (*member, error) {
	address := c.AuthServer
	if saved != nil {
		address = cmp.Or(address, saved.AuthServer)
		if !saved.isFor(hostKey) {
			return nil, api.Refuse(connect.CodeFailedPrecondition, "%s has the identity of a node with another host key than this sshd's", c.DataDir).
				WithHint("Give this sshd a folder of its own with --data-dir, or remove that one, and join with a new token.")
		}
	}
	key, err := loadTLSKey(c.DataDir)
	if err != nil {
		return nil, dataDirRefusal(c.DataDir, err)
	}
	control, err := newControl(address, c.Now)
	if err != nil {
		return nil, err
	}
	return &member{dir: c.DataDir, keys: keys{host: hostKey, tls: key}, info: info, control: control, log: c.Log, now: c.Now}, nil
}

// isFor tells whether the host certificate is for key; check looks at the rest.
func (s savedIdentity) isFor(key gossh.PublicKey) bool {
	parsed, err := gossh.ParsePublicKey(s.HostCertificate)
	if err != nil {
		return false
	}
	cert, ok := parsed.(*gossh.Certificate)
	return ok && string(cert.Key.Marshal()) == string(key.Marshal())
}

// joined is what sshd's part of the machine is filled with.
func (m *member) joined(ctx context.Context, c *credentials) (sshd.Joined, error) {
	authorities, err := m.userAuthorities()
	if err != nil {
		return sshd.Joined{}, broken(err)
	}
	state, err := m.firstState(ctx, c)
	if err != nil {
		return sshd.Joined{}, m.control.explain("cannot learn the cluster's policy", err)
	}
	view, err := state.View(nil)
	if err != nil {
		return sshd.Joined{}, err
	}
	list, err := revocationList(view)
	if err != nil {
		return sshd.Joined{}, err
	}
	return sshd.Joined{
		Cluster: c.cluster, NodeID: c.nodeID, Name: m.info.GetName(),
		UserAuthorities: authorities, HostCertificate: c.host, State: state, KRL: list,
	}, nil
}

// firstState waits for the state as it is now.
func (m *member) firstState(ctx context.Context, c *credentials) (*feed.State, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	client, _ := m.control.current()
	var none *feed.State
	stream, err := client.Follow(ctx, connect.NewRequest(none.Request()))
	if err != nil {
		return nil, err
	}
	defer func() { _ = stream.Close() }() // it is done with
	if !stream.Receive() {
		return nil, cmp.Or(stream.Err(), errors.New("the control plane ended the stream"))
	}
	return none.Apply(stream.Msg(), c.cluster, c.nodeID)
}

// revocationList is for sshd's RevokedKeys.
func revocationList(v *feed.View) ([]byte, error) {
	list := krl.List{Version: v.State.Sequence(), Date: v.State.Time()}
	for _, key := range v.UserAuthorities {
		list.Authorities = append(list.Authorities, krl.Authority{Key: key, Revoked: v.Policy.Revoked.All()})
	}
	return list.Marshal()
}

// remember notes what there is of a data directory, and gives what removes all
// that has come to it since, and nothing else.
func remember(dir string) (forget func() error, err error) {
	var made []string // folders that are not there yet, the innermost first
	at := filepath.Clean(dir)
	for at != filepath.Dir(at) {
		if _, err := os.Lstat(at); !errors.Is(err, fs.ErrNotExist) {
			break
		}
		made = append(made, at)
		at = filepath.Dir(at)
	}
	var files []string
	for _, name := range []string{tlsKeyFile, identityFile, claimsFile, lockFile} {
		if _, err := os.Lstat(filepath.Join(dir, name)); errors.Is(err, fs.ErrNotExist) {
			files = append(files, filepath.Join(dir, name))
		}
	}
	return func() error {
		var errs []error
		for _, path := range append(files, made...) {
			if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
				errs = append(errs, err)
			}
		}
		return errors.Join(errs...)
	}, nil
}

// UninstallSSHD takes a stock sshd out again. The identity stays, unless purge.
func UninstallSSHD(ctx context.Context, installation sshd.Installation, dataDir string, purge bool) (sshd.Uninstalled, error) {
	done, err := sshd.Uninstall(ctx, installation)
	if err != nil || !purge {
		return done, err
	}
	return done, purgeDataDir(dataDir)
}

// purgeDataDir removes the folder where it is a companion's: what has no
// identity may be anybody's, and what has a host key is a node's.
func purgeDataDir(dir string) error {
	saved, err := loadIdentity(dir)
	if err == nil && saved == nil {
		return nil
	}
	if err != nil {
		return broken(err)
	}
	if _, err := os.Lstat(filepath.Join(dir, hostKeyFile)); !errors.Is(err, fs.ErrNotExist) {
		return api.Refuse(connect.CodeFailedPrecondition, "%s is that of a dtnoded that serves SSH itself", dir).
			WithHint("Give the folder of sshd's side-car with --data-dir.")
	}
	lock, err := lockDataDir(dir)
	if err != nil {
		return err
	}
	defer lock.Close()
	return os.RemoveAll(dir)
}
