package node

import (
	"errors"
	"log/slog"
	"math"
	"sync"
	"sync/atomic"
	"time"

	gossh "golang.org/x/crypto/ssh"

	"devicetrust/feed"
	"devicetrust/policy"
)

// state is what the node decides by, as the control plane last told it. It is
// not changed once it is made. The zero value refuses everybody: it has no
// authority and no policy.
type state struct {
	sequence uint64
	// authorities are the SSH user authorities.
	authorities []gossh.PublicKey
	policy      *policy.State
	// labels are the node's own, as the cluster knows them.
	labels map[string]string
	// removed: the cluster does not know the node any more.
	removed bool
	// view is what it was made of; nil where it was made of nothing.
	view *feed.View
}

// readState makes a state of what the control plane said, with the help of the
// one before. Authorities must be readable; what else is not, denies
// (feed.View).
func readState(s *feed.State, before *state, log *slog.Logger) (*state, error) {
	view, err := s.View(before.view)
	if err != nil {
		return nil, err
	}
	if len(view.Problems) > 0 {
		log.Error("part of the policy cannot be read; whom it concerns is refused. Is dtnoded older than dtauthd?", "error", errors.Join(view.Problems...))
	}
	_, _, labels := s.Node()
	return &state{
		sequence: s.Sequence(), authorities: view.UserAuthorities, policy: view.Policy, labels: labels, view: view,
	}, nil
}

// holder has the state in force and tells when there is another.
type holder struct {
	current atomic.Pointer[state]

	// setting is held while a state is put in force and onChange is told.
	setting sync.Mutex
	// first is closed when there is a state of this run.
	first    chan struct{}
	gotFirst bool
	// onChange is called after each change, one call at a time.
	onChange func()

	mu sync.Mutex
	// last is when the control plane last said that this is the state; the
	// zero time where that is not known.
	last time.Time
}

func newHolder() *holder {
	h := &holder{first: make(chan struct{})}
	h.current.Store(&state{policy: &policy.State{}})
	return h
}

func (h *holder) get() *state { return h.current.Load() }

// set takes a state from the control plane.
func (h *holder) set(s *state) {
	h.setting.Lock()
	defer h.setting.Unlock()
	h.current.Store(s)
	if !h.gotFirst {
		h.gotFirst = true
		close(h.first)
	}
	if h.onChange != nil {
		h.onChange()
	}
}

// renumber: the state in force is that of a later change, too.
func (h *holder) renumber(sequence uint64) {
	h.setting.Lock()
	defer h.setting.Unlock()
	s := *h.get()
	s.sequence = sequence
	h.current.Store(&s)
}

// heard: the control plane says at now that this is the state.
func (h *holder) heard(now time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.last = now
}

// age is how old the state may be at now: a control plane that stays connected
// and says nothing tells of no lock either. It is notHeard where that is not
// known: also by a clock that went back.
func (h *holder) age(now time.Time) time.Duration {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.last.IsZero() || h.last.After(now.Add(maxSkew)) {
		return notHeard
	}
	return max(0, now.Sub(h.last))
}

const notHeard = time.Duration(math.MaxInt64)
