package node

import (
	"context"
	"crypto/x509"
	"errors"
	"io/fs"
	"log/slog"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"
	gossh "golang.org/x/crypto/ssh"

	"devicetrust/api/dtv1"
	"devicetrust/api/dtv1/dtv1connect"
	"devicetrust/feed"
	"devicetrust/policy"
)

// told is a follower that is told states by hand, on a clock of its own.
func told(t *testing.T) (*follower, said, *time.Time) {
	t.Helper()
	now := time.Unix(1e9, 0)
	f := &follower{
		member: &member{dir: t.TempDir()}, states: newHolder(), log: quiet(), now: func() time.Time { return now },
		cluster: "test", nodeID: "node-1", onAuthorities: func([][]byte) {}, keeper: &keeper{},
	}
	say := saying(t, newSigner(t), 5, policy.RoleSpec{})
	if err := f.take(say.state(t)); err != nil {
		t.Fatal(err)
	}
	return f, say, &now
}

// older is what a replica says that is behind.
func (s said) older() said {
	s.sequence--
	s.content.Locks = []policy.Lock{{Name: "l", Target: policy.LockTarget{User: "bob"}}}
	return s
}

func TestAnOlderStateIsNotBelievedAtOnce(t *testing.T) {
	f, say, now := told(t)
	older := say.older().state(t)
	for range 3 {
		if err := f.take(older); err != nil || f.states.get().sequence != 5 {
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
	f, say, now := told(t)
	older := say.older().state(t)
	for range 3 { // each time for a moment, and right in between
		for _, said := range []*feed.State{older, say.state(t)} {
			if err := f.take(said); err != nil || f.states.get().sequence != 5 {
				t.Errorf("sequence %d, %v", f.states.get().sequence, err)
			}
		}
		*now = now.Add(olderAccepted)
	}
}

// One that is behind and has not heard of it says the same, and goes on to what
// was before.
func TestTheSameStateWithAnOlderNumberTakesNothingBack(t *testing.T) {
	f, say, now := told(t)
	before := say
	say.content.Locks = []policy.Lock{{Name: "l", Target: policy.LockTarget{User: "bob"}}}
	say.sequence = 8
	if err := f.take(say.state(t)); err != nil {
		t.Fatal(err)
	}
	heard := *now
	*now = now.Add(olderAccepted / 4)
	behind, next := say, before
	behind.sequence, next.sequence = 6, 7
	for _, s := range []said{behind, next} {
		if err := f.take(s.state(t)); err != nil {
			t.Fatal(err)
		}
		if st := f.states.get(); st.sequence != 8 || len(st.policy.Locks) != 1 {
			t.Errorf("change %d was said after 8, and %d is in force with %d locks", s.sequence, st.sequence, len(st.policy.Locks))
		}
	}
	if got := f.states.age(*now); got != now.Sub(heard) {
		t.Errorf("what is in force passes for %v old; nobody has said it for %v", got, now.Sub(heard))
	}
}

func TestAReplicaThatWasBehindBeforeASilenceIsNotBelievedAfterIt(t *testing.T) {
	f, say, now := told(t)
	older := say.older().state(t)
	for range 3 { // each time the control plane is away in between
		if err := f.take(older); err != nil || f.states.get().sequence != 5 {
			t.Errorf("sequence %d, %v", f.states.get().sequence, err)
		}
		*now = now.Add(followSilence + time.Second)
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
		cluster: "test", nodeID: "node-1", onAuthorities: func([][]byte) {}, keeper: &keeper{}, silence: 500 * time.Millisecond,
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

func TestWhatIsSavedIsAsOldAsTheControlPlaneSaid(t *testing.T) {
	for name, tt := range map[string]struct{ off, age time.Duration }{
		"a minute old":                    {-time.Minute, time.Minute},
		"of now, by a clock that is late": {time.Minute, 0},
		"to come":                         {maxSkew + time.Second, notHeard},
	} {
		f, say, now := told(t)
		m := &member{dir: f.member.dir}
		if err := (savedIdentity{Version: savedIdentityVersion}).save(m.dir); err != nil {
			t.Fatal(err)
		}
		say.time = now.Add(tt.off)
		f.keeper, f.states = m.keeper(feed.File{Path: filepath.Join(m.dir, stateFile)}), newHolder()
		if err := errors.Join(f.keeper.lead(true), f.keeper.save(say.state(t))); err != nil {
			t.Fatal(err)
		}
		f.restore()
		if got := f.states.get().sequence; got != say.sequence {
			t.Errorf("%s: sequence %d is in force", name, got)
		}
		if got := f.states.age(*now); got != tt.age {
			t.Errorf("%s: age %v, want %v", name, got, tt.age)
		}
	}
}

func TestAClockThatGoesBackMakesNothingFresh(t *testing.T) {
	h, at := newHolder(), time.Unix(1e9, 0)
	h.heard(at)
	for back, want := range map[time.Duration]time.Duration{time.Second: 0, maxSkew: 0, maxSkew + time.Second: notHeard, 1000 * time.Hour: notHeard} {
		if got := h.age(at.Add(-back)); got != want {
			t.Errorf("%v back: age %v, want %v", back, got, want)
		}
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
	f, say, _ := told(t)
	f.keeper.file = feed.File{Path: filepath.Join(f.member.dir, stateFile)}
	if err := f.keeper.file.Save(say.state(t)); err != nil {
		t.Fatal(err)
	}
	f.keeper.leads = true
	f.keeper.trust = func([]gossh.PublicKey) error { return nil }
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
	if saved, err := f.keeper.file.Load([]gossh.PublicKey{say.user.PublicKey()}, "test", "node-1"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("after a restart %v, %v", saved, err)
	}
	if err := f.take(say.state(t)); err != nil || f.states.get().removed {
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
