package sshd

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"time"

	"golang.org/x/crypto/ssh"

	"devicetrust/identity"
)

// Connection is one of an sshd's, on which somebody is in.
type Connection struct {
	// ID is ours, for the record.
	ID    string
	Login string
	// Began is when it was made, Seen when it was first found, Found when this
	// side-car first found it; the zero time while it has not.
	Began, Seen, Found time.Time
	Remote             netip.AddrPort
	// Proofs are what somebody may have come in with, as far as they are
	// certificates of the cluster: sshd asked for one, and what a person adds
	// to what is found does not take from it.
	Proofs []Proof
	// Otherwise: a source that no user can write to says that it was by
	// something else than a certificate.
	Otherwise bool
	// Orphan: which sshd took it cannot be told.
	Orphan bool
	// Recalled: it was known before the side-car was started.
	Recalled bool

	served
	sure      bool // there is a Proof that no user can have made
	sightings []sighting
	lines     []PastLine // recalled, and not settled yet
	visited   map[Process]bool
}

// Proof is a certificate of the cluster.
type Proof struct {
	Identity identity.Identity
	// Authority that signed it, in wire format.
	Authority string
	// Whole: all of it is known. Else it is known by sshd's log: Identity has
	// User and Serial only, and Authority is that one's fingerprint.
	Whole bool
}

// Settings are which sshd is watched, and how.
type Settings struct {
	// Config is its sshd_config.
	Config string
	// AuthLog is a file of syslogd's; empty: what the machine has.
	AuthLog string
	// Authorities are those whose certificates are believed.
	Authorities func() []ssh.PublicKey
	Log         *slog.Logger
	Now         func() time.Time

	// blind: the kernel is not asked to tell of files.
	blind bool
}

// Watch finds the connections of an sshd, and whose they are. Its methods are
// called by one goroutine.
type Watch struct {
	settings Settings
	proc     proc
	boot     string     // "" where the machine does not tell: nothing is recalled
	auth     *authWatch // nil where the kernel does not tell
	source   string     // of the log; "" where there is none
	logged   chan accepted
	// News is sent to when there is something to look at.
	news chan struct{}

	files []written  // of processes that are not known yet
	lines []accepted // that may be about connections that are not known yet
	live  map[Process]*Connection

	listeners []Process        // at the last look
	strangers map[Process]bool // other sshds' connections, as long as they live
	obeyed    bool             // see Obeyed
}

// Open begins to watch, until ctx ends.
func Open(ctx context.Context, s Settings) (*Watch, error) {
	w := &Watch{settings: s, proc: "/proc", logged: make(chan accepted, 256), news: make(chan struct{}, 1), live: map[Process]*Connection{}, strangers: map[Process]bool{}}
	if _, err := w.proc.all(); err != nil {
		return nil, err
	}
	var err error
	if w.boot, err = w.proc.bootID(); err != nil {
		s.Log.Warn("which run of the machine this is cannot be told; what is known of connections is lost when the side-car is started again", "error", err)
	}
	if !s.blind {
		w.watchFiles(ctx)
	}
	if from, ok := findLog(s.AuthLog); ok {
		w.source = from.String()
		go w.followLog(ctx, from)
	}
	return w, nil
}

func (w *Watch) watchFiles(ctx context.Context) {
	auth, err := newAuthWatch(w.proc)
	if err != nil {
		w.settings.Log.Warn("the kernel does not tell of files that sshd writes; whose a connection is, its user may hide until it is looked at", "error", err)
		return
	}
	w.auth = auth
	go auth.run(ctx, w.tell)
}

// followLog begins again where the log cannot be read for a while.
func (w *Watch) followLog(ctx context.Context, from logSource) {
	failing := false
	for {
		err := from.follow(ctx, w.settings.Now, func(a accepted) {
			select {
			case w.logged <- a:
				w.tell()
			case <-ctx.Done():
			}
		})
		if ctx.Err() != nil {
			return
		}
		if !failing {
			w.settings.Log.Warn("the log of sshd cannot be read", "source", from.String(), "error", err)
		}
		failing = true
		select {
		case <-time.After(logRetry):
		case <-ctx.Done():
			return
		}
	}
}

