package forward

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
)

func TestAHalfClosedConnectionStillGetsItsAnswer(t *testing.T) {
	n := newNode(t)
	f := n.forwarder(Listening{})
	to, port := answering(t), freePort(t)
	path := filepath.Join(t.TempDir(), "s")
	n.starts(f, ParseLocal, port+":"+to)
	n.starts(f, ParseLocal, path+":"+to)
	for network, address := range map[string]string{"tcp": "127.0.0.1:" + port, "unix": path} {
		conn, err := net.Dial(network, address)
		if err != nil {
			t.Fatal(err)
		}
		big := strings.Repeat("x", 1<<20)
		if got := asks(t, conn.(socket), big); got != "got "+big {
			t.Errorf("%s: %d bytes", network, len(got))
		}
	}
	poll(t, func() bool { return f.Open() == 0 }, "connections are left")
	f.Wait(t.Context())
}

func TestWhatConnectsOnTheNodeIsBroughtToWhereItWasAskedFor(t *testing.T) {
	n := newNode(t)
	f := n.forwarder(Listening{})
	to := answering(t)
	if port := n.starts(f, ParseRemote, "0:"+to); port != 4242 {
		t.Fatalf("port %d", port)
	}
	n.starts(f, ParseRemote, "/on/the/node:"+to)
	n.starts(f, ParseRemote, "*:99:"+to)
	for _, tt := range []struct {
		kind    string
		payload any
	}{
		{forwardedPort, portOpening("localhost", 4242)},
		{forwardedPort, portOpening("", 99)},
		{forwardedSocket, socketOpening("/on/the/node")},
	} {
		channel, requests, err := n.conn.OpenChannel(tt.kind, ssh.Marshal(tt.payload))
		if err != nil {
			t.Fatal(err)
		}
		go ssh.DiscardRequests(requests)
		if got := asks(t, channel, "hello"); got != "got hello" {
			t.Errorf("%+v: %q", tt.payload, got)
		}
	}
}

type opening struct {
	Host   string
	Port   uint32
	Origin string
	From   uint32
}

func portOpening(host string, port uint32) opening { return opening{host, port, "192.0.2.1", 1} }

func socketOpening(path string) any { return struct{ Path, Reserved string }{path, ""} }

func TestAChannelThatNobodyAskedForIsRefused(t *testing.T) {
	n := newNode(t)
	f := n.forwarder(Listening{})
	refused := func(kind string, payload []byte) {
		t.Helper()
		channel, _, err := n.conn.OpenChannel(kind, payload)
		if err == nil {
			channel.Close()
			t.Errorf("%s %q was accepted", kind, payload)
		}
	}
	openings := map[string][]byte{
		forwardedPort: ssh.Marshal(portOpening("localhost", 80)), forwardedSocket: ssh.Marshal(socketOpening("/s")), agentChannel: nil,
		"session": nil, "x11": ssh.Marshal(struct {
			Host string
			Port uint32
		}{"h", 1}), "direct-tcpip": ssh.Marshal(portOpening("localhost", 22)), "tun@openssh.com": {0, 0, 0, 1},
	}
	for kind, payload := range openings { // before anything is asked for
		refused(kind, payload)
	}
	n.starts(f, ParseRemote, "127.0.0.1:8080:"+answering(t))
	n.starts(f, ParseRemote, "/asked:127.0.0.1:1")
	for _, other := range []opening{
		portOpening("127.0.0.1", 8081), portOpening("localhost", 8080), portOpening("", 8080), portOpening("127.0.0.1\x00", 8080),
		portOpening("127.0.0.1", 8080+1<<16), portOpening(strings.Repeat("x", 20000), 8080), {},
	} {
		refused(forwardedPort, ssh.Marshal(other))
	}
	for _, payload := range [][]byte{nil, {1}, {0xff, 0xff, 0xff, 0xfc}, {0, 0, 0, 1, 'x'}} {
		refused(forwardedPort, payload)
		refused(forwardedSocket, payload)
	}
	refused(forwardedSocket, ssh.Marshal(socketOpening("/other")))
	refused(forwardedSocket, ssh.Marshal(socketOpening("")))
	refused(agentChannel, nil)
}

// A node that answers a request only after it has opened channels is waited for
// by them, and not the other way round.
func TestANodeCannotCrowdOutItsOwnAnswer(t *testing.T) {
	n := newNode(t)
	f := n.forwarder(Listening{})
	to := answering(t)
	failed := make(chan error, 4*maxConnections)
	n.asked = func(r *ssh.Request) {
		go func() {
			for range cap(failed) {
				go func() {
					channel, requests, err := n.conn.OpenChannel(forwardedPort, ssh.Marshal(portOpening("localhost", 4242)))
					if err == nil {
						go ssh.DiscardRequests(requests)
						channel.Close()
					}
					failed <- err
				}()
			}
		}()
		poll(t, func() bool { return len(failed) >= 3*maxConnections }, "those that are too many are not refused")
		_ = r.Reply(true, ssh.Marshal(struct{ Port uint32 }{4242}))
	}
	n.starts(f, ParseRemote, "0:"+to)
	tooMany := 0
	for range cap(failed) {
		err := <-failed
		if open, ok := errors.AsType[*ssh.OpenChannelError](err); ok && open.Reason == ssh.ResourceShortage {
			tooMany++
		}
	}
	if tooMany < 3*maxConnections {
		t.Errorf("%d were refused for being too many", tooMany)
	}
}

