package node

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"os"
	"sync"
	"sync/atomic"
	"time"

	gossh "golang.org/x/crypto/ssh"
	"google.golang.org/protobuf/encoding/protojson"

	"devicetrust/api/dtv1"
	"devicetrust/durable"
	"devicetrust/identity"
	"devicetrust/policy"
	"devicetrust/resource"
)

// state is what the node decides by, as the control plane last told it. It is
// not changed once it is made. The zero value refuses everybody: it has no
// authority and no policy.
type state struct {
	sequence uint64
	cluster  string
	// authorities are the SSH user authorities.
	authorities []gossh.PublicKey
	policy      *policy.State
	// labels are the node's own, as the cluster knows them.
	labels map[string]string
	// removed: the cluster does not know the node any more.
	removed bool
}

// readState makes a state of what the control plane sent. Authorities must be
// readable; for the rest see readPolicy.
func readState(m *dtv1.NodeState, log *slog.Logger) (*state, error) {
	if len(m.GetUserAuthorities()) == 0 || len(m.GetTlsAuthorities()) == 0 {
		return nil, errors.New("the state has no authorities")
	}
	s := &state{sequence: m.GetSequence(), cluster: m.GetCluster(), labels: m.GetLabels()}
	for _, wire := range m.GetUserAuthorities() {
		key, err := gossh.ParsePublicKey(wire)
		if err != nil {
			return nil, fmt.Errorf("a user authority of the state: %w", err)
		}
		if err := identity.CheckSSHKey(key); err != nil {
			return nil, fmt.Errorf("a user authority of the state: %w", err)
		}
		s.authorities = append(s.authorities, key)
	}
	s.policy = readPolicy(m, log)
	var revoked []policy.Revocation
	for _, serial := range m.GetRevokedSerials() {
		revoked = append(revoked, policy.Revocation{First: serial, Last: serial})
	}
	var err error
	s.policy.Revoked, err = policy.NewRevocations(revoked...)
	return s, err
}

// readPolicy leaves out roles that it cannot read: whoever has one is refused
// as if it did not exist, and nobody else is. Where a preference or a lock
// cannot be read everybody is refused: it is not known whom it shuts out.
func readPolicy(m *dtv1.NodeState, log *slog.Logger) *policy.State {
	all, err := resource.PolicyState(m.GetRoles(), m.GetPreference(), m.GetLocks())
	if err == nil {
		return all
	}
	log.Error("part of the policy cannot be read; whom it concerns is refused. Is dtnoded older than dtauthd?", "error", err)
	var readable [][]byte
	for _, role := range m.GetRoles() {
		if _, err := resource.PolicyState([][]byte{role}, m.GetPreference(), nil); err == nil {
			readable = append(readable, role)
		}
	}
	if rest, err := resource.PolicyState(readable, m.GetPreference(), m.GetLocks()); err == nil {
		return rest
	}
	return &policy.State{}
}

// holder has the state in force and tells when there is another.
type holder struct {
	current atomic.Pointer[state]

	// setting is held while a state is put in force and onChange is told.
	setting sync.Mutex
	// first is closed when there is a state of this run.
	first    chan struct{}
	gotFirst bool
	// onChange is called after each change, one call at a time.
	onChange func()

	mu sync.Mutex
	// last is when the control plane last said that this is the state; the
	// zero time where it has not in this run.
	last time.Time
}

func newHolder() *holder {
	h := &holder{first: make(chan struct{})}
	h.current.Store(&state{policy: &policy.State{}})
	return h
}

func (h *holder) get() *state { return h.current.Load() }

// set takes a state from the control plane.
func (h *holder) set(s *state) {
	h.setting.Lock()
	defer h.setting.Unlock()
	h.current.Store(s)
	if !h.gotFirst {
		h.gotFirst = true
		close(h.first)
	}
	if h.onChange != nil {
		h.onChange()
	}
}

// heard: the control plane says at now that this is the state.
func (h *holder) heard(now time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.last = now
}

// age is how old the state may be at now: a control plane that stays connected
// and says nothing tells of no lock either. It is notHeard where the state is
// from before this run.
func (h *holder) age(now time.Time) time.Duration {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.last.IsZero() {
		return notHeard
	}
	return max(0, now.Sub(h.last))
}

const notHeard = time.Duration(math.MaxInt64)

// savedState is the file's form. Version 1 holds a dt.v1.NodeState as JSON.
type savedState struct {
	Version int             `json:"version"`
	State   json.RawMessage `json:"state"`
}

const savedStateVersion = 1

func saveState(path string, m *dtv1.NodeState) error {
	text, err := protojson.Marshal(m)
	if err != nil {
		return err
	}
	data, err := json.Marshal(savedState{savedStateVersion, text})
	if err != nil {
		return err
	}
	return durable.Write(path, data)
}

// loadState gives nil where nothing is saved.
func loadState(path string) (*dtv1.NodeState, error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var saved savedState
	if err := json.Unmarshal(data, &saved); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if saved.Version != savedStateVersion {
		return nil, fmt.Errorf("%s is of version %d, and version %d is known", path, saved.Version, savedStateVersion)
	}
	m := &dtv1.NodeState{}
	if err := protojson.Unmarshal(saved.State, m); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return m, nil
}
