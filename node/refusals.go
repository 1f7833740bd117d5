package node

import (
	"fmt"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// refusals bounds the records of refusals, of each user by itself: whoever is
// refused writes to the disk, and to the control plane's, as often as they
// like. Strangers are one user, "".
type refusals struct {
	limits limits

	mu    sync.Mutex
	users map[string]*refused // at most refusedUsers and ""
}

// refused is one user.
type refused struct {
	records *rate.Limiter
	left    int // out since the last record
}

func newRefusals(l limits) *refusals { return &refusals{limits: l, users: map[string]*refused{}} }

// take tells whether a refusal is recorded, and how many before it were not.
func (r *refusals) take(user string, now time.Time) (left int, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	u := r.userLocked(user, now)
	if !u.records.AllowN(now, 1) {
		u.left++
		return 0, false
	}
	left, u.left = u.left, 0
	return left, true
}

// giveBack: a record with the count left could not be written.
func (r *refusals) giveBack(user string, left int, now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.userLocked(user, now).left += left + 1
}

func (r *refusals) userLocked(user string, now time.Time) *refused {
	if u, ok := r.users[user]; ok {
		return u
	}
	if len(r.users) >= r.limits.refusedUsers {
		for name, u := range r.users { // who has nothing to be remembered
			if u.left == 0 && u.records.TokensAt(now) >= float64(r.limits.refusals) {
				delete(r.users, name)
			}
		}
		if len(r.users) >= r.limits.refusedUsers && user != "" {
			return r.userLocked("", now)
		}
	}
	u := &refused{records: rate.NewLimiter(rate.Limit(r.limits.refusalsPerSecond), r.limits.refusals)}
	r.users[user] = u
	return u
}

// leftOut is the line of a record that says so.
func leftOut(n int) string { return fmt.Sprintf("%d refusals before this one are not recorded", n) }
