// Package nodetest is for tests of the SSH server: a client that says what no
// well-behaved one would.
package nodetest

import (
	"bufio"
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdh"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"
	"math/big"
	"net"
	"strings"
	"testing"
	"time"

	gossh "golang.org/x/crypto/ssh"
)

// Client speaks SSH (RFC 4253) far enough to say what a well-behaved
// client library would not: other users in later requests, keys that are only
// queried, malformed requests, floods.
type Client struct {
	t       *testing.T
	Conn    net.Conn
	In      *bufio.Reader
	session []byte // session identifier
	seal    *gcm
	open    *gcm
	// Banners are what was shown with the answers to authentication.
	Banners []string
}

type gcm struct {
	aead cipher.AEAD
	iv   []byte
}

func (c *Client) newGCM(key, iv []byte) *gcm {
	block, err := aes.NewCipher(key)
	c.fatal(err)
	aead, err := cipher.NewGCM(block)
	c.fatal(err)
	return &gcm{aead, iv}
}

func (g *gcm) next() []byte {
	iv := append([]byte(nil), g.iv...)
	binary.BigEndian.PutUint64(g.iv[4:], binary.BigEndian.Uint64(g.iv[4:])+1)
	return iv
}

// Dial connects and exchanges keys, up to where authentication begins.
func Dial(t *testing.T, address string) *Client {
	t.Helper()
	conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	c := NewClient(t, conn)
	c.Exchange()
	c.Send(gossh.Marshal(struct {
		S string `sshtype:"5"`
	}{"ssh-userauth"}))
	if m := c.Receive(); m[0] != 6 {
		t.Fatalf("message %d and not SERVICE_ACCEPT", m[0])
	}
	return c
}

