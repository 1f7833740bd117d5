package node

import (
	"context"
	"crypto/x509"
	"errors"
	"log/slog"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"
	gossh "golang.org/x/crypto/ssh"
	"google.golang.org/protobuf/proto"

	"devicetrust/api/dtv1"
	"devicetrust/api/dtv1/dtv1connect"
	"devicetrust/durable"
	"devicetrust/policy"
	"devicetrust/resource"
)

// told is a follower that is told states by hand, on a clock of its own.
func told(t *testing.T) (*follower, *dtv1.NodeState, *time.Time) {
	t.Helper()
	now := time.Unix(1e9, 0)
	f := &follower{
		member: &member{dir: t.TempDir()}, states: newHolder(), log: quiet(), now: func() time.Time { return now },
		cluster: "test", onAuthorities: func([][]byte) {}, keeper: &keeper{},
	}
	role := document(t, &resource.Role{Header: resource.NewHeader(resource.KindRole, "access"), Spec: policy.RoleSpec{}})
	m := &dtv1.NodeState{
		Sequence: 5, Cluster: "test", UserAuthorities: [][]byte{newSigner(t).PublicKey().Marshal()}, TlsAuthorities: [][]byte{{1}},
		Roles: [][]byte{role}, Preference: document(t, &resource.Preference{Header: resource.NewHeader(resource.KindPreference, resource.PreferenceName)}),
	}
	if err := f.take(proto.Clone(m).(*dtv1.NodeState)); err != nil {
		t.Fatal(err)
	}
	return f, m, &now
}

func TestAnOlderStateIsNotBelievedAtOnce(t *testing.T) {
	f, m, now := told(t)
	older := proto.Clone(m).(*dtv1.NodeState)
	older.Sequence = 4
	for range 3 {
		if err := f.take(proto.Clone(older).(*dtv1.NodeState)); err != nil || f.states.get().sequence != 5 {
			t.Errorf("sequence %d, %v", f.states.get().sequence, err)
		}
		*now = now.Add(olderAccepted / 4)
	}
	*now = now.Add(olderAccepted)
	if err := f.take(older); err != nil || f.states.get().sequence != 4 {
		t.Errorf("after a while: sequence %d, %v", f.states.get().sequence, err)
	}
}

func TestAReplicaThatIsNowAndThenBehindIsNotBelieved(t *testing.T) {
	f, m, now := told(t)
	older := proto.Clone(m).(*dtv1.NodeState)
	older.Sequence = 4
	for range 3 { // each time for a moment, and right in between
		for _, said := range []*dtv1.NodeState{older, m} {
			if err := f.take(proto.Clone(said).(*dtv1.NodeState)); err != nil || f.states.get().sequence != 5 {
				t.Errorf("sequence %d, %v", f.states.get().sequence, err)
			}
		}
		*now = now.Add(olderAccepted)
	}
}

