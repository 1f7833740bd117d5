package node

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"io"
	"math/big"
	"net"
	"strings"
	"testing"
	"time"

	gossh "golang.org/x/crypto/ssh"
)

// certifyAnything signs what no CA of ours would.
func (c *testCluster) certifyAnything(t *testing.T, key gossh.PublicKey) *gossh.Certificate {
	t.Helper()
	var cert *gossh.Certificate
	c.certify(t, alice(), newSigner(t), func(good *gossh.Certificate) {
		bad := *good
		cert = &bad
	})
	cert.Key = key
	if err := cert.SignCert(rand.Reader, c.user); err != nil {
		t.Fatal(err)
	}
	return cert
}

func TestARSAKeyThatIsTooShortIsRefused(t *testing.T) {
	n := startNode(t)
	for bits, want := range map[int]string{1024: "not acceptable", 2048: ""} {
		key, err := rsa.GenerateKey(rand.Reader, bits)
		if err != nil {
			t.Fatal(err)
		}
		signer, err := gossh.NewSignerFromKey(key)
		if err != nil {
			t.Fatal(err)
		}
		var banner string
		_, err = n.dial(tester, withCertificate(t, n.cluster.certifyAnything(t, signer.PublicKey()), signer), &banner)
		if (err == nil) != (want == "") || !strings.Contains(banner, want) {
			t.Errorf("%d bits: %v, banner %q", bits, err, banner)
		}
	}
}

// anySigner signs with a signature of any format, which is none.
type anySigner struct {
	key    gossh.PublicKey
	format string
}

func (s anySigner) PublicKey() gossh.PublicKey { return s.key }
func (s anySigner) Sign(io.Reader, []byte) (*gossh.Signature, error) {
	return &gossh.Signature{Format: s.format, Blob: make([]byte, 40)}, nil
}

// encoded is a public key of which there are only the bytes.
type encoded struct {
	kind  string
	bytes []byte
}

func (k encoded) Type() string                          { return k.kind }
func (k encoded) Marshal() []byte                       { return k.bytes }
func (k encoded) Verify([]byte, *gossh.Signature) error { return nil }

func TestKeysOfTypesThatAreNotTakenAreRefused(t *testing.T) {
	n := startNode(t)
	const dss = "ssh-dss"
	bits := func(n uint) *big.Int { return new(big.Int).Sub(new(big.Int).Lsh(big.NewInt(1), n), big.NewInt(1)) }
	dsa := encoded{dss, gossh.Marshal(struct {
		Type       string
		P, Q, G, Y *big.Int
	}{dss, bits(1024), bits(160), big.NewInt(2), big.NewInt(4)})}
	inner := n.cluster.certify(t, alice(), newSigner(t)).PublicKey()
	const ed25519Cert = gossh.CertAlgoED25519v01
	// A certificate signed by one that is signed by one, and so on: parsed
	// without end, it would use up the stack (x/crypto before 0.55).
	chain := inner.Marshal()
	for range 500 {
		chain = gossh.Marshal(struct {
			Type, Nonce, Key                        string
			Serial                                  uint64
			CertType                                uint32
			KeyID, Principals                       string
			ValidAfter, ValidBefore                 uint64
			Options, Extensions, Reserved, SignedBy string
			Signature                               string
		}{Type: ed25519Cert, Nonce: "nonce", Key: strings.Repeat("k", 32), CertType: gossh.UserCert, SignedBy: string(chain), Signature: "\x00\x00\x00\x00\x00\x00\x00\x00"})
	}
	for name, key := range map[string]gossh.PublicKey{
		"DSA":                     dsa,
		"a certified DSA key":     encoded{"ssh-dss-cert-v01@openssh.com", n.cluster.certifyAnything(t, dsa).Marshal()},
		"a chain of certificates": encoded{ed25519Cert, chain},
		"no key at all":           encoded{ed25519Cert, nil},
		"an algorithm nobody has": encoded{"x" + strings.Repeat("y", 10_000), []byte("z")},
	} {
		t.Run(name, func(t *testing.T) {
			if c := dialRaw(t, n.address); c.trySign(tester, key, anySigner{key, key.Type()}) {
				t.Error("entered")
			}
			if c := dialRaw(t, n.address); c.trySign(tester, key, anySigner{key, gossh.KeyAlgoED25519}) {
				t.Error("entered")
			}
		})
	}
	if strings.Contains(n.log.String(), "fault") {
		t.Error("that was a fault of ours")
	}
	if _, err := n.dial(tester, n.cluster.certify(t, alice(), newSigner(t))); err != nil {
		t.Errorf("afterwards: %v", err)
	}
}

func TestAPacketThatIsTooLongEndsItsConnectionOnly(t *testing.T) {
	n, other := enterNode(t, func(c *serverConfig) { c.limits.loginGrace = time.Minute })
	signer := n.cluster.certify(t, alice(), newSigner(t))
	// Lengths, and the padding's, which is read together with the first one.
	huge := [][]byte{{0xff, 0xff, 0xff, 0xff, 4}, {0x7f, 0xff, 0xff, 0xff, 4}, {0, 4, 0, 1, 4}}
	ends := func(name string, conn net.Conn, in io.Reader) {
		t.Helper()
		conn.SetDeadline(time.Now().Add(15 * time.Second)) // far before the grace is over
		if _, err := io.Copy(io.Discard, in); err != nil && !strings.Contains(err.Error(), "reset") {
			t.Errorf("%s: the connection goes on: %v", name, err)
		}
	}
	for _, length := range huge {
		conn, err := net.Dial("tcp", n.address)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		conn.Write(append([]byte("SSH-2.0-x\r\n"), length...))
		ends("before keys", conn, conn)

		c := dialRaw(t, n.address)
		c.conn.Write(length)
		ends("before authentication", c.conn, c.In)

		c = dialRaw(t, n.address)
		if got := c.sign(tester, signer.PublicKey(), signer); got != authSuccess {
			t.Fatal(got)
		}
		c.conn.Write(length)
		ends("afterwards", c.conn, c.In)
	}
	conn, err := net.Dial("tcp", n.address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	go conn.Write(append([]byte("SSH-2.0-"), bytes.Repeat([]byte("x"), 1<<20)...))
	ends("a version without end", conn, conn)
	if _, _, status := run(t, other, "true"); status != 0 {
		t.Errorf("the other connection: %d", status)
	}
}

func TestAClientsKeepaliveIsAnswered(t *testing.T) {
	_, c := enterNode(t)
	for range 3 {
		if _, _, err := c.SendRequest("keepalive@openssh.com", true, nil); err != nil {
			t.Fatal(err)
		}
	}
}
