package authd

import (
	"context"
	"fmt"
	"sync"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/timestamppb"

	"devicetrust/api"
	"devicetrust/api/dtv1"
	"devicetrust/ca"
	"devicetrust/store"
)

// feed builds the state that nodes follow, once for each change however many
// nodes there are.
type feed struct {
	s *Server

	mu      sync.Mutex
	state   *dtv1.NodeState // never changed once it is here
	seen    time.Time       // when the store was last seen to have nothing newer
	changed chan struct{}   // closed when state is replaced
}

func newFeed(s *Server) *feed {
	return &feed{s: s, changed: make(chan struct{})}
}

// run keeps the state current until ctx ends. Wakes make it quick; the ticks
// make it certain, for a wake can be lost.
func (f *feed) run(ctx context.Context, wakes <-chan struct{}) {
	tick := time.NewTicker(feedTick)
	defer tick.Stop()
	for {
		if err := f.look(ctx); err != nil && ctx.Err() == nil {
			f.s.log.Error("the nodes' state could not be read; trying again", "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-wakes:
		case <-tick.C:
		}
	}
}

// look notes that the state is current, or makes it so.
func (f *feed) look(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, feedLookTimeout)
	defer cancel()
	at := f.s.now()
	var sequence uint64
	err := f.s.db.Read(ctx, func(tx *store.Tx) (err error) {
		sequence, err = tx.Sequence()
		return err
	})
	if err != nil {
		return err
	}
	if f.isCurrent(sequence, at) {
		return nil
	}
	return f.refresh(ctx)
}

func (f *feed) isCurrent(sequence uint64, at time.Time) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.state == nil || f.state.GetSequence() != sequence {
		return false
	}
	f.seen = at
	return true
}

// refresh replaces the state where the store has gone on.
func (f *feed) refresh(ctx context.Context) error {
	state, err := f.s.buildState(ctx)
	if err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.state != nil && state.GetSequence() < f.state.GetSequence() {
		return fmt.Errorf("authd: the store went back from change %d to %d: was a backup put in its place?", f.state.GetSequence(), state.GetSequence())
	}
	f.seen = state.GetTime().AsTime()
	if f.state != nil && state.GetSequence() == f.state.GetSequence() {
		return nil
	}
	f.state = state
	close(f.changed)
	f.changed = make(chan struct{})
	return nil
}

// latest returns the state with the time at which it was last known to be the
// newest, and a channel that is closed when there is a newer one. A state
// that has not been held against the store for long is none: a node that is
// told nothing knows that it may have missed something.
func (f *feed) latest() (state *dtv1.NodeState, seen time.Time, changed <-chan struct{}, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.s.now().Sub(f.seen) > feedStale {
		return nil, time.Time{}, nil, api.Refuse(connect.CodeUnavailable, "the store could not be read since %s", f.seen.UTC().Format(time.RFC3339))
	}
	return f.state, f.seen, f.changed, nil
}

func (s *Server) buildState(ctx context.Context) (*dtv1.NodeState, error) {
	now := s.now()
	state := &dtv1.NodeState{Time: timestamppb.New(now), Cluster: s.ca.Cluster()}
	for _, k := range s.ca.UserAuthorities() {
		state.UserAuthorities = append(state.UserAuthorities, k.Marshal())
	}
	cluster, err := s.clusterInfo(ctx)
	if err != nil {
		return nil, err
	}
	state.HostAuthorities, state.TlsAuthorities = cluster.HostAuthorities, cluster.TlsAuthorities
	err = s.db.Read(ctx, func(tx *store.Tx) (err error) {
		if state.Sequence, err = tx.Sequence(); err != nil {
			return err
		}
		if state.Roles, state.Preference, state.Locks, err = s.catalog.Documents(tx); err != nil {
			return err
		}
		revoked, err := ca.Revoked(tx, now)
		for _, r := range revoked {
			for serial := r.First; serial <= r.Last; serial++ {
				state.RevokedSerials = append(state.RevokedSerials, serial)
			}
		}
		return err
	})
	return state, err
}