func (w *Watch) tell() {
	select {
	case w.news <- struct{}{}:
	default:
	}
}

// News tells that Look may find something.
func (w *Watch) News() <-chan struct{} { return w.news }

// Sources tells whether the kernel tells of sshd's files, and from where its
// log is read, or "".
func (w *Watch) Sources() (files bool, log string) { return w.auth != nil, w.source }

// Look gives the connections that there are now, and whether an sshd with the
// configuration listens.
func (w *Watch) Look() (live []*Connection, listening bool, err error) {
	all, err := w.proc.all()
	if err != nil {
		return nil, false, err
	}
	now := w.settings.Now()
	clock, err := newBootClock(now)
	if err != nil {
		return nil, false, err
	}
	w.hear(now)
	found, listeners, strangers := findServed(w.proc, all, w.settings.Config)
	w.listeners = listeners
	found = w.without(strangers, found)
	present := map[Process]bool{}
	for _, s := range found {
		present[s.top] = true
		c := w.live[s.top]
		if c == nil {
			c = &Connection{
				ID: newID(), Login: s.login, Seen: now, Orphan: s.orphan,
				Remote: w.proc.remote(s.top.PID), visited: map[Process]bool{},
			}
			w.live[s.top] = c
		}
		if c.Found.IsZero() {
			c.Began, c.Found = clock.began(s.top), now
		}
		c.served = s
		c.served.login = c.Login // as it was when somebody came in
		w.learn(c, all, clock)
		live = append(live, c)
	}
	for top := range w.live {
		if !present[top] {
			delete(w.live, top)
		}
	}
	w.expire(now)
	slices.SortFunc(live, func(a, b *Connection) int { return a.Began.Compare(b.Began) })
	return live, len(listeners) > 0, nil
}

// without leaves out what was seen to be another sshd's before that ended.
func (w *Watch) without(strangers []Process, found []served) []served {
	for _, s := range strangers {
		w.strangers[s] = true
	}
	for s := range w.strangers {
		if !w.proc.lives(s) {
			delete(w.strangers, s)
		}
	}
	return slices.DeleteFunc(found, func(s served) bool {
		if !s.orphan {
			delete(w.strangers, s.top)
		}
		return w.strangers[s.top]
	})
}

// Gone tells whether the connection has ended.
func (w *Watch) Gone(c *Connection) bool { return !w.proc.lives(c.top) }

const idSize = 16

func newID() string {
	b := make([]byte, idSize)
	if _, err := rand.Read(b); err != nil { // it never fails (crypto/rand)
		return ""
	}
	return hex.EncodeToString(b)
}

// hear takes what was told since the last look.
func (w *Watch) hear(now time.Time) {
	for {
		select {
		case a := <-w.logged:
			if a.at.IsZero() {
				a.at = now
			}
			w.lines = append(w.lines, a)
			continue
		default:
		}
		break
	}
	if w.auth == nil {
		return
	}
	for {
		select {
		case f := <-w.auth.told:
			w.files = append(w.files, f)
			continue
		default:
		}
		return
	}
}

// expire forgets what was told of processes that nobody has come in by.
func (w *Watch) expire(now time.Time) {
	w.files = slices.DeleteFunc(w.files, func(f written) bool { return !w.proc.lives(f.by) })
	w.lines = slices.DeleteFunc(w.lines, func(a accepted) bool {
		_, lives := w.proc.one(a.pid)
		return !lives || now.Sub(a.at) > 24*time.Hour
	})
	if n := len(w.lines); n > maxHints {
		w.lines = slices.Clone(w.lines[n-maxHints:])
	}
}

// String names it in a log.
func (c *Connection) String() string {
	return fmt.Sprintf("process %d of sshd (login %s)", c.top.PID, c.Login)
}
