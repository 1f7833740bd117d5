package client

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"connectrpc.com/connect"

	"devicetrust/api"
	"devicetrust/api/dtv1"
	"devicetrust/devices/tpm"
)

// Renewed is how long a login lasts now, and can.
type Renewed struct {
	// ValidUntil is when the first of the new certificates expires.
	ValidUntil time.Time
	// RenewableUntil is until when more renewals can lengthen that.
	RenewableUntil time.Time
}

// errChanged: whoever logs in or out wins over a renewal.
var errChanged = api.Refuse(connect.CodeAborted, "the login was replaced or ended while it was renewed")

// Renew lengthens the login of p by another device authentication of m, with
// the same keys, and keeps the new certificates in the place of the old ones.
// They are never less than those: a server that leaves the device out, or does
// not say any more that the key is in the TPM, changes nothing here. A login
// that began or ended meanwhile stays as it is.
func (p *Profile) Renew(ctx context.Context, m *Machine, o Options) (Renewed, error) {
	return p.renew(ctx, m.Prove, o)
}

func (p *Profile) renew(ctx context.Context, prove Prover, o Options) (Renewed, error) {
	old, err := p.Credentials()
	if err == nil {
		err = old.check(o.Now())
	}
	if err != nil {
		return Renewed{}, err
	}
	if !old.Identity.Device.Trusted() {
		return Renewed{}, api.Refuse(connect.CodeFailedPrecondition, "the login of %s is not one of a trusted device, and cannot be renewed", p.User).
			WithHint("Log in again before it expires: dtsh login")
	}
	ctx, cancel := context.WithTimeout(ctx, ceremonyTimeout)
	defer cancel()
	next, renewable, err := p.proveAgain(ctx, old, prove, o)
	if err != nil {
		return Renewed{}, err
	}
	if err := notLess(old, next); err != nil {
		return Renewed{}, fmt.Errorf("%s gave an unusable answer: %w", p.Proxy, err)
	}
	if err := p.keepRenewed(ctx, old, next, renewable); err != nil {
		return Renewed{}, err
	}
	o.log().Debug("renewed", "proxy", p.Proxy, "user", p.User, "until", next.ValidUntil())
	return Renewed{ValidUntil: next.ValidUntil(), RenewableUntil: renewable}, nil
}

// proveAgain has the ceremony certify the keys of old once more.
func (p *Profile) proveAgain(ctx context.Context, old Credentials, prove Prover, o Options) (next Credentials, renewable time.Time, err error) {
	conn, err := dial(p.Proxy, p.Trust, old.tls(), o)
	if err != nil {
		return next, renewable, err
	}
	defer conn.Close()
	if err := conn.shakeHands(ctx); err != nil {
		return next, renewable, err
	}
	binding, err := old.binding(p.Cluster)
	if err != nil {
		return next, renewable, err
	}
	ctx, giveUp := context.WithCancelCause(ctx)
	defer giveUp(nil)
	stream := conn.Device.AuthenticateDevice(ctx)
	proved, err := prove(ctx, tpm.AuthArgs{Binding: binding, Keys: old.keys.chip, Renew: true}, impatient{stream, giveUp})
	if err != nil {
		return next, renewable, Explain(p.Proxy, err)
	}
	hangUp(stream)
	certs := proved.Success.GetCertificates()
	if next, err = newCredentials(old.keys, certs.GetSsh(), certs.GetTls()); err != nil {
		return next, renewable, fmt.Errorf("%s gave an unusable answer: %w", p.Proxy, err)
	}
	return next, renewableUntil(proved.Success, next), nil
}

// impatient gives up where the server lets it wait: the TPM is kept from all
// signatures meanwhile, also those of logins in other clusters.
type impatient struct {
	tpm.AuthenticateStream
	giveUp context.CancelCauseFunc // of the stream
}

var errNoAnswer = api.Refuse(connect.CodeUnavailable, "the server does not answer the device authentication")

// Receive implements tpm.AuthenticateStream.
func (s impatient) Receive() (*dtv1.AuthenticateDeviceResponse, error) {
	defer time.AfterFunc(renewalAnswer, func() { s.giveUp(errNoAnswer) }).Stop()
	return s.AuthenticateStream.Receive()
}

// notLess refuses certificates that say less than those there are.
func notLess(old, next Credentials) error {
	switch was, is := old.Identity, next.Identity; {
	case is.User != was.User:
		return fmt.Errorf("the certificate is for user %.128q, want %q", is.User, was.User)
	case is.Device != was.Device:
		return fmt.Errorf("the certificate is for device %.128q, want %q", is.Device.ID, was.Device.ID)
	case was.KeyAttested() && !is.KeyAttested():
		return errors.New("the certificate does not say that its key is in the TPM")
	case is.PrivateKeyPolicy != was.PrivateKeyPolicy:
		return fmt.Errorf("the certificate has key policy %.128q, want %q", is.PrivateKeyPolicy, was.PrivateKeyPolicy)
	}
	return nil
}

// keepRenewed stores next where old is still the login: the certificates take
// the place of the old ones together, as with a login.
func (p *Profile) keepRenewed(ctx context.Context, old, next Credentials, renewable time.Time) error {
	files, err := next.files(p.User)
	if err != nil {
		return err
	}
	unlock, err := p.home.Lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	now, err := p.home.Profile(p.Proxy)
	if err != nil {
		return err
	}
	stored, err := now.Credentials()
	if errors.Is(err, ErrNotLoggedIn) || err == nil && !bytes.Equal(stored.SSH.Marshal(), old.SSH.Marshal()) {
		return errChanged
	}
	if err != nil {
		return err
	}
	if files[knownHostsFile], err = p.home.read("keys", fileName(p.Proxy), knownHostsFile); err != nil {
		return unreadable(p.keyPath(knownHostsFile), err)
	}
	folder, err := p.home.replaceFolder(files, "keys", fileName(p.Proxy))
	if err != nil {
		return err
	}
	now.RenewableUntil = renewable.UTC()
	if err := now.save(); err != nil {
		return errors.Join(err, folder.undo())
	}
	folder.settle()
	*p = *now
	return nil
}
