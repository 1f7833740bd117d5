package node

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	gossh "golang.org/x/crypto/ssh"

	"devicetrust/node/nodetest"
	"devicetrust/policy"
)

// wireStage is how far a client of the fuzzer behaves well.
type wireStage byte

const (
	wireNothing   wireStage = iota // the bytes are all that is sent
	wireVersion                    // after the version line, packets in the clear
	wireKeys                       // after the exchange of keys, sealed packets
	wireAdmitted                   // after authentication
	wireSession                    // with a session on channel 0 whose program runs
	wireOneByOne                   // as wireSession, with each packet awaited
	lastWireStage = wireOneByOne
)

// wirePatience is how long anything may take: less, together, than the 10 s
// after which go test ends a fuzzer that hangs and does not say where.
const wirePatience = 2500 * time.Millisecond

// Bounds of one input: what a node is asked more often than requestBurst, it
// answers slowly, and on purpose.
const (
	maxWireInput   = 32 << 10
	maxWirePackets = 100
	// wireRaw marks what is written as it is, without a packet around it.
	wireRaw = 0x8000
)

// wireInput writes down what a client does: the stage, then packets, each
// after its length in two bytes.
func wireInput(stage wireStage, packets ...[]byte) []byte {
	b := []byte{byte(stage)}
	if stage == wireNothing {
		return append(b, bytes.Join(packets, nil)...)
	}
	for _, p := range packets {
		b = append(binary.BigEndian.AppendUint16(b, uint16(len(p))), p...)
	}
	return b
}

// wireBytes is a packet for wireInput that is written as it is.
func rawWireInput(stage wireStage, p []byte) []byte {
	return append(binary.BigEndian.AppendUint16([]byte{byte(stage)}, wireRaw|uint16(len(p))), p...)
}

// wirePacket is one of an input: a payload, or bytes that are no packet.
type wirePacket struct {
	raw   bool
	bytes []byte
}

func readWireInput(input []byte) (wireStage, []wirePacket) {
	if len(input) == 0 || len(input) > maxWireInput {
		return wireNothing, nil
	}
	stage, rest := wireStage(input[0]%byte(lastWireStage+1)), input[1:]
	if stage == wireNothing {
		return stage, []wirePacket{{raw: true, bytes: rest}}
	}
	var packets []wirePacket
	for len(rest) >= 2 && len(packets) < maxWirePackets {
		n := binary.BigEndian.Uint16(rest)
		size := min(int(n&^wireRaw), len(rest)-2)
		packets = append(packets, wirePacket{raw: n&wireRaw != 0, bytes: rest[2 : 2+size]})
		rest = rest[2+size:]
	}
	return stage, packets
}

// faultFinder is a log that keeps nothing but faults.
type faultFinder struct{ found atomic.Pointer[string] }

func (f *faultFinder) Write(line []byte) (int, error) {
	if bytes.Contains(line, []byte("fault; ")) {
		text := string(line)
		f.found.CompareAndSwap(nil, &text)
	}
	return len(line), nil
}

// wireNode is a node with one person's session, which no other client may
// disturb.
type wireNode struct {
	*testNode
	signer     gossh.Signer
	faults     *faultFinder
	in         io.Writer
	out        io.Reader
	goroutines int
}

// startWireNode: what is run there is cat(1), whatever a client asks for, as
// nobody.
func startWireNode(t testing.TB) *wireNode {
	t.Helper()
	w := &wireNode{faults: &faultFinder{}}
	uid, gid := os.Geteuid(), os.Getegid()
	if uid == 0 {
		uid, gid = 65534, 65534
	}
	passwd := fmt.Sprintf("%s:x:%d:%d::/:/bin/cat\n", tester, uid, gid)
	w.testNode = startNode(t, func(c *serverConfig) {
		c.accounts = testAccounts(t, passwd, "", "")
		c.log = slog.New(slog.NewTextHandler(w.faults, &slog.HandlerOptions{Level: slog.LevelDebug}))
	})
	yes := true
	w.decideBy(access(t, func(s *policy.RoleSpec) {
		s.Options.PortForwarding, s.Options.ForwardAgent, s.Options.PermitX11Forwarding = &yes, &yes, &yes
	}))
	// What is recorded arrives, or the spool would be full in the end.
	ctx, stop := context.WithCancel(t.Context())
	shipped := make(chan struct{})
	go func() {
		defer close(shipped)
		w.spool.ship(ctx, func(context.Context, [][]byte) error { return nil })
	}()
	t.Cleanup(func() { stop(); <-shipped })

	id := alice()
	id.Permit.PortForwarding, id.Permit.AgentForwarding, id.Permit.X11Forwarding = true, true, true
	w.signer = w.cluster.certify(t, id, newSigner(t))
	s, err := w.mustDial(tester, w.signer).NewSession()
	if err != nil {
		t.Fatal(err)
	}
	if w.in, err = s.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	if w.out, err = s.StdoutPipe(); err != nil {
		t.Fatal(err)
	}
	if err := s.Shell(); err != nil {
		t.Fatal(err)
	}
	w.echo(t)
	// The fuzzer's own come and go.
	const fuzzers = 4
	w.goroutines = runtime.NumGoroutine() + fuzzers
	return w
}

