package authd

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"connectrpc.com/connect"
	"golang.org/x/crypto/ssh"
	"google.golang.org/protobuf/proto"

	"devicetrust/api/dtv1"
	"devicetrust/api/dtv1/dtv1connect"
	"devicetrust/audit/event"
	"devicetrust/devices"
	"devicetrust/feed"
	"devicetrust/identity"
)

func TestALoginGivesACertificateWithoutADevice(t *testing.T) {
	r := start(t)
	r.addUser("alice", "access")
	k := r.login("alice")
	id, err := identity.UnverifiedFromSSH(k.sshCert)
	if err != nil {
		t.Fatal(err)
	}
	if id.User != "alice" || len(id.Logins) != 1 || id.Logins[0] != "root" || id.Device.Trusted() {
		t.Errorf("the certificate says %+v", id)
	}
	if life := time.Until(id.ValidBefore); life > 12*time.Hour || life < 11*time.Hour {
		t.Errorf("it lives %s", life)
	}
	if !bytes.Equal(k.sshCert.Key.Marshal(), k.ssh.PublicKey().Marshal()) {
		t.Error("another key was certified")
	}
}

func TestACertificateOfSomebodyWithoutLoginsIsGoodForNone(t *testing.T) {
	r := start(t)
	r.addUser("bob", "auditor")
	k := r.login("bob")
	if len(k.sshCert.ValidPrincipals) != 1 || k.sshCert.ValidPrincipals[0] != identity.NoLogin {
		t.Errorf("principals %q", k.sshCert.ValidPrincipals)
	}
}

func TestLogoutEndsTheLogin(t *testing.T) {
	r := start(t)
	r.addUser("alice", "access")
	k := r.login("alice")
	c := dtv1connect.NewLoginServiceClient(r.https(k), r.url())
	if _, err := c.Logout(t.Context(), connect.NewRequest(&dtv1.LogoutRequest{})); err != nil {
		t.Fatal(err)
	}
	_, err := dtv1connect.NewAdminServiceClient(r.https(k), r.url()).Status(t.Context(), connect.NewRequest(&dtv1.StatusRequest{}))
	wantCode(t, err, connect.CodeUnauthenticated)
	if state := r.nextState(r.join("n"), 0); !isRevoked(state, k.sshCert.Serial) {
		t.Errorf("nodes do not hear that serial %d is revoked: %v", k.sshCert.Serial, state.Policy.Revoked.All())
	}
}

// nextState follows as a node until a state above sequence comes.
func (r *running) nextState(node *keys, sequence uint64) *feed.View {
	r.t.Helper()
	h := <-r.hears(node, sequence)
	if h.err != nil {
		r.t.Fatal(h.err)
	}
	return h.state
}

// heard is what a node heard, or why it did not.
type heard struct {
	state *feed.View
	err   error
}

// hears is nextState beside the test.
func (r *running) hears(node *keys, sequence uint64) <-chan heard {
	got := make(chan heard, 1)
	client := dtv1connect.NewNodeServiceClient(r.https(node), r.url())
	go func() {
		ctx, cancel := context.WithTimeout(r.t.Context(), patience)
		defer cancel()
		state, err := follow(ctx, client, sequence)
		got <- heard{state, err}
	}()
	return got
}

func follow(ctx context.Context, c dtv1connect.NodeServiceClient, sequence uint64) (*feed.View, error) {
	stream, err := c.Follow(ctx, connect.NewRequest(&dtv1.FollowRequest{}))
	if err != nil {
		return nil, err
	}
	defer stream.Close()
	var state *feed.State
	for stream.Receive() {
		if state, err = taken(state, stream.Msg()); err != nil {
			return nil, err
		}
		if state.Sequence() > sequence {
			return state.View(nil)
		}
	}
	return nil, fmt.Errorf("no state after %d came: %w", sequence, stream.Err())
}

// taken applies an update as whichever node it is for.
func taken(state *feed.State, u *dtv1.StateUpdate) (*feed.State, error) {
	id, _, _ := state.Node()
	cluster := state.Cluster()
	if len(u.GetFacts()) > 0 {
		facts := &dtv1.NodeFacts{}
		if err := proto.Unmarshal(u.GetFacts(), facts); err != nil {
			return nil, err
		}
		id, cluster = facts.GetNodeId(), facts.GetCluster()
	}
	return state.Apply(u, cluster, id)
}

// isRevoked tells whether the state says so.
func isRevoked(state *feed.View, serial uint64) bool {
	_, is := state.Policy.Revoked.Find(serial)
	return is
}

