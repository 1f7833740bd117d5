package node

import (
	"context"
	"math/rand/v2"
	"time"
)

// backoff gives the waits between attempts: each up to twice as long as the
// one before, from retryFirst to retryMost, and a random part of it, so that
// nodes that lost their control plane together do not come back together.
type backoff struct{ most time.Duration }

func newBackoff() *backoff { return &backoff{most: retryFirst} }

func (b *backoff) next() time.Duration {
	d := b.most/2 + rand.N(b.most/2)
	b.most = min(2*b.most, retryMost)
	return d
}

func (b *backoff) reset() { b.most = retryFirst }

// sleep tells false where ctx ended first.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
