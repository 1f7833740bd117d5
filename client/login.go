package client

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"time"

	"connectrpc.com/connect"
	"golang.org/x/crypto/ssh"
	"google.golang.org/protobuf/types/known/durationpb"

	"devicetrust/api"
	"devicetrust/api/dtv1"
	"devicetrust/devices/tpm"
	"devicetrust/identity"
	"devicetrust/resource"
)

// Prover proves which machine this is: it holds the device authentication
// ceremony over stream for a login whose keys and user are in args.Binding
// (Challenge and CredentialID are the ceremony's). What of args is the
// machine's, it fills in. Machine.Prove is the one with a TPM; one without
// gives no keys.
type Prover func(ctx context.Context, args tpm.AuthArgs, stream tpm.AuthenticateStream) (tpm.Authenticated, error)

// KeyChoice is where a person wants the keys of a login.
type KeyChoice string

const (
	// KeyAuto is in the TPM of a device that proves itself with it, else in
	// files; the zero value is this too.
	KeyAuto KeyChoice = "auto"
	// KeyTPM is in the TPM, or there is no login.
	KeyTPM KeyChoice = "tpm"
	// KeySoftware is in files.
	KeySoftware KeyChoice = "software"
)

// Enroller enrolls this machine in the cluster of p over a connection of a
// login that is not kept yet. Machine.AutoEnroll is the one with a TPM.
type Enroller func(ctx context.Context, p *Profile, conn *Conn) (resource.Device, error)

// Ask is what a person wants of a login.
type Ask struct {
	User, Password string
	// TTL shortens the certificates' life; 0 leaves it to policy.
	TTL time.Duration
	// Trust is whom to believe to be the dtauthd.
	Trust Trust
	// Key is where the login's keys are to be.
	Key KeyChoice
	// Prove authenticates the device; nil leaves it out.
	Prove Prover
	// Enroll is for where the cluster does not know the machine and enrolls
	// such by itself; nil leaves it out.
	Enroll Enroller
}

// Login logs in at p's dtauthd and keeps the new keys and certificates,
// instead of those of an earlier login. One of the same person goes on at the
// server, with what runs on it, until a logout ends both; another person's is
// ended. A device that cannot be authenticated does not fail the login, unless
// its keys were to be in the TPM: p.Device says why. Where anything else fails,
// what was kept before stays.
func (p *Profile) Login(ctx context.Context, ask Ask, o Options) (Credentials, error) {
	if err := CheckUser(ask.User); err != nil {
		return Credentials{}, err
	}
	login, err := passwordLogin(ctx, p.Proxy, ask, o)
	if err != nil {
		return Credentials{}, err
	}
	outcome := login.authenticateDevice(ctx, ask, p.home)
	next := login.profile(p.home)
	next.Device = outcome
	var old *leaver
	err = ctx.Err() // the person gave up: that is no fault of the device
	if err == nil && ask.Key == KeyTPM && !login.creds.InTPM() {
		err = noKeyInTPM(outcome)
	}
	if err == nil {
		old, err = next.keep(ctx, login.creds, login.hosts, o.Now())
	}
	if err != nil {
		// A login whose keys are lost helps nobody; it would expire.
		_ = leaver{profile: next, creds: login.creds}.goodbye(ctx, o)
		return Credentials{}, err
	}
	if old != nil {
		// Its keys are gone already; it would expire.
		_ = old.goodbye(ctx, o)
	}
	*p = *next
	return login.creds, nil
}

// noKeyInTPM is why there is no login; outcome is that of the ceremony.
func noKeyInTPM(outcome DeviceOutcome) error {
	why := outcome.Reason
	if why == "" {
		why = "the device was authenticated without"
	}
	r := api.Refuse(connect.CodeFailedPrecondition, "no keys in the TPM for this login: %s", why)
	if outcome.Hint != "" {
		return r.WithHint("%s", outcome.Hint)
	}
	return r
}

// newLogin is a login that is not kept yet.
type newLogin struct {
	proxy   string
	trust   Trust
	cluster *dtv1.ClusterInfo
	creds   Credentials
	hosts   []ssh.PublicKey
	options Options
	// renewableUntil is zero without a device.
	renewableUntil time.Time
}

// passwordLogin is the first half: who is it?
func passwordLogin(ctx context.Context, proxy string, ask Ask, o Options) (*newLogin, error) {
	keys, err := newKeys()
	if err != nil {
		return nil, err
	}
	sshKey, tlsKey, err := keys.public()
	if err != nil {
		return nil, err
	}
	conn, err := DialAnonymous(proxy, ask.Trust, o)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	req := &dtv1.LoginRequest{User: ask.User, Password: ask.Password, SshPublicKey: sshKey, TlsPublicKey: tlsKey}
	if ask.TTL > 0 {
		req.Ttl = durationpb.New(ask.TTL)
	}
	resp, err := conn.Login.Login(ctx, connect.NewRequest(req))
	if err != nil {
		return nil, err
	}
	l := &newLogin{proxy: proxy, cluster: resp.Msg.GetCluster(), options: o}
	if err := l.take(keys, resp.Msg.GetCertificates(), ask.User); err != nil {
		return nil, fmt.Errorf("%s gave an unusable answer: %w", proxy, err)
	}
	if err := l.takeAuthorities(ask.Trust, conn.root.Load()); err != nil {
		return nil, fmt.Errorf("%s gave an unusable answer: %w", proxy, err)
	}
	return l, nil
}

// take accepts certificates that are for our keys and our user.
func (l *newLogin) take(keys keyPair, certs *dtv1.Certificates, user string) error {
	creds, err := newCredentials(keys, certs.GetSsh(), certs.GetTls())
	if err != nil {
		return err
	}
	if creds.Identity.User != user {
		return fmt.Errorf("the certificate is for user %.128q, want %q", creds.Identity.User, user)
	}
	l.creds = creds
	return nil
}

