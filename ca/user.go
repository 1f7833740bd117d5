package ca

import (
	"bytes"
	"cmp"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"connectrpc.com/connect"
	"golang.org/x/crypto/ssh"

	"devicetrust/api"
	"devicetrust/audit/event"
	"devicetrust/identity"
	"devicetrust/store"
)

// UserRequest asks for a user's pair of certificates.
type UserRequest struct {
	// Identity is what they say. ValidBefore is kept (cut to seconds);
	// Cluster, Serial and ValidAfter are the CA's to set. An empty
	// PrivateKeyPolicy stands for "none".
	Identity identity.Identity
	// LoginID is the login that they end with.
	LoginID string
	// DeviceOS is the operating system of the identity's device, for the audit
	// record.
	DeviceOS string
	SSHKey   ssh.PublicKey
	TLSKey   []byte // PKIX DER
	// RemoteAddr is for the audit record.
	RemoteAddr string
	// Renewal says, in the audit record, that a login lives on with them.
	Renewal bool
}

// UserCertificates is what one issuing gives.
type UserCertificates struct {
	SSH *ssh.Certificate
	TLS []byte // DER
}

// IssueUser issues an SSH and an X.509 certificate for req, in the order of
// docs/issuing.md. check runs in the transaction that records them: whatever
// it refuses is not issued, and it must not be nil. Errors that the person may
// see are *api.Refusal; after any error no certificate is in anybody's hands.
func (c *CA) IssueUser(ctx context.Context, req UserRequest, check func(tx *store.Tx) error) (UserCertificates, error) {
	// 1. Look at the request; nothing is written.
	p, err := c.prepareUser(req)
	if err != nil {
		return UserCertificates{}, err
	}
	// 2.–5. Check, number, record, commit.
	r, err := c.record(ctx, p, check)
	if err != nil {
		return UserCertificates{}, c.refused(ctx, p.event, err)
	}
	// 6. Sign, once.
	s, err := c.sign(r)
	// 7. Read back as a node and the API would.
	if err == nil {
		err = c.verifyUser(s, req.Identity, p)
	}
	if err != nil {
		return UserCertificates{}, c.withdraw(ctx, r, err)
	}
	return UserCertificates{SSH: s.ssh, TLS: s.tls.Raw}, nil
}

func (c *CA) prepareUser(req UserRequest) (prepared, error) {
	now := c.now()
	if req.LoginID == "" {
		return prepared{}, errors.New("ca: a user's certificate must belong to a login") // or no logout would revoke it
	}
	id := req.Identity
	id.Cluster, id.ValidAfter = c.cluster, now.Add(-skew)
	id.PrivateKeyPolicy = cmp.Or(id.PrivateKeyPolicy, identity.KeyPolicyNone)
	if err := checkLife(now, id.ValidBefore, maxUserLife); err != nil {
		return prepared{}, err
	}
	id.ValidBefore = c.notBeyondRoot(id.ValidBefore)
	p, err := prepareKeys(req.SSHKey, req.TLSKey)
	if err != nil {
		return prepared{}, err
	}
	p.holder = holder{user: true, subject: id.User, loginID: req.LoginID, deviceID: id.Device.ID}
	p.authority, p.now, p.validBefore = c.user, now, id.ValidBefore
	p.encodeSSH = func(serial uint64) (*ssh.Certificate, error) { return encodeUserSSH(id, serial, req.SSHKey) }
	p.encodeTLS = func(serial uint64) (*x509.Certificate, error) { return encodeUserTLS(id, serial) }
	p.event = userEvent(req, id)
	return p, nil
}

func encodeUserSSH(id identity.Identity, serial uint64, key ssh.PublicKey) (*ssh.Certificate, error) {
	id.Serial = serial
	return id.SSHCertificate(key)
}

func encodeUserTLS(id identity.Identity, serial uint64) (*x509.Certificate, error) {
	id.Serial = serial
	return identity.UserTemplate(id)
}

func prepareKeys(sshKey ssh.PublicKey, tlsDER []byte) (prepared, error) {
	if err := identity.CheckSSHKey(sshKey); err != nil {
		return prepared{}, api.Refuse(connect.CodeInvalidArgument, "the SSH key cannot be certified: %v", err)
	}
	tlsKey, err := identity.ParseTLSKey(tlsDER)
	if err != nil {
		return prepared{}, api.Refuse(connect.CodeInvalidArgument, "the TLS key cannot be certified: %v", err)
	}
	return prepared{sshKey: sshKey, tlsKey: tlsKey, tlsDER: tlsDER}, nil
}

