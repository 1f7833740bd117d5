package identity

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"
)

// Host is what an SSH host certificate says.
type Host struct {
	NodeID string // KeyId
	// Names are what clients may call it: node name, host name, addresses;
	// in lower case, for ssh compares so.
	Names       []string
	Serial      uint64
	ValidAfter  time.Time
	ValidBefore time.Time
}

// CheckHostName refuses what cannot be a principal of a host certificate:
// anything but a host name or an IP address, in lower case. There is no "*",
// "?" or "!": OpenSSH takes those principals for patterns (sshkey.c,
// sshkey_cert_check_host).
func CheckHostName(name string) error {
	if !isName(name, lower+digits+"_:", lower+digits+"._:-", maxHostName) {
		return fmt.Errorf("host name %.160q must be a name or an address in lower case", name)
	}
	return nil
}

// CheckNodeID refuses what cannot be a node's ID; UUIDs are accepted.
func CheckNodeID(id string) error {
	if !isName(id, lower+digits, lower+digits+"-", maxNodeID) {
		return fmt.Errorf("node ID %.160q is not of the form [a-z0-9][a-z0-9-]{0,63}", id)
	}
	return nil
}

// SSHCertificate encodes h for key, complete but for SignatureKey, Nonce and
// Signature. A host without names is refused: its certificate would be good
// for every name.
func (h Host) SSHCertificate(key ssh.PublicKey) (*ssh.Certificate, error) {
	if err := h.check(key); err != nil {
		return nil, fmt.Errorf("identity: %w", err)
	}
	return &ssh.Certificate{
		Key:             key,
		Serial:          h.Serial,
		CertType:        ssh.HostCert,
		KeyId:           h.NodeID,
		ValidPrincipals: h.Names,
		ValidAfter:      uint64(h.ValidAfter.Unix()),
		ValidBefore:     uint64(h.ValidBefore.Unix()),
	}, nil
}

func (h Host) check(key ssh.PublicKey) error {
	if err := CheckSSHKey(key); err != nil {
		return err
	}
	if err := CheckNodeID(h.NodeID); err != nil {
		return err
	}
	if h.Serial == 0 || len(h.Names) == 0 || len(h.Names) > MaxLogins {
		return fmt.Errorf("a host certificate needs a serial and 1 to %d names", MaxLogins)
	}
	for _, n := range h.Names {
		if err := CheckHostName(n); err != nil {
			return err
		}
	}
	return checkSpan(h.ValidAfter, h.ValidBefore)
}

// HostCheck verifies host certificates. The zero value refuses all.
type HostCheck struct {
	// Authorities are the SSH host authorities that are believed.
	Authorities []ssh.PublicKey
	// Names are what the client calls the host; the certificate must hold
	// one of them. Case does not matter.
	Names []string
	Now   time.Time
}

// Check accepts key where it is a host certificate of one of c.Authorities,
// for one of c.Names, valid at c.Now. No critical option is known for hosts
// (PROTOCOL.certkeys defines none). Errors are *Refused.
func (c HostCheck) Check(key ssh.PublicKey) error {
	cert, err := checkSigned(key, ssh.HostCert, c.Authorities)
	if err != nil {
		return err
	}
	if err := checkTime(cert, c.Now); err != nil {
		return err
	}
	if len(cert.CriticalOptions) > 0 {
		return refuse(ReasonCriticalOption, "a host certificate has no critical options")
	}
	for _, n := range c.Names {
		if slices.Contains(cert.ValidPrincipals, strings.ToLower(n)) {
			return nil
		}
	}
	return refuse(ReasonPrincipal, "it is not for %.256q", c.Names)
}
