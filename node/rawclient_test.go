package node

import (
	"net"
	"testing"

	gossh "golang.org/x/crypto/ssh"

	"devicetrust/node/nodetest"
)

// rawClient is nodetest's, in the words of the tests here.
type rawClient struct {
	*nodetest.Client
	conn net.Conn
}

func dialRaw(t *testing.T, address string) *rawClient {
	t.Helper()
	c := nodetest.Dial(t, address)
	return &rawClient{c, c.Conn}
}

// dialEarly has keys and has asked for nothing.
func dialEarly(t *testing.T, address string) *rawClient {
	t.Helper()
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	c := nodetest.NewClient(t, conn)
	c.Exchange()
	return &rawClient{c, conn}
}

const (
	authFailure = nodetest.AuthFailure
	authSuccess = nodetest.AuthSuccess
	authKeyOK   = nodetest.AuthKeyOK
	disconnect  = nodetest.Disconnect
)

type userauth = nodetest.UserAuth

func (c *rawClient) trySend(p []byte) error                        { return c.TrySend(p) }
func (c *rawClient) send(p []byte)                                 { c.Send(p) }
func (c *rawClient) tryReceive() ([]byte, error)                   { return c.TryReceive() }
func (c *rawClient) receive() []byte                               { return c.Receive() }
func (c *rawClient) none(user string) byte                         { return c.None(user) }
func (c *rawClient) query(user string, key gossh.PublicKey) byte   { return c.Query(user, key) }
func (c *rawClient) openSession(id uint32) (uint32, bool)          { return c.OpenSession(id) }
func (c *rawClient) request(on uint32, kind string, p []byte) bool { return c.Request(on, kind, p) }
func channelOpen(kind string, id uint32) []byte                    { return nodetest.ChannelOpen(kind, id) }
func channelRequest(on uint32, kind string, p []byte) []byte {
	return nodetest.ChannelRequest(on, kind, p)
}
func (c *rawClient) sign(user string, key gossh.PublicKey, signer gossh.Signer) byte {
	return c.Sign(user, key, signer)
}
