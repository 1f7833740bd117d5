package authd

import (
	"sync"
	"time"

	"connectrpc.com/connect"

	"devicetrust/api"
)

// failures counts what went wrong for each caller within a minute. Each is a
// record, and where the disk is full of records nothing happens any more: so
// whoever has any certificate of ours, a revoked one too, could end the
// cluster with calls that are refused. It is kept by each replica for itself,
// for it bounds what one of them writes.
type failures struct {
	mu     sync.Mutex
	minute time.Time
	of     map[string]int // by actor, which are people and nodes we know
}

// add counts one and tells how many there were in this minute.
func (f *failures) add(actor string, now time.Time) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.turn(now)
	f.of[actor]++
	return f.of[actor]
}

// check refuses who has failed too often in this minute.
func (f *failures) check(actor string, now time.Time) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.turn(now)
	if f.of[actor] < maxFailures {
		return nil
	}
	return api.Refuse(connect.CodeResourceExhausted, "too many failures within a minute").WithHint("try again in a minute")
}

func (f *failures) turn(now time.Time) {
	if minute := now.Truncate(time.Minute); f.of == nil || !minute.Equal(f.minute) {
		f.minute, f.of = minute, map[string]int{}
	}
}
