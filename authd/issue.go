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
	// left of the login that the device was added to.
	until  time.Time
	device identity.Device
	// evidence is what the device proved of itself.
	evidence identity.Evidence
	// keyAttestation is that of sshKey, where it is in the TPM of the device.
	keyAttestation string
	// deviceOS is for the record.
	deviceOS string
	// addr is where the person is now.
	addr netip.Addr
}

// issue gives certificates for what policy grants at this moment. check runs
// in the transaction that records them, and is told when they end.
func (s *Server) issue(ctx context.Context, want issuing, check func(tx *store.Tx, until time.Time) error) (*dtv1.Certificates, error) {
	var id identity.Identity
	err := s.db.Read(ctx, func(tx *store.Tx) (err error) {
		id, err = s.grant(tx, want, s.now())
		return err
	})
	if err != nil {
		return nil, err
	}
	granted := s.now()
	certs, err := s.ca.IssueUser(ctx, ca.UserRequest{
		Identity: id, LoginID: want.loginID, DeviceOS: want.deviceOS, SSHKey: want.sshKey, TLSKey: want.tlsKey, RemoteAddr: callerOf(ctx).remote(),
	}, func(tx *store.Tx) error {
		if err := check(tx, id.ValidBefore); err != nil {
			return err
		}
		// Between reading and recording somebody may have taken away what
		// was granted; what is recorded is what holds now.
		again, err := s.grant(tx, want, granted)
		if err != nil {
			return err
		}
		again.ValidBefore = id.ValidBefore
		if !reflect.DeepEqual(again, id) {
			return api.Refuse(connect.CodeAborted, "your access was changed at this moment").WithHint(hintLogin)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return &dtv1.Certificates{
		Ssh: certs.SSH.Marshal(), Tls: certs.TLS, Roles: id.Roles, Logins: loginsShown(id), ValidUntil: timestamppb.New(id.ValidBefore),
	}, nil
}

// grant is the identity that policy gives a user now.
func (s *Server) grant(tx *store.Tx, want issuing, now time.Time) (identity.Identity, error) {
	user, err := s.login.GetUser(tx, want.user)
	if err != nil {
		return identity.Identity{}, err
	}
	state, err := s.policyState(tx)
	if err != nil {
		return identity.Identity{}, err
	}
	roles := append([]string(nil), user.Spec.Roles...)
	sort.Strings(roles)
	subject := withDevice(policy.Subject{User: want.user, Roles: roles, Traits: user.Spec.Traits}, want.device, want.evidence)
	d := policy.Decide(state, policy.Request{Action: policy.LogIn, Subject: subject, Now: now})
	if !d.Allowed() {
		return identity.Identity{}, api.Refuse(connect.CodePermissionDenied, "access denied: %s", d.Reason)
	}
	life := d.Limits.MaxSessionTTL
	if life == 0 {
		life = policy.MaxSessionTTLDefault
	}
	until := now.Add(life)
	if want.until.Before(until) {
		until = want.until
	}
	keyPolicy := identity.KeyPolicyNone
	if want.keyAttestation != "" {
		keyPolicy = identity.KeyPolicyHardware
	}
	return identity.Identity{
		Cluster: s.ca.Cluster(), User: want.user, Roles: roles, Traits: user.Spec.Traits,
		Logins: policy.LoginsOf(state, subject),
		Device: want.device, Evidence: want.evidence,
		Permit: identity.Permit{
			PTY: true, PortForwarding: d.Limits.PortForwarding,
			AgentForwarding: d.Limits.AgentForwarding, X11Forwarding: d.Limits.X11Forwarding,
		},
		LoginIP: want.addr, PinSourceIP: d.Limits.PinSourceIP,
		PrivateKeyPolicy: keyPolicy, KeyAttestation: want.keyAttestation,
		// Certificates count in whole seconds.
		ValidBefore: until.Truncate(time.Second),
	}, nil
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
