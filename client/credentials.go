package client

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"connectrpc.com/connect"
	"golang.org/x/crypto/ssh"

	"devicetrust/api"
	"devicetrust/identity"
)

// keyPair are the private keys of one login; they never leave this machine.
type keyPair struct {
	ssh ed25519.PrivateKey
	tls *ecdsa.PrivateKey
}

func newKeys() (keyPair, error) {
	_, sshKey, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return keyPair{}, err
	}
	tlsKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return keyPair{}, err
	}
	return keyPair{sshKey, tlsKey}, nil
}

// public gives the halves to be certified: SSH wire format and PKIX DER.
func (k keyPair) public() (sshKey, tlsKey []byte, err error) {
	pub, err := ssh.NewPublicKey(k.ssh.Public())
	if err != nil {
		return nil, nil, err
	}
	der, err := x509.MarshalPKIXPublicKey(k.tls.Public())
	return pub.Marshal(), der, err
}

// Credentials are the keys of a login and what certifies them.
type Credentials struct {
	keys keyPair
	// SSH and TLS are the certificates; they fit the keys.
	SSH *ssh.Certificate
	TLS *x509.Certificate
	// Identity is what SSH says. It is the server's statement to us, whose
	// connection was verified; nothing is granted on it here.
	Identity identity.Identity
}

// newCredentials pairs keys with the certificates that were issued for them.
func newCredentials(keys keyPair, sshWire, tlsDER []byte) (Credentials, error) {
	c := Credentials{keys: keys}
	pub, err := ssh.ParsePublicKey(sshWire)
	if err != nil {
		return Credentials{}, fmt.Errorf("the SSH certificate cannot be read: %w", err)
	}
	cert, ok := pub.(*ssh.Certificate)
	if !ok || cert.CertType != ssh.UserCert {
		return Credentials{}, errors.New("the SSH certificate is not a user's")
	}
	if c.TLS, err = x509.ParseCertificate(tlsDER); err != nil {
		return Credentials{}, fmt.Errorf("the TLS certificate cannot be read: %w", err)
	}
	wantSSH, wantTLS, err := keys.public()
	if err != nil {
		return Credentials{}, err
	}
	if !bytes.Equal(cert.Key.Marshal(), wantSSH) || !bytes.Equal(c.TLS.RawSubjectPublicKeyInfo, wantTLS) {
		return Credentials{}, errors.New("the certificates are for other keys")
	}
	c.SSH = cert
	if c.Identity, err = identity.UnverifiedFromSSH(cert); err != nil {
		return Credentials{}, err
	}
	return c, nil
}

// ValidUntil is when the first of the certificates expires.
func (c Credentials) ValidUntil() time.Time {
	if c.TLS.NotAfter.Before(c.Identity.ValidBefore) {
		return c.TLS.NotAfter
	}
	return c.Identity.ValidBefore
}

// check refuses credentials that have expired.
func (c Credentials) check(now time.Time) error {
	if until := c.ValidUntil(); !now.Before(until) {
		return api.Refuse(connect.CodeUnauthenticated, "the login of %s expired at %s", c.Identity.User, stamp(until, now)).
			WithHint("Log in again with: dtsh login")
	}
	return nil
}

// Signer signs SSH authentications with the certificate.
func (c Credentials) Signer() (ssh.Signer, error) {
	s, err := ssh.NewSignerFromKey(c.keys.ssh)
	if err != nil {
		return nil, err
	}
	return ssh.NewCertSigner(c.SSH, s)
}

func (c Credentials) tls() *tls.Certificate {
	return &tls.Certificate{Certificate: [][]byte{c.TLS.Raw}, PrivateKey: c.keys.tls, Leaf: c.TLS}
}

// Files of a login, beside the private SSH key, which has the user's name.
const (
	certificateSuffix = "-cert.pub" // where ssh looks for it
	tlsKeySuffix      = ".tls.key"
	tlsCertSuffix     = ".tls.crt"
	knownHostsFile    = "known_hosts"
)

