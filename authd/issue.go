package authd

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"reflect"
	"sort"
	"time"

	"connectrpc.com/connect"
	"golang.org/x/crypto/ssh"
	"google.golang.org/protobuf/types/known/timestamppb"

	"devicetrust/api"
	"devicetrust/api/dtv1"
	"devicetrust/audit"
	"devicetrust/audit/event"
	"devicetrust/ca"
	"devicetrust/identity"
	"devicetrust/policy"
	"devicetrust/store"
)

// issuing is what certificates are asked for.
type issuing struct {
	user    string
	loginID string
	sshKey  ssh.PublicKey
	tlsKey  []byte
	// until is the latest end of life: what the person asked for, or what is
	// left of the certificates that the device is added to.
	until time.Time
	// began is when the login did, from when on max_session_ttl counts; zero: it
	// begins now.
	began time.Time
	// renewal lets the login live on, and is for the record.
	renewal bool
	device  identity.Device
	// evidence is what the device proved of itself.
	evidence identity.Evidence
	// keyAttestation is that of sshKey, where it is in the TPM of the device.
	keyAttestation string
	// deviceOS is for the record.
	deviceOS string
	// addr is where the person is now.
	addr netip.Addr
}

// granted is what policy gives.
type granted struct {
	identity identity.Identity
	// most is the end of the session's maximum.
	most time.Time
}

// issued is what issue gives.
type issued struct {
	certificates *dtv1.Certificates
	// most is until when renewing could lengthen their life.
	most time.Time
}

// issue gives certificates for what policy grants at this moment. check runs
// in the transaction that records them, and is told when they end.
func (s *Server) issue(ctx context.Context, want issuing, check func(tx *store.Tx, until time.Time) error) (issued, error) {
	now := s.now()
	if want.began.IsZero() {
		want.began = now
	}
	var g granted
	err := s.db.Read(ctx, func(tx *store.Tx) (err error) {
		g, err = s.grant(tx, want, now)
		return err
	})
	if err != nil {
		return issued{}, err
	}
	certs, err := s.ca.IssueUser(ctx, ca.UserRequest{
		Identity: g.identity, LoginID: want.loginID, DeviceOS: want.deviceOS, SSHKey: want.sshKey, TLSKey: want.tlsKey,
		RemoteAddr: callerOf(ctx).remote(), Renewal: want.renewal,
	}, func(tx *store.Tx) error {
		if err := check(tx, g.identity.ValidBefore); err != nil {
			return err
		}
		// Between reading and recording somebody may have taken away what
		// was granted; what is recorded is what holds now.
		again, err := s.grant(tx, want, now)
		if err != nil {
			return err
		}
		if !reflect.DeepEqual(again, g) {
			return api.Refuse(connect.CodeAborted, "your access was changed at this moment").WithHint(hintLogin)
		}
		return nil
	})
	if err != nil {
		return issued{}, err
	}
	return issued{most: g.most, certificates: &dtv1.Certificates{
		Ssh: certs.SSH.Marshal(), Tls: certs.TLS, Roles: g.identity.Roles, Logins: loginsShown(g.identity),
		ValidUntil: timestamppb.New(g.identity.ValidBefore),
	}}, nil
}

