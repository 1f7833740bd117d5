package node

import (
	"cmp"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"sync"

	gossh "golang.org/x/crypto/ssh"
	"golang.org/x/sys/unix"

	"devicetrust/feed"
)

// Several processes may have one data directory: that which serves, and those
// before it that live until their last session ends (decision 0012). What only
// one of them may do, the newest does: it leads.

// lead begins to tell the control plane about the node, to renew its
// certificates, to save the policy, and to send what others have left. It goes
// on until ctx ends or stopLeading.
func (n *node) lead(ctx context.Context) {
	ctx, n.ceaseLeading = context.WithCancel(ctx)
	n.mu.Lock()
	shown := n.shown
	n.mu.Unlock()
	n.leading.Go(func() { n.member.heartbeat(ctx) })
	n.leading.Go(func() { n.member.keepRenewed(ctx, shown, n.renewed) })
	n.leading.Go(func() { n.shipLeft(ctx) })
	if err := n.keeper.lead(true); err != nil {
		n.config.Log.Error("the policy cannot be saved; after a restart the one before it holds until the control plane is heard", "error", err)
	}
}

// stopLeading returns when nothing of lead is done any more.
func (n *node) stopLeading() {
	_ = n.keeper.lead(false) // saves nothing
	n.ceaseLeading()
	n.leading.Wait()
}

// keepReread takes certificates that another process has renewed, until ctx
// ends: the control plane hears us by them.
func (n *node) keepReread(ctx context.Context) {
	for sleep(ctx, rereadInterval) {
		if err := n.reread(); err != nil {
			n.config.Log.Warn("the node's renewed certificates cannot be read", "error", err)
		}
	}
}

func (n *node) reread() error {
	saved, err := loadIdentity(n.config.DataDir)
	if err != nil || saved == nil {
		return cmp.Or(err, errors.New("there are none any more"))
	}
	c, err := saved.check(n.member.keys)
	if err != nil {
		return err
	}
	n.mu.Lock()
	same := n.shown.tls.Equal(c.tls)
	n.mu.Unlock()
	if !same {
		n.renewed(c)
	}
	return nil
}

// stateStore is where a state is saved: a file, or one of those that a stock
// sshd's helper reads.
type stateStore interface {
	Save(s *feed.State) error
	Load(authorities []gossh.PublicKey, cluster, nodeID string) (*feed.State, error)
	Remove() error
}

var _ stateStore = feed.File{}

// keeper saves the state where this process leads. What came while it did not
// is saved when it does again: a lock that was heard of is not to be forgotten.
type keeper struct {
	file stateStore
	// anchors are the user authorities that a saved state is believed by, and
	// trust makes others of them; nil: they are kept elsewhere.
	anchors func() ([]gossh.PublicKey, error)
	trust   func([]gossh.PublicKey) error

	mu     sync.Mutex
	leads  bool
	missed *feed.State
}

func (k *keeper) save(s *feed.State) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if !k.leads {
		k.missed = s
		return nil
	}
	return k.writeLocked(s)
}

func (k *keeper) lead(leads bool) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.leads = leads
	s := k.missed
	if !leads || s == nil {
		return nil
	}
	k.missed = nil
	return k.writeLocked(s)
}

// writeLocked: who is to believe the file has to know by whom before it is
// there.
func (k *keeper) writeLocked(s *feed.State) error {
	view, err := s.ViewFor(nil, 0)
	if err != nil {
		return err
	}
	if err := k.trust(view.UserAuthorities); err != nil {
		return err
	}
	return k.file.Save(s)
}

// load gives what is saved; fs.ErrNotExist where nothing is.
func (k *keeper) load(cluster, nodeID string) (*feed.State, error) {
	anchors, err := k.anchors()
	if err != nil {
		return nil, err
	}
	return k.file.Load(anchors, cluster, nodeID)
}

// forget removes what is saved, or is yet to be.
func (k *keeper) forget() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.missed = nil
	if !k.leads {
		return nil
	}
	return k.file.Remove()
}

// spoolName is the folder of the i-th process of a data directory.
func spoolName(i int) string {
	if i == 0 {
		return spoolDir
	}
	return spoolDir + "." + strconv.Itoa(i)
}

var errTaken = errors.New("another process has it")

// takeSpool gives the first spool that is no living process's, and its lock.
func takeSpool(dataDir string) (dir string, lock *os.File, err error) {
	for i := range maxProcesses {
		dir = filepath.Join(dataDir, spoolName(i))
		if lock, err = lockSpool(dir); !errors.Is(err, errTaken) {
			return dir, lock, err
		}
	}
	return "", nil, errors.New("too many processes before this one have sessions yet")
}

// lockSpool is errTaken where a process has the spool that lives.
func lockSpool(dir string) (*os.File, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(filepath.Join(dir, lockFile), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, errTaken
		}
		return nil, err
	}
	return f, nil
}

// shipLeft sends what processes that have ended left in their spools, until
// ctx ends.
func (n *node) shipLeft(ctx context.Context) {
	for {
		for i := range maxProcesses {
			if err := n.shipSpool(ctx, filepath.Join(n.config.DataDir, spoolName(i))); err != nil && ctx.Err() == nil {
				n.config.Log.Warn("audit records of an earlier process are kept", "spool", spoolName(i), "error", err)
			}
		}
		if !sleep(ctx, shipLeftInterval) {
			return
		}
	}
}

func (n *node) shipSpool(ctx context.Context, dir string) error {
	if left, err := filepath.Glob(filepath.Join(dir, "*"+segmentSuffix)); err != nil || len(left) == 0 {
		return err
	}
	lock, err := lockSpool(dir)
	if errors.Is(err, errTaken) { // and sends them itself
		return nil
	}
	if err != nil {
		return err
	}
	defer lock.Close()
	s, err := openSpool(dir, n.config.Log)
	if err != nil {
		return err
	}
	defer s.close()
	for {
		if sent, err := s.shipOnce(ctx, n.send); err != nil || sent == 0 {
			return err
		}
	}
}
