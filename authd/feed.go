package authd

import (
	"context"
	"sync"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

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
	changed chan struct{}   // closed when state is replaced
}

func newFeed(s *Server) *feed {
	return &feed{s: s, changed: make(chan struct{})}
}

// run keeps the state current until ctx ends.
func (f *feed) run(ctx context.Context, wakes <-chan struct{}) {
	for {
		var again <-chan time.Time
		if err := f.refresh(ctx); err != nil && ctx.Err() == nil {
			f.s.log.Error("the nodes' state could not be built; trying again", "error", err)
			again = time.After(feedRetry)
		}
		select {
		case <-ctx.Done():
			return
		case <-wakes:
		case <-again:
		}
	}
}

// refresh replaces the state where the store has gone on.
func (f *feed) refresh(ctx context.Context) error {
	state, err := f.s.buildState(ctx)
	if err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.state != nil && state.GetSequence() <= f.state.GetSequence() {
		return nil
	}
	f.state = state
	close(f.changed)
	f.changed = make(chan struct{})
	return nil
}

// latest returns the state and a channel that is closed when there is a
// newer one.
func (f *feed) latest() (*dtv1.NodeState, <-chan struct{}) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.state, f.changed
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
		state.RevokedSerials, err = ca.Revoked(tx, now)
		return err
	})
	return state, err
}
