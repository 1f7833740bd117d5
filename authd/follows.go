package authd

import (
	"context"
	"net/http"
	"slices"
	"sync"
	"time"

	"connectrpc.com/connect"

	"devicetrust/api"
)

// follows are the streams on which nodes are told the state, of each node no
// more than maxFollows: what it is sent and does not fetch is held in memory.
// The zero value has none.
type follows struct {
	mu sync.Mutex
	of map[string][]*following // by node, the oldest first
}

type following struct {
	end    context.CancelCauseFunc
	answer *http.ResponseController // nil outside of HTTP
}

// begin gives the context of one more stream, until done. The oldest one of the
// node ends where they are too many: it may be one whose network is gone, which
// nobody has noticed, and must not keep the node from hearing.
func (f *follows) begin(ctx context.Context, nodeID string, now func() time.Time) (_ context.Context, done func()) {
	ctx, end := context.WithCancelCause(ctx)
	answer, _ := ctx.Value(answerKey{}).(*http.ResponseController)
	one := &following{end, answer}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.of == nil {
		f.of = map[string][]*following{}
	}
	if all := f.of[nodeID]; len(all) >= maxFollows {
		all[0].leave(now())
		f.of[nodeID] = all[1:]
	}
	f.of[nodeID] = append(f.of[nodeID], one)
	return ctx, func() {
		end(nil)
		f.remove(nodeID, one)
	}
}

func (f *follows) remove(nodeID string, one *following) {
	f.mu.Lock()
	defer f.mu.Unlock()
	rest := slices.DeleteFunc(f.of[nodeID], func(other *following) bool { return other == one })
	if len(rest) == 0 {
		delete(f.of, nodeID)
		return
	}
	f.of[nodeID] = rest
}

// leave ends a stream, and soon the sending of what nobody fetches.
func (f *following) leave(now time.Time) {
	f.end(api.Refuse(connect.CodeResourceExhausted, "the node follows on more than %d streams, and this is the oldest", maxFollows))
	if f.answer != nil {
		_ = f.answer.SetWriteDeadline(now.Add(followLeave)) // it has none where it is over
	}
}