// NewClient is a client on conn that has said nothing yet.
func NewClient(t *testing.T, conn net.Conn) *Client {
	t.Cleanup(func() { conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return &Client{t: t, Conn: conn, In: bufio.NewReader(conn)}
}

func (c *Client) fatal(err error) {
	c.t.Helper()
	if err != nil {
		c.t.Fatal(err)
	}
}

// KexInit is RFC 4253 section 7.1.
type KexInit struct {
	Cookie                                                         [16]byte `sshtype:"20"`
	Kex, HostKey, CipherCS, CipherSC, MACCS, MACSC, CompCS, CompSC []string
	LangCS, LangSC                                                 []string
	Follows                                                        bool
	Reserved                                                       uint32
}

// Exchange exchanges versions and keys.
func (c *Client) Exchange() {
	c.t.Helper()
	const version = "SSH-2.0-raw"
	fmt.Fprintf(c.Conn, "%s\r\n", version)
	line, err := c.In.ReadString('\n')
	c.fatal(err)
	server := strings.TrimRight(line, "\r\n")

	ciphers := []string{"aes128-gcm@openssh.com"}
	mine := gossh.Marshal(KexInit{
		Kex: []string{"curve25519-sha256"}, HostKey: []string{"ssh-ed25519"},
		CipherCS: ciphers, CipherSC: ciphers, MACCS: []string{"hmac-sha2-256-etm@openssh.com"}, MACSC: []string{"hmac-sha2-256-etm@openssh.com"},
		CompCS: []string{"none"}, CompSC: []string{"none"},
	})
	c.Send(mine)
	theirs := c.Receive()

	key, err := ecdh.X25519().GenerateKey(rand.Reader)
	c.fatal(err)
	c.Send(gossh.Marshal(struct {
		Q []byte `sshtype:"30"`
	}{key.PublicKey().Bytes()}))
	var r struct {
		Host      []byte `sshtype:"31"`
		Q         []byte
		Signature []byte
	}
	c.fatal(gossh.Unmarshal(c.Receive(), &r))
	peer, err := ecdh.X25519().NewPublicKey(r.Q)
	c.fatal(err)
	secret, err := key.ECDH(peer)
	c.fatal(err)
	k := gossh.Marshal(struct{ K *big.Int }{new(big.Int).SetBytes(secret)})
	h := sha256.New()
	for _, part := range [][]byte{[]byte(version), []byte(server), mine, theirs, r.Host, key.PublicKey().Bytes(), r.Q} {
		h.Write(gossh.Marshal(struct{ B []byte }{part}))
	}
	h.Write(k)
	c.session = h.Sum(nil)
	derive := func(letter byte, n int) []byte {
		h := sha256.New()
		h.Write(k)
		h.Write(c.session)
		h.Write([]byte{letter})
		h.Write(c.session)
		return h.Sum(nil)[:n]
	}
	c.Send([]byte{21}) // NEWKEYS
	if m := c.Receive(); m[0] != 21 {
		c.t.Fatalf("message %d and not NEWKEYS", m[0])
	}
	c.seal = c.newGCM(derive('C', 16), derive('A', 12))
	c.open = c.newGCM(derive('D', 16), derive('B', 12))
}

// TrySend sends one packet.
func (c *Client) TrySend(payload []byte) error {
	block := 8
	if c.seal != nil {
		block = 16
	}
	head := 5
	if c.seal != nil {
		head = 1 // the length is not encrypted (RFC 5647)
	}
	padding := block - (head+len(payload))%block
	if padding < 4 {
		padding += block
	}
	packet := make([]byte, 5+len(payload)+padding)
	binary.BigEndian.PutUint32(packet, uint32(1+len(payload)+padding))
	packet[4] = byte(padding)
	copy(packet[5:], payload)
	if c.seal != nil {
		sealed := c.seal.aead.Seal(nil, c.seal.next(), packet[4:], packet[:4])
		packet = append(packet[:4:4], sealed...)
	}
	_, err := c.Conn.Write(packet)
	return err
}

// Send is TrySend that has to succeed.
func (c *Client) Send(payload []byte) {
	c.t.Helper()
	c.fatal(c.TrySend(payload))
}

// TryReceive reads one packet.
func (c *Client) TryReceive() ([]byte, error) {
	length := make([]byte, 4)
	if _, err := io.ReadFull(c.In, length); err != nil {
		return nil, err
	}
	n := binary.BigEndian.Uint32(length)
	if c.open != nil {
		n += 16
	}
	body := make([]byte, n)
	if _, err := io.ReadFull(c.In, body); err != nil {
		return nil, err
	}
	if c.open != nil {
		var err error
		if body, err = c.open.aead.Open(nil, c.open.next(), body, length); err != nil {
			return nil, err
		}
	}
	return body[1 : len(body)-int(body[0])], nil
}

// Receive is TryReceive that has to succeed.
func (c *Client) Receive() []byte {
	c.t.Helper()
	m, err := c.TryReceive()
	c.fatal(err)
	return m
}

// Messages of authentication (RFC 4252), and the end of a connection.
const (
	AuthFailure = 51
	AuthSuccess = 52
	AuthBanner  = 53
	AuthKeyOK   = 60
	Disconnect  = 1
)

// AuthAnswer is the next message that is no banner; banners are kept.
func (c *Client) AuthAnswer() byte {
	c.t.Helper()
	for {
		m := c.Receive()
		if m[0] != AuthBanner {
			return m[0]
		}
		var b struct {
			Text string `sshtype:"53"`
			Lang string
		}
		c.fatal(gossh.Unmarshal(m, &b))
		c.Banners = append(c.Banners, b.Text)
	}
}

// UserAuth is a request of RFC 4252 section 5.
type UserAuth struct {
	User            string `sshtype:"50"`
	Service, Method string
	Rest            []byte `ssh:"rest"`
}

// None asks to be let in without anything.
func (c *Client) None(user string) byte {
	c.Send(gossh.Marshal(UserAuth{user, "ssh-connection", "none", nil}))
	return c.AuthAnswer()
}

// Query asks whether key would do, without a signature.
func (c *Client) Query(user string, key gossh.PublicKey) byte {
	c.t.Helper()
	rest := gossh.Marshal(struct {
		Signed bool
		Algo   string
		Key    []byte
	}{false, key.Type(), key.Marshal()})
	c.Send(gossh.Marshal(UserAuth{user, "ssh-connection", "publickey", rest}))
	return c.AuthAnswer()
}

// Sign authenticates with a signature by signer over key.
func (c *Client) Sign(user string, key gossh.PublicKey, signer gossh.Signer) byte {
	c.t.Helper()
	c.Send(c.Signed(user, key, signer))
	return c.AuthAnswer()
}

// Signed is the request to authenticate with a signature.
func (c *Client) Signed(user string, key gossh.PublicKey, signer gossh.Signer) []byte {
	c.t.Helper()
	rest := gossh.Marshal(struct {
		Signed bool
		Algo   string
		Key    []byte
	}{true, key.Type(), key.Marshal()})
	request := gossh.Marshal(UserAuth{user, "ssh-connection", "publickey", rest})
	signed := append(gossh.Marshal(struct{ S []byte }{c.session}), request...)
	signature, err := signer.Sign(rand.Reader, signed)
	c.fatal(err)
	return append(request, gossh.Marshal(struct{ S []byte }{gossh.Marshal(signature)})...)
}

// OpenSession opens session channel number id and gives the peer's number;
// false where it was refused.
func (c *Client) OpenSession(id uint32) (uint32, bool) {
	c.t.Helper()
	c.Send(ChannelOpen("session", id))
	for {
		m := c.Receive()
		switch m[0] {
		case 91:
			return binary.BigEndian.Uint32(m[5:]), true
		case 92:
			return 0, false
		}
	}
}

// ChannelOpen is a message that opens a channel (RFC 4254 section 5.1).
func ChannelOpen(kind string, id uint32) []byte {
	return gossh.Marshal(struct {
		Type               string `sshtype:"90"`
		ID, Window, Packet uint32
	}{kind, id, 1 << 20, 1 << 15})
}

// Request asks for something on a channel, and tells whether it was granted.
func (c *Client) Request(channel uint32, kind string, payload []byte) bool {
	c.t.Helper()
	c.Send(ChannelRequest(channel, kind, payload))
	for {
		switch m := c.Receive(); m[0] {
		case 99:
			return true
		case 100:
			return false
		}
	}
}

// ChannelRequest is a message on a channel that wants a reply (RFC 4254
// section 5.4).
func ChannelRequest(channel uint32, kind string, payload []byte) []byte {
	return gossh.Marshal(struct {
		Channel uint32 `sshtype:"98"`
		Type    string
		Reply   bool
		Rest    []byte `ssh:"rest"`
	}{channel, kind, true, payload})
}
