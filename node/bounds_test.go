package node

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	gossh "golang.org/x/crypto/ssh"
	"golang.org/x/sys/unix"

	"devicetrust/audit/event"
	"devicetrust/policy"
)

func TestAPeerThatDoesNotAnswerIsLeft(t *testing.T) {
	n := startNode(t, func(c *serverConfig) {
		c.limits.keepalive, c.limits.silence = 50*time.Millisecond, 100*time.Millisecond
	})
	c := dialRaw(t, n.address) // reads nothing unless asked to
	signer := n.cluster.certify(t, alice(), newSigner(t))
	if got := c.sign(tester, signer.PublicKey(), signer); got != authSuccess {
		t.Fatal(got)
	}
	eventually(t, "it is left", n.empty)
}

func TestAPeerThatAnswersStays(t *testing.T) {
	n := startNode(t, func(c *serverConfig) {
		c.limits.keepalive, c.limits.silence = 20*time.Millisecond, 5*time.Second
	})
	c := dialRaw(t, n.address)
	signer := n.cluster.certify(t, alice(), newSigner(t))
	if got := c.sign(tester, signer.PublicKey(), signer); got != authSuccess {
		t.Fatal(got)
	}
	// Asked more than once: an answer was taken for one.
	for range 3 {
		for c.receive()[0] != 80 { // GLOBAL_REQUEST
		}
		c.send([]byte{82}) // REQUEST_FAILURE
	}
	if n.empty() {
		t.Error("it was left")
	}
}

func TestWhatIsNotAvailableIsRefusedWithAReason(t *testing.T) {
	_, c := enterNode(t)
	if _, _, err := c.OpenChannel("x11", nil); err == nil {
		t.Error("an x11 channel was opened")
	}
	if ok, _, err := c.SendRequest("anything", true, nil); ok || err != nil {
		t.Errorf("%v, %v", ok, err)
	}
	s := newSession(t, c)
	for _, kind := range []string{"break", "anything"} {
		if ok, err := s.SendRequest(kind, true, nil); ok || err != nil {
			t.Errorf("%s: %v, %v", kind, ok, err)
		}
	}
	if err := s.RequestSubsystem("netconf"); err == nil {
		t.Error("a subsystem was started")
	}
	if out, err := s.Output("echo still here"); err != nil || string(out) != "still here\n" {
		t.Errorf("%q, %v", out, err)
	}
}

func TestAMalformedRequestHarmsNobody(t *testing.T) {
	n, other := enterNode(t)
	signer := n.cluster.certify(t, alice(), newSigner(t))
	c := dialRaw(t, n.address)
	c.sign(tester, signer.PublicKey(), signer)
	channel, ok := c.openSession(0)
	if !ok {
		t.Fatal("no session")
	}
	for _, payload := range []string{"\xff\xff\xff\xfcxterm", "", "\x00", "\x00\x00\x00\x05xterm\xff"} {
		for _, kind := range []string{"pty-req", "window-change", "env", "exec", "signal", "shell", "subsystem"} {
			if kind == "shell" && payload == "" {
				continue
			}
			if c.request(channel, kind, []byte(payload)) {
				t.Errorf("%s %q was granted", kind, payload)
			}
		}
	}
	if !c.request(channel, "exec", gossh.Marshal(struct{ C string }{"sleep 1000"})) {
		t.Error("a good request after the bad ones is refused")
	}
	if c.request(channel, "exec", gossh.Marshal(struct{ C string }{"true"})) {
		t.Error("a second command on one channel")
	}
	if _, _, status := run(t, other, "true"); status != 0 {
		t.Errorf("the other connection: %d", status)
	}
}

func TestSessionsOfAConnectionAreCounted(t *testing.T) {
	n := startNode(t)
	n.decideBy(access(t, func(s *policy.RoleSpec) { s.Options.MaxSessions = 2 }))
	c := n.mustDial(tester, n.cluster.certify(t, alice(), newSigner(t)))
	a, _ := newSession(t, c), newSession(t, c)
	if _, err := c.NewSession(); err == nil || !strings.Contains(err.Error(), "too many sessions") {
		t.Errorf("a third one: %v", err)
	}
	if e := n.recorded(event.SessionRejected); !strings.Contains(e.Message, "too many") {
		t.Errorf("%+v", e)
	}
	a.Close()
	eventually(t, "there is room again", func() bool {
		s, err := c.NewSession()
		if err == nil {
			s.Close()
		}
		return err == nil
	})

	// A channel that we closed and the client did not keeps its place.
	raw := dialRaw(t, n.address)
	signer := n.cluster.certify(t, alice(), newSigner(t))
	raw.sign(tester, signer.PublicKey(), signer)
	for id := range uint32(2) {
		channel, ok := raw.openSession(id)
		if !ok || !raw.request(channel, "exec", gossh.Marshal(struct{ C string }{"true"})) {
			t.Fatal("no session")
		}
		for raw.receive()[0] != 97 { // CHANNEL_CLOSE, not answered
		}
	}
	if _, ok := raw.openSession(2); ok {
		t.Error("a channel that is half closed is not counted")
	}
}