func TestAStreamThatSaysNothingIsLeft(t *testing.T) {
	p := startPlane(t)
	way, err := newControl(p.address, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	way.use(trust{authorities: []*x509.Certificate{p.tls.cert}}, nil)
	defer way.close()
	log := &syncBuffer{}
	f := &follower{
		member: &member{dir: t.TempDir(), control: way}, states: newHolder(), log: slog.New(slog.NewTextHandler(log, nil)), now: time.Now,
		cluster: "test", onAuthorities: func([][]byte) {}, keeper: &keeper{}, silence: 500 * time.Millisecond,
	}
	ctx, cancel := context.WithCancel(t.Context())
	var following sync.WaitGroup
	following.Go(func() { f.run(ctx) })
	defer following.Wait()
	defer cancel()
	follows := func() int { return get(p, func() int { return p.follows }) }
	eventually(t, "a state is there", func() bool { return f.states.get().sequence > 0 })
	eventually(t, "others are tried", func() bool { return follows() >= 3 })
	p.change(func() { p.mute = true })
	before := follows()
	eventually(t, "also where there was not a word", func() bool { return follows() >= before+3 })
	if !strings.Contains(log.String(), "says nothing") {
		t.Errorf("and it does not say why: %s", log.String())
	}
}

func TestTheStateOfAnotherClusterIsRefused(t *testing.T) {
	f, m, _ := told(t)
	m.Cluster, m.Sequence = "other", 9
	if err := f.take(m); err == nil || f.states.get().sequence != 5 {
		t.Errorf("sequence %d, %v", f.states.get().sequence, err)
	}
}

func TestAStateWithoutAuthoritiesIsRefused(t *testing.T) {
	for name, spoil := range map[string]func(*dtv1.NodeState){
		"no user authority":        func(m *dtv1.NodeState) { m.UserAuthorities = nil },
		"no TLS authority":         func(m *dtv1.NodeState) { m.TlsAuthorities = nil },
		"a user authority of junk": func(m *dtv1.NodeState) { m.UserAuthorities = [][]byte{{1, 2, 3}} },
	} {
		f, m, _ := told(t)
		m.Sequence = 9
		spoil(m)
		if err := f.take(m); err == nil || f.states.get().sequence != 5 {
			t.Errorf("%s: sequence %d, %v", name, f.states.get().sequence, err)
		}
	}
}

// What a node cannot read counts against whom it concerns.
func TestAPolicyThatCannotBeReadDenies(t *testing.T) {
	subject := policy.Request{
		Action: policy.OpenSession, Login: "root", Node: policy.Node{ID: "n"}, Now: time.Unix(1e9, 0),
		Subject: policy.Subject{User: "alice", Roles: []string{"good"}, Principals: []string{"root"}, Serial: 1},
	}
	good := document(t, &resource.Role{Header: resource.NewHeader(resource.KindRole, "good"), Spec: policy.RoleSpec{Allow: policy.RoleConditions{
		Logins: []string{"root"}, NodeLabels: map[string]policy.Values{"*": {"*"}},
	}}})
	newer := []byte(`{"kind":"role","version":"v9","metadata":{"name":"newer"},"spec":{"options":{"what":"is this"}}}`)
	for name, tt := range map[string]struct {
		spoil func(*dtv1.NodeState)
		allow bool
	}{
		"nothing is wrong":            {func(*dtv1.NodeState) {}, true},
		"somebody else's role":        {func(m *dtv1.NodeState) { m.Roles = append(m.Roles, newer) }, true},
		"the preference":              {func(m *dtv1.NodeState) { m.Preference = []byte(`{"kind":"what"}`) }, false},
		"no preference":               {func(m *dtv1.NodeState) { m.Preference = nil }, false},
		"a lock":                      {func(m *dtv1.NodeState) { m.Locks = [][]byte{[]byte(`{}`)} }, false},
		"a role twice":                {func(m *dtv1.NodeState) { m.Roles = append(m.Roles, good) }, false},
		"the revocation of all of it": {func(m *dtv1.NodeState) { m.RevokedSerials = []uint64{1} }, false},
	} {
		_, m, _ := told(t)
		m.Roles = [][]byte{good}
		tt.spoil(m)
		s, err := readState(m, quiet())
		if err != nil {
			t.Fatal(err)
		}
		if d := policy.Decide(s.policy, subject); d.Allowed() != tt.allow {
			t.Errorf("%s: %s", name, d.Reason)
		}
		subject.Subject.Roles = []string{"newer"}
		if d := policy.Decide(s.policy, subject); d.Allowed() {
			t.Errorf("%s: the unreadable role lets in", name)
		}
		subject.Subject.Roles = []string{"good"}
	}
}

func TestASavedStateOfAnUnknownFormIsNotUsed(t *testing.T) {
	dir := t.TempDir()
	for _, text := range []string{"", "{}", `{"version":2,"state":{}}`, `{"version":1,"state":{"unknown":1}}`} {
		if err := durable.Write(dir+"/s", []byte(text)); err != nil {
			t.Fatal(err)
		}
		if m, err := loadState(dir + "/s"); err == nil {
			t.Errorf("%q is %v", text, m)
		}
	}
	if m, err := loadState(dir + "/none"); m != nil || err != nil {
		t.Errorf("%v, %v", m, err)
	}
}

func TestNobodyWasAdmittedOnAConnectionThatDoesNotSayWho(t *testing.T) {
	for name, conn := range map[string]*gossh.ServerConn{
		"no connection":         nil,
		"no permissions":        {},
		"empty permissions":     {Permissions: &gossh.Permissions{}},
		"a name in their place": {Permissions: &gossh.Permissions{ExtraData: map[any]any{admissionKey{}: "root"}}},
		"nobody":                {Permissions: &gossh.Permissions{ExtraData: map[any]any{admissionKey{}: (*admission)(nil)}}},
	} {
		if a, ok := admitted(conn); ok {
			t.Errorf("%s: %+v", name, a)
		}
	}
}

func TestANodeThatWasRemovedLetsNobodyIn(t *testing.T) {
	f, m, _ := told(t)
	if err := f.take(proto.Clone(m).(*dtv1.NodeState)); err != nil {
		t.Fatal(err)
	}
	for name, err := range map[string]error{
		"the same code on our side": connect.NewError(connect.CodeNotFound, errors.New("no such host")),
		"a revoked certificate":     wireError(t, connect.CodeUnauthenticated),
		"a store that is away":      wireError(t, connect.CodeInternal),
	} {
		if wasRemoved(err) {
			t.Errorf("%s counts as a removal", name)
		}
	}
	if !wasRemoved(wireError(t, connect.CodeNotFound)) {
		t.Fatal("the control plane's word does not count")
	}
	f.forsake()
	if st := f.states.get(); !st.removed || len(st.authorities) > 0 || len(st.policy.Roles) > 0 {
		t.Errorf("the state in force is %+v", st)
	}
	if saved, err := loadState(filepath.Join(f.member.dir, stateFile)); saved != nil || err != nil {
		t.Errorf("after a restart %v, %v", saved, err)
	}
	if err := f.take(m); err != nil || f.states.get().removed {
		t.Errorf("heard again: %+v, %v", f.states.get(), err)
	}
}

// wireError is an error as it comes from a server.
func wireError(t *testing.T, code connect.Code) error {
	t.Helper()
	p := &refusingPlane{code: code}
	_, handler := dtv1connect.NewNodeServiceHandler(p)
	server := httptest.NewServer(handler)
	defer server.Close()
	_, err := dtv1connect.NewNodeServiceClient(server.Client(), server.URL).Heartbeat(t.Context(), connect.NewRequest(&dtv1.HeartbeatRequest{}))
	if err == nil {
		t.Fatal("no error")
	}
	return err
}

type refusingPlane struct {
	dtv1connect.UnimplementedNodeServiceHandler
	code connect.Code
}

func (p *refusingPlane) Heartbeat(context.Context, *connect.Request[dtv1.HeartbeatRequest]) (*connect.Response[dtv1.HeartbeatResponse], error) {
	return nil, connect.NewError(p.code, errors.New("refused"))
}
