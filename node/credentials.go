package node

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
	"net"
	"os"
	"path/filepath"
	"slices"
	"time"

	gossh "golang.org/x/crypto/ssh"

	"devicetrust/api/dtv1"
	"devicetrust/durable"
	"devicetrust/identity"
)

// Files of the data directory.
const (
	hostKeyFile  = "ssh_host_ed25519_key"
	tlsKeyFile   = "tls.key"
	identityFile = "identity.json"
	stateFile    = "state"
	spoolDir     = "spool"
	lockFile     = "lock"
)

// keys are the node's own. They are made once and never leave the machine.
type keys struct {
	host gossh.PublicKey
	// signer has the other half of host, Ed25519; nil where that is a stock
	// sshd's, whose keys we do not read.
	signer gossh.Signer
	tls    *ecdsa.PrivateKey // P-256
}

// loadKeys reads the keys in dir, and makes those that are not there.
func loadKeys(dir string) (keys, error) {
	host, err := loadKey(filepath.Join(dir, hostKeyFile), newHostKey)
	if err != nil {
		return keys{}, err
	}
	signer, err := gossh.ParsePrivateKey(host)
	if err != nil {
		return keys{}, fmt.Errorf("%s: %w", hostKeyFile, err)
	}
	key, err := loadTLSKey(dir)
	return keys{host: signer.PublicKey(), signer: signer, tls: key}, err
}

func loadTLSKey(dir string) (*ecdsa.PrivateKey, error) {
	text, err := loadKey(filepath.Join(dir, tlsKeyFile), newTLSKey)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, fmt.Errorf("%s holds no PEM", tlsKeyFile)
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", tlsKeyFile, err)
	}
	ec, ok := key.(*ecdsa.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("%s holds a key of type %T", tlsKeyFile, key)
	}
	return ec, nil
}

func loadKey(path string, make func() ([]byte, error)) ([]byte, error) {
	info, err := os.Stat(path)
	if errors.Is(err, os.ErrNotExist) {
		text, err := make()
		if err != nil {
			return nil, err
		}
		return text, durable.Write(path, text)
	}
	if err != nil {
		return nil, err
	}
	if info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("others may read the private key %s (mode %04o): make it 0600", path, info.Mode().Perm())
	}
	return os.ReadFile(path)
}

func newHostKey() ([]byte, error) {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	block, err := gossh.MarshalPrivateKey(key, "dtnoded")
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(block), nil
}