// files are the credentials as stored; the key is the user's name.
func (c Credentials) files(user string) (map[string][]byte, error) {
	sshKey, err := ssh.MarshalPrivateKey(crypto.PrivateKey(c.keys.ssh), user)
	if err != nil {
		return nil, err
	}
	tlsKey, err := x509.MarshalPKCS8PrivateKey(c.keys.tls)
	if err != nil {
		return nil, err
	}
	return map[string][]byte{
		user:                     pem.EncodeToMemory(sshKey),
		user + certificateSuffix: ssh.MarshalAuthorizedKey(c.SSH),
		user + tlsKeySuffix:      pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: tlsKey}),
		user + tlsCertSuffix:     pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.TLS.Raw}),
	}, nil
}

// Credentials reads p's keys and certificates. They may have expired.
func (p *Profile) Credentials() (Credentials, error) {
	if p.User == "" {
		return Credentials{}, ErrNotLoggedIn
	}
	c, err := p.readCredentials()
	if err == nil && c.Identity.User != p.User {
		err = fmt.Errorf("the certificate is for user %q", c.Identity.User)
	}
	if _, ok := errors.AsType[*api.Refusal](err); ok {
		return Credentials{}, err
	}
	if err != nil {
		return Credentials{}, api.Refuse(connect.CodeFailedPrecondition, "cannot use the keys of %s at %s: %s", p.User, p.Proxy, reason(err)).
			WithHint("Log in again with: dtsh login --proxy=%s --user=%s", p.Proxy, p.User)
	}
	return c, nil
}

// readCredentials reads them again where they do not fit each other: a login
// may have replaced them meanwhile.
func (p *Profile) readCredentials() (c Credentials, err error) {
	for range readAttempts {
		if c, err = p.readCredentialsOnce(); err == nil {
			break
		}
	}
	return c, err
}

func (p *Profile) readCredentialsOnce() (Credentials, error) {
	keys, err := p.readKeys()
	if err != nil {
		return Credentials{}, err
	}
	text, err := p.readKeyFile(p.home.read, certificateSuffix)
	if err != nil {
		return Credentials{}, err
	}
	cert, _, _, _, err := ssh.ParseAuthorizedKey(text)
	if err != nil {
		return Credentials{}, fmt.Errorf("the SSH certificate cannot be read: %w", err)
	}
	tlsCert, err := p.readPEM(p.home.read, tlsCertSuffix)
	if err != nil {
		return Credentials{}, err
	}
	return newCredentials(keys, cert.Marshal(), tlsCert)
}

func (p *Profile) readKeys() (keyPair, error) {
	text, err := p.readKeyFile(p.home.readPrivate, "")
	if err != nil {
		return keyPair{}, err
	}
	raw, err := ssh.ParseRawPrivateKey(text)
	if err != nil {
		return keyPair{}, fmt.Errorf("the SSH key cannot be read: %w", err)
	}
	sshKey, ok := raw.(*ed25519.PrivateKey)
	if !ok {
		return keyPair{}, fmt.Errorf("the SSH key is a %T", raw)
	}
	der, err := p.readPEM(p.home.readPrivate, tlsKeySuffix)
	if err != nil {
		return keyPair{}, err
	}
	parsed, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return keyPair{}, fmt.Errorf("the TLS key cannot be read: %w", err)
	}
	tlsKey, ok := parsed.(*ecdsa.PrivateKey)
	if !ok {
		return keyPair{}, fmt.Errorf("the TLS key is a %T", parsed)
	}
	return keyPair{*sshKey, tlsKey}, nil
}

type reader func(elem ...string) ([]byte, error)

func (p *Profile) readKeyFile(read reader, suffix string) ([]byte, error) {
	data, err := read("keys", fileName(p.Proxy), p.User+suffix)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s is missing", p.User+suffix)
	}
	return data, err
}

func (p *Profile) readPEM(read reader, suffix string) ([]byte, error) {
	data, err := p.readKeyFile(read, suffix)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(data)
	if block == nil {
		return nil, fmt.Errorf("%s is not PEM", p.User+suffix)
	}
	return block.Bytes, nil
}

// keyPath is the absolute path of a file of p's login.
func (p *Profile) keyPath(name string) string {
	return p.home.path("keys", fileName(p.Proxy), name)
}
