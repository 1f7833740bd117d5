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
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"connectrpc.com/connect"
	"golang.org/x/crypto/ssh"

	"devicetrust/api"
	"devicetrust/devices/tpm"
	"devicetrust/identity"
)

// keyPair are the private keys of one login; they never leave this machine.
type keyPair struct {
	ssh, tls crypto.Signer
	// chip is what the TPM makes them from again; nil where they are software.
	chip *tpm.LoginKeys
}

// newKeys makes them in software: an ed25519.PrivateKey and an
// *ecdsa.PrivateKey.
func newKeys() (keyPair, error) {
	_, sshKey, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return keyPair{}, err
	}
	tlsKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return keyPair{}, err
	}
	return keyPair{ssh: sshKey, tls: tlsKey}, nil
}

// keysIn gives those that chip has. It is not asked before they sign.
func keysIn(chip *Chip, k tpm.LoginKeys) (keyPair, error) {
	sshKey, err := newChipKey(chip, k.SSH)
	if err != nil {
		return keyPair{}, err
	}
	tlsKey, err := newChipKey(chip, k.TLS)
	if err != nil {
		return keyPair{}, err
	}
	return keyPair{ssh: sshKey, tls: tlsKey, chip: &k}, nil
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

// InTPM tells whether the private keys are in this machine's TPM.
func (c Credentials) InTPM() bool { return c.keys.chip != nil }

// Signer signs SSH authentications with the certificate. Where the keys are in
// the TPM, that is asked for each signature.
func (c Credentials) Signer() (ssh.Signer, error) {
	s, err := ssh.NewSignerFromSigner(c.keys.ssh)
	if err != nil {
		return nil, err
	}
	return ssh.NewCertSigner(c.SSH, s)
}

func (c Credentials) tls() *tls.Certificate {
	return &tls.Certificate{Certificate: [][]byte{c.TLS.Raw}, PrivateKey: c.keys.tls, Leaf: c.TLS}
}

// Files of a login, beside the private SSH key, which has the user's name
// where it is a file.
const (
	publicSuffix      = ".pub"
	certificateSuffix = "-cert.pub" // where ssh looks for it
	chipKeysSuffix    = ".tpm.json" // in the place of the two private keys
	tlsKeySuffix      = ".tls.key"
	tlsCertSuffix     = ".tls.crt"
	knownHostsFile    = "known_hosts"
)

// files are the credentials as stored; the key is the user's name.
func (c Credentials) files(user string) (map[string][]byte, error) {
	files := map[string][]byte{
		user + publicSuffix:      ssh.MarshalAuthorizedKey(c.SSH.Key),
		user + certificateSuffix: ssh.MarshalAuthorizedKey(c.SSH),
		user + tlsCertSuffix:     pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.TLS.Raw}),
	}
	return files, c.keys.addTo(files, user)
}

// addTo adds the private keys, or what the TPM makes them from.
func (k keyPair) addTo(files map[string][]byte, user string) error {
	if k.chip != nil {
		data, err := marshalChipKeys(*k.chip)
		files[user+chipKeysSuffix] = data
		return err
	}
	sshKey, err := ssh.MarshalPrivateKey(k.ssh, user)
	if err != nil {
		return err
	}
	tlsKey, err := x509.MarshalPKCS8PrivateKey(k.tls)
	if err != nil {
		return err
	}
	files[user] = pem.EncodeToMemory(sshKey)
	files[user+tlsKeySuffix] = pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: tlsKey})
	return nil
}

// chipKeysVersion is raised when the file changes its meaning; others are
// refused.
const chipKeysVersion = 1

// chipKeysFile are the keys of a login as stored that are in the TPM. It is no
// secret to other machines, whose TPMs make other keys from it.
type chipKeysFile struct {
	Version int `json:"version"`
	tpm.LoginKeys
}

func marshalChipKeys(k tpm.LoginKeys) ([]byte, error) {
	data, err := json.MarshalIndent(chipKeysFile{chipKeysVersion, k}, "", "  ")
	return append(data, '\n'), err
}

func parseChipKeys(data []byte) (tpm.LoginKeys, error) {
	var version struct {
		Version int `json:"version"`
	}
	if err := json.Unmarshal(data, &version); err != nil {
		return tpm.LoginKeys{}, err
	}
	if version.Version != chipKeysVersion {
		return tpm.LoginKeys{}, fmt.Errorf("version %d is not known here, want %d", version.Version, chipKeysVersion)
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	var f chipKeysFile
	if err := dec.Decode(&f); err != nil {
		return tpm.LoginKeys{}, err
	}
	if bytes.Equal(f.SSH.Public, f.TLS.Public) {
		return tpm.LoginKeys{}, errors.New("one key is to serve SSH and TLS")
	}
	return f.LoginKeys, nil
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

// readKeys does not ask the TPM: which login it is shows without one.
func (p *Profile) readKeys() (keyPair, error) {
	switch data, err := p.home.readPrivate("keys", fileName(p.Proxy), p.User+chipKeysSuffix); {
	case errors.Is(err, fs.ErrNotExist):
		return p.readSoftwareKeys()
	case err != nil:
		return keyPair{}, err
	default:
		k, err := parseChipKeys(data)
		if err != nil {
			return keyPair{}, fmt.Errorf("%s cannot be read: %w", p.User+chipKeysSuffix, err)
		}
		return keysIn(p.home.Chip, k)
	}
}

func (p *Profile) readSoftwareKeys() (keyPair, error) {
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
	return keyPair{ssh: *sshKey, tls: tlsKey}, nil
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
