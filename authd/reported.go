package authd

import (
	"sync"
	"time"
)

// reported counts the bytes that each node reported within a minute. Its keys
// are nodes that the cluster knows. Like failures it is kept by each replica
// for itself.
type reported struct {
	mu     sync.Mutex
	minute time.Time
	of     map[string]int64
}

// add counts n bytes, or tells that they are too many; first, that none were
// refused before in this minute.
func (r *reported) add(nodeID string, n int64, now time.Time) (ok, first bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if minute := now.Truncate(time.Minute); r.of == nil || !minute.Equal(r.minute) {
		r.minute, r.of = minute, map[string]int64{}
	}
	had := r.of[nodeID]
	if had+n <= maxReported {
		r.of[nodeID] = had + n
		return true, false
	}
	r.of[nodeID] = maxReported // nothing smaller gets in either, so that order is kept
	return false, had < maxReported
}