func TestNodesHearOfAChangeAtOnce(t *testing.T) {
	r := start(t)
	node := r.join("n")
	before := r.nextState(node, 0)
	got := r.hears(node, before.State.Sequence())
	doc := `{kind: role, version: v7, metadata: {name: fresh}, spec: {allow: {logins: [root]}}}`
	if _, err := r.resources().CreateResource(t.Context(), connect.NewRequest(&dtv1.CreateResourceRequest{Kind: "role", Resource: []byte(doc)})); err != nil {
		t.Fatal(err)
	}
	h := <-got
	if h.err != nil {
		t.Fatal(h.err)
	}
	if h.state.Policy.Roles["fresh"].Name() == "" {
		t.Error("the new role is not in the state")
	}
}

func TestChangingAUsersRolesEndsWhatTheyGave(t *testing.T) {
	r := start(t)
	r.addUser("alice", "access", "auditor")
	k := r.login("alice")
	doc := `{kind: user, metadata: {name: alice}, spec: {roles: [access], traits: {logins: [root]}}}`
	_, err := r.resources().UpdateResource(t.Context(), connect.NewRequest(&dtv1.UpdateResourceRequest{Kind: "user", Resource: []byte(doc)}))
	if err != nil {
		t.Fatal(err)
	}
	_, err = dtv1connect.NewAdminServiceClient(r.https(k), r.url()).Status(t.Context(), connect.NewRequest(&dtv1.StatusRequest{}))
	wantCode(t, err, connect.CodeUnauthenticated)
}

func TestARoleThatSomebodyHoldsCannotBeRemoved(t *testing.T) {
	r := start(t)
	r.addUser("alice", "access")
	_, err := r.resources().DeleteResource(t.Context(), connect.NewRequest(&dtv1.DeleteResourceRequest{Kind: "role", Name: "access"}))
	wantCode(t, err, connect.CodeFailedPrecondition)
}

func TestAnUnknownRoleCannotBeGiven(t *testing.T) {
	r := start(t)
	_, err := r.adminService().AddUser(t.Context(), connect.NewRequest(&dtv1.AddUserRequest{Name: "x", Roles: []string{"nope"}}))
	wantCode(t, err, connect.CodeInvalidArgument)
}

func TestAJoinTokenIsGoodForOneNode(t *testing.T) {
	r := start(t)
	token := r.joinToken(nil)
	var wg sync.WaitGroup
	var joined atomic.Int32
	for i := range 8 {
		wg.Go(func() {
			if _, err := r.tryJoin("racer-"+string(rune('a'+i)), token); err == nil {
				joined.Add(1)
			}
		})
	}
	wg.Wait()
	if n := joined.Load(); n != 1 {
		t.Errorf("%d nodes joined with one token", n)
	}
}

// A stock sshd believes those, from before its first state on.
func TestAServerThatJoinsIsToldWhoSignsForPeople(t *testing.T) {
	r := start(t)
	k := newKeys(t)
	res, err := dtv1connect.NewNodeServiceClient(r.https(nil), r.url()).Join(t.Context(), connect.NewRequest(&dtv1.JoinRequest{
		Token: r.joinToken(nil), Node: nodeInfo("db"), SshPublicKey: k.ssh.PublicKey().Marshal(), TlsPublicKey: k.der,
	}))
	if err != nil {
		t.Fatal(err)
	}
	r.addUser("alice", "access")
	want := [][]byte{r.login("alice").sshCert.SignatureKey.Marshal()}
	if got := res.Msg.GetCluster().GetUserAuthorities(); !reflect.DeepEqual(got, want) {
		t.Errorf("it is told of %x, want %x", got, want)
	}
}

func TestANodeCannotTakeAnothersName(t *testing.T) {
	r := start(t)
	r.join("db")
	_, err := r.tryJoin("db", r.joinToken(nil))
	wantCode(t, err, connect.CodeAlreadyExists)
	info := nodeInfo("other")
	info.Addresses = []string{"db:3022"}
	k := newKeys(t)
	_, err = dtv1connect.NewNodeServiceClient(r.https(nil), r.url()).Join(t.Context(), connect.NewRequest(&dtv1.JoinRequest{
		Token: r.joinToken(nil), Node: info, SshPublicKey: k.ssh.PublicKey().Marshal(), TlsPublicKey: k.der,
	}))
	wantCode(t, err, connect.CodeAlreadyExists)
}

func TestLabelsOfTheTokenStandOverTheNodesOwn(t *testing.T) {
	r := start(t)
	k, err := r.tryJoin("n", r.joinToken(map[string]string{"env": "prod"}))
	if err != nil {
		t.Fatal(err)
	}
	if got := labelsOf(r.nextState(k, 0))["env"]; got != "prod" {
		t.Errorf("env=%q", got)
	}
}

