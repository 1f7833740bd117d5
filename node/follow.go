package node

import (
	"cmp"
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"time"

	"connectrpc.com/connect"

	"devicetrust/feed"
)

// follower keeps the state current.
type follower struct {
	member *member
	states *holder
	keeper *keeper
	log    *slog.Logger
	now    func() time.Time
	// cluster and nodeID that the node is.
	cluster, nodeID string
	// onAuthorities is called with the TLS authorities of each state.
	onAuthorities func([][]byte)
	// silence is how long a stream may say nothing.
	silence time.Duration

	skewTold bool
	// last is the state in force, as it was last said.
	last *feed.State
	// gaps is how many updates in a row were none of what is here.
	gaps int
	// kept is when last was given to the keeper.
	kept time.Time
	// olderSince is when the control plane began to say what is older than
	// last, and olderLast when it said so last; the zero time where it does not.
	olderSince, olderLast time.Time
}

// restore takes the state that was saved last, so that the node decides by it
// while the control plane is away. It is as old as the control plane said.
func (f *follower) restore() {
	saved, err := f.keeper.load(f.cluster, f.nodeID)
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	var s *state
	if err == nil {
		s, err = readState(saved, f.states.get(), f.log)
	}
	if err != nil {
		f.log.Error("the saved policy cannot be used; nobody enters before the control plane is heard", "error", err)
		return
	}
	f.last = saved
	f.states.current.Store(s)
	f.member.reports.note(saved)
	// A time that is to come says nothing about how old it is.
	if at := saved.Time(); !at.After(f.now().Add(maxSkew)) {
		f.states.heard(at)
	}
	f.onAuthorities(s.view.TLSAuthorities)
}

// run follows until ctx ends, and begins again whenever the stream breaks.
func (f *follower) run(ctx context.Context) {
	retry := newBackoff()
	for {
		began, err := f.follow(ctx)
		if ctx.Err() != nil {
			return
		}
		if began {
			retry.reset()
		}
		if errors.Is(err, errReplaced) {
			continue
		}
		if wasRemoved(err) {
			f.forsake()
		}
		wait := retry.next()
		f.log.Warn("the control plane cannot be heard; what it said last stays in force",
			"error", f.member.control.explain("follow", err), "retry_in", wait.Round(time.Millisecond))
		if !sleep(ctx, wait) {
			return
		}
	}
}

var (
	errReplaced = errors.New("the way to the control plane was replaced")
	errSilent   = errors.New("it is connected and says nothing")
)

// follow reads one stream to its end; began tells whether a state came.
func (f *follower) follow(ctx context.Context) (began bool, err error) {
	client, replaced := f.member.control.current()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go func() {
		select {
		case <-replaced:
			cancel(errReplaced)
		case <-ctx.Done():
		}
	}()
	silent := time.AfterFunc(f.silence, func() { cancel(errSilent) })
	defer silent.Stop()
	// What is sent goes on from what we say that we have, in force or not.
	at := f.last
	if f.gaps > 1 {
		at = nil
	}
	stream, err := client.Follow(ctx, connect.NewRequest(at.Request()))
	if err != nil {
		return false, cmp.Or(context.Cause(ctx), err)
	}
	defer func() { _ = stream.Close() }() // what it says is known by then
	for stream.Receive() {
		silent.Reset(f.silence)
		if at, err = at.Apply(stream.Msg(), f.cluster, f.nodeID); err == nil {
			err = f.take(at)
		}
		if err != nil {
			if errors.Is(err, feed.ErrGap) {
				f.gaps++
			}
			return began, err
		}
		began, f.gaps = true, 0
	}
	if cause := context.Cause(ctx); cause != nil {
		return began, cause
	}
	if err := stream.Err(); err != nil {
		return began, err
	}
	return began, errors.New("the control plane ended the stream")
}

