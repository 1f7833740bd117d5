package authd

import (
	"log/slog"
	"net"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"

	"devicetrust/api/dtv1"
	"devicetrust/store"
	"devicetrust/store/storetest"
)

// Not a running server: that one also drops what has expired, at some moment.
func TestAJoinTokenThatHasExpiredIsSpentAndGoodForNothing(t *testing.T) {
	now := time.Now()
	cfg := Config{
		DataDir: t.TempDir(), ClusterName: "test", Listen: "127.0.0.1:0",
		Log: slog.New(slog.DiscardHandler), Now: func() time.Time { return now },
	}
	if err := cfg.check(); err != nil {
		t.Fatal(err)
	}
	s, err := open(t.Context(), cfg, storetest.Open(t), &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 3080})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.audit.Close(); err != nil {
			t.Error(err)
		}
	})
	add := func() (secret string) {
		if err := s.db.Write(t.Context(), func(tx *store.Tx) error {
			token, err := s.nodes.addToken(tx, time.Hour, nil)
			secret = token.secret
			return err
		}); err != nil {
			t.Fatal(err)
		}
		return secret
	}
	join := func(name, token string) error {
		k := newKeys(t)
		return fails(nodeService{s}.Join(t.Context(), connect.NewRequest(&dtv1.JoinRequest{
			Token: token, Node: nodeInfo(name), SshPublicKey: k.ssh.PublicKey().Marshal(), TlsPublicKey: k.der,
		})))
	}
	early, late := add(), add()
	now = now.Add(time.Hour - time.Second)
	if err := join("early", early); err != nil {
		t.Errorf("while it is good: %v", err)
	}
	now = now.Add(time.Second)
	for _, want := range []string{"the join token has expired", "unknown or was used already"} {
		err := join("late", late)
		wantRefused(t, err, connect.CodePermissionDenied)
		if !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q in it", err, want)
		}
	}
}
