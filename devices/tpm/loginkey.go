package tpm

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/rand"
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

// PublicKey is the public half of k, on P-256.
func (k LoginKey) PublicKey() (*ecdsa.PublicKey, error) {
	public, err := tpm2.Unmarshal[tpm2.TPMTPublic](k.Public)
	if err != nil {
		return nil, fmt.Errorf("a key in the TPM: %w", err)
	}
	key, err := tpm2.Pub(*public)
	if err != nil {
		return nil, fmt.Errorf("a key in the TPM: %w", err)
	}
	ec, ok := key.(*ecdsa.PublicKey)
	if !ok {
		return nil, fmt.Errorf("a key in the TPM is a %T", key)
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
}

// makeLoginKey makes the key of unique, a primary key of the endorsement
// hierarchy as the attestation key is: nothing has to be kept in the TPM, nor
// a parent be loaded, and TPM2_Clear leaves the login its keys.
func (t *TPM) makeLoginKey(unique []byte) (madeKey, error) {
	rsp, err := tpm2.CreatePrimary{
		PrimaryHandle: tpm2.TPMRHEndorsement,
		InPublic:      tpm2.New2B(loginKeyTemplate(unique)),
	}.Execute(t.ch)
	if err != nil {
		return madeKey{}, failedTo("make a key for the login", err)
	}
	return madeKey{
		handle: tpm2.NamedHandle{Handle: rsp.ObjectHandle, Name: rsp.Name},
		key:    LoginKey{Unique: unique, Public: rsp.OutPublic.Bytes()},
	}, nil
}

// loadLoginKey makes k again. ErrForeignKey says that this TPM did not make it.
func (t *TPM) loadLoginKey(k LoginKey) (madeKey, error) {
	made, err := t.makeLoginKey(k.Unique)
	if err != nil {
		return madeKey{}, err
	}
	if !bytes.Equal(made.key.Public, k.Public) {
		t.flush(made.handle.Handle)
		return madeKey{}, ErrForeignKey
	}
	return made, nil
}

// certify has the attestation key say that the key is in this TPM, and what it
// is.
func (t *TPM) certify(ak *attestationKey, made madeKey, nonce []byte) (*dtv1.TPMCertifiedKey, error) {
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

// Sign signs the SHA-256 digest with k: ECDSA, in ASN.1 DER. The errors are
// ErrForeignKey and *api.Refusal.
func (t *TPM) Sign(ctx context.Context, k LoginKey, digest []byte) (_ []byte, err error) {
	defer func() { err = fault(ctx, err) }()
	defer t.hold(ctx)()
	made, err := t.loadLoginKey(k)
	if err != nil {
		return nil, err
	}
	defer t.flush(made.handle.Handle)
	rsp, err := tpm2.Sign{
		KeyHandle:  made.handle,
		Digest:     tpm2.TPM2BDigest{Buffer: digest},
		InScheme:   tpm2.TPMTSigScheme{Scheme: tpm2.TPMAlgNull},
		Validation: tpm2.TPMTTKHashCheck{Tag: tpm2.TPMSTHashCheck, Hierarchy: tpm2.TPMRHNull},
	}.Execute(t.ch)
	if err != nil {
		return nil, failedTo("sign with the login's key", err)
	}
	sig, err := rsp.Signature.Signature.ECDSA()
	if err != nil {
		return nil, failedTo("sign with the login's key", err)
	}
	return asn1.Marshal(struct{ R, S *big.Int }{
		new(big.Int).SetBytes(sig.SignatureR.Buffer), new(big.Int).SetBytes(sig.SignatureS.Buffer),
	})
}

// newUnique is what a new login's key is made from: nobody else's is.
func newUnique() []byte {
	unique := make([]byte, 32) // a P-256 coordinate, as of uniqueOf
	rand.Read(unique)          // it never fails
	return unique
}

// ErrForeignKey: the key is of another TPM, or of this one before its
// endorsement seed was changed.
var ErrForeignKey = errors.New("the login's key is not of this TPM")

// ceremonyKeys are the login's keys in a device authentication; nil where they
// are not in the TPM.
type ceremonyKeys struct{ ssh, tls madeKey }

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
		take = func(k LoginKey) (madeKey, error) { return t.makeLoginKey(k.Unique) }
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
	sshKey, err := c.ssh.key.PublicKey()
	if err != nil {
		return err
	}
	wire, err := ssh.NewPublicKey(sshKey)
	if err != nil {
		return err
	}
	tlsKey, err := c.tls.key.PublicKey()
	if err != nil {
		return err
	}
	b.SSHPublicKey = wire.Marshal()
	b.TLSPublicKey, err = x509.MarshalPKIXPublicKey(tlsKey)
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