func TestAPortThatIsNoneIsNotBelieved(t *testing.T) {
	for _, reply := range [][]byte{nil, {0, 0}, {0, 0, 0, 0}, {0, 1, 0, 0}, {0xff, 0xff, 0xff, 0xff}, {0, 0, 0, 1, 0}} {
		n := newNode(t)
		n.asked = func(r *ssh.Request) { _ = r.Reply(true, reply) }
		s, _ := ParseRemote("0:localhost:1")
		if port, err := n.forwarder(Listening{}).Start(t.Context(), s); err == nil {
			t.Errorf("%v is port %d", reply, port)
		}
	}
}

func TestANodeThatDoesNotSayWhetherItListensHoldsNobody(t *testing.T) {
	n := newNode(t)
	asked := make(chan struct{})
	n.asked = func(*ssh.Request) { close(asked) }
	s, _ := ParseRemote("8080:localhost:1")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended := make(chan error, 1)
	go func() {
		_, err := n.forwarder(Listening{}).Start(ctx, s)
		ended <- err
	}()
	<-asked
	cancel()
	select {
	case err := <-ended:
		if !errors.Is(err, context.Canceled) {
			t.Errorf("error %v", err)
		}
	case <-time.After(20 * time.Second):
		t.Error("it is waited for")
	}
}

func TestAReasonIsToldOnceAndReasonsAreBounded(t *testing.T) {
	n := newNode(t)
	f := n.forwarder(Listening{})
	count := 0
	n.opened = func(c ssh.NewChannel) {
		reason, text := ssh.Prohibited, "not\x1b[2J allowed\r\nat \u202eall"
		if count++; count > 3 {
			reason, text = ssh.ConnectionFailed, fmt.Sprintf("%d %s", count, strings.Repeat("x", 20000))
		}
		_ = c.Reject(reason, text)
	}
	port := freePort(t)
	n.starts(f, ParseLocal, port+":localhost:1")
	for range 4 * maxSaid {
		conn, err := net.Dial("tcp", "127.0.0.1:"+port)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.ReadAll(conn)
		conn.Close()
	}
	told := n.told()
	if len(told) != maxSaid+1 {
		t.Errorf("%d lines", len(told))
	}
	if want := "forwarding failed: administratively prohibited: not [2J allowed at all"; told[0] != want {
		t.Errorf("got %q, want %q", told[0], want)
	}
	for _, line := range told {
		if len(line) > 2*maxReason || strings.Count(strings.Join(told, "\n"), line) > 1 {
			t.Errorf("told %q", line)
		}
	}
}

func TestListenersAreOnTheLoopbackUnlessItIsSaid(t *testing.T) {
	for _, tt := range []struct {
		host       string
		everywhere bool
		loopback   bool
	}{{"", false, true}, {"localhost", true, true}, {"127.0.0.1", true, true}, {"", true, false}, {"*", false, false}} {
		listeners, err := Listening{Everywhere: tt.everywhere}.listen(t.Context(), Address{Host: tt.host})
		if err != nil {
			t.Fatal(err)
		}
		for _, l := range listeners {
			if got := l.Addr().(*net.TCPAddr).IP.IsLoopback(); got != tt.loopback {
				t.Errorf("%+v: at %s", tt, l.Addr())
			}
			l.Close()
		}
	}
}

func TestALoopbackThatSomebodyElseHasIsNotDoneWithout(t *testing.T) {
	l, err := net.Listen("tcp", "[::1]:0")
	if err != nil {
		t.Skip("no IPv6 here:", err)
	}
	defer l.Close()
	got, err := Listening{}.listen(t.Context(), Address{Port: uint16(l.Addr().(*net.TCPAddr).Port)})
	if !errors.Is(err, syscall.EADDRINUSE) || len(got) > 0 {
		t.Errorf("%d listeners, %v", len(got), err)
	}
}

