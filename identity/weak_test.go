package identity

import (
	"crypto/rand"
	"io"
	"math/big"
	"testing"

	"golang.org/x/crypto/ssh"
)

type cryptoRand struct{}

func (cryptoRand) Read(b []byte) (int, error) { return rand.Read(b) }

// sha1Signer signs with ssh-rsa, as certificates of old authorities are.
type sha1Signer struct{ ssh.Signer }

func (s sha1Signer) Sign(rand io.Reader, data []byte) (*ssh.Signature, error) {
	return s.SignWithAlgorithm(rand, data, ssh.KeyAlgoRSA)
}

func (s sha1Signer) SignWithAlgorithm(rand io.Reader, data []byte, _ string) (*ssh.Signature, error) {
	return s.Signer.(ssh.AlgorithmSigner).SignWithAlgorithm(rand, data, ssh.KeyAlgoRSA)
}

// dsaKey is any numbers of the sizes that DSA wants (FIPS 186-2): they need
// not verify anything.
func dsaKey(t *testing.T) ssh.PublicKey {
	t.Helper()
	bits := func(n uint) *big.Int { return new(big.Int).Sub(new(big.Int).Lsh(big.NewInt(1), n), big.NewInt(1)) }
	key, err := ssh.ParsePublicKey(ssh.Marshal(struct {
		Type       string
		P, Q, G, Y *big.Int
	}{"ssh-dss", bits(1024), bits(160), big.NewInt(2), big.NewInt(4)}))
	if err != nil {
		t.Fatal(err)
	}
	return key
}
