package node

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"strings"
	"sync"
	"time"

	"connectrpc.com/connect"
	gossh "golang.org/x/crypto/ssh"

	"devicetrust/api"
	"devicetrust/feed"
	"devicetrust/identity/krl"
	"devicetrust/node/sshd"
)

// SyncConfig is what a stock sshd's side-car is started with.
type SyncConfig struct {
	// DataDir is where InstallSSHD put the identity.
	DataDir string
	// SSHDConfig is the server's sshd_config.
	SSHDConfig string
	// AuthLog is the file with sshd's log; empty: what the machine has.
	AuthLog string
	Version string
	Log     *slog.Logger
	Now     func() time.Time
}

// SyncSSHD keeps what a stock sshd and its helper decide by current, and ends
// the connections of those who would not be let in any more, until ctx ends.
// Errors that a person can mend are *api.Refusal.
func SyncSSHD(ctx context.Context, config SyncConfig) error {
	c, err := newSidecar(ctx, config)
	if err != nil {
		return err
	}
	defer c.close()
	return c.run(ctx)
}

// sidecar is a SyncSSHD on its way.
type sidecar struct {
	link
	config    SyncConfig
	node      sshd.Node
	creds     *credentials
	states    *holder
	keeper    *keeper
	kept      *sshd.Kept
	lock      *os.File
	spool     *spool
	spoolLock *os.File
	watch     *sshd.Watch
	decider   decider
	recorder  recorder
	// changed is sent to when there is another state; of capacity 1.
	changed chan struct{}

	// of enforce's goroutine
	sessions map[string]*stockSession
	started  time.Time
	looked   bool   // at who is in, since
	judged   string // the mark of the state by which all were last
	deaf     bool   // no sshd listens, which was said
	// memory has the last of what is to be kept on the disk, of capacity 1;
	// remembered is that; crowded: that some have no room was said.
	memory     chan []byte
	remembered []byte
	crowded    bool

	// of keepFiles' goroutine
	unmended string // what was said last of it
}

func newSidecar(ctx context.Context, config SyncConfig) (c *sidecar, err error) {
	c = &sidecar{
		config: config, changed: make(chan struct{}, 1), states: newHolder(), memory: make(chan []byte, 1), started: config.Now(), sessions: map[string]*stockSession{},
		kept: &sshd.Kept{Dir: sshd.DirOf(config.SSHDConfig)},
	}
	defer func() {
		if err != nil {
			c.close()
		}
	}()
	if c.node, err = c.kept.Dir.ReadNode(); err != nil {
		return c, notInstalled(config, err)
	}
	if c.lock, err = openDataDir(config.DataDir, nil); err != nil {
		return c, err
	}
	if err := c.becomeMember(); err != nil {
		return c, err
	}
	var spoolPath string
	if spoolPath, c.spoolLock, err = takeSpool(config.DataDir); err != nil {
		return c, dataDirRefusal(config.DataDir, err)
	}
	if c.spool, err = openSpool(spoolPath, config.Log); err != nil {
		return c, dataDirRefusal(config.DataDir, err)
	}
	c.decider = decider{c.states, c.node.ID, c.node.Name}
	c.recorder = recorder{c.spool, c.node.Cluster, c.node.ID, c.node.Name, config.Now}
	c.states.onChange = c.stateChanged
	if err := c.keepOwn(); err != nil {
		return c, err
	}
	c.watch, err = sshd.Open(ctx, sshd.Settings{
		Config: config.SSHDConfig, AuthLog: config.AuthLog, Log: config.Log, Now: config.Now,
		Authorities: func() []gossh.PublicKey { return c.states.get().authorities },
	})
	return c, err
}

func notInstalled(config SyncConfig, err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		err = errors.New("it has not joined a cluster")
	}
	return api.Refuse(connect.CodeFailedPrecondition, "the sshd of %s cannot be kept current: %v", config.SSHDConfig, err).
		WithHint("Join it first: dtnoded sshd install --sshd-config=%s", config.SSHDConfig)
}