func TestARemovedNodeIsNobody(t *testing.T) {
	r := start(t)
	k := r.join("n")
	if _, err := r.resources().DeleteResource(t.Context(), connect.NewRequest(&dtv1.DeleteResourceRequest{Kind: "node", Name: "n"})); err != nil {
		t.Fatal(err)
	}
	_, err := dtv1connect.NewNodeServiceClient(r.https(k), r.url()).Heartbeat(t.Context(), connect.NewRequest(&dtv1.HeartbeatRequest{Node: nodeInfo("n")}))
	wantCode(t, err, connect.CodeNotFound)
}

func TestANodeReportsOnlyWhatHappensOnNodes(t *testing.T) {
	r := start(t)
	c := dtv1connect.NewNodeServiceClient(r.https(r.join("n")), r.url())
	send := func(e event.Event) error {
		doc, err := json.Marshal(e)
		if err != nil {
			t.Fatal(err)
		}
		_, err = c.RecordEvents(t.Context(), connect.NewRequest(&dtv1.RecordEventsRequest{Events: [][]byte{doc}}))
		return err
	}
	good := event.Event{
		Type: event.SessionStart, UID: "u-1", Time: time.Now(), User: "alice", Success: true,
		NodeID: "somebody-else", NodeName: "somebody-else", Cluster: "test",
	}
	for range 2 { // at least once: the second is the same record
		if err := send(good); err != nil {
			t.Fatal(err)
		}
	}
	wantCode(t, send(event.Event{Type: event.UserCreate, UID: "u-2", Time: time.Now(), User: "mallory"}), connect.CodeInvalidArgument)
	res, err := r.adminService().ListAudit(t.Context(), connect.NewRequest(&dtv1.ListAuditRequest{Type: string(event.SessionStart)}))
	if err != nil {
		t.Fatal(err)
	}
	if n := len(res.Msg.GetEvents()); n != 1 {
		t.Fatalf("%d records, want 1", n)
	}
	var got event.Event
	if err := json.Unmarshal(res.Msg.GetEvents()[0], &got); err != nil {
		t.Fatal(err)
	}
	if got.NodeName != "n" || got.NodeID == "somebody-else" {
		t.Errorf("it is recorded for %q (%s)", got.NodeName, got.NodeID)
	}
}

func TestTheAdminSocketIsForItsOwnerAlone(t *testing.T) {
	r := start(t)
	for path, want := range map[string]os.FileMode{"admin.sock": 0o600, "ca.key": 0o600, "dt.db": 0o600} {
		info, err := os.Stat(filepath.Join(r.dir, path))
		if err != nil {
			t.Fatal(err)
		}
		if got := info.Mode().Perm(); got != want {
			t.Errorf("%s is %o, want %o", path, got, want)
		}
	}
	res, err := r.adminService().ListAudit(t.Context(), connect.NewRequest(&dtv1.ListAuditRequest{}))
	if err != nil {
		t.Fatal(err)
	}
	if len(res.Msg.GetEvents()) == 0 {
		t.Error("the first start left no record")
	}
}

