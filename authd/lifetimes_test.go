package authd

import (
	"math"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/durationpb"

	"devicetrust/api/dtv1"
	"devicetrust/api/dtv1/dtv1connect"
)

func TestALoginEndsWithItsCertificateHoweverLongWasAskedFor(t *testing.T) {
	r := start(t)
	r.addUser("alice", "access")
	k := newKeys(t)
	res, err := dtv1connect.NewLoginServiceClient(r.https(nil), r.url()).Login(t.Context(), connect.NewRequest(&dtv1.LoginRequest{
		User: "alice", Password: goodPassword, SshPublicKey: k.ssh.PublicKey().Marshal(), TlsPublicKey: k.der,
		Ttl: durationpb.New(2_000_000 * time.Hour),
	}))
	if err != nil {
		t.Fatal(err)
	}
	var expires int64
	if err := r.database().QueryRow(`SELECT expires_at FROM logins`).Scan(&expires); err != nil {
		t.Fatal(err)
	}
	if got, want := time.UnixMicro(expires), res.Msg.GetCertificates().GetValidUntil().AsTime(); !got.Equal(want) {
		t.Errorf("the login is stored until %v, its certificate ends at %v", got.UTC(), want)
	}
}

func TestACertificateIsNotAskedForThatIsOverAtOnce(t *testing.T) {
	r := start(t)
	r.addUser("alice", "access")
	for _, ttl := range []time.Duration{math.MinInt64, -time.Hour, 0, 1, minCertTTL - 1, minCertTTL} {
		k := newKeys(t)
		_, err := dtv1connect.NewLoginServiceClient(r.https(nil), r.url()).Login(t.Context(), connect.NewRequest(&dtv1.LoginRequest{
			User: "alice", Password: goodPassword, SshPublicKey: k.ssh.PublicKey().Marshal(), TlsPublicKey: k.der, Ttl: durationpb.New(ttl),
		}))
		if ttl < minCertTTL {
			wantCode(t, err, connect.CodeInvalidArgument)
		} else if err != nil {
			t.Errorf("for %s: %v", ttl, err)
		}
	}
	if n := column(t, r.database(), `SELECT id FROM logins`); len(n) != 1 {
		t.Errorf("%d logins began", len(n))
	}
}

func TestFollowingEndsWithTheCertificate(t *testing.T) {
	r, c := startWithClock(t)
	node := r.join("n")
	stream, err := dtv1connect.NewNodeServiceClient(r.https(node), r.url()).Follow(t.Context(), connect.NewRequest(&dtv1.FollowRequest{}))
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Close() //nolint:errcheck // what it says is known
	if !stream.Receive() {
		t.Fatal(stream.Err())
	}
	c.forward(25 * time.Hour)
	doc := `{kind: role, version: v7, metadata: {name: fresh}, spec: {allow: {logins: [root]}}}`
	if _, err := r.resources().CreateResource(t.Context(), connect.NewRequest(&dtv1.CreateResourceRequest{Kind: "role", Resource: []byte(doc)})); err != nil {
		t.Fatal(err)
	}
	if stream.Receive() {
		t.Error("an hour after its certificate's end the node is told the policy")
	}
	wantCode(t, stream.Err(), connect.CodeUnauthenticated)
}

func TestJoinsWithoutATokenDoNotFillTheLog(t *testing.T) {
	r := start(t)
	const claimed = "not-a-token-of-ours"
	if _, err := r.tryJoin("loud", claimed); err == nil {
		t.Fatal("it joined")
	}
	if log := r.log.String(); strings.Contains(log, "not let in") {
		t.Errorf("the log says\n%s", log)
	}
}
