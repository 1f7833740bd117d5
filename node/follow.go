package node

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"path/filepath"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	"devicetrust/api/dtv1"
)

// follower keeps the state current.
type follower struct {
	member *member
	states *holder
	keeper *keeper
	log    *slog.Logger
	now    func() time.Time
	// cluster that the node is of.
	cluster string
	// onAuthorities is called with the TLS authorities of each state.
	onAuthorities func([][]byte)
	// silence is how long a stream may say nothing.
	silence time.Duration

	skewTold bool
	// last is the message in force, without its time.
	last *dtv1.NodeState
	// olderSince is when the control plane began to say what is older than
	// last; the zero time where it does not.
	olderSince time.Time
}

// restore takes the state that was saved last, so that the node decides by it
// while the control plane is away.
func (f *follower) restore() {
	m, err := loadState(filepath.Join(f.member.dir, stateFile))
	if err != nil {
		f.log.Error("the saved policy cannot be used; nobody enters before the control plane is heard", "error", err)
		return
	}
	if m == nil {
		return
	}
	s, err := readState(m, f.log)
	if err != nil {
		f.log.Error("the saved policy cannot be used; nobody enters before the control plane is heard", "error", err)
		return
	}
	if s.cluster != f.cluster {
		return // of a life before this one
	}
	f.states.current.Store(s)
	f.onAuthorities(m.GetTlsAuthorities())
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
	stream, err := client.Follow(ctx, connect.NewRequest(&dtv1.FollowRequest{}))
	if err != nil {
		return false, cmp.Or(context.Cause(ctx), err)
	}
	defer func() { _ = stream.Close() }() // what it says is known by then
	for stream.Receive() {
		silent.Reset(f.silence)
		if err := f.take(stream.Msg()); err != nil {
			return began, err
		}
		began = true
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
func (f *follower) take(m *dtv1.NodeState) error {
	f.checkClock(m)
	m.Time = nil
	if proto.Equal(m, f.last) { // the control plane only says that it lives
		f.olderSince = time.Time{}
		f.states.heard(f.now())
		return nil
	}
	if f.older(m) {
		return nil
	}
	s, err := readState(m, f.log)
	if err != nil {
		return err
	}
	if s.cluster != f.cluster {
		return fmt.Errorf("the control plane is of cluster %q and the node of %q", s.cluster, f.cluster)
	}
	f.last = m
	f.states.heard(f.now())
	f.states.set(s)
	f.log.Debug("policy", "sequence", s.sequence, "roles", len(s.policy.Roles), "locks", len(s.policy.Locks))
	if err := f.keeper.save(m); err != nil {
		f.log.Error("the policy cannot be saved; after a restart the one before it holds until the control plane is heard", "error", err)
	}
	f.onAuthorities(m.GetTlsAuthorities())
	return nil
}

// older tells whether m is to be left aside because it is older than what is
// in force: a lock that was heard of is not forgotten for a replica that has
// not heard of it yet.
func (f *follower) older(m *dtv1.NodeState) bool {
	if m.GetSequence() >= f.states.get().sequence {
		f.olderSince = time.Time{}
		return false
	}
	now := f.now()
	if f.olderSince.IsZero() {
		f.olderSince = now
	}
	if now.Sub(f.olderSince) < olderAccepted {
		return true
	}
	f.log.Warn("the control plane went back to an older state", "sequence", m.GetSequence(), "before", f.states.get().sequence)
	f.olderSince = time.Time{}
	return false
}

// checkClock says so, once, when the clocks come to differ.
func (f *follower) checkClock(m *dtv1.NodeState) {
	if m.GetTime() == nil {
		return
	}
	err := skewed(f.now(), m.GetTime().AsTime())
	if err != nil && !f.skewTold {
		f.log.Error("certificates are judged by this machine's clock: set it (timedatectl set-ntp true)", "error", err)
	}
	f.skewTold = err != nil
}

// heartbeat tells the control plane about the node until ctx ends.
func (m *member) heartbeat(ctx context.Context) {
	failing := false
	for {
		client, _ := m.control.current()
		_, err := call(ctx, client.Heartbeat, &dtv1.HeartbeatRequest{Node: m.info})
		if ctx.Err() != nil {
			return
		}
		if err != nil && !failing {
			m.log.Warn("heartbeat", "error", m.control.explain("heartbeat", err))
		}
		failing = err != nil
		// Spread, so that a thousand nodes do not come at the same moment.
		if !sleep(ctx, heartbeatInterval-rand.N(heartbeatInterval/10)) {
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
