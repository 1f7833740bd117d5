package ca

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"math/big"
	"time"

	"github.com/google/uuid"
	"golang.org/x/crypto/ssh"

	"devicetrust/store"
)

// kind is what an authority signs.
type kind string

const (
	kindUser kind = "user" // SSH user certificates
	kindHost kind = "host" // SSH host certificates
	kindTLS  kind = "tls"  // X.509: clients and dtauthd itself
)

var kinds = []kind{kindUser, kindHost, kindTLS}

// authority is a row of the table: public is the SSH wire form or the DER of
// the root certificate.
type authority struct {
	id     string
	kind   kind
	public []byte
	signer crypto.Signer
}

// sealPurpose ties a sealed key to its row: it opens as no other authority.
func sealPurpose(k kind, id string) string { return "authority/" + string(k) + "/" + id }

func newAuthority(k kind, cluster string, now time.Time) (authority, error) {
	id, err := uuid.NewRandom()
	if err != nil {
		return authority{}, err
	}
	a := authority{id: id.String(), kind: k}
	if k == kindTLS {
		a.signer, a.public, err = newRoot(cluster, now)
		return a, err
	}
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return authority{}, err
	}
	wire, err := ssh.NewPublicKey(public)
	if err != nil {
		return authority{}, err
	}
	a.signer, a.public = private, wire.Marshal()
	return a, nil
}

// newRoot makes the self-signed root (RFC 5280 section 4.2.1.9: no CA below it).
func newRoot(cluster string, now time.Time) (crypto.Signer, []byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	serial, err := randomSerial()
	if err != nil {
		return nil, nil, err
	}
	template := &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{CommonName: "dt " + cluster},
		NotBefore:             now.Add(-skew),
		NotAfter:              now.Add(rootLife),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
		MaxPathLenZero:        true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	return key, der, err
}

// randomSerial is for what the inventory does not count: of 127 bits, so that
// it is positive and above every counted one.
func randomSerial() (*big.Int, error) {
	n, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 126))
	if err != nil {
		return nil, err
	}
	return n.SetBit(n, 126, 1), nil
}

func (a authority) insert(tx *store.Tx, keeper *Keeper, now time.Time) error {
	pkcs8, err := x509.MarshalPKCS8PrivateKey(a.signer)
	if err != nil {
		return err
	}
	sealed, err := keeper.Seal(sealPurpose(a.kind, a.id), pkcs8)
	if err != nil {
		return err
	}
	_, err = tx.Exec(`INSERT INTO authorities (id, kind, public, sealed_key, created_at) VALUES ($1, $2, $3, $4, $5)`,
		a.id, string(a.kind), a.public, sealed, store.Micros(now))
	return err
}

// loadAuthorities reads and opens all rows.
func loadAuthorities(tx *store.Tx, keeper *Keeper) ([]authority, error) {
	rows, err := tx.Query(`SELECT id, kind, public, sealed_key FROM authorities ORDER BY kind, id`)
	if err != nil {
		return nil, err
	}
	defer rows.Close() //nolint:errcheck // rows.Err says what went wrong
	var out []authority
	for rows.Next() {
		var a authority
		var sealed []byte
		if err := rows.Scan(&a.id, &a.kind, &a.public, &sealed); err != nil {
			return nil, err
		}
		pkcs8, err := keeper.Open(sealPurpose(a.kind, a.id), sealed)
		if err != nil {
			return nil, fmt.Errorf("the key file %s does not open the cluster's stored keys: copy the key file that the cluster was created with, from its data directory or from another dtauthd", keeper.path)
		}
		if err := a.use(pkcs8); err != nil {
			return nil, fmt.Errorf("%s authority %s: %w", a.kind, a.id, err)
		}
		out = append(out, a)
	}
	return out, rows.Err()
}

// use takes the private key and sees that the public half in the row is its
// own: nodes believe that half, and the database's owner could have changed it.
func (a *authority) use(pkcs8 []byte) error {
	key, err := x509.ParsePKCS8PrivateKey(pkcs8)
	if err != nil {
		return errors.New("the stored key cannot be parsed")
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		return errors.New("the stored key cannot sign")
	}
	a.signer = signer
	if a.kind == kindTLS {
		_, err := a.root()
		return err
	}
	public, err := ssh.NewPublicKey(signer.Public())
	if err != nil || !bytes.Equal(public.Marshal(), a.public) {
		return errors.New("the stored public key is not that of the private key")
	}
	return nil
}

func (a *authority) root() (*x509.Certificate, error) {
	root, err := x509.ParseCertificate(a.public)
	if err != nil {
		return nil, errors.New("the stored certificate cannot be parsed")
	}
	own, ok := a.signer.Public().(interface{ Equal(crypto.PublicKey) bool })
	if !ok || !own.Equal(root.PublicKey) || root.CheckSignatureFrom(root) != nil {
		return nil, errors.New("the stored certificate is not that of the private key")
	}
	return root, nil
}
