package authd

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"connectrpc.com/connect"

	"devicetrust/api/dtv1"
	"devicetrust/api/dtv1/dtv1connect"
	"devicetrust/store/storetest"
)

// replicas are two dtauthd on one PostgreSQL, with one key file.
func replicas(t *testing.T) [2]*running { return replicasWith(t, time.Now) }

func replicasWith(t *testing.T, now func() time.Time) [2]*running {
	t.Helper()
	url := storetest.PostgresURL(t)
	first := startWith(t, dataDir(t), url, now)
	key, err := os.ReadFile(filepath.Join(first.dir, "ca.key"))
	if err != nil {
		t.Fatal(err)
	}
	dir := dataDir(t)
	if err := os.WriteFile(filepath.Join(dir, "ca.key"), key, 0o600); err != nil {
		t.Fatal(err)
	}
	return [2]*running{first, startWith(t, dir, url, now)}
}

func TestATokenIsSpentOnceAcrossReplicas(t *testing.T) {
	r := replicas(t)
	token := r[0].joinToken(nil)
	var wg sync.WaitGroup
	var joined atomic.Int32
	for i := range 8 {
		wg.Go(func() {
			if _, err := r[i%2].tryJoin(fmt.Sprintf("racer-%d", i), token); err == nil {
				joined.Add(1)
			}
		})
	}
	wg.Wait()
	if n := joined.Load(); n != 1 {
		t.Errorf("%d nodes joined with one token", n)
	}
}

func TestWhatOneReplicaEndsHasEndedAtTheOther(t *testing.T) {
	r := replicas(t)
	r[0].addUser("alice", "access")
	k, node := r[0].login("alice"), r[1].join("n")
	before := r[1].nextState(node, 0)
	if isRevoked(before, k.sshCert.Serial) {
		t.Fatal("revoked already")
	}
	got := r[1].hears(node, before.State.Sequence())
	if _, err := r[0].resources().DeleteResource(t.Context(), connect.NewRequest(&dtv1.DeleteResourceRequest{Kind: "user", Name: "alice"})); err != nil {
		t.Fatal(err)
	}
	_, err := dtv1connect.NewAdminServiceClient(r[1].https(k), r[1].url()).Status(t.Context(), connect.NewRequest(&dtv1.StatusRequest{}))
	wantCode(t, err, connect.CodeUnauthenticated)
	h := <-got
	if h.err != nil {
		t.Fatal(h.err)
	}
	if !isRevoked(h.state, k.sshCert.Serial) {
		t.Errorf("the node hears of %v, want %d among them", h.state.Policy.Revoked.All(), k.sshCert.Serial)
	}
}

// Logins race with the removal of their user: whatever was issued, nothing of
// it may stand afterwards.
func TestNothingIsIssuedPastARemoval(t *testing.T) {
	t.Run("sqlite", func(t *testing.T) {
		r := start(t)
		raceWithRemoval(t, [2]*running{r, r})
	})
	t.Run("postgres", func(t *testing.T) { raceWithRemoval(t, replicas(t)) })
}

func raceWithRemoval(t *testing.T, r [2]*running) {
	t.Helper()
	r[0].addUser("alice", "access")
	remove := sync.OnceFunc(func() {
		if _, err := r[1].resources().DeleteResource(t.Context(), connect.NewRequest(&dtv1.DeleteResourceRequest{Kind: "user", Name: "alice"})); err != nil {
			t.Error(err)
		}
	})
	var mu sync.Mutex
	var issued []*keys
	var wg sync.WaitGroup
	for i := range 6 {
		k := newKeys(t)
		wg.Go(func() {
			res, err := dtv1connect.NewLoginServiceClient(r[i%2].https(nil), r[i%2].url()).Login(t.Context(), connect.NewRequest(&dtv1.LoginRequest{
				User: "alice", Password: goodPassword, SshPublicKey: k.ssh.PublicKey().Marshal(), TlsPublicKey: k.der,
			}))
			if err != nil {
				return
			}
			mu.Lock()
			defer mu.Unlock()
			k.take(t, res.Msg.GetCertificates().GetSsh(), res.Msg.GetCertificates().GetTls())
			issued = append(issued, k)
			if len(issued) == 2 { // others are under way
				remove()
			}
		})
	}
	wg.Wait()
	remove() // where a busy machine let fewer than two in
	node := r[0].join("n")
	for _, k := range issued {
		_, err := dtv1connect.NewAdminServiceClient(r[0].https(k), r[0].url()).Status(t.Context(), connect.NewRequest(&dtv1.StatusRequest{}))
		wantCode(t, err, connect.CodeUnauthenticated)
		r[0].hearsOf(node, k.sshCert.Serial)
	}
}

// hearsOf waits until a node's state has the revoked serial.
func (r *running) hearsOf(node *keys, serial uint64) {
	r.t.Helper()
	client := dtv1connect.NewNodeServiceClient(r.https(node), r.url())
	ctx, cancel := context.WithTimeout(r.t.Context(), patience)
	defer cancel()
	for sequence := uint64(0); ; {
		state, err := follow(ctx, client, sequence)
		if err != nil {
			r.t.Errorf("certificate %d stands: %v", serial, err)
			return
		}
		if isRevoked(state, serial) {
			return
		}
		sequence = state.State.Sequence()
	}
}
