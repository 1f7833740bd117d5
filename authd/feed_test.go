package authd

import (
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"

	"devicetrust/api/dtv1"
	"devicetrust/api/dtv1/dtv1connect"
	"devicetrust/feed"
)

// Another process's notification may be lost; here there is none at all.
func TestNodesHearOfAChangeThatWokeNobody(t *testing.T) {
	r := start(t)
	node := r.join("n")
	before := r.nextState(node, 0).State.Sequence()
	got := make(chan uint64)
	go func() { got <- r.nextState(node, before).State.Sequence() }()
	for _, query := range []string{`DELETE FROM policy_objects WHERE name = 'access'`, `UPDATE change_sequence SET seq = seq + 1`} {
		if _, err := r.database().Exec(query); err != nil {
			t.Fatal(err)
		}
	}
	select {
	case now := <-got:
		if now != before+1 {
			t.Errorf("change %d came, want %d", now, before+1)
		}
	case <-time.After(followKeepalive * 2 / 3):
		t.Fatal("no new state came")
	}
}

// A thousand nodes that come at once would each wake all the others.
func TestOnlyTheNodeItselfHearsWhatIsKnownOfIt(t *testing.T) {
	r := start(t)
	node := r.join("n")
	client := dtv1connect.NewNodeServiceClient(r.https(node), r.url())
	stream, err := client.Follow(t.Context(), connect.NewRequest(&dtv1.FollowRequest{}))
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Close() //nolint:errcheck // what it says is known
	next := func() *dtv1.StateUpdate {
		t.Helper()
		if !stream.Receive() {
			t.Fatal(stream.Err())
		}
		return stream.Msg()
	}
	s, err := taken(nil, next())
	if err != nil {
		t.Fatal(err)
	}
	r.join("other")
	r.nextState(r.join("third"), s.Sequence()) // which has been read by then
	info := nodeInfo("n")
	info.Labels["env"] = "changed"
	if _, err := client.Heartbeat(t.Context(), connect.NewRequest(&dtv1.HeartbeatRequest{Node: info})); err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	u := next()
	if took := time.Since(begin); took > followKeepalive*2/3 {
		t.Errorf("its own labels took %v", took)
	}
	if s, err = taken(s, u); err != nil {
		t.Fatal(err)
	}
	if _, _, labels := s.Node(); labels["env"] != "changed" || len(u.GetBuckets()) > 0 {
		t.Errorf("after other nodes have come a node hears that it has the labels %v", labels)
	}
	r.lockUser("bob")
	if s, err = taken(s, next()); err != nil || locks(t, s) != 1 {
		t.Errorf("then %d locks, %v", locks(t, s), err)
	}
}

func TestAStoreThatCannotBeReadDoesNotPassForFresh(t *testing.T) {
	r, c := startWithClock(t)
	node := r.join("n")
	last := r.nextState(node, 0)
	db := r.database()
	if _, err := db.Exec(`ALTER TABLE change_sequence RENAME TO hidden`); err != nil {
		t.Fatal(err)
	}
	hidden := c.now()
	follow := func() (*feed.State, error) {
		stream, err := dtv1connect.NewNodeServiceClient(r.https(node), r.url()).Follow(t.Context(), connect.NewRequest(&dtv1.FollowRequest{}))
		if err != nil {
			return nil, err
		}
		defer stream.Close() //nolint:errcheck // what it says is known
		if stream.Receive() {
			return taken(nil, stream.Msg())
		}
		return nil, stream.Err()
	}
	c.forward(feedStale / 5)
	state, err := follow()
	if err != nil {
		t.Fatal(err)
	}
	if at := state.Time(); at.After(hidden) || state.Sequence() != last.State.Sequence() {
		t.Errorf("the state says that it is of %v, and the store was last read before %v", at, hidden)
	}
	c.forward(feedStale)
	_, err = follow()
	wantCode(t, err, connect.CodeUnavailable)
	if _, err := db.Exec(`ALTER TABLE hidden RENAME TO change_sequence`); err != nil {
		t.Fatal(err)
	}
	// Not faster than a stranger may connect: each call is a new connection.
	for end := time.After(20 * time.Second); ; {
		if _, err = follow(); err == nil {
			return
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-end:
			t.Fatalf("the store can be read again: %v", err)
		}
	}
}

// A backup that takes the place of the store while dtauthd runs comes to the
// number that was known, with another content.
func TestAStoreThatWentBackIsReadAgain(t *testing.T) {
	r := start(t)
	node := r.join("n")
	r.nextState(node, 0)
	r.execute(`UPDATE change_sequence SET seq = seq - 1`)
	for end := time.After(patience); !strings.Contains(r.log.String(), "went back"); {
		select {
		case <-time.After(20 * time.Millisecond):
		case <-end:
			t.Fatal("nobody says that the store went back")
		}
	}
	r.create("lock", `{kind: lock, version: v2, metadata: {name: l}, spec: {target: {user: bob}}}`)
	client := dtv1connect.NewNodeServiceClient(r.https(node), r.url())
	for end := time.After(20 * time.Second); ; {
		state, err := follow(t.Context(), client, 0)
		if err != nil {
			t.Fatal(err)
		}
		if len(state.Policy.Locks) == 1 {
			return
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-end:
			t.Fatalf("nodes are told of change %d without the lock", state.State.Sequence())
		}
	}
}