func TestOversizedAndMalformedRequestsAreRefused(t *testing.T) {
	r := start(t)
	c := r.https(nil)
	login := r.url() + dtv1connect.LoginServiceLoginProcedure
	big := append([]byte(`{"user":"`), bytes.Repeat([]byte("a"), devices.MaxMessage+1)...)
	if status, answer := post(t, c, login, "application/json", append(big, `"}`...)); status != http.StatusTooManyRequests && status != http.StatusRequestEntityTooLarge {
		t.Errorf("an oversized body: %d %s", status, answer)
	}
	for name, body := range map[string]string{"not JSON": "\x00\x01", "an unknown field": `{"nope":1}`, "a wrong type": `{"user":[]}`} {
		if status, answer := post(t, c, login, "application/json", []byte(body)); status != http.StatusBadRequest && status != http.StatusUnauthorized {
			t.Errorf("%s: %d %s", name, status, answer)
		}
	}
	garbage, err := net.Dial("tcp", r.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer garbage.Close()
	if _, err := garbage.Write(bytes.Repeat([]byte{0xff}, 4096)); err != nil {
		t.Fatal(err)
	}
	if err := garbage.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadAll(garbage); err != nil && strings.Contains(err.Error(), "timeout") {
		t.Error("garbage before TLS keeps its connection")
	}
	if res, err := c.Get(r.url() + "/v1/webapi/find"); err != nil || res.StatusCode != http.StatusOK {
		t.Errorf("after all that: %v %v", res, err)
	}
}

func TestFindTellsWhatAnybodyMayKnow(t *testing.T) {
	r := start(t)
	res, err := r.https(nil).Get(r.url() + "/v1/webapi/find")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	var got findResponse
	if err := json.NewDecoder(res.Body).Decode(&got); err != nil {
		t.Fatal(err)
	}
	want := findResponse{ServerVersion: "0.0.0", ClusterName: "test", Auth: findAuth{SecondFactor: "off", DeviceTrust: findDeviceTrust{Mode: "optional"}}}
	if got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

func TestASecondStartKeepsTheAuthorities(t *testing.T) {
	dir := t.TempDir()
	first := startAt(t, dir, "")
	first.addUser("alice", "access")
	k := first.login("alice")
	pin := first.pins[0]
	if err := first.stop(); err != nil {
		t.Fatal(err)
	}
	second := startAt(t, dir, "")
	if second.pins[0] != pin {
		t.Errorf("pin %s, was %s", second.pins[0], pin)
	}
	if _, err := dtv1connect.NewAdminServiceClient(second.https(k), second.url()).Status(t.Context(), connect.NewRequest(&dtv1.StatusRequest{})); err != nil {
		t.Errorf("the login of before does not hold: %v", err)
	}
	if next := second.login("alice"); next.sshCert.Serial <= k.sshCert.Serial {
		t.Errorf("serial %d after %d", next.sshCert.Serial, k.sshCert.Serial)
	}
}

func TestAWeakKeyIsNotCertified(t *testing.T) {
	r := start(t)
	r.addUser("alice", "access")
	k := r.login("alice")
	_, err := dtv1connect.NewLoginServiceClient(r.https(nil), r.url()).Login(t.Context(), connect.NewRequest(&dtv1.LoginRequest{
		User: "alice", Password: goodPassword, SshPublicKey: ssh.PublicKey(k.sshCert).Marshal(), TlsPublicKey: k.der,
	}))
	wantCode(t, err, connect.CodeInvalidArgument)
}

func TestALockedUserGetsNoCertificateAndTheRecordSaysWhy(t *testing.T) {
	r := start(t)
	r.addUser("alice", "access")
	k := r.login("alice")
	lock := `{kind: lock, version: v2, metadata: {name: l1}, spec: {target: {user: alice}, message: laptop stolen}}`
	if _, err := r.resources().CreateResource(t.Context(), connect.NewRequest(&dtv1.CreateResourceRequest{Kind: "lock", Resource: []byte(lock)})); err != nil {
		t.Fatal(err)
	}
	fresh := newKeys(t)
	_, err := dtv1connect.NewLoginServiceClient(r.https(nil), r.url()).Login(t.Context(), connect.NewRequest(&dtv1.LoginRequest{
		User: "alice", Password: goodPassword, SshPublicKey: fresh.ssh.PublicKey().Marshal(), TlsPublicKey: fresh.der,
	}))
	wantCode(t, err, connect.CodePermissionDenied)
	if !strings.Contains(err.Error(), "laptop stolen") {
		t.Errorf("the person reads %q", err)
	}
	_, err = dtv1connect.NewAdminServiceClient(r.https(k), r.url()).Status(t.Context(), connect.NewRequest(&dtv1.StatusRequest{}))
	wantCode(t, err, connect.CodePermissionDenied)
	res, err := r.adminService().ListAudit(t.Context(), connect.NewRequest(&dtv1.ListAuditRequest{Type: string(event.UserLogin), Failed: true}))
	if err != nil {
		t.Fatal(err)
	}
	if n := len(res.Msg.GetEvents()); n != 1 || !strings.Contains(string(res.Msg.GetEvents()[0]), "laptop stolen") {
		t.Errorf("the record has %q", res.Msg.GetEvents())
	}
}

func TestAHeartbeatThatSaysNothingNewIsNoChange(t *testing.T) {
	r := start(t)
	k := r.join("n")
	before := r.nextState(k, 0).State.Sequence()
	c := dtv1connect.NewNodeServiceClient(r.https(k), r.url())
	if _, err := c.Heartbeat(t.Context(), connect.NewRequest(&dtv1.HeartbeatRequest{Node: nodeInfo("n")})); err != nil {
		t.Fatal(err)
	}
	if after := r.nextState(k, 0).State.Sequence(); after != before {
		t.Errorf("sequence %d, was %d", after, before)
	}
	moved := nodeInfo("n")
	moved.Addresses = []string{"127.0.0.1:4022"}
	if _, err := c.Heartbeat(t.Context(), connect.NewRequest(&dtv1.HeartbeatRequest{Node: moved})); err != nil {
		t.Fatal(err)
	}
	res, err := r.resources().GetResource(t.Context(), connect.NewRequest(&dtv1.GetResourceRequest{Kind: "node", Name: "n"}))
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(res.Msg.GetResource()), "127.0.0.1:4022") {
		t.Errorf("the node is still at %s", res.Msg.GetResource())
	}
}

// labelsOf are the node's, as it is told them.
func labelsOf(state *feed.View) map[string]string {
	_, _, labels := state.State.Node()
	return labels
}
