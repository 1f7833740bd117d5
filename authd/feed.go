package authd

import (
	"context"
	"fmt"
	"sync"
	"time"

	"connectrpc.com/connect"

	"devicetrust/api"
	"devicetrust/ca"
	"devicetrust/feed"
	"devicetrust/store"
)

// changeFeed builds the state that nodes follow, once for each change however
// many nodes there are.
type changeFeed struct {
	s *Server

	// refreshing is held while the state is read and replaced: what is read is
	// held against the one before.
	refreshing sync.Mutex

	mu     sync.Mutex
	source *feed.Source          // nil: none yet
	nodes  map[string]*knownNode // by ID; never changed once it is here
	seen   time.Time             // when the store was last seen to have nothing newer
	// wentBack: the store has said less than it had said before. What it comes
	// to by the numbers that were known is another state.
	wentBack bool
	// statement is of source, and of seen as it was when somebody asked.
	statement *feed.Statement
	changed   chan struct{} // closed when source is replaced by one that says something else
}

func newChangeFeed(s *Server) *changeFeed {
	return &changeFeed{s: s, changed: make(chan struct{})}
}

// sequence of the state that nodes are told; 0 is that there is none.
func (f *changeFeed) sequence() uint64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.source == nil {
		return 0
	}
	return f.source.Sequence()
}

// run keeps the state current until ctx ends. Wakes make it quick; the ticks
// make it certain, for a wake can be lost.
func (f *changeFeed) run(ctx context.Context, wakes <-chan struct{}) {
	tick := time.NewTicker(feedTick)
	defer tick.Stop()
	for {
		if err := f.look(ctx); err != nil && ctx.Err() == nil {
			f.s.log.Error("the nodes' state could not be read; trying again", "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-wakes:
		case <-tick.C:
		}
	}
}

// look notes that the state is current, or makes it so.
func (f *changeFeed) look(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, feedLookTimeout)
	defer cancel()
	at := f.s.now()
	var sequence uint64
	err := f.s.db.Read(ctx, func(tx *store.Tx) (err error) {
		sequence, err = tx.Sequence()
		return err
	})
	if err != nil {
		return err
	}
	if f.isCurrent(sequence, at) {
		return nil
	}
	return f.refresh(ctx)
}

func (f *changeFeed) isCurrent(sequence uint64, at time.Time) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.source == nil || f.source.Sequence() != sequence || f.wentBack {
		return false
	}
	f.seen = at
	return true
}

// refresh replaces the state where the store has gone on.
func (f *changeFeed) refresh(ctx context.Context) error {
	f.refreshing.Lock()
	defer f.refreshing.Unlock()
	at := f.s.now()
	source, nodes, err := f.read(ctx)
	if err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.source != nil && source.Sequence() < f.source.Sequence() {
		f.wentBack = true
		return fmt.Errorf("authd: the store went back from change %d to %d: was a backup put in its place? Then restart dtauthd", f.source.Sequence(), source.Sequence())
	}
	f.seen = at
	if f.source != nil && source.Sequence() == f.source.Sequence() && !f.wentBack {
		return nil
	}
	before := f.nodes
	same := f.source.Same(source)
	f.source, f.nodes, f.statement, f.wentBack = source, nodes, nil, false
	// A node that joins, or has other labels, is news for no other.
	if !same {
		close(f.changed)
		f.changed = make(chan struct{})
	}
	for id, n := range before {
		if nodes[id] != n {
			close(n.replaced)
		}
	}
	return nil
}

// news is what one node is told.
type news struct {
	statement *feed.Statement
	node      *knownNode
	// changed is closed when there is something newer.
	changed <-chan struct{}
}

// latestFor is latest for a node that may have joined this very moment, here or
// elsewhere: only the store says that there is none.
func (f *changeFeed) latestFor(ctx context.Context, id string) (news, error) {
	now, err := f.latest(id)
	if !isNotFound(err) {
		return now, err
	}
	if err := f.look(ctx); err != nil {
		return news{}, err
	}
	return f.latest(id)
}

// latest gives what node id is told. A state that has not been held against
// the store for long is none: a node that is told nothing knows that it may
// have missed something.
func (f *changeFeed) latest(id string) (news, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.s.now().Sub(f.seen) > feedStale {
		return news{}, api.Refuse(connect.CodeUnavailable, "the store could not be read since %s", f.seen.UTC().Format(time.RFC3339))
	}
	node := f.nodes[id]
	if node == nil {
		return news{}, noNode(id)
	}
	if f.statement == nil || !f.statement.Time.Equal(f.seen) {
		var err error
		if f.statement, err = f.source.Statement(f.seen, f.s.ca.SignMessage); err != nil {
			return news{}, err
		}
	}
	return news{f.statement, node, f.changed}, nil
}

// read makes the state and the nodes of what the store holds.
func (f *changeFeed) read(ctx context.Context) (source *feed.Source, nodes map[string]*knownNode, err error) {
	s := f.s
	content := feed.Content{UserAuthorities: s.ca.UserAuthorities(), HostAuthorities: s.ca.HostAuthorities()}
	for _, c := range s.tls.anchors() {
		content.TLSAuthorities = append(content.TLSAuthorities, c.Raw)
	}
	var sequence uint64
	err = s.db.Read(ctx, func(tx *store.Tx) (err error) {
		if sequence, err = tx.Sequence(); err != nil {
			return err
		}
		if content.Roles, content.Preference, content.Locks, err = s.catalog.Content(tx); err != nil {
			return err
		}
		if content.Revoked, err = ca.Revoked(tx, s.now()); err != nil {
			return err
		}
		nodes, err = f.readNodes(tx)
		return err
	})
	if err != nil {
		return nil, nil, err
	}
	source, err = feed.NewSource(s.ca.Cluster(), sequence, content)
	return source, nodes, err
}

// readNodes keeps those that are as they were, with what was signed of them.
func (f *changeFeed) readNodes(tx *store.Tx) (map[string]*knownNode, error) {
	docs, err := f.s.nodes.documents(tx)
	if err != nil {
		return nil, err
	}
	f.mu.Lock()
	before := f.nodes
	f.mu.Unlock()
	nodes := make(map[string]*knownNode, len(docs))
	for id, doc := range docs {
		if nodes[id] = before[id]; nodes[id] == nil || nodes[id].document != doc {
			nodes[id] = &knownNode{document: doc, replaced: make(chan struct{})}
		}
	}
	return nodes, nil
}

// knownNode is one node as its facts are signed: once, when it first asks.
type knownNode struct {
	document string
	// replaced is closed when the node is known as another, or not any more.
	replaced chan struct{}

	once  sync.Once
	facts *feed.Facts
	err   error
}

func (n *knownNode) signed(cluster string, sign feed.Signer) (*feed.Facts, error) {
	n.once.Do(func() {
		node, err := decodeNode(n.document, 0)
		if err != nil {
			n.err = err
			return
		}
		n.facts, n.err = feed.NewFacts(cluster, node.Metadata.Name, node.Spec.Hostname, node.Metadata.Labels, sign)
	})
	return n.facts, n.err
}
