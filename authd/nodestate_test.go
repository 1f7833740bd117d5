package authd

import (
	"encoding/json"
	"math"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/types/known/timestamppb"

	"devicetrust/api/dtv1"
	"devicetrust/api/dtv1/dtv1connect"
	"devicetrust/resource"
	"devicetrust/store"
	"devicetrust/store/storetest"
)

// stateOf is a node as the store has it, and its document.
func stateOf(t *testing.T, db *store.DB, id string) (spec resource.NodeSpec, document string, sequence uint64) {
	t.Helper()
	err := db.Read(t.Context(), func(tx *store.Tx) error {
		node, err := nodes{}.get(tx, id)
		if err != nil {
			return err
		}
		spec = node.Spec
		if sequence, err = tx.Sequence(); err != nil {
			return err
		}
		return tx.QueryRow(`SELECT document FROM nodes WHERE id = $1`, id).Scan(&document)
	})
	if err != nil {
		t.Fatal(err)
	}
	return spec, document, sequence
}

func TestWhatANodeDecidesByIsStoredAndWakesNobody(t *testing.T) {
	at := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	storetest.Run(t, func(t *testing.T, db *store.DB) {
		n := nodes{now: func() time.Time { return at }}
		info := nodeInfo("n")
		write := func(f func(tx *store.Tx) error) {
			t.Helper()
			if err := db.Write(t.Context(), f); err != nil {
				t.Fatal(err)
			}
		}
		write(func(tx *store.Tx) error { return n.put(tx, "id", info, nil) })
		spec, document, sequence := stateOf(t, db, "id")
		if spec.State != nil || spec.Enforcer != resource.EnforcerDaemon {
			t.Errorf("before it said anything: %+v", spec)
		}
		info.Enforcer = resource.EnforcerSSHD
		at = at.Add(time.Minute)
		said := report{sequence: math.MaxInt64, confirmed: at.Add(-time.Second), said: at}
		write(func(tx *store.Tx) error {
			same, err := n.heard(tx, "id", info, nil, said)
			if !same {
				t.Error("it passes for one whose document changes")
			}
			return err
		})
		spec, now, after := stateOf(t, db, "id")
		want := &resource.NodeState{Sequence: math.MaxInt64, Confirmed: at.Add(-time.Second), Reported: at}
		if diff := cmp.Diff(want, spec.State); diff != "" {
			t.Errorf("the state (-want +got):\n%s", diff)
		}
		if spec.Enforcer != resource.EnforcerSSHD || !spec.LastHeartbeat.Equal(at) {
			t.Errorf("the node is %+v", spec)
		}
		if now != document || after != sequence {
			t.Errorf("document %s, was %s; change %d, was %d", now, document, after, sequence)
		}
		// Who renews says nothing of its state, and an older dtnoded never does.
		write(func(tx *store.Tx) error { return n.put(tx, "id", info, nil) })
		if spec, _, _ = stateOf(t, db, "id"); spec.State == nil {
			t.Error("a renewal makes what was said forgotten")
		}
		write(func(tx *store.Tx) error { _, err := n.heard(tx, "id", info, nil, report{}); return err })
		if spec, _, _ = stateOf(t, db, "id"); spec.State != nil {
			t.Errorf("it says nothing any more, and %+v is shown", spec.State)
		}
		// What it says beside is found, and is another matter.
		info.Labels = map[string]string{"env": "other"}
		write(func(tx *store.Tx) error {
			same, err := n.heard(tx, "id", info, nil, report{})
			if same {
				t.Error("new labels pass for nothing new")
			}
			return err
		})
	})
}

func TestANodeReportsWhatItCan(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	second := now.Add(-time.Second)
	for name, tt := range map[string]struct {
		sequence uint64
		at       *timestamppb.Timestamp
		want     report
		refused  bool
	}{
		"a state":            {7, timestamppb.New(second), report{7, second, now}, false},
		"nothing":            {0, nil, report{}, false},
		"a number alone":     {7, nil, report{}, false},
		"a time alone":       {0, timestamppb.New(second), report{}, false},
		"the future":         {7, timestamppb.New(now.Add(time.Hour)), report{7, now, now}, false},
		"1970":               {7, &timestamppb.Timestamp{}, report{}, false},
		"before it":          {7, &timestamppb.Timestamp{Seconds: -1}, report{}, false},
		"the largest number": {math.MaxInt64, timestamppb.New(second), report{math.MaxInt64, second, now}, false},
		"one beyond":         {math.MaxInt64 + 1, timestamppb.New(second), report{}, true},
		"no time":            {7, &timestamppb.Timestamp{Nanos: -1}, report{}, true},
		"year 10000":         {7, &timestamppb.Timestamp{Seconds: math.MaxInt64}, report{}, true},
	} {
		got, err := reportOf(&dtv1.HeartbeatRequest{StateSequence: tt.sequence, StateTime: tt.at}, now)
		if got != tt.want || (err != nil) != tt.refused {
			t.Errorf("%s: %+v, %v; want %+v", name, got, err, tt.want)
		}
	}
}

func (r *running) nodeSpec(name string) resource.NodeSpec {
	r.t.Helper()
	res, err := r.resources().GetResource(r.t.Context(), connect.NewRequest(&dtv1.GetResourceRequest{Kind: "node", Name: name}))
	if err != nil {
		r.t.Fatal(err)
	}
	got, err := resource.ParseJSON(res.Msg.GetResource())
	if err != nil {
		r.t.Fatal(err)
	}
	return got.(*resource.Node).Spec
}

