package authd

import (
	"crypto/rsa"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"golang.org/x/crypto/ssh"

	"devicetrust/api/dtv1"
	"devicetrust/api/dtv1/dtv1connect"
)

func TestOneSiteDoesNotTakeWhatAllShare(t *testing.T) {
	s := shares{total: 100, place: 10, site: 20}
	take := func(ip string) (n int) {
		for s.take(placeOf(netip.MustParseAddr(ip)), 1) {
			n++
		}
		return n
	}
	for _, step := range []struct {
		from string
		want int
	}{
		{"2001:db8:0:1::1", 10}, {"2001:db8:0:1::2", 0}, {"2001:db8:0:2::1", 10}, {"2001:db8:0:3::1", 0}, // the site has its share
		{"2001:db8:1::1", 10}, {"192.0.2.1", 10}, {"::ffff:192.0.2.1", 0}, {"192.0.2.2", 10},
	} {
		if got := take(step.from); got != step.want {
			t.Errorf("%s took %d, want %d", step.from, got, step.want)
		}
	}
	s.give(placeOf(netip.MustParseAddr("2001:db8:0:1::9")), 1)
	if got := take("2001:db8:0:3::1"); got != 1 {
		t.Errorf("the site gave one back and took %d", got)
	}
	if (&shares{}).take(netip.Prefix{}, 1) {
		t.Error("shares of nothing were given")
	}
}

func TestConnectionsAreCountedForASiteToo(t *testing.T) {
	l, n := newBoundedListener(nil), 0
	for network := range 64 {
		for l.enter(placeOf(netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, 7: byte(network), 15: 1}))) {
			n++
		}
	}
	if n != maxConnectionsPerSite {
		t.Errorf("a /48 has %d connections, want %d", n, maxConnectionsPerSite)
	}
	if !l.enter(placeOf(netip.MustParseAddr("192.0.2.1"))) {
		t.Error("somebody else was refused")
	}
}

// stranger is a call of somebody unknown, whose body is sent by hand.
func stranger(t *testing.T, h http.Handler, body io.Reader) (status chan int) {
	t.Helper()
	status = make(chan int, 1)
	r := httptest.NewRequest(http.MethodPost, dtv1connect.LoginServiceLoginProcedure, body)
	r.ContentLength = 10
	go func() {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		status <- w.Code
	}()
	return status
}

func TestStrangersWhoSendSlowlyHoldNoMoreThanTheirShare(t *testing.T) {
	s := &Server{now: time.Now, log: slog.New(slog.DiscardHandler), strangers: shares{total: maxStrangersBody, place: maxStrangersBody}}
	read, answered := make(chan struct{}), make(chan struct{})
	h := s.withBounds(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, err := io.ReadAll(r.Body); err != nil {
			t.Error(err)
		}
		read <- struct{}{}
		<-answered
	}))
	body, send := io.Pipe()
	slow := stranger(t, h, body)
	if _, err := send.Write([]byte("half")); err != nil { // it is being read
		t.Fatal(err)
	}
	select {
	case got := <-stranger(t, h, strings.NewReader("whole")):
		if got != http.StatusTooManyRequests {
			t.Fatalf("beyond the share: %d", got)
		}
	case <-read:
		t.Fatal("what is beyond the share was read")
	}
	if err := send.Close(); err != nil {
		t.Fatal(err)
	}
	<-read
	// The first has sent everything and waits for its answer: it holds nothing.
	next := stranger(t, h, strings.NewReader("whole"))
	select {
	case <-read:
	case got := <-next:
		t.Fatalf("after the first was read: %d", got)
	}
	close(answered)
	if a, b := <-slow, <-next; a != http.StatusOK || b != http.StatusOK {
		t.Errorf("got %d and %d", a, b)
	}
}

func TestStrangersHaveSecondsToSendTheirCall(t *testing.T) {
	now := time.Now()
	s := &Server{now: func() time.Time { return now }, log: slog.New(slog.DiscardHandler), strangers: shares{total: 1 << 20, place: 1 << 20}}
	w := &answering{ResponseRecorder: httptest.NewRecorder()}
	s.withBounds(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})).
		ServeHTTP(w, httptest.NewRequest(http.MethodPost, dtv1connect.LoginServiceLoginProcedure, strings.NewReader("{}")))
	if got := w.read.Sub(now); got != strangersReadTimeout {
		t.Errorf("a stranger has %v, want %v", got, strangersReadTimeout)
	}
}

// The longest that honest strangers send, in the longer of the two encodings.
func TestTheLongestLoginAndJoinAreRead(t *testing.T) {
	r := start(t)
	r.addUser("alice", "access")
	key, err := ssh.NewPublicKey(&rsa.PublicKey{N: new(big.Int).Sub(new(big.Int).Lsh(big.NewInt(1), 8192), big.NewInt(1)), E: 65537})
	if err != nil {
		t.Fatal(err)
	}
	tlsKey := newKeys(t)
	_, err = dtv1connect.NewLoginServiceClient(r.https(nil), r.url(), connect.WithProtoJSON()).Login(t.Context(), connect.NewRequest(&dtv1.LoginRequest{
		User: "alice", Password: strings.Repeat("p", 256), SshPublicKey: key.Marshal(), TlsPublicKey: append(tlsKey.der, make([]byte, 1100)...),
	}))
	if code := connect.CodeOf(err); code != connect.CodeInvalidArgument && code != connect.CodeUnauthenticated {
		t.Errorf("the longest login: %v", err)
	}
	info := nodeInfo("n")
	info.Labels, info.Addresses = map[string]string{}, nil
	// As much as resource.NodeClaims lets through.
	const maxLabels, maxLabel, maxAddresses = 64, 256, 16
	for i := range maxLabels {
		info.Labels[fmt.Sprintf("%0128d", i)] = strings.Repeat("v", maxLabel)
	}
	host := strings.Repeat(strings.Repeat("h", 60)+".", 4)
	for i := range maxAddresses {
		info.Addresses = append(info.Addresses, fmt.Sprintf("%sa%02d:3022", host, i))
	}
	_, err = dtv1connect.NewNodeServiceClient(r.https(nil), r.url(), connect.WithProtoJSON()).Join(t.Context(), connect.NewRequest(&dtv1.JoinRequest{
		Token: r.joinToken(nil), Node: info, SshPublicKey: tlsKey.ssh.PublicKey().Marshal(), TlsPublicKey: tlsKey.der,
	}))
	if err != nil {
		t.Errorf("the longest join: %v", err)
	}
}
