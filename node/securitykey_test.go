package node

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"io"
	"math/big"
	"testing"

	gossh "golang.org/x/crypto/ssh"

	"devicetrust/node/nodetest"
)

// securityKey signs as a FIDO2 authenticator does (OpenSSH's PROTOCOL.u2f);
// touched is whether somebody was there.
type securityKey struct {
	t       *testing.T
	public  gossh.PublicKey
	sign    func(data []byte) []byte
	touched bool
}

const application = "ssh:"

func newSecurityKey(t *testing.T, kind string) *securityKey {
	t.Helper()
	k := &securityKey{t: t, touched: true}
	var wire []byte
	switch kind {
	case gossh.KeyAlgoSKED25519:
		public, private, err := ed25519.GenerateKey(rand.Reader)
		k.fatal(err)
		wire = gossh.Marshal(struct{ Type, Key, Application string }{kind, string(public), application})
		k.sign = func(data []byte) []byte { return ed25519.Sign(private, data) }
	case gossh.KeyAlgoSKECDSA256:
		private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		k.fatal(err)
		point, err := private.PublicKey.Bytes()
		k.fatal(err)
		wire = gossh.Marshal(struct{ Type, Curve, Point, Application string }{kind, "nistp256", string(point), application})
		k.sign = func(data []byte) []byte {
			digest := sha256.Sum256(data)
			r, s, err := ecdsa.Sign(rand.Reader, private, digest[:])
			k.fatal(err)
			return gossh.Marshal(struct{ R, S *big.Int }{r, s})
		}
	default:
		t.Fatal(kind)
	}
	var err error
	k.public, err = gossh.ParsePublicKey(wire)
	k.fatal(err)
	return k
}

func (k *securityKey) fatal(err error) {
	k.t.Helper()
	if err != nil {
		k.t.Fatal(err)
	}
}

func (k *securityKey) PublicKey() gossh.PublicKey { return k.public }

func (k *securityKey) Sign(_ io.Reader, data []byte) (*gossh.Signature, error) {
	flags := byte(0)
	if k.touched {
		flags = 1
	}
	app, message := sha256.Sum256([]byte(application)), sha256.Sum256(data)
	rest := []byte{flags, 0, 0, 0, 7} // and a counter
	signed := append(append(app[:], rest...), message[:]...)
	return &gossh.Signature{Format: k.public.Type(), Blob: k.sign(signed), Rest: rest}, nil
}

func TestASecurityKeyOpensWhereItIsTouched(t *testing.T) {
	n := startNode(t)
	for _, kind := range []string{gossh.KeyAlgoSKED25519, gossh.KeyAlgoSKECDSA256} {
		t.Run(kind, func(t *testing.T) {
			key := newSecurityKey(t, kind)
			certified := n.cluster.certify(t, alice(), key)
			if got := dialRaw(t, n.address).sign(tester, certified.PublicKey(), key); got != authSuccess {
				t.Errorf("touched: message %d", got)
			}
			key.touched = false
			if c := dialRaw(t, n.address); c.trySign(tester, certified.PublicKey(), key) {
				t.Error("entered with a key that nobody touched")
			}
			// Nor is a certificate believed that says it need not be.
			excused := n.cluster.certify(t, alice(), key, func(c *gossh.Certificate) { c.Extensions["no-touch-required"] = "" })
			if c := dialRaw(t, n.address); c.trySign(tester, excused.PublicKey(), key) {
				t.Error("entered with a certificate that excuses its key")
			}
		})
	}
}

// trySign tells whether the signature let somebody in: one that does not
// verify ends the connection.
func (c *rawClient) trySign(user string, key gossh.PublicKey, signer gossh.Signer) bool {
	if err := c.trySend(c.Signed(user, key, signer)); err != nil {
		return false
	}
	for {
		m, err := c.tryReceive()
		if err != nil || m[0] != nodetest.AuthBanner {
			return err == nil && m[0] == authSuccess
		}
	}
}