// echo: the other person's session still answers.
func (w *wireNode) echo(t testing.TB) {
	t.Helper()
	const line = "still here\n"
	answered := make(chan error, 1)
	go func() {
		got := make([]byte, len(line))
		_, err := io.WriteString(w.in, line)
		if err == nil {
			_, err = io.ReadFull(w.out, got)
		}
		if err == nil && string(got) != line {
			err = fmt.Errorf("it was %q", got)
		}
		answered <- err
	}()
	select {
	case err := <-answered:
		if err != nil {
			t.Fatalf("another person's session: %v", err)
		}
	case <-time.After(wirePatience):
		t.Fatal("another person's session does not answer")
	}
}

// unharmed: nothing of what a client did is left, and nobody noticed.
func (w *wireNode) unharmed(t testing.TB) {
	t.Helper()
	w.echo(t)
	w.soon(t, "connections", func() int { return len(w.connections()) }, 1)
	w.soon(t, "goroutines", runtime.NumGoroutine, w.goroutines)
	if fault := w.faults.found.Swap(nil); fault != nil {
		t.Fatal(*fault)
	}
}

// soon there are no more of what than before.
func (w *wireNode) soon(t testing.TB, what string, count func() int, before int) {
	t.Helper()
	for deadline := time.Now().Add(wirePatience); count() > before; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			stacks := make([]byte, 1<<20)
			t.Fatalf("%d %s, and %d before:\n%s", count(), what, before, stacks[:runtime.Stack(stacks, true)])
		}
	}
}

// play does what input says, and stays until the node has left.
func (w *wireNode) play(t *testing.T, input []byte) {
	stage, packets := readWireInput(input)
	c := w.reach(t, stage)
	defer c.conn.Close()
	gone := make(chan struct{})
	answers := make(chan struct{}, 1)
	go func() {
		defer close(gone)
		for {
			if stage == wireOneByOne {
				if _, err := c.tryReceive(); err != nil {
					return
				}
				select {
				case answers <- struct{}{}:
				default:
				}
				continue
			}
			_, _ = io.Copy(io.Discard, c.In)
			return
		}
	}()
	for _, p := range packets {
		var err error
		if p.raw {
			_, err = c.conn.Write(p.bytes)
		} else {
			err = c.trySend(p.bytes)
		}
		if err != nil {
			break // it has left us
		}
		if stage == wireOneByOne {
			select { // some have no answer
			case <-answers:
			case <-gone:
			case <-time.After(2 * time.Millisecond):
			}
		}
	}
	_ = c.conn.(*net.TCPConn).CloseWrite() // where it fails the node has left
	select {
	case <-gone:
	case <-time.After(wirePatience):
		t.Fatal("the node does not leave who has left")
	}
}

// reach takes a client to the stage.
func (w *wireNode) reach(t *testing.T, stage wireStage) *rawClient {
	t.Helper()
	if stage < wireKeys {
		conn, err := net.Dial("tcp", w.address)
		if err != nil {
			t.Fatal(err)
		}
		if stage == wireVersion {
			fmt.Fprintf(conn, "SSH-2.0-raw\r\n")
		}
		return &rawClient{nodetest.NewClient(t, conn), conn}
	}
	c := dialRaw(t, w.address)
	if stage == wireKeys {
		return c
	}
	if got := c.sign(tester, w.signer.PublicKey(), w.signer); got != authSuccess {
		t.Fatalf("authentication was answered with %d", got)
	}
	if stage == wireAdmitted {
		return c
	}
	if channel, ok := c.openSession(0); !ok || channel != 0 || !c.request(channel, "shell", nil) {
		t.Fatal("no session")
	}
	return c
}
