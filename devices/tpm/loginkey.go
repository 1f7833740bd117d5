package tpm

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"math/big"

	"github.com/google/go-tpm/tpm2"
	"golang.org/x/crypto/ssh"

	"devicetrust/api/dtv1"
	"devicetrust/identity"
)

// LoginKey is a key of one login that is in a TPM: what that TPM makes it from
// again. It is of no use in another one.
type LoginKey struct {
	// Unique is what the key is made from, beside the TPM's own seed.
	Unique []byte `json:"unique"`
	// Public is the TPMT_PUBLIC.
	Public []byte `json:"public"`
}

// LoginKeys are the two keys of a login.
type LoginKeys struct {
	SSH LoginKey `json:"ssh"`
	TLS LoginKey `json:"tls"`
}

// PublicKey is the public half of k, on P-256. An error says that k is damaged.
func (k LoginKey) PublicKey() (*ecdsa.PublicKey, error) {
	if len(k.Unique) != uniqueLen || len(k.Public) > maxPublic {
		return nil, fmt.Errorf("a key in the TPM: %d bytes and %d are not of one", len(k.Unique), len(k.Public))
	}
	public, err := tpm2.Unmarshal[tpm2.TPMTPublic](k.Public)
	if err != nil {
		return nil, fmt.Errorf("a key in the TPM: %w", err)
	}
	if !bytes.Equal(tpm2.Marshal(*public), k.Public) {
		return nil, errors.New("a key in the TPM is not in its one encoding")
	}
	key, err := tpm2.Pub(*public)
	if err != nil {
		return nil, fmt.Errorf("a key in the TPM: %w", err)
	}
	ec, ok := key.(*ecdsa.PublicKey)
	if !ok || ec.Curve != elliptic.P256() {
		return nil, fmt.Errorf("a key in the TPM is a %T, want one on P-256", key)
	}
	// Whoever encodes a point that is not on its curve panics.
	if _, err := ec.ECDH(); err != nil {
		return nil, fmt.Errorf("a key in the TPM: %w", err)
	}
	return ec, nil
}

// loginKeyTemplate is a signing key that cannot leave the TPM and, other than
// an attestation key, signs what it is given: the digests of SSH and TLS.
func loginKeyTemplate(unique []byte) tpm2.TPMTPublic {
	template := akTemplate(unique)
	template.ObjectAttributes.Restricted = false
	return template
}

// madeKey is a login's key that is loaded.
type madeKey struct {
	handle tpm2.NamedHandle
	key    LoginKey
	public *ecdsa.PublicKey
}

// makeLoginKey makes the key of unique, a primary key of the endorsement
// hierarchy as the attestation key is: nothing has to be kept in the TPM, nor
// a parent be loaded, and TPM2_Clear leaves the login its keys.
func (t *TPM) makeLoginKey(unique []byte) (*madeKey, error) {
	const doing = "make a key for the login"
	rsp, err := tpm2.CreatePrimary{
		PrimaryHandle: tpm2.TPMRHEndorsement,
		InPublic:      tpm2.New2B(loginKeyTemplate(unique)),
	}.Execute(t.ch)
	if err != nil {
		return nil, failedTo(doing, err)
	}
	made := &madeKey{
		handle: tpm2.NamedHandle{Handle: rsp.ObjectHandle, Name: rsp.Name},
		key:    LoginKey{Unique: unique, Public: rsp.OutPublic.Bytes()},
	}
	if made.public, err = made.key.PublicKey(); err != nil {
		t.flush(made.handle.Handle)
		return nil, failedTo(doing, err)
	}
	return made, nil
}

// loadLoginKey makes k again. ErrForeignKey says that this TPM did not make it.
func (t *TPM) loadLoginKey(k LoginKey) (*madeKey, error) {
	if _, err := k.PublicKey(); err != nil {
		return nil, damagedKey(err)
	}
	made, err := t.makeLoginKey(k.Unique)
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(made.key.Public, k.Public) {
		t.flush(made.handle.Handle)
		return nil, foreignKey()
	}
	return made, nil
}

// keep gives k loaded, and leaves it so: the key that signed last stays in the
// TPM, where it has one of three slots, until another key, a ceremony or Close
// takes its place. So a signature is one command.
func (t *TPM) keep(k LoginKey) (kept *madeKey, fresh bool, err error) {
	if t.kept != nil && bytes.Equal(t.kept.key.Public, k.Public) && bytes.Equal(t.kept.key.Unique, k.Unique) {
		return t.kept, false, nil
	}
	t.forget()
	made, err := t.loadLoginKey(k)
	if err != nil {
		return nil, false, err
	}
	t.kept = made
	return made, true, nil
}

// forget frees the slot of the key that is kept.
func (t *TPM) forget() {
	if t.kept != nil {
		t.flush(t.kept.handle.Handle)
		t.kept = nil
	}
}

// certify has the attestation key say that the key is in this TPM, and what it
// is.
func (t *TPM) certify(ak *attestationKey, made *madeKey, nonce []byte) (*dtv1.TPMCertifiedKey, error) {
	rsp, err := tpm2.Certify{
		ObjectHandle:   made.handle,
		SignHandle:     ak.handle,
		QualifyingData: tpm2.TPM2BData{Buffer: nonce},
		InScheme:       tpm2.TPMTSigScheme{Scheme: tpm2.TPMAlgNull},
	}.Execute(t.ch)
	if err != nil {
		return nil, failedTo("certify the login's key", err)
	}
	return &dtv1.TPMCertifiedKey{
		Public: made.key.Public, CertifyInfo: rsp.CertifyInfo.Bytes(), Signature: tpm2.Marshal(rsp.Signature),
	}, nil
}