func checkLife(now, until time.Time, most time.Duration) error {
	switch {
	case !until.Truncate(time.Second).After(now):
		return api.Refuse(connect.CodeFailedPrecondition, "the certificate would have expired already").WithHint("Log in again")
	case until.Sub(now) > most:
		return api.Refuse(connect.CodeInvalidArgument, "no certificate lives longer than %s", most)
	}
	return nil
}

// notBeyondRoot: a certificate that outlives its authority is good for
// nothing at its end and would hide the reason.
func (c *CA) notBeyondRoot(t time.Time) time.Time {
	if t.After(c.root.NotAfter) {
		return c.root.NotAfter
	}
	return t
}

func userEvent(req UserRequest, id identity.Identity) event.Event {
	e := event.Event{
		Type: event.CertCreate, User: id.User, Kind: "user", Name: id.User,
		Roles: id.Roles, Login: strings.Join(id.Logins, ","), LoginID: req.LoginID,
		ValidUntil: id.ValidBefore.UTC().Truncate(time.Second), RemoteAddr: req.RemoteAddr,
		Key: &event.Key{Policy: id.PrivateKeyPolicy, Attestation: id.KeyAttestation},
	}
	if req.Renewal {
		e.Action = "renew"
	}
	if d := id.Device; d.Trusted() {
		e.Device = &event.Device{DeviceID: d.ID, AssetTag: d.AssetTag, OSType: req.DeviceOS, CredentialID: d.CredentialID}
	}
	return e
}

// verifyUser reads s as a node and as the API would, and compares what they
// would see with what was asked for.
func (c *CA) verifyUser(s signed, want identity.Identity, p prepared) error {
	got, err := c.seenByNode(s.ssh, want, p.now)
	if err != nil {
		return fmt.Errorf("ca: own SSH certificate: %w", err)
	}
	caller, err := identity.VerifyX509(s.tls, c.TLSAuthorities(), p.now)
	if err != nil {
		return fmt.Errorf("ca: own X.509 certificate: %w", err)
	}
	if err := sameKeys(s, p); err != nil {
		return err
	}
	for _, id := range []identity.Identity{got, caller.Identity()} {
		if id.User != want.User || id.Device != want.Device || !slices.Equal(id.Roles, want.Roles) || id.ValidBefore.After(want.ValidBefore) {
			return errors.New("ca: own certificate says something else than what was asked for")
		}
	}
	if got.PrivateKeyPolicy != cmp.Or(want.PrivateKeyPolicy, identity.KeyPolicyNone) || got.KeyAttestation != want.KeyAttestation {
		return errors.New("ca: own SSH certificate says something else of its key than what was asked for")
	}
	if !slices.Equal(got.Logins, want.Logins) || got.Permit != want.Permit || got.PinSourceIP != want.PinSourceIP || got.ForceCommand != want.ForceCommand {
		return errors.New("ca: own SSH certificate grants something else than what was asked for")
	}
	return nil
}

// sameKeys: what is proved of a key, or of who has it, is of no other one.
func sameKeys(s signed, p prepared) error {
	der, err := x509.MarshalPKIXPublicKey(p.tlsKey)
	if err != nil {
		return fmt.Errorf("ca: %w", err)
	}
	if !bytes.Equal(s.ssh.Key.Marshal(), p.sshKey.Marshal()) || !bytes.Equal(s.tls.RawSubjectPublicKeyInfo, der) {
		return errors.New("ca: own certificate is for another key than was asked for")
	}
	return nil
}

// seenByNode asks for one of the logins; where there is none, that must be
// the only thing that a node finds wrong.
func (c *CA) seenByNode(cert *ssh.Certificate, want identity.Identity, now time.Time) (identity.Identity, error) {
	login := "root"
	if len(want.Logins) > 0 {
		login = want.Logins[0]
	}
	id, err := identity.SSHCheck{Authorities: c.UserAuthorities(), Login: login, Addr: want.LoginIP, Now: now}.Check(cert)
	if len(want.Logins) == 0 && identity.ReasonOf(err) == identity.ReasonPrincipal {
		return identity.UnverifiedFromSSH(cert)
	}
	return id, err
}