func TestAFloodOfChannelsEndsThatConnectionOnly(t *testing.T) {
	n, other := enterNode(t)
	signer := n.cluster.certify(t, alice(), newSigner(t))
	c := dialRaw(t, n.address)
	c.sign(tester, signer.PublicKey(), signer)
	c.conn.(*net.TCPConn).SetReadBuffer(1)
	var ended error
	for id := uint32(0); ended == nil && id < 200_000; id++ { // and never reads an answer
		ended = c.trySend(channelOpen("direct-tcpip", id))
	}
	if ended == nil || os.IsTimeout(ended) {
		t.Errorf("the flood was ended by %v", ended)
	}
	if _, _, status := run(t, other, "true"); status != 0 {
		t.Errorf("the other connection: %d", status)
	}
}

func TestAFloodOfRequestsIsSlowedDown(t *testing.T) {
	n, _ := enterNode(t, func(c *serverConfig) { c.limits.requestBurst, c.limits.requestsPerSecond = 20, 50 })
	c := n.mustDial(tester, n.cluster.certify(t, alice(), newSigner(t)))
	start := time.Now()
	for range 60 {
		if _, _, err := c.SendRequest("x", true, nil); err != nil {
			t.Fatal(err)
		}
	}
	if took := time.Since(start); took < 500*time.Millisecond {
		t.Errorf("60 requests in %s", took)
	}
}

func TestAFaultInOneConnectionEndsNoOther(t *testing.T) {
	var faulty sync.Map
	n, other := enterNode(t, func(c *serverConfig) {
		signers, now := c.hostSigners, c.now
		c.hostSigners = func() []gossh.Signer {
			if _, bad := faulty.LoadAndDelete("handshake"); bad {
				panic("a fault in the handshake")
			}
			return signers()
		}
		c.now = func() time.Time {
			if _, bad := faulty.LoadAndDelete("channel"); bad {
				panic("a fault in a channel")
			}
			return now()
		}
	})
	signer := n.cluster.certify(t, alice(), newSigner(t))
	faulty.Store("handshake", true)
	if _, err := n.dial(tester, signer); err == nil {
		t.Error("the handshake did not fail")
	}
	victim := n.mustDial(tester, signer)
	s := newSession(t, victim)
	var out syncBuffer
	s.Stdout = &out
	if _, err := s.StdinPipe(); err != nil { // open until the connection closes
		t.Fatal(err)
	}
	if err := s.Start("echo $$; exec cat"); err != nil {
		t.Fatal(err)
	}
	pid := pids(t, &out, 1)[0]
	faulty.Store("channel", true)
	s.Setenv("LANG", "C")
	eventually(t, "the faulty connection is closed", func() bool { _, _, err := victim.SendRequest("x", true, nil); return err != nil })
	eventually(t, "what ran there is gone", func() bool { return gone(pid) })
	if _, _, status := run(t, other, "true"); status != 0 {
		t.Errorf("the other connection: %d", status)
	}
	if n := strings.Count(n.log.String(), "the connection is closed"); n != 2 {
		t.Errorf("%d faults are in the log", n)
	}
}

func TestStrangersAreCounted(t *testing.T) {
	n := startNode(t, func(c *serverConfig) {
		c.limits.unauthenticated, c.limits.unauthenticatedPerAddress = 8, 3
	})
	signer := n.cluster.certify(t, alice(), newSigner(t))
	var in []*gossh.Client
	for range 5 { // who is admitted is not counted
		in = append(in, n.mustDial(tester, signer))
	}
	var waiting []net.Conn
	for range 3 {
		conn, err := net.Dial("tcp", n.address)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		waiting = append(waiting, conn)
	}
	eventually(t, "three wait", func() bool {
		n.guard.mu.Lock()
		defer n.guard.mu.Unlock()
		return n.guard.strangers == 3
	})
	if _, err := n.dial(tester, signer); err == nil {
		t.Error("a fourth from the same address was served")
	}
	for _, conn := range waiting {
		conn.Close()
	}
	eventually(t, "there is room again", func() bool { _, err := n.dial(tester, signer); return err == nil })
	for _, c := range in {
		if _, _, status := run(t, c, "true"); status != 0 {
			t.Error("somebody who was in is not any more")
		}
	}
}

