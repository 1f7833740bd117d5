package identity

import (
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/hex"
	"errors"
	"fmt"
	"math/big"
	"net/url"
	"strings"
	"time"
)

// Kind is what an X.509 client certificate stands for. The zero value is
// nothing and may do nothing.
type Kind int

const (
	KindNone Kind = iota
	KindUser
	KindNode
)

// String is the kind as it stands in the certificate's URI.
func (k Kind) String() string {
	switch k {
	case KindUser:
		return "user"
	case KindNode:
		return "node"
	case KindNone:
	}
	return "none"
}

// The subject of a user certificate: CN is the user, each O a role, the
// device in three attributes of its own.
var (
	oidCommonName     = asn1.ObjectIdentifier{2, 5, 4, 3}
	oidOrganization   = asn1.ObjectIdentifier{2, 5, 4, 10}
	oidDeviceID       = asn1.ObjectIdentifier{1, 3, 9999, 3, 1}
	oidDeviceAssetTag = asn1.ObjectIdentifier{1, 3, 9999, 3, 2}
	oidDeviceCredID   = asn1.ObjectIdentifier{1, 3, 9999, 3, 3}
)

// uriScheme: dt://CLUSTER/user/NAME and dt://CLUSTER/node/ID.
const uriScheme = "dt"

func nameURI(cluster string, kind Kind, name string) *url.URL {
	return &url.URL{Scheme: uriScheme, Host: cluster, Path: "/" + kind.String() + "/" + name}
}

// UserTemplate encodes id as the template of an X.509 client certificate for
// x509.CreateCertificate. It carries Cluster, User, Roles, Device, Serial and
// the times; evidence, logins, traits and permissions belong to SSH and are not
// written. It refuses what could not be read again without loss.
func UserTemplate(id Identity) (*x509.Certificate, error) {
	if err := id.checkWritable(); err != nil {
		return nil, fmt.Errorf("identity: %w", err)
	}
	subject := []pkix.AttributeTypeAndValue{{Type: oidCommonName, Value: id.User}}
	for _, r := range id.Roles {
		// One RDN for each: values in one RDN are a set and lose their order.
		subject = append(subject, pkix.AttributeTypeAndValue{Type: oidOrganization, Value: r})
	}
	if id.Device.Trusted() {
		subject = append(subject,
			pkix.AttributeTypeAndValue{Type: oidDeviceID, Value: id.Device.ID},
			pkix.AttributeTypeAndValue{Type: oidDeviceAssetTag, Value: id.Device.AssetTag},
			pkix.AttributeTypeAndValue{Type: oidDeviceCredID, Value: id.Device.CredentialID})
	}
	t, err := clientTemplate(id.Cluster, KindUser, id.User, id.Serial, id.ValidAfter, id.ValidBefore)
	if err != nil {
		return nil, err
	}
	t.Subject = pkix.Name{ExtraNames: subject}
	return t, nil
}

// NodeTemplate encodes a node's X.509 client certificate: CN is its ID.
func NodeTemplate(cluster, nodeID string, serial uint64, after, before time.Time) (*x509.Certificate, error) {
	if err := CheckNodeID(nodeID); err != nil {
		return nil, fmt.Errorf("identity: %w", err)
	}
	if err := checkSpan(after, before); err != nil {
		return nil, fmt.Errorf("identity: %w", err)
	}
	t, err := clientTemplate(cluster, KindNode, nodeID, serial, after, before)
	if err != nil {
		return nil, err
	}
	t.Subject = pkix.Name{CommonName: nodeID}
	return t, nil
}

func clientTemplate(cluster string, kind Kind, name string, serial uint64, after, before time.Time) (*x509.Certificate, error) {
	if err := CheckCluster(cluster); err != nil {
		return nil, fmt.Errorf("identity: %w", err)
	}
	if serial == 0 {
		return nil, errors.New("identity: the serial is 0")
	}
	return &x509.Certificate{
		SerialNumber:          new(big.Int).SetUint64(serial),
		NotBefore:             after.UTC().Truncate(time.Second),
		NotAfter:              before.UTC().Truncate(time.Second),
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
		BasicConstraintsValid: true,
		URIs:                  []*url.URL{nameURI(cluster, kind, name)},
	}, nil
}

