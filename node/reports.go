package node

import (
	"context"
	"math/rand/v2"
	"sync"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"devicetrust/api/dtv1"
	"devicetrust/feed"
)

// reports is what the control plane is to be told of what is decided by here.
// The zero value is that there is nothing.
type reports struct {
	mu        sync.Mutex
	sequence  uint64
	confirmed time.Time
	// news, of capacity 1, is there since somebody waited for it first.
	news chan struct{}
}

// note takes the state that is in force, in the words of the control plane. Whoever
// waits for news wakes where it is another one.
func (r *reports) note(s *feed.State) {
	r.mu.Lock()
	defer r.mu.Unlock()
	other := s.Sequence() != r.sequence
	r.sequence, r.confirmed = s.Sequence(), s.Time()
	if !other {
		return
	}
	select {
	case r.newsLocked() <- struct{}{}:
	default: // it is known already that there are some
	}
}

func (r *reports) newsLocked() chan struct{} {
	if r.news == nil {
		r.news = make(chan struct{}, 1)
	}
	return r.news
}

// heartbeat is what is told now; news that it has are none any more.
func (r *reports) heartbeat(info *dtv1.NodeInfo) *dtv1.HeartbeatRequest {
	r.mu.Lock()
	defer r.mu.Unlock()
	select {
	case <-r.newsLocked():
	default:
	}
	m := &dtv1.HeartbeatRequest{Node: info, StateSequence: r.sequence}
	if !r.confirmed.IsZero() {
		m.StateTime = timestamppb.New(r.confirmed)
	}
	return m
}

// wait is until the next heartbeat: not long after a change, at a moment of our
// own, for all nodes hear of it at once; else as long as usual. It is false
// where ctx ended.
func (r *reports) wait(ctx context.Context) bool {
	r.mu.Lock()
	news := r.newsLocked()
	r.mu.Unlock()
	usual := time.NewTimer(heartbeatInterval - rand.N(heartbeatInterval/10))
	defer usual.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-usual.C:
		return true
	case <-news:
		return sleep(ctx, reportSoonest+rand.N(reportLatest-reportSoonest))
	}
}
