// Package fanout runs something on many nodes at a time, and keeps apart what
// they say.
package fanout

import (
	"context"
	"sync"
)

// Each calls do for 0 to n-1, at most parallel at a time, and returns when all
// have. Once ctx has ended, no other one begins.
func Each(ctx context.Context, n, parallel int, do func(i int)) {
	free := make(chan struct{}, min(max(parallel, 1), MaxParallel))
	var all sync.WaitGroup
	defer all.Wait()
	for i := range n {
		select {
		case free <- struct{}{}:
		case <-ctx.Done():
			return
		}
		if ctx.Err() != nil {
			return // both were so
		}
		all.Go(func() {
			defer func() { <-free }()
			do(i)
		})
	}
}