func newTLSKey() ([]byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

// credentials are what the cluster certified the keys with.
type credentials struct {
	nodeID, cluster string
	labels          map[string]string
	host            *gossh.Certificate
	tls             *x509.Certificate
	tlsAuthorities  []*x509.Certificate
}

// savedIdentity is the file's form. Byte fields are base64.
type savedIdentity struct {
	Version int `json:"version"`
	// AuthServer is where the node joined, for starts that do not say.
	AuthServer      string            `json:"auth_server"`
	NodeID          string            `json:"node_id"`
	Cluster         string            `json:"cluster"`
	Labels          map[string]string `json:"labels,omitempty"`
	HostCertificate []byte            `json:"host_certificate"` // SSH wire format
	TLSCertificate  []byte            `json:"tls_certificate"`  // DER
	TLSAuthorities  [][]byte          `json:"tls_authorities"`  // DER
	// UserAuthorities, in SSH wire format, signed the saved state.
	UserAuthorities [][]byte `json:"user_authorities,omitempty"`
}

const savedIdentityVersion = 1

// fromJoin takes what the control plane answered, unchecked.
func fromJoin(r *dtv1.JoinResponse, authServer string) savedIdentity {
	return savedIdentity{
		Version: savedIdentityVersion, AuthServer: authServer,
		NodeID: r.GetNodeId(), Cluster: r.GetCluster().GetName(), Labels: r.GetLabels(),
		HostCertificate: r.GetHostCertificate(), TLSCertificate: r.GetTlsCertificate(),
		TLSAuthorities: r.GetCluster().GetTlsAuthorities(), UserAuthorities: r.GetCluster().GetUserAuthorities(),
	}
}

// check gives the credentials in s, where they are for k.
func (s savedIdentity) check(k keys) (*credentials, error) {
	if s.Version != savedIdentityVersion {
		return nil, fmt.Errorf("identity of version %d, and version %d is known", s.Version, savedIdentityVersion)
	}
	if err := identity.CheckNodeID(s.NodeID); err != nil {
		return nil, err
	}
	c := &credentials{nodeID: s.NodeID, cluster: s.Cluster, labels: s.Labels}
	key, err := gossh.ParsePublicKey(s.HostCertificate)
	if err != nil {
		return nil, fmt.Errorf("host certificate: %w", err)
	}
	cert, ok := key.(*gossh.Certificate)
	if !ok || cert.CertType != gossh.HostCert || !bytes.Equal(cert.Key.Marshal(), k.host.Marshal()) {
		return nil, errors.New("the host certificate is not for the node's key")
	}
	c.host = cert
	if c.tls, err = x509.ParseCertificate(s.TLSCertificate); err != nil {
		return nil, fmt.Errorf("TLS certificate: %w", err)
	}
	if !k.tls.PublicKey.Equal(c.tls.PublicKey) {
		return nil, errors.New("the TLS certificate is not for the node's key")
	}
	c.tlsAuthorities, err = parseAuthorities(s.TLSAuthorities)
	return c, err
}

func parseAuthorities(ders [][]byte) ([]*x509.Certificate, error) {
	if len(ders) == 0 {
		return nil, errors.New("no TLS authority")
	}
	var authorities []*x509.Certificate
	for _, der := range ders {
		ca, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, fmt.Errorf("TLS authority: %w", err)
		}
		if !ca.IsCA {
			return nil, errors.New("a TLS authority's certificate is not that of an authority")
		}
		authorities = append(authorities, ca)
	}
	return authorities, nil
}

func (s savedIdentity) save(dir string) error {
	data, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return err
	}
	return durable.Write(filepath.Join(dir, identityFile), data)
}

// loadIdentity gives nil where the node has not joined.
func loadIdentity(dir string) (*savedIdentity, error) {
	data, err := os.ReadFile(filepath.Join(dir, identityFile))
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var s savedIdentity
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(&s); err != nil {
		return nil, fmt.Errorf("%s: %w", identityFile, err)
	}
	return &s, nil
}

// life is from when to when both certificates are valid.
func (c *credentials) life() (from, to time.Time) {
	from, to = c.tls.NotBefore, c.tls.NotAfter
	if f := time.Unix(int64(c.host.ValidAfter), 0); f.After(from) {
		from = f
	}
	if t := time.Unix(int64(min(c.host.ValidBefore, 1<<40)), 0); t.Before(to) {
		to = t
	}
	return from, to
}

// bears tells whether the host certificate is for every name and address that
// the node goes by (authd's principalsOf): clients refuse it by the others.
func (c *credentials) bears(info *dtv1.NodeInfo) bool {
	names := []string{info.GetName(), info.GetHostname()}
	for _, address := range info.GetAddresses() {
		host, _, _ := net.SplitHostPort(address) // withPort made it
		names = append(names, host)
	}
	return !slices.ContainsFunc(names, func(name string) bool { return !slices.Contains(c.host.ValidPrincipals, name) })
}

// hostSigners are the certified host key and, for clients that know no host
// certificates, the key alone.
func (c *credentials) hostSigners(k keys) ([]gossh.Signer, error) {
	certified, err := gossh.NewCertSigner(c.host, k.signer)
	if err != nil {
		return nil, err
	}
	return []gossh.Signer{certified, k.signer}, nil
}

func (c *credentials) tlsCertificate(k keys) *tls.Certificate {
	return &tls.Certificate{Certificate: [][]byte{c.tls.Raw}, PrivateKey: crypto.Signer(k.tls), Leaf: c.tls}
}