func TestWhoIsNotInBeforeTheGraceIsOverIsSentAway(t *testing.T) {
	n := startNode(t, func(c *serverConfig) { c.limits.loginGrace = 5 * time.Second })
	in := n.mustDial(tester, n.cluster.certify(t, alice(), newSigner(t)))
	conn, err := net.Dial("tcp", n.address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetReadDeadline(time.Now().Add(15 * time.Second))
	// The node says its version and waits; in the end it closes.
	if _, err := io.Copy(io.Discard, conn); err != nil {
		t.Errorf("not closed: %v", err)
	}
	if _, _, status := run(t, in, "true"); status != 0 {
		t.Error("the grace ended somebody who was in")
	}
}

func TestOneNetworkIsOneStranger(t *testing.T) {
	l := defaultLimits()
	l.unauthenticated, l.unauthenticatedPerAddress, l.connections = 4, 2, 5
	g := newGuard(l)
	enter := func(a string) *pass { return g.enter(netip.MustParseAddr(a)) }
	p := enter("2001:db8::1")
	if p == nil || enter("2001:db8::2") == nil || enter("2001:db8::3") != nil {
		t.Error("a /64 is not one")
	}
	if enter("2001:db8:0:1::1") == nil || enter("192.0.2.1") == nil || enter("192.0.2.2") != nil {
		t.Error("the sum of all is not kept")
	}
	p.admit()
	p.admit()
	if enter("192.0.2.3") == nil {
		t.Error("who was admitted is still a stranger")
	}
	p.leave()
	p.leave()
	if g.all != 4 || g.strangers != 4 {
		t.Errorf("all %d, strangers %d", g.all, g.strangers)
	}
	if n := network(netip.MustParseAddr("::ffff:192.0.2.1")); n.String() != "192.0.2.1/32" {
		t.Error(n)
	}
}

func TestGuessingEnds(t *testing.T) {
	n := startNode(t, func(c *serverConfig) { c.limits.refusalsPerSecond = 0 })
	other := &testCluster{user: newSigner(t)}
	signer := other.certify(t, alice(), newSigner(t))
	c := dialRaw(t, n.address)
	tries := 0
	for ; tries < 20; tries++ {
		if c.sign(tester, signer.PublicKey(), signer) == disconnect {
			break
		}
	}
	if tries >= defaultLimits().authTries {
		t.Errorf("%d tries", tries)
	}
	// What strangers are refused fills no disk.
	for range 60 {
		c := dialRaw(t, n.address)
		c.sign(tester, signer.PublicKey(), signer)
		c.conn.Close()
	}
	if got := len(n.records()); got != n.limits.refusals {
		t.Errorf("%d records of strangers", got)
	}
}

func TestRefusalsOfOneUserFillNoDiskAndNoneIsForgotten(t *testing.T) {
	clock := stopped()
	n := startNode(t, func(c *serverConfig) { c.now, c.limits.refusals = clock.now, 5 })
	signer := n.cluster.certify(t, alice(), newSigner(t))
	c := n.mustDial(tester, signer)
	refuse := func(login string, times int) {
		t.Helper()
		for range times {
			if _, err := n.dial(login, signer); err == nil {
				t.Fatal("entered")
			}
		}
	}
	refuse("nobody-here", 12)
	if got := len(n.records()); got != 5 {
		t.Errorf("%d records of 12 refusals", got)
	}
	// Another user's are recorded, and what is accepted always.
	bob := alice()
	bob.User = "bob"
	if _, err := n.dial("nobody-here", n.cluster.certify(t, bob, newSigner(t))); err == nil {
		t.Fatal("entered")
	}
	run(t, c, "true")
	if e := n.recorded(event.Exec); e.User != "alice" {
		t.Errorf("%+v", e)
	}
	clock.forward(time.Minute)
	refuse("nobody-here", 1)
	var last event.Event
	ofBob := 0
	for _, e := range n.records() {
		if e.Type == event.SessionRejected && e.User == "alice" {
			last = e
		} else if e.User == "bob" {
			ofBob++
		}
	}
	if ofBob != 1 || !slices.Contains(last.Reasons, leftOut(7)) {
		t.Errorf("%d of bob; the last of alice is %+v", ofBob, last)
	}
}

func TestTheTableOfWhoIsRefusedIsBounded(t *testing.T) {
	l := defaultLimits()
	l.refusals, l.refusalsPerSecond, l.refusedUsers = 1, 1, 3
	r := newRefusals(l)
	now := time.Unix(1e9, 0)
	for i := range 10 {
		r.take(fmt.Sprint(i), now)
	}
	if len(r.users) > l.refusedUsers+1 {
		t.Errorf("%d users", len(r.users))
	}
	if left, ok := r.take("another", now.Add(time.Minute)); !ok || left != 0 || len(r.users) > l.refusedUsers {
		t.Errorf("after a minute %v, %d left out; %d users", ok, left, len(r.users))
	}
	// Six users shared the strangers' place and its one record.
	left, ok := r.take("", now.Add(time.Minute))
	if !ok || left != 6 {
		t.Errorf("%v, %d left out", ok, left)
	}
	r.giveBack("", left, now)
	if left, ok := r.take("", now.Add(2*time.Minute)); !ok || left != 7 {
		t.Errorf("after one that was not written %v, %d left out", ok, left)
	}
}

func TestNewConnectionsAreDroppedTheMoreTheFullerItIs(t *testing.T) {
	l := limits{dropFrom: 10, dropRate: 30, unauthenticated: 60}
	for strangers, want := range map[int]int{0: 0, 9: 0, 10: 30, 35: 65, 59: 98, 60: 100, 61: 100} {
		if got := l.dropPercent(strangers); got != want {
			t.Errorf("with %d: %d of 100 are dropped, want %d", strangers, got, want)
		}
	}
	// And that is how many are.
	l.connections, l.unauthenticatedPerAddress = 1000, 1000
	g := newGuard(l)
	g.strangers = 35
	const attempts = 20_000
	got := 0
	for range attempts {
		if p := g.enter(netip.MustParseAddr("192.0.2.1")); p != nil {
			p.leave()
		} else {
			got++
		}
	}
	// Six standard deviations are 2 of 100.
	if percent := 100 * got / attempts; percent < 63 || percent > 67 {
		t.Errorf("%d of 100 were dropped, want 65", percent)
	}
	if _, _, dropped := g.count(); dropped != uint64(got) {
		t.Errorf("%d are counted, %d were dropped", dropped, got)
	}
}

func TestWhoIsDroppedIsToldInSSHsWords(t *testing.T) {
	n := startNode(t, func(c *serverConfig) { c.limits.unauthenticated = 0 })
	conn, err := net.Dial("tcp", n.address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetReadDeadline(time.Now().Add(15 * time.Second))
	if said, err := io.ReadAll(conn); string(said) != "Exceeded MaxStartups\r\n" || err != nil {
		t.Errorf("%q, %v", said, err)
	}
}

func TestTCPKeepaliveIsAsConfigured(t *testing.T) {
	for _, off := range []bool{false, true} {
		n := startNode(t, func(c *serverConfig) { c.noTCPKeepAlive = off })
		n.mustDial(tester, n.cluster.certify(t, alice(), newSigner(t)))
		n.mu.Lock()
		for c := range n.all {
			raw, err := c.net.Conn.(*net.TCPConn).SyscallConn()
			if err != nil {
				t.Fatal(err)
			}
			raw.Control(func(fd uintptr) {
				on, err := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_KEEPALIVE)
				if err != nil || (on == 0) != off {
					t.Errorf("off %v: the socket's is %d, %v", off, on, err)
				}
			})
		}
		n.mu.Unlock()
	}
}

func TestAConnectionEndsWhenItHasLastedLongEnough(t *testing.T) {
	clock := stopped()
	n := startNode(t, func(c *serverConfig) {
		c.now, c.limits.connectionTime, c.limits.recheck = clock.now, time.Minute, 20*time.Millisecond
	})
	c := n.mustDial(tester, n.cluster.certify(t, alice(), newSigner(t)))
	s := newSession(t, c)
	var errs syncBuffer
	s.Stderr = &errs
	if err := s.Start("exec sleep 1000"); err != nil {
		t.Fatal(err)
	}
	clock.forward(59 * time.Second)
	if _, _, status := run(t, c, "true"); status != 0 {
		t.Error("it ended before its time")
	}
	clock.forward(time.Second)
	eventually(t, "it ends", n.empty)
	if !strings.Contains(errs.String(), "this node ends connections after 1m0s") {
		t.Errorf("the session was told %q", errs.String())
	}
	eventually(t, "its end is on record", func() bool {
		for _, e := range n.records() {
			if e.Type == event.SessionEnd && strings.Contains(e.Message, "ends connections") {
				return true
			}
		}
		return false
	})
}
