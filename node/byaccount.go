package node

import "sync"

// byAccount counts what accounts have, in all of their connections. The zero
// value counts nothing yet.
type byAccount struct {
	mu sync.Mutex
	of map[uint32]int
}

// add tells whether the account has at most so many with this one.
func (a *byAccount) add(uid uint32, most int) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.of == nil {
		a.of = map[uint32]int{}
	}
	a.of[uid]++
	return a.of[uid] <= most
}

func (a *byAccount) remove(uid uint32) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.of[uid]--; a.of[uid] == 0 {
		delete(a.of, uid)
	}
}
