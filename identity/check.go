package identity

import (
	"bytes"
	"net/netip"
	"slices"
	"time"

	"golang.org/x/crypto/ssh"
)

// SSHCheck verifies user certificates. The zero value refuses all.
type SSHCheck struct {
	// Authorities are the SSH user authorities that are believed.
	Authorities []ssh.PublicKey
	// Login is the account that is asked for.
	Login string
	// Addr is where the connection comes from; needed where a certificate is
	// pinned to an address, which is refused without it.
	Addr netip.Addr
	// ServerChecksAddr is for whoever answers an SSH server that holds
	// connections to source-address itself, and does not say where they come
	// from: as OpenSSH's sshd does (auth2-pubkeyfile.c, auth_authorise_keyopts),
	// which before 9.4 cannot tell its AuthorizedPrincipalsCommand. Addr is
	// still compared where it is there.
	ServerChecksAddr bool
	Now              time.Time
}

// Check tells whose certificate key is, where it is one that c.Login may use
// from c.Addr at c.Now. It is written out rather than left to
// ssh.CertChecker, whose CheckCert neither looks at the authority nor refuses
// a certificate without principals. It does not know what was revoked or
// locked, nor whether the peer holds the private key: the caller asks the
// policy for the first and calls it after the second. Errors are *Refused.
func (c SSHCheck) Check(key ssh.PublicKey) (Identity, error) {
	if CheckLogin(c.Login) != nil {
		return Identity{}, refuse(ReasonPrincipal, "login %.64q is not of the form of a login", c.Login)
	}
	cert, err := checkSigned(key, ssh.UserCert, c.Authorities)
	if err != nil {
		return Identity{}, err
	}
	// From here on the bytes are the authority's.
	if err := checkTime(cert, c.Now); err != nil {
		return Identity{}, err
	}
	// Both x/crypto/ssh (server.go, noTouchAllowed) and OpenSSH take this for a
	// leave to sign where nobody is. Our CA never gives it.
	if _, absent := cert.Extensions[extNoTouch]; absent {
		return Identity{}, refuse(ReasonNoTouch, "it does not want its security key to be touched")
	}
	id, err := UnverifiedFromSSH(cert)
	if err != nil {
		return Identity{}, err
	}
	if id.PinSourceIP && !c.isFrom(id.LoginIP) {
		return Identity{}, refuse(ReasonSourceAddress, "it is for connections from %s only", id.LoginIP)
	}
	if !slices.Contains(id.Logins, c.Login) {
		return Identity{}, refuse(ReasonPrincipal, "login %q is not among its logins", c.Login)
	}
	return id, nil
}

// isFrom tells whether the connection comes from a, as far as that is for us to
// say.
func (c SSHCheck) isFrom(a netip.Addr) bool {
	if !c.Addr.IsValid() {
		return c.ServerChecksAddr
	}
	return plainAddr(c.Addr) == a
}

// checkSigned gives the certificate in key where it is of the type, signed by
// one of authorities, and all keys in it are strong enough.
func checkSigned(key ssh.PublicKey, certType uint32, authorities []ssh.PublicKey) (*ssh.Certificate, error) {
	cert, ok := key.(*ssh.Certificate)
	if !ok || cert == nil {
		return nil, refuse(ReasonNotACertificate, "the key is not a certificate")
	}
	if cert.CertType != certType {
		return nil, refuse(ReasonWrongType, "it is of type %d and %d is wanted", cert.CertType, certType)
	}
	if err := CheckSSHKey(cert.Key); err != nil {
		return nil, refuse(ReasonWeakKey, "%v", err)
	}
	if err := CheckSSHKey(cert.SignatureKey); err != nil {
		return nil, refuse(ReasonWeakKey, "authority: %v", err)
	}
	if !isAuthority(cert.SignatureKey, authorities) {
		return nil, refuse(ReasonAuthority, "authority %s is not one of this cluster's", ssh.FingerprintSHA256(cert.SignatureKey))
	}
	if cert.Signature == nil {
		return nil, refuse(ReasonSignature, "it is not signed")
	}
	if cert.Signature.Format == ssh.KeyAlgoRSA {
		return nil, refuse(ReasonWeakKey, "it is signed with SHA-1")
	}
	if err := cert.SignatureKey.Verify(signedBytes(cert), cert.Signature); err != nil {
		return nil, refuse(ReasonSignature, "its signature does not verify")
	}
	return cert, nil
}

// isAuthority compares the keys' bytes: a fingerprint or a type would do for
// two different keys.
func isAuthority(key ssh.PublicKey, authorities []ssh.PublicKey) bool {
	wire := key.Marshal()
	for _, a := range authorities {
		if a != nil && bytes.Equal(a.Marshal(), wire) {
			return true
		}
	}
	return false
}

// signedBytes is what the authority signed: all fields before the signature
// (PROTOCOL.certkeys, "signature is computed over all preceding fields").
func signedBytes(cert *ssh.Certificate) []byte {
	c := *cert
	c.Signature = nil
	b := c.Marshal()
	return b[:len(b)-4] // the length of the absent signature
}

// checkTime: from ValidAfter on, before ValidBefore (PROTOCOL.certkeys), in
// unsigned arithmetic so that nothing wraps.
func checkTime(cert *ssh.Certificate, now time.Time) *Refused {
	if now.Unix() <= 0 {
		return refuse(ReasonNotConfigured, "the time is not known")
	}
	n := uint64(now.Unix())
	if n < cert.ValidAfter {
		return refuse(ReasonNotYetValid, "it is not valid yet; is this machine's clock right?")
	}
	if n >= cert.ValidBefore {
		return refuse(ReasonExpired, "it expired")
	}
	return nil
}
