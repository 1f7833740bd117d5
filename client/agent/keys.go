package agent

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"errors"
	"math/big"
	"time"

	"golang.org/x/crypto/ssh"
)

// added is a key of ssh-add. It is in the memory only.
type added struct {
	public  ssh.PublicKey // a certificate where it came with one
	comment string
	signer  ssh.AlgorithmSigner
	constraints
}

// parseAdd reads a message that adds a key, but for its first byte. Keys in
// hardware are refused by their types, which are not known here.
func parseAdd(msg []byte, constrained bool, now time.Time) (*added, error) {
	r := reader{rest: msg}
	key, public, err := parsePrivate(&r)
	if err != nil {
		return nil, err
	}
	comment := string(r.string())
	if r.failed || len(comment) > maxComment {
		return nil, errMalformed
	}
	signer, err := ssh.NewSignerFromKey(key)
	if err != nil {
		return nil, errMalformed
	}
	if public == nil {
		public = signer.PublicKey()
	}
	if !equal(plain(public), signer.PublicKey()) {
		return nil, errors.New("a certificate of another key")
	}
	algorithms, ok := signer.(ssh.AlgorithmSigner)
	if !ok {
		return nil, errMalformed
	}
	k := &added{public: public, comment: comment, signer: algorithms}
	if constrained {
		k.constraints, err = parseConstraints(&r, now)
		if err != nil {
			return nil, err
		}
	}
	if !r.done() {
		return nil, errMalformed
	}
	return k, nil
}

// parsePrivate reads a private key (draft-miller-ssh-agent section 3.2), with the
// certificate where it has one.
func parsePrivate(r *reader) (key crypto.PrivateKey, cert ssh.PublicKey, err error) {
	kind := string(r.string())
	certified := false
	switch kind {
	case ssh.CertAlgoED25519v01, ssh.CertAlgoRSAv01, ssh.CertAlgoECDSA256v01, ssh.CertAlgoECDSA384v01, ssh.CertAlgoECDSA521v01:
		certified = true
		cert = r.key()
		if r.failed || cert.Type() != kind {
			return nil, nil, errMalformed
		}
		kind = plain(cert).Type()
	}
	switch kind {
	case ssh.KeyAlgoED25519:
		key, err = parseEd25519(r)
	case ssh.KeyAlgoECDSA256:
		key, err = parseECDSA(r, elliptic.P256(), "nistp256", certified)
	case ssh.KeyAlgoECDSA384:
		key, err = parseECDSA(r, elliptic.P384(), "nistp384", certified)
	case ssh.KeyAlgoECDSA521:
		key, err = parseECDSA(r, elliptic.P521(), "nistp521", certified)
	case ssh.KeyAlgoRSA:
		key, err = parseRSA(r, cert)
	default:
		err = errors.New("a kind of key that is not known here")
	}
	return key, cert, err
}

func parseEd25519(r *reader) (crypto.PrivateKey, error) {
	public, private := r.string(), r.string()
	if r.failed || len(private) != ed25519.PrivateKeySize {
		return nil, errMalformed
	}
	key := ed25519.NewKeyFromSeed(private[:ed25519.SeedSize])
	if !bytes.Equal(key, private) || !bytes.Equal(key[ed25519.SeedSize:], public) {
		return nil, errMalformed
	}
	return key, nil
}

// parseECDSA: beside a certificate there is only the scalar.
func parseECDSA(r *reader, curve elliptic.Curve, name string, certified bool) (crypto.PrivateKey, error) {
	var point []byte
	if !certified {
		if string(r.string()) != name {
			return nil, errMalformed
		}
		point = r.string()
	}
	d := r.natural()
	size := (curve.Params().BitSize + 7) / 8
	if r.failed || d.BitLen() > curve.Params().BitSize {
		return nil, errMalformed
	}
	key, err := ecdsa.ParseRawPrivateKey(curve, d.FillBytes(make([]byte, size)))
	if err != nil {
		return nil, errMalformed
	}
	if !certified {
		if have, err := key.PublicKey.Bytes(); err != nil || !bytes.Equal(have, point) {
			return nil, errMalformed
		}
	}
	return key, nil
}

// parseRSA bounds the numbers before it computes with them.
func parseRSA(r *reader, cert ssh.PublicKey) (crypto.PrivateKey, error) {
	var n, e *big.Int
	if cert == nil {
		n, e = r.natural(), r.natural()
	} else {
		public := reader{rest: plain(cert).Marshal()}
		public.string()
		e, n = public.natural(), public.natural()
		r.failed = r.failed || public.failed
	}
	d, _, p, q := r.natural(), r.natural(), r.natural(), r.natural()
	for _, number := range []*big.Int{n, d, p, q} {
		if r.failed || number.BitLen() > maxRSABits || e.BitLen() > 31 {
			return nil, errMalformed
		}
	}
	key := &rsa.PrivateKey{PublicKey: rsa.PublicKey{N: n, E: int(e.Int64())}, D: d, Primes: []*big.Int{p, q}}
	if err := key.Validate(); err != nil {
		return nil, errMalformed
	}
	key.Precompute()
	return key, nil
}

// natural reads an mpint that is not negative (RFC 4251 section 5).
func (r *reader) natural() *big.Int {
	b := r.string()
	if len(b) > 0 && b[0]&0x80 != 0 {
		r.failed, r.rest = true, nil
	}
	return new(big.Int).SetBytes(b)
}

// Flags of a signature by an RSA key (RFC 8332).
const (
	flagRSASHA256 = 2
	flagRSASHA512 = 4
)

// sign signs for a client that may know flags of RSA only. One that asks for
// none gets SHA-256 and never SHA-1, which no server takes any more.
func (k *added) sign(_ context.Context, data []byte, flags uint32) (*ssh.Signature, error) {
	algorithm := ""
	if k.signer.PublicKey().Type() == ssh.KeyAlgoRSA {
		algorithm = ssh.KeyAlgoRSASHA256
		if flags&flagRSASHA256 == 0 && flags&flagRSASHA512 != 0 {
			algorithm = ssh.KeyAlgoRSASHA512
		}
	}
	return k.signer.SignWithAlgorithm(rand.Reader, data, algorithm)
}

// expired tells whether the key's time is over. It is compared by the wall
// clock: a lifetime goes on while a laptop sleeps.
func (k *added) expired(now time.Time) bool {
	return !k.until.IsZero() && !now.Round(0).Before(k.until)
}
