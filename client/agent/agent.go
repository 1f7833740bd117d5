package agent

import (
	"context"
	"crypto/sha256"
	"errors"
	"log/slog"
	"net"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"

	"devicetrust/identity"
)

// Config is what an Agent needs; all of it.
type Config struct {
	Source Source
	Now    func() time.Time
	// Log is told of refusals, without anything that a client chose.
	Log *slog.Logger
}

// Agent is what all connections share.
type Agent struct {
	cfg Config

	lock lock

	// stopped is closed when somebody has asked the agent to end.
	stopped chan struct{}
	stop    func()

	mu        sync.Mutex
	added     []*added
	hidden    map[[sha256.Size]byte]bool // certificates of logins that were removed
	forwarded int                        // connections
}

// New gives an agent that has the logins of cfg.Source.
func New(cfg Config) *Agent {
	a := &Agent{cfg: cfg, hidden: map[[sha256.Size]byte]bool{}, stopped: make(chan struct{})}
	a.lock.wait = time.Sleep
	a.stop = sync.OnceFunc(func() { close(a.stopped) })
	return a
}

// Serve serves the connections of l until ctx ends or somebody asks the agent to
// stop, and closes them and l. An error is for a listener that failed.
func (a *Agent) Serve(ctx context.Context, l net.Listener) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		select {
		case <-a.stopped:
			cancel()
		case <-ctx.Done():
		}
	}()
	// The listener first: whoever sees a connection end can start another agent.
	connected, hangUp := context.WithCancel(context.WithoutCancel(ctx))
	closed := make(chan struct{})
	context.AfterFunc(ctx, func() {
		defer close(closed)
		defer hangUp()
		_ = l.Close()
	})
	var conns sync.WaitGroup
	defer func() {
		cancel()
		<-closed
		conns.Wait()
	}()
	slots := make(chan struct{}, maxConns)
	for {
		select {
		case slots <- struct{}{}:
		case <-ctx.Done():
			return nil
		}
		c, err := l.Accept()
		switch {
		case ctx.Err() != nil:
			if err == nil {
				_ = c.Close()
			}
			return nil
		case errors.Is(err, net.ErrClosed):
			return err
		case err != nil:
			// Out of file descriptors, most often: those that are open will end.
			a.cfg.Log.Warn("cannot accept a connection", "err", err)
			<-slots
			select {
			case <-time.After(100 * time.Millisecond):
			case <-ctx.Done():
			}
			continue
		}
		conns.Go(func() {
			defer func() { <-slots }()
			a.ServeConn(connected, c)
		})
	}
}

// usable is an identity that a message may be about: of a login or added.
type usable struct {
	public  ssh.PublicKey
	comment string
	login   *Identity // nil where the key was added
	added   *added
}

// identities gives all that are not expired nor removed, the logins' first.
func (a *Agent) identities(ctx context.Context) []usable {
	now := a.cfg.Now()
	logins, err := a.cfg.Source.Identities(ctx)
	if err != nil {
		a.cfg.Log.Warn("cannot read the logins", "err", err)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	var all []usable
	still := map[[sha256.Size]byte]bool{}
	for i := range logins {
		login := &logins[i]
		if login.Certificate == nil || login.Sign == nil || expired(login.Certificate, now) {
			continue
		}
		sum := sha256.Sum256(login.Certificate.Marshal())
		if a.hidden[sum] {
			still[sum] = true
			continue
		}
		all = append(all, usable{public: login.Certificate, comment: login.Comment, login: login})
	}
	if err == nil {
		a.hidden = still // those of other certificates never come again
	}
	a.expireLocked(now)
	for _, k := range a.added {
		all = append(all, usable{public: k.public, comment: k.comment, added: k})
	}
	return all
}

func expired(cert *ssh.Certificate, now time.Time) bool {
	return cert.ValidBefore != ssh.CertTimeInfinity && uint64(max(now.Unix(), 0)) >= cert.ValidBefore
}

func (a *Agent) expireLocked(now time.Time) {
	var still []*added
	for _, k := range a.added {
		if !k.expired(now) {
			still = append(still, k)
		}
	}
	a.added = still
}

// Expire forgets keys whose lifetime is over, so that they do not stay in the
// memory of an agent that nobody asks.
func (a *Agent) Expire() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.expireLocked(a.cfg.Now())
}