func TestASocketIsItsOwnersAndOnlyOursIsRemoved(t *testing.T) {
	n := newNode(t)
	path := filepath.Join(t.TempDir(), "s")
	f := n.forwarder(Listening{})
	n.starts(f, ParseLocal, path+":localhost:1")
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	s, _ := ParseLocal(path + ":localhost:1")
	if _, err := n.forwarder(Listening{}).Start(t.Context(), s); err == nil {
		t.Error("a socket was taken that another one has")
	}
	// Somebody puts another one there.
	if err := os.Rename(path, path+".old"); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	f.Close()
	if _, err := os.Stat(path); err != nil {
		t.Errorf("what is not ours was removed: %v", err)
	}
	if _, err := (Listening{Unlink: true}).listen(t.Context(), s.Listen); err == nil {
		t.Error("a file was replaced")
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	ls, err := Listening{Unlink: true}.listen(t.Context(), Address{Path: path + ".old"})
	if err != nil {
		t.Fatal(err)
	}
	ls[0].Close()
	if _, err := os.Stat(path + ".old"); err == nil {
		t.Error("ours was left")
	}
}

func TestListenersAreBounded(t *testing.T) {
	n := newNode(t)
	f := n.forwarder(Listening{})
	dir := t.TempDir()
	n.starts(f, ParseLocal, freePort(t)+":localhost:1") // one, though on each loopback
	for i := range maxListeners - 1 {
		n.starts(f, ParseLocal, fmt.Sprintf("%s/%d:localhost:1", dir, i))
	}
	for _, parse := range []func(string) (Spec, error){ParseLocal, ParseRemote} {
		s, _ := parse("/one/more:localhost:1")
		if _, err := f.Start(t.Context(), s); err == nil || !strings.Contains(err.Error(), "listeners at once") {
			t.Errorf("error %v", err)
		}
	}
}

func TestASOCKSClientGetsWhereItWants(t *testing.T) {
	n := newNode(t)
	f := n.forwarder(Listening{})
	to := answering(t)
	port := binary.BigEndian.AppendUint16(nil, uint16(mustPort(t, to)))
	path := filepath.Join(t.TempDir(), "s")
	n.starts(f, ParseDynamic, path)
	n.starts(f, ParseRemote, "4242")
	for name, tt := range map[string]struct{ sends, wants string }{
		"4":         {"\x04\x01" + string(port) + "\x7f\x00\x00\x01me\x00", "\x00\x5a\x00\x00\x00\x00\x00\x00"},
		"4A":        {"\x04\x01" + string(port) + "\x00\x00\x00\x01\x00localhost\x00", "\x00\x5a\x00\x00\x00\x00\x00\x00"},
		"5":         {"\x05\x02\x02\x00\x05\x01\x00\x01\x7f\x00\x00\x01" + string(port), "\x05\x00\x05\x00\x00\x01\x00\x00\x00\x00\x00\x00"},
		"5, a name": {"\x05\x01\x00\x05\x01\x00\x03\x09localhost" + string(port), "\x05\x00\x05\x00\x00\x01\x00\x00\x00\x00\x00\x00"},
	} {
		conn, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		if got := asks(t, conn.(socket), tt.sends+"hello"); got != tt.wants+"got hello" {
			t.Errorf("%s: %q", name, got)
		}
		// And the other way round.
		channel, requests, err := n.conn.OpenChannel(forwardedPort, ssh.Marshal(portOpening("localhost", 4242)))
		if err != nil {
			t.Fatal(err)
		}
		go ssh.DiscardRequests(requests)
		if got := asks(t, channel, tt.sends+"hello"); got != tt.wants+"got hello" {
			t.Errorf("%s from the node: %q", name, got)
		}
	}
}

func mustPort(t *testing.T, address string) int {
	t.Helper()
	a, err := net.ResolveTCPAddr("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	return a.Port
}

func TestWhenTheConnectionEndsNothingIsLeft(t *testing.T) {
	n := newNode(t)
	f := n.forwarder(Listening{})
	to := answering(t)
	n.starts(f, ParseRemote, "0:"+to)
	port := freePort(t)
	n.starts(f, ParseLocal, port+":"+to)
	conn, err := net.Dial("tcp", "127.0.0.1:"+port)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	poll(t, func() bool { return f.Open() == 1 }, "nothing is forwarded")
	n.conn.Close()
	if _, err := io.ReadAll(conn); err != nil && !errors.Is(err, syscall.ECONNRESET) {
		t.Error(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	f.Wait(ctx)
	if ctx.Err() != nil {
		t.Error("a connection is left")
	}
}

func TestAFaultInOneConnectionIsToldAndEndsNothingElse(t *testing.T) {
	n := newNode(t)
	f := n.forwarder(Listening{})
	if err := f.Agent(func(context.Context) (net.Conn, error) { panic("trouble") }); err != nil {
		t.Fatal(err)
	}
	go func() { _, _, _ = n.conn.OpenChannel(agentChannel, nil) }() // nobody answers it
	poll(t, func() bool { return len(n.told()) == 1 }, "nothing is told")
	if told := n.told()[0]; told != "internal error: trouble" {
		t.Errorf("told %q", told)
	}
}