// takeAuthorities accepts whom the cluster says to believe from now on, beside
// root, which was believed to hear it. The system's own authorities stay the
// system's to choose.
func (l *newLogin) takeAuthorities(trust Trust, root *x509.Certificate) error {
	l.trust = Trust{System: trust.System && len(trust.Pins) == 0}
	if !l.trust.System {
		l.trust = l.trust.with(root)
	}
	for _, der := range l.cluster.GetTlsAuthorities() {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return fmt.Errorf("a TLS authority cannot be read: %w", err)
		}
		l.trust = l.trust.with(c)
	}
	for _, wire := range l.cluster.GetHostAuthorities() {
		key, err := ssh.ParsePublicKey(wire)
		if err == nil {
			err = identity.CheckSSHKey(key)
		}
		if err != nil {
			return fmt.Errorf("a host authority cannot be used: %w", err)
		}
		l.hosts = append(l.hosts, key)
	}
	if len(l.hosts) == 0 {
		return errors.New("it names no host authority")
	}
	return nil
}

func (l *newLogin) profile(home *Home) *Profile {
	return &Profile{
		Proxy:   l.proxy,
		Cluster: l.cluster.GetName(),
		User:    l.creds.Identity.User,
		Trust:   l.trust,

		RenewableUntil: l.renewableUntil,

		home: home,
	}
}

// authenticateDevice is the second half: which machine? On success l has the
// certificates that say so; on failure those it had.
func (l *newLogin) authenticateDevice(ctx context.Context, ask Ask, home *Home) DeviceOutcome {
	if l.cluster.GetDeviceTrustMode() == "off" {
		return DeviceOutcome{Reason: "device trust is off in this cluster"}
	}
	if ask.Prove == nil {
		return outcomeOf(errNotAsked)
	}
	warnings, err := l.proveDevice(ctx, ask, home)
	if ask.Enroll != nil && l.cluster.GetAutoEnroll() && notEnrolled(err) {
		if err = l.enrollDevice(ctx, ask.Enroll, home); err == nil {
			warnings, err = l.proveDevice(ctx, ask, home)
		}
	}
	if err != nil {
		l.options.log().Debug("device not authenticated", "error", err)
		return outcomeOf(Explain(l.proxy, err))
	}
	return DeviceOutcome{Warnings: warnings}
}

// notEnrolled tells whether err is that the machine remembers no enrollment in
// the cluster, or the cluster not the one that it remembers.
func notEnrolled(err error) bool {
	if ce, ok := errors.AsType[*connect.Error](err); ok && connect.IsWireError(ce) {
		err = api.FromWire(err)
	}
	r, ok := errors.AsType[*api.Refusal](err)
	return errors.Is(err, tpm.ErrNotEnrolled) || ok && r.Code == connect.CodeNotFound
}

func (l *newLogin) enrollDevice(ctx context.Context, enroll Enroller, home *Home) error {
	conn, err := dial(l.proxy, l.trust, l.creds.tls(), l.options)
	if err != nil {
		return err
	}
	defer conn.Close()
	_, err = enroll(ctx, l.profile(home), conn)
	return err
}

func (l *newLogin) proveDevice(ctx context.Context, ask Ask, home *Home) (warnings []string, err error) {
	ctx, cancel := context.WithTimeout(ctx, ceremonyTimeout)
	defer cancel()
	conn, err := dial(l.proxy, l.trust, l.creds.tls(), l.options)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	binding, err := l.creds.binding(l.cluster.GetName())
	if err != nil {
		return nil, err
	}
	stream := conn.Device.AuthenticateDevice(ctx)
	proved, err := ask.Prove(ctx, tpm.AuthArgs{Binding: binding, NewKeys: ask.Key != KeySoftware}, stream)
	if err != nil {
		return nil, err
	}
	hangUp(stream)
	before := l.creds
	keys := before.keys
	if proved.Keys != nil {
		if keys, err = keysIn(home.Chip, *proved.Keys); err != nil {
			return nil, err
		}
	}
	if err := l.take(keys, proved.Success.GetCertificates(), before.Identity.User); err != nil {
		return nil, err
	}
	if !l.creds.Identity.Device.Trusted() {
		l.creds = before
		return nil, errors.New("the server's certificate names no device")
	}
	l.renewableUntil = renewableUntil(proved.Success, l.creds)
	return proved.Success.GetWarnings(), nil
}

// binding is what a device authentication of c's login is for.
func (c Credentials) binding(cluster string) (identity.LoginBinding, error) {
	sshKey, tlsKey, err := c.keys.public()
	return identity.LoginBinding{
		Cluster: cluster, User: c.Identity.User, SSHPublicKey: sshKey, TLSPublicKey: tlsKey,
	}, err
}

// renewableUntil: an older server says nothing of it, and renews nothing.
func renewableUntil(success *dtv1.AuthenticateSuccess, c Credentials) time.Time {
	if until := success.GetRenewableUntil(); until.IsValid() && until.AsTime().After(c.ValidUntil()) {
		return until.AsTime()
	}
	return c.ValidUntil()
}

var errNotAsked = api.Refuse(connect.CodeFailedPrecondition, "this machine's TPM was not asked")

// outcomeOf keeps why a device was not authenticated.
func outcomeOf(err error) DeviceOutcome {
	if r, ok := errors.AsType[*api.Refusal](err); ok {
		return DeviceOutcome{Reason: err.Error(), Hint: r.Hint}
	}
	return DeviceOutcome{Reason: err.Error()}
}