// becomeMember takes the identity that install saved. The host key is sshd's:
// the certificate tells its public half.
func (c *sidecar) becomeMember() error {
	saved, err := loadIdentity(c.config.DataDir)
	if err == nil && saved == nil {
		return notInstalled(c.config, fmt.Errorf("%s has no identity", c.config.DataDir))
	}
	if err != nil {
		return broken(err)
	}
	if saved.NodeID != c.node.ID || saved.Cluster != c.node.Cluster {
		return notInstalled(c.config, fmt.Errorf("%s has the identity of node %s of cluster %q, and the server is node %s of %q",
			c.config.DataDir, saved.NodeID, saved.Cluster, c.node.ID, c.node.Cluster))
	}
	key, err := gossh.ParsePublicKey(saved.HostCertificate)
	if err != nil {
		return broken(err)
	}
	certificate, ok := key.(*gossh.Certificate)
	if !ok {
		return broken(errors.New("the host certificate is none"))
	}
	info, err := loadClaims(c.config.DataDir, c.config.Version)
	if err != nil {
		return broken(err)
	}
	mine := CompanionConfig{DataDir: c.config.DataDir, Log: c.config.Log, Now: c.config.Now}
	if c.member, err = mine.member(saved, certificate.Key, info); err != nil {
		return err
	}
	if c.creds, err = saved.check(c.member.keys); err != nil {
		return broken(err)
	}
	if _, until := c.creds.life(); !c.config.Now().Before(until) {
		return api.Refuse(connect.CodeUnauthenticated, "this server's certificate expired at %s", clock(until)).
			WithHint("Join again: remove the old entry (dtctl rm node/%s), make a token (dtctl tokens add --type=node), and run dtnoded sshd install with it as --token.", c.node.ID)
	}
	return c.show(c.creds)
}

// keepOwn begins to keep the files of the folder.
func (c *sidecar) keepOwn() error {
	group, err := sshd.HelperGroup()
	if err != nil {
		return fmt.Errorf("the helper's group is not known: %w", err)
	}
	c.keeper = c.member.keeper(sidecarStates{c.kept.Dir.StateFile(group), c})
	c.keeper.trust = func(keys []gossh.PublicKey) error {
		return errors.Join(c.member.trustUserAuthorities(keys), c.kept.KeepUserCA(keys))
	}
	if err := c.keeper.lead(true); err != nil {
		return err
	}
	authorities, err := c.member.userAuthorities()
	if err != nil {
		return broken(err)
	}
	if len(authorities) > 0 {
		err = c.kept.KeepUserCA(authorities)
	}
	if err := errors.Join(err, c.kept.KeepNode(c.node), c.kept.KeepHostCertificate(c.creds.host)); err != nil {
		return fmt.Errorf("cannot write %s: %w", c.kept.Dir, err)
	}
	return nil
}

// sidecarStates saves states where the helper reads them, and the list of
// what is revoked where sshd does.
type sidecarStates struct {
	feed.File
	sidecar *sidecar
}

const keptState = "state"

func (s sidecarStates) Save(state *feed.State) error {
	listed := s.sidecar.keepKRL(state)
	err := s.sidecar.kept.Put(keptState, func() error { return s.File.Save(state) }, s.Path, s.Path+".newest")
	return errors.Join(listed, err)
}

func (s sidecarStates) Remove() error { return s.sidecar.kept.Forget(keptState, s.File.Remove) }

// keepKRL leaves the list that is there where it is not known what is revoked:
// it was right a moment ago.
func (c *sidecar) keepKRL(state *feed.State) error {
	view := c.states.get().view
	if view == nil || !feed.SameContent(view.State, state) {
		var err error
		if view, err = state.View(nil); err != nil {
			return err
		}
	}
	if view.Policy.Roles == nil {
		return errors.New("what is revoked cannot be read; the list that sshd has stays")
	}
	list, err := revocationList(view)
	if err == nil {
		_, err = krl.Check(list, view.UserAuthorities)
	}
	if err != nil {
		return err
	}
	return c.kept.KeepKRL(list)
}

