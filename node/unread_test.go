package node

import (
	"bytes"
	"net"
	"runtime"
	"testing"

	gossh "golang.org/x/crypto/ssh"
)

// atOnce holds back what is written until it is sent.
type atOnce struct {
	net.Conn
	held bytes.Buffer
}

func (a *atOnce) Write(b []byte) (int, error) { return a.held.Write(b) }

// floodAfter sends a message that ends the connection and, in the same
// segment, more than the node's reader has room for.
func floodAfter(t *testing.T, c *rawClient, bad []byte) {
	t.Helper()
	a := &atOnce{Conn: c.conn}
	c.Conn = a
	for range 80 {
		c.send(bad)
	}
	if _, err := c.conn.Write(a.held.Bytes()); err != nil {
		t.Fatal(err)
	}
	c.conn.Close()
}

func TestNoGoroutineWaitsForAConnectionThatGaveUp(t *testing.T) {
	n := startNode(t)
	signer := n.cluster.certify(t, alice(), newSigner(t))
	run(t, n.mustDial(tester, signer), "true") // which starts what stays
	before := runtime.NumGoroutine()
	for range 20 {
		// Instead of a request for the service that authenticates.
		c := dialEarly(t, n.address)
		floodAfter(t, c, []byte{5, 0, 0, 0, 1, 'x'})
		// While authenticating.
		c = dialRaw(t, n.address)
		floodAfter(t, c, []byte{50})
		// Admitted.
		c = dialRaw(t, n.address)
		if got := c.sign(tester, signer.PublicKey(), signer); got != authSuccess {
			t.Fatal(got)
		}
		floodAfter(t, c, []byte{90})
	}
	eventually(t, "all other connections are gone", func() bool { return len(n.connections()) == 1 })
	eventually(t, "goroutines are as many as before", func() bool { return runtime.NumGoroutine() <= before })
}

func TestAClientThatSaysMuchBeforeItIsAnsweredOnlyWaits(t *testing.T) {
	n := startNode(t)
	c := dialEarly(t, n.address)
	a := &atOnce{Conn: c.conn}
	c.Conn = a
	for range 3 { // EXT_INFO is no obstacle, and IGNORE neither
		c.send(append([]byte{2, 0, 0, 2, 0}, make([]byte, 512)...))
	}
	c.send(gossh.Marshal(struct {
		S string `sshtype:"5"`
	}{"ssh-userauth"}))
	if _, err := c.conn.Write(a.held.Bytes()); err != nil {
		t.Fatal(err)
	}
	if m := c.receive(); m[0] != 6 {
		t.Errorf("message %d and not SERVICE_ACCEPT", m[0])
	}
}

func TestAnXCryptoThatHasChangedIsNoticed(t *testing.T) {
	type transport struct{ incoming chan int } //nolint:unused // found by its name
	for _, conn := range []gossh.ServerPreAuthConn{
		&struct{ gossh.ServerPreAuthConn }{},
		&struct {
			gossh.ServerPreAuthConn
			transport *transport
		}{transport: &transport{}},
	} {
		if u, err := unreadOf(conn); err == nil || u != nil {
			t.Errorf("%T: %v, %v", conn, u, err)
		}
	}
}
