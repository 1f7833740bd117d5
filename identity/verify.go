package identity

import (
	"crypto/x509"
	"errors"
	"time"
)

// Caller is who a verified X.509 client certificate stands for. Only
// VerifyX509 makes one; the zero value is nobody.
type Caller struct {
	kind    Kind
	cluster string
	name    string
	serial  uint64
	id      Identity
}

// Kind is what the caller is.
func (c Caller) Kind() Kind { return c.kind }

// Cluster is the cluster that the certificate names.
func (c Caller) Cluster() string { return c.cluster }

// Name is the user's name or the node's ID.
func (c Caller) Name() string { return c.name }

// Serial is the certificate's.
func (c Caller) Serial() uint64 { return c.serial }

// Identity is what the certificate says of a user; zero for nodes.
func (c Caller) Identity() Identity { return c.id }

// VerifyX509 tells who a TLS client is, where cert is one that one of roots
// signed as a client certificate and that is valid at now. Without roots
// nobody is. It does not know what was revoked. Errors are *Refused.
func VerifyX509(cert *x509.Certificate, roots []*x509.Certificate, now time.Time) (Caller, error) {
	if cert == nil {
		return Caller{}, refuse(ReasonNotACertificate, "there is no certificate")
	}
	if now.Unix() <= 0 {
		return Caller{}, refuse(ReasonNotConfigured, "the time is not known")
	}
	if err := checkClient(cert); err != nil {
		return Caller{}, err
	}
	if err := verifyChain(cert, roots, now); err != nil {
		return Caller{}, err
	}
	return callerOf(cert)
}

// checkClient looks at what x509.Verify takes absence for permission in: a
// leaf without extended key usages is good for every use there.
func checkClient(cert *x509.Certificate) *Refused {
	if cert.IsCA || !cert.BasicConstraintsValid {
		return refuse(ReasonWrongType, "it is not an end entity's")
	}
	if len(cert.ExtKeyUsage) != 1 || cert.ExtKeyUsage[0] != x509.ExtKeyUsageClientAuth || len(cert.UnknownExtKeyUsage) > 0 {
		return refuse(ReasonWrongType, "it is not for TLS clients")
	}
	if err := checkTLSKey(cert.PublicKey); err != nil {
		return refuse(ReasonWeakKey, "%v", err)
	}
	return nil
}

func verifyChain(cert *x509.Certificate, roots []*x509.Certificate, now time.Time) *Refused {
	pool := x509.NewCertPool() // not nil: that would be the system's roots
	for _, r := range roots {
		if r != nil {
			pool.AddCert(r)
		}
	}
	_, err := cert.Verify(x509.VerifyOptions{
		Roots:       pool,
		CurrentTime: now,
		KeyUsages:   []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
	if err == nil {
		// NotAfter is the last valid moment to x509 and the first invalid one
		// to SSH; one identity has one end.
		if !now.Before(cert.NotAfter) {
			return refuse(ReasonExpired, "it expired")
		}
		return nil
	}
	var invalid x509.CertificateInvalidError
	var unknown x509.UnknownAuthorityError
	switch {
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		if now.Before(cert.NotBefore) {
			return refuse(ReasonNotYetValid, "it is not valid yet; is this machine's clock right?")
		}
		return refuse(ReasonExpired, "it expired")
	case errors.As(err, &unknown):
		return refuse(ReasonAuthority, "its authority is not one of this cluster's")
	}
	return refuse(ReasonMalformed, "%.256q", err.Error())
}

func callerOf(cert *x509.Certificate) (Caller, error) {
	kind, cluster, name, err := UnverifiedKind(cert)
	if err != nil {
		return Caller{}, err
	}
	serial, err := serialOf(cert)
	if err != nil {
		return Caller{}, err
	}
	c := Caller{kind: kind, cluster: cluster, name: name, serial: serial}
	if kind == KindUser {
		c.id, err = UnverifiedFromX509(cert)
		if err != nil {
			return Caller{}, err
		}
	}
	return c, nil
}