// grant is what policy gives a user now.
func (s *Server) grant(tx *store.Tx, want issuing, now time.Time) (granted, error) {
	user, err := s.login.GetUser(tx, want.user)
	if err != nil {
		return granted{}, err
	}
	state, err := s.policyState(tx)
	if err != nil {
		return granted{}, err
	}
	roles := append([]string(nil), user.Spec.Roles...)
	sort.Strings(roles)
	subject := withDevice(policy.Subject{User: want.user, Roles: roles, Traits: user.Spec.Traits}, want.device, want.evidence)
	subject.KeyAttested = want.keyAttestation != ""
	d := policy.Decide(state, policy.Request{Action: policy.LogIn, Subject: subject, Now: now})
	if !d.Allowed() {
		return granted{}, api.Refuse(connect.CodePermissionDenied, "access denied: %s", d.Reason)
	}
	if d.Limits.AttestedKey && want.device.Trusted() && !subject.KeyAttested {
		return granted{}, needsAttestedKey(state, subject, want.deviceOS)
	}
	life := cmp.Or(d.Limits.MaxSessionTTL, policy.MaxSessionTTLDefault)
	// A login that another replica's clock began is not longer for that.
	most := earlier(want.began, now).Add(life).Truncate(time.Second)
	until := earlier(want.until, most).Truncate(time.Second) // as certificates count
	if !most.After(now) {
		return granted{}, api.Refuse(connect.CodeUnauthenticated, "this login has lasted for the longest that a session may, %s", life).
			WithHint(hintLogin)
	}
	keyPolicy := identity.KeyPolicyNone
	if subject.KeyAttested {
		keyPolicy = identity.KeyPolicyHardware
	}
	return granted{most: most, identity: identity.Identity{
		Cluster: s.ca.Cluster(), User: want.user, Roles: roles, Traits: user.Spec.Traits,
		Logins: policy.LoginsOf(state, subject),
		Device: want.device, Evidence: want.evidence,
		Permit: identity.Permit{
			PTY: true, PortForwarding: d.Limits.PortForwarding,
			AgentForwarding: d.Limits.AgentForwarding, X11Forwarding: d.Limits.X11Forwarding,
		},
		LoginIP: want.addr, PinSourceIP: d.Limits.PinSourceIP,
		PrivateKeyPolicy: keyPolicy, KeyAttestation: want.keyAttestation,
		ValidBefore: until,
	}}, nil
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

// demandsAttestedKey tells whether a role of sub asks for a key in the TPM.
func demandsAttestedKey(state *policy.State, sub policy.Subject) bool {
	return policy.Decide(state, policy.Request{Action: policy.LogIn, Subject: sub}).Limits.AttestedKey
}

// needsAttestedKey says which role of sub asks for a key in the TPM, which the
// device has not shown. Without a device the certificate is good for nothing
// there anyhow, and the person may do what the other roles allow.
func needsAttestedKey(state *policy.State, sub policy.Subject, deviceOS string) *api.Refusal {
	who := "a role"
	for _, name := range sub.Roles {
		one := sub
		one.Roles = []string{name}
		if demandsAttestedKey(state, one) {
			who = fmt.Sprintf("role %q", name)
			break
		}
	}
	if deviceOS == "macos" {
		return api.Refuse(connect.CodePermissionDenied, "%s requires a key in the device's TPM, and a macOS device cannot prove one", who).
			WithHint("Log in on an enrolled machine with a TPM")
	}
	return api.Refuse(connect.CodePermissionDenied, "%s requires a key in the device's TPM", who).
		WithHint("Log in without --key=software; a dtsh that has no such flag is too old")
}

// policyState is all that Decide needs, with the serials that are revoked
// left out: who calls was checked against those before.
func (s *Server) policyState(tx *store.Tx) (*policy.State, error) {
	return s.catalog.State(tx, s.now())
}

func (s *Server) clusterInfo(ctx context.Context) (*dtv1.ClusterInfo, error) {
	info := &dtv1.ClusterInfo{Name: s.ca.Cluster()}
	for _, c := range s.tls.anchors() {
		info.TlsAuthorities = append(info.TlsAuthorities, c.Raw)
	}
	for _, k := range s.ca.HostAuthorities() {
		info.HostAuthorities = append(info.HostAuthorities, k.Marshal())
	}
	for _, k := range s.ca.UserAuthorities() {
		info.UserAuthorities = append(info.UserAuthorities, k.Marshal())
	}
	err := s.db.Read(ctx, func(tx *store.Tx) error {
		preference, err := s.catalog.Preference(tx)
		if err != nil {
			return err
		}
		trust := preference.DeviceTrust
		// A mode that is not set asks for nothing more than an optional one.
		info.DeviceTrustMode, info.AutoEnroll = string(cmp.Or(trust.Mode, policy.ModeOptional)), trust.AutoEnroll
		return nil
	})
	return info, err
}

// parseUserKeys reads the two keys that a person wants certified.
func parseUserKeys(sshKey, tlsKey []byte) (ssh.PublicKey, error) {
	key, err := ssh.ParsePublicKey(sshKey)
	if err == nil {
		err = identity.CheckSSHKey(key)
	}
	if err != nil {
		return nil, api.Refuse(connect.CodeInvalidArgument, "the SSH public key was refused: %v", err)
	}
	if _, err := identity.ParseTLSKey(tlsKey); err != nil {
		return nil, api.Refuse(connect.CodeInvalidArgument, "the TLS public key was refused: %v", err)
	}
	return key, nil
}

// recordFailure records that an act failed and returns why; where that cannot
// be recorded, the person hears of that instead.
func recordFailure(ctx context.Context, s *Server, cause error, e event.Event) error {
	e.Success, e.Message = false, cause.Error()
	if err := s.audit.RecordAlone(context.WithoutCancel(ctx), e); err != nil {
		// Not as a cause: a refusal in it would be all that is told.
		return fmt.Errorf("authd: a failure could not be recorded: %w; it was: %v", err, cause) //nolint:errorlint // see above
	}
	return audit.Recorded(cause)
}

// loginsShown are the logins without the principal that stands for none.
func loginsShown(id identity.Identity) []string {
	var out []string
	for _, l := range id.Logins {
		if l != identity.NoLogin {
			out = append(out, l)
		}
	}
	return out
}