// take puts a state in force, and then saves it: a full disk does not keep a
// lock from working.
func (f *follower) take(said *feed.State) error {
	f.checkClock(said)
	// The control plane only says that it lives; one that has not come as far as
	// we have says so of another state.
	if feed.SameContent(said, f.last) && said.Sequence() >= f.last.Sequence() {
		f.last, f.olderSince = said, time.Time{}
		f.states.renumber(said.Sequence())
		f.states.heard(f.now())
		f.member.reports.note(said)
		if f.now().Sub(f.kept) >= keepInterval {
			f.keep(said)
		}
		return nil
	}
	if f.older(said) {
		return nil
	}
	s, err := readState(said, f.states.get(), f.log)
	if err != nil {
		return err
	}
	f.last = said
	f.states.heard(f.now())
	f.states.set(s)
	f.member.reports.note(said)
	f.log.Debug("policy", "sequence", s.sequence, "roles", len(s.policy.Roles), "locks", len(s.policy.Locks))
	f.keep(said)
	f.onAuthorities(s.view.TLSAuthorities)
	return nil
}

func (f *follower) keep(s *feed.State) {
	f.kept = f.now()
	if err := f.keeper.save(s); err != nil {
		f.log.Error("the policy cannot be saved; after a restart the one before it holds until the control plane is heard", "error", err)
	}
}

// older tells whether s is to be left aside because it is older than what is
// in force: a lock that was heard of is not forgotten for a replica that has
// not heard of it yet.
func (f *follower) older(s *feed.State) bool {
	if s.Sequence() >= f.states.get().sequence {
		f.olderSince = time.Time{}
		return false
	}
	now := f.now()
	if f.olderSince.IsZero() || now.Sub(f.olderLast) > followSilence { // nobody has said so all the while
		f.olderSince = now
	}
	f.olderLast = now
	if now.Sub(f.olderSince) < olderAccepted {
		return true
	}
	f.log.Warn("the control plane went back to an older state", "sequence", s.Sequence(), "before", f.states.get().sequence)
	f.olderSince = time.Time{}
	return false
}

// checkClock says so, once, when the clocks come to differ.
func (f *follower) checkClock(s *feed.State) {
	err := skewed(f.now(), s.Time())
	if err != nil && !f.skewTold {
		f.log.Error("certificates are judged by this machine's clock: set it (timedatectl set-ntp true)", "error", err)
	}
	f.skewTold = err != nil
}

// heartbeat tells the control plane about the node, and what it decides by, until
// ctx ends.
func (m *member) heartbeat(ctx context.Context) {
	failing := false
	for {
		client, _ := m.control.current()
		_, err := call(ctx, client.Heartbeat, m.reports.heartbeat(m.info))
		if ctx.Err() != nil {
			return
		}
		if err != nil && !failing {
			m.log.Warn("heartbeat", "error", m.control.explain("heartbeat", err))
		}
		failing = err != nil
		if !m.reports.wait(ctx) {
			return
		}
	}
}

// keepRenewed renews c when half of its life is over, or at once where it is
// for other names, and again until it works. taken is called with each new one.
func (m *member) keepRenewed(ctx context.Context, c *credentials, taken func(*credentials)) {
	retry := newBackoff()
	renamed := !c.bears(m.info)
	var told string // the last that was said of a certificate that is past
	for {
		from, to := c.life()
		half := from.Add(to.Sub(from) / 2)
		if !renamed && !sleep(ctx, max(half.Sub(m.now()), 0)) {
			return
		}
		next, err := m.renew(ctx)
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			wait := retry.next()
			switch {
			case m.now().Before(to):
				m.log.Warn("the node's certificates are not renewed yet", "error", err, "expire", to, "retry_in", wait.Round(time.Millisecond))
			case told != err.Error():
				told = err.Error()
				m.log.Error("the node's certificates have expired and cannot be renewed any more", "error", err, "expired", to, "hint", joinAgain(c.nodeID))
			}
			if !sleep(ctx, wait) {
				return
			}
			continue
		}
		retry.reset()
		// Whatever names it has now: those that the control plane leaves out
		// are not asked for again and again.
		c, renamed = next, false
		taken(c)
		_, until := c.life()
		m.log.Info("the node's certificates are renewed", "expire", until)
		if !until.After(to) && !sleep(ctx, retryMost) { // not longer than before: do not ask at once
			return
		}
	}
}