func (r *running) heartbeat(k *keys, m *dtv1.HeartbeatRequest) error {
	_, err := dtv1connect.NewNodeServiceClient(r.https(k), r.url()).Heartbeat(r.t.Context(), connect.NewRequest(m))
	return err
}

func TestAHeartbeatTellsWhatTheNodeDecidesBy(t *testing.T) {
	r, c := startWithClock(t)
	info := nodeInfo("n")
	info.Enforcer = resource.EnforcerSSHD
	k, err := r.joinAs(info)
	if err != nil {
		t.Fatal(err)
	}
	if spec := r.nodeSpec("n"); spec.Enforcer != resource.EnforcerSSHD || spec.State != nil {
		t.Errorf("it joined as %+v", spec)
	}
	records := len(column(t, r.database(), `SELECT uid FROM audit_log`))
	confirmed := c.now().Add(-10 * time.Second).Truncate(time.Microsecond).UTC()
	if err := r.heartbeat(k, &dtv1.HeartbeatRequest{Node: info, StateSequence: 3, StateTime: timestamppb.New(confirmed)}); err != nil {
		t.Fatal(err)
	}
	spec := r.nodeSpec("n")
	if spec.State == nil || spec.State.Sequence != 3 || !spec.State.Confirmed.Equal(confirmed) || spec.State.Reported.Before(confirmed) {
		t.Errorf("its state is %+v, confirmed at %v", spec.State, confirmed)
	}
	if n := len(column(t, r.database(), `SELECT uid FROM audit_log`)); n != records {
		t.Errorf("%d new records", n-records)
	}
	info.Enforcer = "nobody"
	wantCode(t, r.heartbeat(k, &dtv1.HeartbeatRequest{Node: info}), connect.CodeInvalidArgument)
	info.Enforcer = ""
	wantCode(t, r.heartbeat(k, &dtv1.HeartbeatRequest{Node: info, StateSequence: math.MaxUint64}), connect.CodeInvalidArgument)
	if spec := r.nodeSpec("n"); spec.State == nil || spec.Enforcer != resource.EnforcerSSHD {
		t.Errorf("after what was refused: %+v", spec)
	}
}

// Where a revocation has not arrived yet would be of use to those whom it is
// about.
func TestOnlyWhoMayListNodesLearnsWhatTheyDecideBy(t *testing.T) {
	r := start(t)
	r.addUser("alice", "access")
	r.addUser("eve", "access", "editor")
	k := r.join("n")
	if err := r.heartbeat(k, &dtv1.HeartbeatRequest{Node: nodeInfo("n"), StateSequence: 3, StateTime: timestamppb.Now()}); err != nil {
		t.Fatal(err)
	}
	for user, may := range map[string]bool{"alice": false, "eve": true} {
		res, err := dtv1connect.NewAdminServiceClient(r.https(r.login(user)), r.url()).ListNodes(t.Context(), connect.NewRequest(&dtv1.ListNodesRequest{}))
		if err != nil {
			t.Fatal(err)
		}
		var n resource.Node
		if len(res.Msg.GetNodes()) != 1 {
			t.Fatalf("%s sees %d nodes", user, len(res.Msg.GetNodes()))
		}
		if err := json.Unmarshal(res.Msg.GetNodes()[0], &n); err != nil {
			t.Fatal(err)
		}
		if (n.Spec.State != nil) != may {
			t.Errorf("%s is told %+v", user, n.Spec.State)
		}
	}
}

func TestANodeThatHearsNothingFallsBehind(t *testing.T) {
	r, c := startWithClock(t)
	k := r.join("n")
	if r.nodeSpec("n").State != nil {
		t.Fatal("it has said something")
	}
	if err := r.heartbeat(k, &dtv1.HeartbeatRequest{Node: nodeInfo("n"), StateSequence: 3, StateTime: timestamppb.New(c.now())}); err != nil {
		t.Fatal(err)
	}
	listed := func() bool {
		res, err := r.adminService().ListNodes(t.Context(), connect.NewRequest(&dtv1.ListNodesRequest{}))
		if err != nil {
			t.Fatal(err)
		}
		all, err := r.resources().ListResources(t.Context(), connect.NewRequest(&dtv1.ListResourcesRequest{Kind: "node"}))
		if err != nil {
			t.Fatal(err)
		}
		behind := r.nodeSpec("n").State.Behind
		for _, doc := range [][]byte{res.Msg.GetNodes()[0], all.Msg.GetResources()[0]} {
			n, err := resource.ParseJSON(doc)
			if err != nil {
				t.Fatal(err)
			}
			if n.(*resource.Node).Spec.State.Behind != behind {
				t.Errorf("behind: %t, and %s", behind, doc)
			}
		}
		return behind
	}
	for _, step := range []struct {
		later time.Duration
		want  bool
	}{{0, false}, {4 * time.Minute, false}, {2 * time.Minute, true}} {
		c.forward(step.later)
		if listed() != step.want {
			t.Errorf("after %v more it is behind: %t", step.later, !step.want)
		}
	}
}

func TestMetricsHaveTheNumberOfTheState(t *testing.T) {
	s := opened(t)
	var sequence uint64
	if err := s.db.Read(t.Context(), func(tx *store.Tx) (err error) { sequence, err = tx.Sequence(); return err }); err != nil {
		t.Fatal(err)
	}
	all, err := s.metrics.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, one := range all {
		if one.GetName() == "dtauthd_state_sequence" {
			if got := one.GetMetric()[0].GetGauge().GetValue(); got != float64(sequence) || got == 0 {
				t.Errorf("it is %v, want %d", got, sequence)
			}
			return
		}
	}
	t.Error("there is no such metric")
}