// Sign signs the SHA-256 digest with k: ECDSA, in ASN.1 DER. After the first
// signature of a key each is one command. The errors are ErrForeignKey, also an
// *api.Refusal, and other *api.Refusal; where ctx ended first, its cause.
func (t *TPM) Sign(ctx context.Context, k LoginKey, digest []byte) (_ []byte, err error) {
	defer func() { err = fault(ctx, err) }()
	if len(digest) != sha256.Size {
		return nil, fmt.Errorf("tpm: a digest of %d bytes is to be signed, want %d", len(digest), sha256.Size)
	}
	end, err := t.hold(ctx)
	if err != nil {
		return nil, err
	}
	defer end()
	key, fresh, err := t.keep(k)
	if err != nil {
		return nil, err
	}
	sig, err := t.sign(key, digest)
	if err != nil && !fresh && isOfHandle(err) {
		// A TPM that was reset, or another program, has taken the key out. Its
		// handle may be of anything since.
		t.forget()
		if key, _, err = t.keep(k); err != nil {
			return nil, err
		}
		sig, err = t.sign(key, digest)
	}
	return sig, err
}

// isOfHandle tells whether err may be for the object that a handle is of: the
// TPM says no, and has not just fallen silent.
func isOfHandle(err error) bool {
	_, refused := errors.AsType[tpm2.TPMRC](err)
	return refused || errors.Is(err, errOtherKey)
}

// errOtherKey: whatever signed, it was not the key that was meant.
var errOtherKey = errors.New("the signature is of another key")

func (t *TPM) sign(made *madeKey, digest []byte) ([]byte, error) {
	const doing = "sign with the login's key"
	rsp, err := tpm2.Sign{
		KeyHandle:  made.handle,
		Digest:     tpm2.TPM2BDigest{Buffer: digest},
		InScheme:   tpm2.TPMTSigScheme{Scheme: tpm2.TPMAlgNull},
		Validation: tpm2.TPMTTKHashCheck{Tag: tpm2.TPMSTHashCheck, Hierarchy: tpm2.TPMRHNull},
	}.Execute(t.ch)
	if err != nil {
		return nil, failedTo(doing, err)
	}
	sig, err := rsp.Signature.Signature.ECDSA()
	if err != nil {
		return nil, failedTo(doing, errOtherKey)
	}
	der, err := asn1.Marshal(struct{ R, S *big.Int }{
		new(big.Int).SetBytes(sig.SignatureR.Buffer), new(big.Int).SetBytes(sig.SignatureS.Buffer),
	})
	if err != nil {
		return nil, failedTo(doing, err)
	}
	if !ecdsa.VerifyASN1(made.public, digest, der) {
		return nil, failedTo(doing, errOtherKey)
	}
	return der, nil
}

// uniqueLen is of a P-256 coordinate, as with uniqueOf.
const uniqueLen = 32

// newUnique is what a new login's key is made from: nobody else's is.
func newUnique() []byte {
	unique := make([]byte, uniqueLen)
	rand.Read(unique) // it never fails
	return unique
}

// ceremonyKeys are the login's keys in a device authentication; nil where they
// are not in the TPM.
type ceremonyKeys struct{ ssh, tls *madeKey }

// loginKeys makes or loads the keys that args ask for.
func (t *TPM) loginKeys(args AuthArgs) (_ *ceremonyKeys, err error) {
	keys := args.Keys
	if keys == nil {
		if !args.NewKeys {
			return nil, nil
		}
		keys = &LoginKeys{SSH: LoginKey{Unique: newUnique()}, TLS: LoginKey{Unique: newUnique()}}
	}
	c := &ceremonyKeys{}
	take := t.loadLoginKey
	if args.Keys == nil {
		take = func(k LoginKey) (*madeKey, error) { return t.makeLoginKey(k.Unique) }
	}
	if c.ssh, err = take(keys.SSH); err != nil {
		return nil, err
	}
	if c.tls, err = take(keys.TLS); err != nil {
		t.flush(c.ssh.handle.Handle)
		return nil, err
	}
	return c, nil
}

func (c *ceremonyKeys) flush(t *TPM) {
	if c != nil {
		t.flush(c.ssh.handle.Handle)
		t.flush(c.tls.handle.Handle)
	}
}

func (c *ceremonyKeys) kept() *LoginKeys {
	if c == nil {
		return nil
	}
	return &LoginKeys{SSH: c.ssh.key, TLS: c.tls.key}
}

// bind puts the public halves into b.
func (c *ceremonyKeys) bind(b *identity.LoginBinding) error {
	if c == nil {
		return nil
	}
	wire, err := ssh.NewPublicKey(c.ssh.public)
	if err != nil {
		return err
	}
	b.SSHPublicKey = wire.Marshal()
	b.TLSPublicKey, err = x509.MarshalPKIXPublicKey(c.tls.public)
	return err
}

func (c *ceremonyKeys) certify(t *TPM, ak *attestationKey, b identity.LoginBinding) (*dtv1.TPMLoginKeys, error) {
	if c == nil {
		return nil, nil
	}
	sshNonce, tlsNonce := identity.SSHKeyNonce(b), identity.TLSKeyNonce(b)
	sshKey, err := t.certify(ak, c.ssh, sshNonce[:])
	if err != nil {
		return nil, err
	}
	tlsKey, err := t.certify(ak, c.tls, tlsNonce[:])
	if err != nil {
		return nil, err
	}
	return &dtv1.TPMLoginKeys{Ssh: sshKey, Tls: tlsKey}, nil
}