// Empty forgets all keys of ssh-add, as when their owner has logged out.
func (a *Agent) Empty() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.added = nil
}

// Added is how many keys of ssh-add there are.
func (a *Agent) Added() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.added)
}

// add adds a key in the place of one with the same public key.
func (a *Agent) add(k *added) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.expireLocked(a.cfg.Now())
	for i, old := range a.added {
		if equal(old.public, k.public) {
			a.added[i] = k
			return true
		}
	}
	if len(a.added) >= maxAdded {
		return false
	}
	a.added = append(a.added, k)
	return true
}

// remove takes identities away. A login's stays away until its certificate is
// another: after a login or a renewal.
func (a *Agent) remove(gone []usable) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, g := range gone {
		if g.login != nil {
			a.hidden[sha256.Sum256(g.login.Certificate.Marshal())] = true
			continue
		}
		var still []*added
		for _, k := range a.added {
			if k != g.added {
				still = append(still, k)
			}
		}
		a.added = still
	}
}

// find looks for an identity by the key that a client names: a certificate, or
// the plain key of a login's.
func (a *Agent) find(ctx context.Context, key ssh.PublicKey) (usable, bool) {
	all := a.identities(ctx)
	for _, id := range all {
		if equal(id.public, key) {
			return id, true
		}
	}
	for _, id := range all {
		if id.login != nil && equal(plain(id.public), key) {
			return id, true
		}
	}
	return usable{}, false
}

// mayList tells whether a connection is shown an identity.
func (id usable) mayList(b *bindings, now time.Time) bool {
	if id.added != nil {
		return id.added.mayList(b, now)
	}
	return !b.failed && (!b.forwarded() || mayForward(id.login))
}

// maySign tells whether data may be signed for a connection; key is the one that
// it named.
func (id usable) maySign(b *bindings, data []byte, key ssh.PublicKey, now time.Time) bool {
	if id.added != nil {
		return id.added.maySign(b, data, key, now)
	}
	return id.login.maySign(b, data, now)
}

// maySign: a login's key speaks SSH only. What another protocol would sign, as
// TLS, must not be had here.
func (id *Identity) maySign(b *bindings, data []byte, now time.Time) bool {
	if b.failed {
		return false
	}
	if isSSHSIG(data) {
		return !b.forwarded()
	}
	req, ok := parseUserAuth(data)
	if !ok || !equal(req.key, id.Certificate) && !equal(req.key, id.Certificate.Key) {
		return false
	}
	if b.forwarded() {
		return mayForward(id) && id.maySignBeyond(b, req, now)
	}
	session := b.last()
	return session == nil || req.in(session)
}

// maySignBeyond is maySign for another machine, which may be hostile. The session
// must have been bound, at a host of the login's cluster.
func (id *Identity) maySignBeyond(b *bindings, req userAuth, now time.Time) bool {
	session := b.last()
	if session == nil || !req.in(session) || !id.isHost(session.host, now) || !id.has(req.user) {
		return false
	}
	// A machine on the way can sign any session's identifier with a key of its
	// own. Where the request does not name the host, nobody else would notice.
	return req.host != nil || !b.isHop(session.host)
}

// mayForward tells whether a role lets the key be used from other machines.
func mayForward(id *Identity) bool {
	who, err := identity.UnverifiedFromSSH(id.Certificate)
	return err == nil && who.Permit.AgentForwarding && len(id.HostAuthorities) > 0
}

// isHost tells whether a host key is certified by the login's cluster. A host
// that shows a plain key cannot be told from any other.
func (id *Identity) isHost(host ssh.PublicKey, now time.Time) bool {
	cert, ok := host.(*ssh.Certificate)
	if !ok || checkHost(cert, "", now) != nil {
		return false
	}
	for _, ca := range id.HostAuthorities {
		if equal(cert.SignatureKey, ca) {
			return true
		}
	}
	return false
}

// has tells whether the certificate is for a login at a host.
func (id *Identity) has(user string) bool {
	for _, p := range id.Certificate.ValidPrincipals {
		if p == user {
			return true
		}
	}
	return false
}
