package node

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

// rawClient speaks SSH (RFC 4253) far enough to say what a well-behaved
// client library would not: other users in later requests, keys that are only
// queried, malformed requests, floods.
type rawClient struct {
	t       *testing.T
	conn    net.Conn
	in      *bufio.Reader
	session []byte // session identifier
	seal    *gcm
	open    *gcm
	banners []string
}

type gcm struct {
	aead cipher.AEAD
	iv   []byte
}

func newGCM(key, iv []byte) *gcm {
	block, err := aes.NewCipher(key)
	if err != nil {
		panic(err)
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		panic(err)
	}
	return &gcm{aead, iv}
}

func (g *gcm) next() []byte {
	iv := append([]byte(nil), g.iv...)
	binary.BigEndian.PutUint64(g.iv[4:], binary.BigEndian.Uint64(g.iv[4:])+1)
	return iv
}

// dialRaw connects and exchanges keys, up to where authentication begins.
func dialRaw(t *testing.T, address string) *rawClient {
	t.Helper()
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(20 * time.Second))
	c := &rawClient{t: t, conn: conn, in: bufio.NewReader(conn)}
	c.exchange()
	return c
}

func (c *rawClient) fatal(err error) {
	c.t.Helper()
	if err != nil {
		c.t.Fatal(err)
	}
}

type kexInit struct {
	Cookie                                                         [16]byte `sshtype:"20"`
	Kex, HostKey, CipherCS, CipherSC, MACCS, MACSC, CompCS, CompSC []string
	LangCS, LangSC                                                 []string
	Follows                                                        bool
	Reserved                                                       uint32
}

func (c *rawClient) exchange() {
	const version = "SSH-2.0-raw"
	fmt.Fprintf(c.conn, "%s\r\n", version)
	line, err := c.in.ReadString('\n')
	c.fatal(err)
	server := strings.TrimRight(line, "\r\n")

	ciphers := []string{"aes128-gcm@openssh.com"}
	mine := gossh.Marshal(kexInit{
		Kex: []string{"curve25519-sha256"}, HostKey: []string{"ssh-ed25519"},
		CipherCS: ciphers, CipherSC: ciphers, MACCS: []string{"hmac-sha2-256-etm@openssh.com"}, MACSC: []string{"hmac-sha2-256-etm@openssh.com"},
		CompCS: []string{"none"}, CompSC: []string{"none"},
	})
	c.send(mine)
	theirs := c.receive()

	key, err := ecdh.X25519().GenerateKey(rand.Reader)
	c.fatal(err)
	c.send(gossh.Marshal(struct {
		Q []byte `sshtype:"30"`
	}{key.PublicKey().Bytes()}))
	var r struct {
		Host      []byte `sshtype:"31"`
		Q         []byte
		Signature []byte
	}
	c.fatal(gossh.Unmarshal(c.receive(), &r))
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
	c.send([]byte{21}) // NEWKEYS
	if m := c.receive(); m[0] != 21 {
		c.t.Fatalf("message %d and not NEWKEYS", m[0])
	}
	c.seal = newGCM(derive('C', 16), derive('A', 12))
	c.open = newGCM(derive('D', 16), derive('B', 12))
	c.send(gossh.Marshal(struct {
		S string `sshtype:"5"`
	}{"ssh-userauth"}))
	if m := c.receive(); m[0] != 6 {
		c.t.Fatalf("message %d and not SERVICE_ACCEPT", m[0])
	}
}

func (c *rawClient) trySend(payload []byte) error {
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
	_, err := c.conn.Write(packet)
	return err
}

func (c *rawClient) send(payload []byte) {
	c.t.Helper()
	c.fatal(c.trySend(payload))
}

func (c *rawClient) tryReceive() ([]byte, error) {
	length := make([]byte, 4)
	if _, err := io.ReadFull(c.in, length); err != nil {
		return nil, err
	}
	n := binary.BigEndian.Uint32(length)
	if c.open != nil {
		n += 16
	}
	body := make([]byte, n)
	if _, err := io.ReadFull(c.in, body); err != nil {
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

func (c *rawClient) receive() []byte {
	c.t.Helper()
	m, err := c.tryReceive()
	c.fatal(err)
	return m
}

// Messages of authentication (RFC 4252).
const (
	authFailure = 51
	authSuccess = 52
	authBanner  = 53
	authKeyOK   = 60
	disconnect  = 1
)

// authAnswer is the next message that is no banner; banners are kept.
func (c *rawClient) authAnswer() byte {
	c.t.Helper()
	for {
		m := c.receive()
		if m[0] != authBanner {
			return m[0]
		}
		var b struct {
			Text string `sshtype:"53"`
			Lang string
		}
		c.fatal(gossh.Unmarshal(m, &b))
		c.banners = append(c.banners, b.Text)
	}
}

type userauth struct {
	User            string `sshtype:"50"`
	Service, Method string
	Rest            []byte `ssh:"rest"`
}

func (c *rawClient) none(user string) byte {
	c.send(gossh.Marshal(userauth{user, "ssh-connection", "none", nil}))
	return c.authAnswer()
}

// query asks whether key would do, without a signature.
func (c *rawClient) query(user string, key gossh.PublicKey) byte {
	c.t.Helper()
	rest := gossh.Marshal(struct {
		Signed bool
		Algo   string
		Key    []byte
	}{false, key.Type(), key.Marshal()})
	c.send(gossh.Marshal(userauth{user, "ssh-connection", "publickey", rest}))
	return c.authAnswer()
}

// sign authenticates with a signature by signer over key.
func (c *rawClient) sign(user string, key gossh.PublicKey, signer gossh.Signer) byte {
	c.t.Helper()
	c.send(c.signed(user, key, signer))
	return c.authAnswer()
}

// signed is the request to authenticate with a signature.
func (c *rawClient) signed(user string, key gossh.PublicKey, signer gossh.Signer) []byte {
	c.t.Helper()
	rest := gossh.Marshal(struct {
		Signed bool
		Algo   string
		Key    []byte
	}{true, key.Type(), key.Marshal()})
	request := gossh.Marshal(userauth{user, "ssh-connection", "publickey", rest})
	signed := append(gossh.Marshal(struct{ S []byte }{c.session}), request...)
	signature, err := signer.Sign(rand.Reader, signed)
	c.fatal(err)
	return append(request, gossh.Marshal(struct{ S []byte }{gossh.Marshal(signature)})...)
}

// openSession opens session channel number id and gives the peer's number;
// false where it was refused.
func (c *rawClient) openSession(id uint32) (uint32, bool) {
	c.t.Helper()
	c.send(channelOpen("session", id))
	for {
		m := c.receive()
		switch m[0] {
		case 91:
			return binary.BigEndian.Uint32(m[5:]), true
		case 92:
			return 0, false
		}
	}
}

func channelOpen(kind string, id uint32) []byte {
	return gossh.Marshal(struct {
		Type               string `sshtype:"90"`
		ID, Window, Packet uint32
	}{kind, id, 1 << 20, 1 << 15})
}

// request asks for something on a channel, and tells whether it was granted.
func (c *rawClient) request(channel uint32, kind string, payload []byte) bool {
	c.t.Helper()
	c.send(channelRequest(channel, kind, payload))
	for {
		switch m := c.receive(); m[0] {
		case 99:
			return true
		case 100:
			return false
		}
	}
}

func channelRequest(channel uint32, kind string, payload []byte) []byte {
	return gossh.Marshal(struct {
		Channel uint32 `sshtype:"98"`
		Type    string
		Reply   bool
		Rest    []byte `ssh:"rest"`
	}{channel, kind, true, payload})
}
