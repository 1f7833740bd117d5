package authd

import (
	"context"
	"net/http"
	"testing"
	"time"

	"connectrpc.com/connect"

	"devicetrust/api/dtv1"
	"devicetrust/api/dtv1/dtv1connect"
)

// followStream is one that has had its first word.
func (r *running) followStream(k *keys) *connect.ServerStreamForClient[dtv1.StateUpdate] {
	r.t.Helper()
	stream, err := dtv1connect.NewNodeServiceClient(r.https(k), r.url()).Follow(r.t.Context(), connect.NewRequest(&dtv1.FollowRequest{}))
	if err != nil || !stream.Receive() {
		r.t.Fatal(err, stream.Err())
	}
	return stream
}

// Streams that a broken network left are not in the way of new ones.
func TestOfOneNodeTheOldestStreamEndsWhenThereAreTooMany(t *testing.T) {
	r := start(t)
	many, other := r.join("many"), r.join("other")
	others := r.followStream(other)
	var streams []*connect.ServerStreamForClient[dtv1.StateUpdate]
	for range maxFollows + 1 {
		streams = append(streams, r.followStream(many))
	}
	ended := make(chan error, 1)
	go func() {
		for streams[0].Receive() {
		}
		ended <- streams[0].Err()
	}()
	select {
	case err := <-ended:
		wantCode(t, err, connect.CodeResourceExhausted)
	case <-time.After(5 * time.Second):
		t.Fatal("the oldest goes on")
	}
	r.touch()
	for _, s := range append(streams[1:], others) {
		if !s.Receive() {
			t.Errorf("another one ended: %v", s.Err())
		}
	}
	for i, s := range streams[1:] { // once they are gone there is room
		if err := s.Close(); err != nil {
			t.Errorf("%d: %v", i, err)
		}
	}
	r.followStream(many)
}

// deadlined is an answer that notes until when it may be fetched.
type deadlined struct {
	http.ResponseWriter
	until time.Time
}

func (d *deadlined) SetWriteDeadline(t time.Time) error {
	d.until = t
	return nil
}

func TestWhatNobodyFetchesOfAStreamTooManyIsNotSentForLong(t *testing.T) {
	at := time.Unix(1e9, 0)
	now := func() time.Time { return at }
	var f follows
	first := &deadlined{}
	ctx, done := f.begin(context.WithValue(t.Context(), answerKey{}, http.NewResponseController(first)), "n", now)
	for range maxFollows {
		_, leave := f.begin(t.Context(), "n", now)
		defer leave()
	}
	if !first.until.Equal(at.Add(followLeave)) || ctx.Err() == nil {
		t.Errorf("it is sent until %v, and has ended: %v", first.until, ctx.Err())
	}
	done()
	if n := len(f.of["n"]); n != maxFollows {
		t.Errorf("%d are counted, want %d", n, maxFollows)
	}
}

func TestNodesThatHaveLeftAreForgotten(t *testing.T) {
	var f follows
	for _, id := range []string{"a", "b", "a"} {
		_, done := f.begin(t.Context(), id, time.Now)
		done()
	}
	if len(f.of) != 0 {
		t.Errorf("left: %v", f.of)
	}
}