// PinOf is the digest by which people pin an authority: "sha256:" and the
// lower-case hex of the SHA-256 of its SubjectPublicKeyInfo (RFC 7469 section
// 2.4 takes the same bytes).
func PinOf(cert *x509.Certificate) string {
	sum := sha256.Sum256(cert.RawSubjectPublicKeyInfo)
	return "sha256:" + hex.EncodeToString(sum[:])
}

// UnverifiedKind reads what cert says it stands for: its kind, its cluster,
// and the user's name or the node's ID. Errors are *Refused.
func UnverifiedKind(cert *x509.Certificate) (kind Kind, cluster, name string, err error) {
	if len(cert.URIs) != 1 || len(cert.DNSNames)+len(cert.EmailAddresses)+len(cert.IPAddresses) > 0 {
		return KindNone, "", "", refuse(ReasonWrongType, "it is not a client's: it must have one URI and no other name")
	}
	u := cert.URIs[0]
	parts := strings.SplitN(strings.TrimPrefix(u.Path, "/"), "/", 2)
	for _, k := range []Kind{KindUser, KindNode} {
		// Compared as text: the URI has one form, and url.Parse has many.
		if len(parts) == 2 && parts[0] == k.String() && u.String() == nameURI(u.Host, k, parts[1]).String() {
			if err := checkName(k, u.Host, parts[1]); err != nil {
				return KindNone, "", "", malformed(err)
			}
			return k, u.Host, parts[1], nil
		}
	}
	return KindNone, "", "", refuse(ReasonWrongType, "its URI names neither a user nor a node: %.128q", u.String())
}

func checkName(kind Kind, cluster, name string) error {
	if err := CheckCluster(cluster); err != nil {
		return err
	}
	if kind == KindNode {
		return CheckNodeID(name)
	}
	return CheckUser(name)
}

// UnverifiedFromX509 reads the identity in a user's X.509 certificate: what
// UserTemplate writes. It checks its form only; VerifyX509 tells whether it
// is to be believed. Errors are *Refused.
func UnverifiedFromX509(cert *x509.Certificate) (Identity, error) {
	kind, cluster, name, err := UnverifiedKind(cert)
	if err != nil {
		return Identity{}, err
	}
	if kind != KindUser {
		return Identity{}, refuse(ReasonWrongType, "it is a %s's and not a user's", kind)
	}
	serial, err := serialOf(cert)
	if err != nil {
		return Identity{}, err
	}
	id := Identity{
		Cluster: cluster, User: name, Serial: serial,
		ValidAfter: cert.NotBefore.UTC(), ValidBefore: cert.NotAfter.UTC(),
	}
	if err := id.readSubject(cert.Subject.Names); err != nil {
		return Identity{}, malformed(err)
	}
	if err := id.check(); err != nil {
		return Identity{}, malformed(err)
	}
	return id, nil
}

func serialOf(cert *x509.Certificate) (uint64, error) {
	if cert.SerialNumber == nil || !cert.SerialNumber.IsUint64() || cert.SerialNumber.Sign() <= 0 {
		return 0, refuse(ReasonMalformed, "its serial is not a positive 64-bit number")
	}
	return cert.SerialNumber.Uint64(), nil
}

// readSubject takes only attributes that we write, each as often as we do.
func (id *Identity) readSubject(names []pkix.AttributeTypeAndValue) error {
	var cn string
	single := map[string]*string{
		oidCommonName.String():     &cn,
		oidDeviceID.String():       &id.Device.ID,
		oidDeviceAssetTag.String(): &id.Device.AssetTag,
		oidDeviceCredID.String():   &id.Device.CredentialID,
	}
	for _, n := range names {
		value, ok := n.Value.(string)
		if !ok {
			return fmt.Errorf("subject attribute %s is not text", n.Type)
		}
		if n.Type.Equal(oidOrganization) {
			id.Roles = append(id.Roles, value)
			continue
		}
		field, ok := single[n.Type.String()]
		if !ok || *field != "" {
			return fmt.Errorf("subject attribute %s is unknown or there twice", n.Type)
		}
		*field = value
	}
	if cn != id.User {
		return fmt.Errorf("its subject %.128q and its URI differ", cn)
	}
	id.Device = deviceOf(id.Device)
	return nil
}
