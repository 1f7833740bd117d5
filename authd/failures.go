package authd

import (
	"sync"
	"time"

	"connectrpc.com/connect"

	"devicetrust/api"
)

// failures counts what went wrong within a minute, by names that we gave:
// refused calls by the actor, ceremonies by the login. Each is a record, and
// where the disk is full of records nothing happens any more: so whoever has
// any certificate of ours, a revoked one too, could end the cluster with calls
// that are refused. The two are apart, and ceremonies not by the person, for
// else whoever stole a certificate would keep its owner from ceremonies. It is
// kept by each replica for itself, for it bounds what one of them writes.
type failures struct {
	mu     sync.Mutex
	minute time.Time
	of     map[string]int
}

// add counts one and tells how many there were in this minute.
func (f *failures) add(who string, now time.Time) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.turn(now)
	f.of[who]++
	return f.of[who]
}

// check refuses who has failed too often in this minute.
func (f *failures) check(who string, now time.Time) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.turn(now)
	if f.of[who] < maxFailures {
		return nil
	}
	return api.Refuse(connect.CodeResourceExhausted, "too many failures within a minute").WithHint("Try again in a minute")
}

func (f *failures) turn(now time.Time) {
	if minute := now.Truncate(time.Minute); f.of == nil || !minute.Equal(f.minute) {
		f.minute, f.of = minute, map[string]int{}
	}
}