// run does all of it until ctx ends.
func (c *sidecar) run(ctx context.Context) error {
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	f := &follower{
		member: c.member, states: c.states, keeper: c.keeper, log: c.config.Log, now: c.config.Now,
		cluster: c.node.Cluster, nodeID: c.node.ID, onAuthorities: c.believe, silence: followSilence,
	}
	f.restore()
	if s := f.last; s != nil { // and make it right, where somebody has changed the rest
		if err := c.keeper.save(s); err != nil {
			c.config.Log.Error("what sshd decides by cannot be written", "error", err)
		}
	}
	c.recall()
	files, source := c.watch.Sources()
	c.config.Log.Info("serving", "sshd_config", c.config.SSHDConfig, "name", c.node.Name, "node_id", c.node.ID, "cluster", c.node.Cluster,
		"told_of_files", files, "log", source, "pid", os.Getpid())
	var doing sync.WaitGroup
	doing.Go(func() { f.run(ctx) })
	doing.Go(func() { c.spool.ship(ctx, c.send) })
	doing.Go(func() { c.member.heartbeat(ctx) })
	doing.Go(func() { c.member.keepRenewed(ctx, c.creds, c.renewed) })
	doing.Go(func() { c.keepFiles(ctx) })
	doing.Go(func() { keepMemory(ctx, c.config.DataDir, c.memory, c.config.Log) })
	c.enforce(ctx)
	if c.looked { // else what is on the disk is right
		c.remember()
	}
	close(c.memory)
	doing.Wait()
	c.flush()
	c.config.Log.Info("stopped", "pid", os.Getpid())
	return nil
}

// flush sends what the last sessions left, once; the rest waits on the disk.
func (c *sidecar) flush() {
	ctx, cancel := context.WithTimeout(context.Background(), lastFlush)
	defer cancel()
	for {
		if sent, err := c.spool.shipOnce(ctx, c.send); err != nil || sent == 0 {
			return
		}
	}
}

// stateChanged is called by who follows, before it writes anything.
func (c *sidecar) stateChanged() {
	select {
	case c.changed <- struct{}{}:
	default:
	}
}

// renewed gives sshd its new certificate.
func (c *sidecar) renewed(creds *credentials) {
	if err := c.show(creds); err != nil {
		c.config.Log.Error("the server's new certificates cannot be used", "error", err)
		return
	}
	if err := c.kept.KeepHostCertificate(creds.host); err != nil {
		c.config.Log.Error("sshd's new host certificate cannot be written; clients refuse the old one once it has expired", "error", err)
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), companionReload)
	defer cancel()
	if err := c.watch.Reload(ctx); err != nil {
		c.config.Log.Error("sshd does not read its new host certificate; clients refuse the old one once it has expired", "error", err, "hint", "Reload sshd.")
	}
}

// keepFiles puts right what somebody else changes, as long as sshd reads it.
func (c *sidecar) keepFiles(ctx context.Context) {
	for sleep(ctx, companionLook) {
		if !sshd.Installed(c.config.SSHDConfig) {
			c.sayUnmended("sshd does not read our part of its configuration any more; was it uninstalled?")
			continue
		}
		mended, err := c.kept.Mend()
		if len(mended) > 0 {
			c.config.Log.Warn("files of sshd's were changed by somebody else, and are put right", "dir", string(c.kept.Dir), "files", strings.Join(mended, ","))
		}
		text := ""
		if err != nil {
			text = "files of sshd's cannot be put right: " + err.Error()
		}
		c.sayUnmended(text)
	}
}

// sayUnmended says what cannot be mended once.
func (c *sidecar) sayUnmended(text string) {
	if text != "" && text != c.unmended {
		c.config.Log.Error(text)
	}
	c.unmended = text
}

func (c *sidecar) close() {
	if c.spool != nil {
		c.spool.close()
	}
	if c.member != nil {
		c.member.control.close()
	}
	for _, lock := range []*os.File{c.spoolLock, c.lock} {
		if lock != nil {
			lock.Close()
		}
	}
}
