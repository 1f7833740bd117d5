package authd

import (
	"cmp"
	"database/sql"
	"errors"
	"fmt"
	"math"
	"time"

	"connectrpc.com/connect"

	"devicetrust/api"
	"devicetrust/api/dtv1"
	"devicetrust/policy"
	"devicetrust/resource"
	"devicetrust/store"
)

// What a node decides by lies in columns of its own: it changes with each change
// of the cluster's, while the node's document does not, and nobody follows it. A
// thousand nodes that told each other of it would do so for ever.

// report is what a node says that it decides by. The zero value is nothing.
type report struct {
	sequence int64
	// confirmed is when the control plane last said to the node that this is
	// the state, said when the node told us.
	confirmed, said time.Time
}

// reportOf is what m says at now. Half a report is none. No node has heard of
// the future: it would be fresh for as long as it likes.
func reportOf(m *dtv1.HeartbeatRequest, now time.Time) (report, error) {
	at := m.GetStateTime()
	if m.GetStateSequence() > math.MaxInt64 || at != nil && !at.IsValid() {
		return report{}, api.Refuse(connect.CodeInvalidArgument, "there is no state with number %d of second %d", m.GetStateSequence(), at.GetSeconds())
	}
	if m.GetStateSequence() == 0 || at == nil || at.AsTime().Unix() <= 0 {
		return report{}, nil
	}
	confirmed := at.AsTime()
	if confirmed.After(now) {
		confirmed = now
	}
	return report{sequence: int64(m.GetStateSequence()), confirmed: confirmed, said: now}, nil
}

// heard notes that a node lives and what it decides by, and tells whether it
// says nothing else that is new: most heartbeats do not, and cost no look at
// the other nodes.
func (n nodes) heard(tx *store.Tx, id string, info *dtv1.NodeInfo, fixed map[string]string, r report) (same bool, err error) {
	text, err := document(id, info, fixed)
	if err != nil {
		return false, err
	}
	var stored string
	err = tx.QueryRow(`UPDATE nodes SET last_seen_at = $2, enforcer = $3, state_sequence = $4, state_time = $5, state_reported_at = $6
		WHERE id = $1 RETURNING document`,
		id, store.Micros(n.now()), info.GetEnforcer(), r.sequence, store.Micros(r.confirmed), store.Micros(r.said)).Scan(&stored)
	if errors.Is(err, sql.ErrNoRows) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("authd: %w", err)
	}
	return stored == text, nil
}

// enforcedBy notes what enforces on a node that joins or renews.
func (n nodes) enforcedBy(tx *store.Tx, id string, info *dtv1.NodeInfo) error {
	_, err := tx.Exec(`UPDATE nodes SET enforcer = $2 WHERE id = $1`, id, info.GetEnforcer())
	return err
}

// nodeColumns are those that scanNode reads.
const nodeColumns = `document, last_seen_at, enforcer, state_sequence, state_time, state_reported_at`

// scanNode reads a row; sql.ErrNoRows comes as it is.
func scanNode(scan func(...any) error) (*resource.Node, error) {
	var doc, enforcer string
	var seen, sequence, confirmed, said int64
	err := scan(&doc, &seen, &enforcer, &sequence, &confirmed, &said)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, err
	}
	if err != nil {
		return nil, fmt.Errorf("authd: %w", err)
	}
	node, err := decodeNode(doc, seen)
	if err != nil {
		return nil, err
	}
	node.Spec.Enforcer = cmp.Or(enforcer, resource.EnforcerDaemon)
	if sequence > 0 {
		node.Spec.State = &resource.NodeState{Sequence: sequence, Confirmed: store.Time(confirmed), Reported: store.Time(said)}
	}
	return node, nil
}

// stateAge is how old what a node decides by is at now, as far as it has said.
// A node that says so regularly hears from us in between.
func stateAge(st *resource.NodeState, now time.Time) time.Duration {
	if st == nil {
		return policy.NeverHeard
	}
	if now.Sub(st.Reported) <= reportSpeaks {
		now = st.Reported
	}
	return max(0, now.Sub(st.Confirmed))
}

// markBehind marks the nodes that decide by what is too old where current locks
// are wanted.
func (s *Server) markBehind(tx *store.Tx, all ...*resource.Node) error {
	preference, err := s.catalog.Preference(tx)
	if err != nil {
		return err
	}
	for _, n := range all {
		if st := n.Spec.State; st != nil {
			st.Behind = preference.Stale(stateAge(st, s.now()))
		}
	}
	return nil
}
