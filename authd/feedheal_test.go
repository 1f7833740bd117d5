package authd

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
	"time"

	"connectrpc.com/connect"

	"devicetrust/api/dtv1"
	"devicetrust/api/dtv1/dtv1connect"
	"devicetrust/feed"
)

// told is what a node is told first that says what it has, as it came.
func (r *running) told(node *keys, has *dtv1.FollowRequest) (*dtv1.StateUpdate, error) {
	r.t.Helper()
	stream, err := dtv1connect.NewNodeServiceClient(r.https(node), r.url()).Follow(r.t.Context(), connect.NewRequest(has))
	if err != nil {
		return nil, err
	}
	defer stream.Close() //nolint:errcheck // what it says is known
	if !stream.Receive() {
		return nil, stream.Err()
	}
	return stream.Msg(), nil
}

// goesOn gives what a node makes of what it has, and how many buckets it was
// sent.
func (r *running) goesOn(node *keys, has *feed.State) (*feed.State, int) {
	r.t.Helper()
	u, err := r.told(node, has.Request())
	if err != nil {
		r.t.Fatal(err)
	}
	s, err := taken(has, u)
	if err != nil {
		r.t.Fatal(err)
	}
	return s, len(u.GetBuckets())
}

func (r *running) lockUser(name string) {
	r.t.Helper()
	doc := `{kind: lock, version: v2, metadata: {name: ` + name + `}, spec: {target: {user: ` + name + `}}}`
	if _, err := r.resources().CreateResource(r.t.Context(), connect.NewRequest(&dtv1.CreateResourceRequest{Kind: "lock", Resource: []byte(doc)})); err != nil {
		r.t.Fatal(err)
	}
}

// locks are how many there are in a state.
func locks(t *testing.T, s *feed.State) int {
	t.Helper()
	v, err := s.View(nil)
	if err != nil {
		t.Fatal(err)
	}
	return len(v.Policy.Locks)
}

func TestWhatAFollowerSaysThatItHasIsNotBelieved(t *testing.T) {
	r := start(t)
	node := r.join("n")
	whole, _ := r.goesOn(node, nil)
	size := len(whole.Request().GetDigests())
	for name, digests := range map[string][]byte{
		"one byte":      {1},
		"one too few":   bytes.Repeat([]byte{1}, size-1),
		"one too many":  bytes.Repeat([]byte{1}, size+1),
		"twice as many": bytes.Repeat([]byte{1}, 2*size),
	} {
		_, err := r.told(node, &dtv1.FollowRequest{Digests: digests})
		if connect.CodeOf(err) != connect.CodeInvalidArgument {
			t.Errorf("%s: %v", name, err)
		}
	}
	// Another cluster's, or anybody's.
	u, err := r.told(node, &dtv1.FollowRequest{Digests: bytes.Repeat([]byte{1}, size)})
	if err != nil {
		t.Fatal(err)
	}
	if s, err := taken(nil, u); err != nil || !feed.SameContent(s, whole) {
		t.Errorf("who has another cluster's state is not told all of this one's: %v", err)
	}
}

func TestAFollowerGoesOnAtADtauthdThatWasStartedAgain(t *testing.T) {
	dir := dataDir(t)
	r := startAt(t, dir, "")
	node := r.join("n")
	before, _ := r.goesOn(node, nil)
	r.lockUser("bob")
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	r = startAt(t, dir, "")
	if after, sent := r.goesOn(node, before); locks(t, after) != 1 || sent != 1 {
		t.Errorf("%d locks are there, and %d buckets were sent for one", locks(t, after), sent)
	}
}

func TestAFollowerIsBroughtBackToABackup(t *testing.T) {
	dir := dataDir(t)
	r := startAt(t, dir, "")
	node := r.join("n")
	r.lockUser("bob")
	if err := r.stop(); err != nil { // which leaves nothing in dt.db-wal
		t.Fatal(err)
	}
	backup, err := os.ReadFile(filepath.Join(dir, "dt.db"))
	if err != nil {
		t.Fatal(err)
	}
	r = startAt(t, dir, "")
	first, _ := r.goesOn(node, nil)
	r.lockUser("carol")
	second, _ := r.goesOnUntil(node, first, 2)
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "dt.db"), backup, 0o600); err != nil {
		t.Fatal(err)
	}
	r = startAt(t, dir, "")
	if back, _ := r.goesOn(node, second); locks(t, back) != 1 || back.Sequence() >= second.Sequence() {
		t.Errorf("%d locks as of change %d, after %d", locks(t, back), back.Sequence(), second.Sequence())
	}
}

// goesOnUntil asks again until so many locks are there.
func (r *running) goesOnUntil(node *keys, has *feed.State, n int) (*feed.State, int) {
	r.t.Helper()
	end := time.After(patience)
	for {
		s, sent := r.goesOn(node, has)
		if locks(r.t, s) == n {
			return s, sent
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-end:
			r.t.Fatalf("%d locks are there, want %d", locks(r.t, s), n)
		}
	}
}

// Replicas that have seen the same change say the same: who goes from one to
// the other is sent only what has changed since.
func TestAFollowerGoesOnAtAnotherReplica(t *testing.T) {
	r := replicas(t)
	node := r[0].join("n")
	r[0].lockUser("bob")
	here, _ := r[0].goesOnUntil(node, nil, 1)
	there, _ := r[1].goesOnUntil(node, here, 1)
	if again, sent := r[1].goesOn(node, here); sent != 0 || !feed.SameContent(here, again) || !feed.SameContent(here, there) {
		t.Errorf("%d buckets are sent by the other replica, which knows the same", sent)
	}
	r[1].lockUser("carol")
	if _, sent := r[0].goesOnUntil(node, here, 2); sent != 1 {
		t.Errorf("%d buckets are sent for one lock", sent)
	}
}
