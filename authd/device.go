package authd

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"connectrpc.com/connect"
	"golang.org/x/crypto/ssh"
	"google.golang.org/protobuf/types/known/timestamppb"

	"devicetrust/api"
	"devicetrust/api/dtv1"
	"devicetrust/api/dtv1/dtv1connect"
	"devicetrust/audit/event"
	"devicetrust/devices"
	"devicetrust/identity"
	"devicetrust/login"
	"devicetrust/policy"
	"devicetrust/resource"
	"devicetrust/store"
)

// deviceService answers "which machine?".
type deviceService struct{ s *Server }

var _ dtv1connect.DeviceServiceHandler = deviceService{}

func (h deviceService) AddDevice(ctx context.Context, req *connect.Request[dtv1.AddDeviceRequest]) (*connect.Response[dtv1.AddDeviceResponse], error) {
	s, m, actor := h.s, req.Msg, callerOf(ctx).actor
	d := devices.NewDevice{OSType: m.GetOsType(), AssetTag: m.GetAssetTag()}
	out := &dtv1.AddDeviceResponse{}
	var added resource.Device
	if m.GetEnroll() {
		ttl, err := duration(m.GetEnrollTtl())
		if err != nil {
			return nil, err
		}
		var token devices.Token
		if err := s.mustAlso(ctx, req.Spec().Procedure, resource.KindDevice, "enroll"); err != nil {
			return nil, err
		}
		if added, token, err = s.devices.AddWithToken(ctx, actor, d, ttl); err != nil {
			return nil, err
		}
		out.Token = enrollToken(token)
	} else {
		var err error
		if added, err = s.devices.Add(ctx, actor, d); err != nil {
			return nil, err
		}
	}
	var err error
	if out.Device, err = resource.MarshalJSON(&added); err != nil {
		return nil, err
	}
	return connect.NewResponse(out), nil
}

func (h deviceService) RemoveDevice(ctx context.Context, req *connect.Request[dtv1.RemoveDeviceRequest]) (*connect.Response[dtv1.RemoveDeviceResponse], error) {
	if err := h.s.removeDevice(ctx, deviceRef(req.Msg.GetDevice())); err != nil {
		return nil, err
	}
	return connect.NewResponse(&dtv1.RemoveDeviceResponse{}), nil
}

// removeDevice ends what the device gave, in the same transaction.
func (s *Server) removeDevice(ctx context.Context, ref devices.Ref) error {
	_, err := s.devices.Remove(ctx, callerOf(ctx).actor, ref, s.endDevice("the device was removed"))
	return err
}

// endDevice revokes what was issued to a login with the device.
func (s *Server) endDevice(why string) func(tx *store.Tx, id string) error {
	return func(tx *store.Tx, id string) error {
		_, err := s.ca.RevokeDevice(tx, id, why)
		return err
	}
}

func (h deviceService) CreateEnrollToken(ctx context.Context, req *connect.Request[dtv1.CreateEnrollTokenRequest]) (*connect.Response[dtv1.EnrollToken], error) {
	ttl, err := duration(req.Msg.GetTtl())
	if err != nil {
		return nil, err
	}
	token, err := h.s.devices.CreateToken(ctx, callerOf(ctx).actor, deviceRef(req.Msg.GetDevice()), ttl)
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(enrollToken(token)), nil
}

func (h deviceService) RegisterCurrentDevice(ctx context.Context, req *connect.Request[dtv1.RegisterCurrentDeviceRequest]) (*connect.Response[dtv1.EnrollToken], error) {
	c, err := person(ctx)
	if err != nil {
		return nil, err
	}
	token, err := h.s.devices.RegisterCurrent(ctx, c.actor, req.Msg.GetDevice())
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(enrollToken(token)), nil
}

func (h deviceService) ListDevices(ctx context.Context, req *connect.Request[dtv1.ListDevicesRequest]) (*connect.Response[dtv1.ListDevicesResponse], error) {
	m := req.Msg
	f := devices.Filter{
		OSType: m.GetOsType(), EnrollStatus: m.GetEnrollStatus(), Owner: m.GetOwner(), Source: m.GetSource(),
		AssetTagPrefix: m.GetAssetTagPrefix(), Attestation: m.GetAttestation(), Frozen: m.GetFrozenOnly(),
	}
	if t := m.GetNotSeenSince(); t != nil {
		if err := t.CheckValid(); err != nil {
			return nil, api.Refuse(connect.CodeInvalidArgument, "not_seen_since is not a time")
		}
		f.NotSeenSince = t.AsTime()
	}
	page, next, err := h.s.devices.ListPage(ctx, f, devices.Page{Size: int(m.GetPageSize()), Token: m.GetPageToken()})
	if err != nil {
		return nil, err
	}
	out := &dtv1.ListDevicesResponse{NextPageToken: next}
	for i := range page {
		doc, err := resource.MarshalJSON(&page[i])
		if err != nil {
			return nil, err
		}
		out.Devices = append(out.Devices, doc)
	}
	return connect.NewResponse(out), nil
}

func (h deviceService) EnrollDevice(ctx context.Context, stream *connect.BidiStream[dtv1.EnrollDeviceRequest, dtv1.EnrollDeviceResponse]) error {
	c, err := person(ctx)
	if err != nil {
		return err
	}
	trust, err := h.s.deviceTrust(ctx)
	if err != nil {
		return err
	}
	return h.s.devices.Enroll(ctx, c.actor, c.remote(), devices.Trust{
		AllowedCAs: trust.EKCertAllowedCAs, Replaced: h.s.endDevice("the device was enrolled again"),
		Stands: func(tx *store.Tx, d resource.Device) error {
			if _, err := h.s.login.Find(tx, c.login.ID); err != nil {
				return err
			}
			// Whoever sets the list expects that from then on no other TPM
			// comes in.
			state, err := h.s.policyState(tx)
			if err != nil {
				return err
			}
			if !slices.Equal(state.Preference.DeviceTrust.EKCertAllowedCAs, trust.EKCertAllowedCAs) {
				return api.Refuse(connect.CodeAborted, "ekcert_allowed_cas was changed while the device was enrolled").
					WithHint("Enroll it again, with a new token")
			}
			return h.s.maySpeak(tx, c, d)
		},
		AutoOff: h.s.autoOff,
	}, stream)
}

// AuthenticateDevice proves the machine of a login and issues that login's
// certificates again, with the device in them.
func (h deviceService) AuthenticateDevice(ctx context.Context, stream *connect.BidiStream[dtv1.AuthenticateDeviceRequest, dtv1.AuthenticateDeviceResponse]) error {
	c, err := person(ctx)
	if err != nil {
		return err
	}
	// Whoever has no more than a key from before has no say in the keys that the
	// login has now, nor in how long it lives.
	if !bytes.Equal(c.tlsKey, c.login.TLSKey) {
		err := api.Refuse(connect.CodeUnauthenticated, "this login has other keys since its device was authenticated").WithHint(hintLogin)
		return recordFailure(ctx, h.s, err, event.Event{
			Type: event.DeviceAuthenticate, User: c.login.User, LoginID: c.login.ID, RemoteAddr: c.remote(),
		})
	}
	trust, err := h.s.deviceTrust(ctx)
	if err != nil {
		return err
	}
	if trust.Mode == policy.ModeOff {
		return api.Refuse(connect.CodeFailedPrecondition, "device trust is off in this cluster").
			WithHint("An administrator turns it on: dtctl edit cluster_auth_preference")
	}
	verified, err := h.s.devices.Authenticate(ctx, identity.LoginBinding{
		Cluster: h.s.ca.Cluster(), User: c.login.User, SSHPublicKey: c.login.SSHKey, TLSPublicKey: c.login.TLSKey,
	}, devices.Demands{Trust: h.s.trustIn, Frozen: h.s.endDevice("the device was frozen")}, c.remote(), stream)
	if err != nil {
		return err
	}
	return h.s.issueTrusted(ctx, c, verified, stream)
}

// issueTrusted issues the certificates of c's login again, with the device in
// them, for the keys that the device's TPM has now proved to hold, or else for
// those that the login has.
//
// The certificates from before are not revoked. They say less: no device, or
// one that proved itself in this same login; they end soon, and with the login.
// The keys of the first two never left the memory of dtsh, and a revocation for
// each login would have to be told to every server until a week after its end.
func (s *Server) issueTrusted(ctx context.Context, c caller, verified devices.Verified, stream devices.AuthenticateStream) error {
	want, err := s.trustedIssuing(c, verified)
	if err != nil {
		return err
	}
	device := verified.Device()
	out, err := s.issue(ctx, want, func(tx *store.Tx, until time.Time) error {
		l, err := s.login.Find(tx, c.login.ID)
		if err != nil {
			return err
		}
		if err := s.devices.StillStands(tx, verified); err != nil {
			return err
		}
		if err := s.takeKeys(tx, l, c.login, verified.Keys()); err != nil {
			return err
		}
		if want.renewal {
			if err := s.login.Extend(tx, l.ID, until); err != nil {
				return err
			}
		}
		return s.login.MarkDevice(tx, l.ID, device.ID)
	})
	if err != nil {
		return recordFailure(ctx, s, err, event.Event{
			Type: event.DeviceAuthenticate, User: c.login.User, LoginID: c.login.ID, RemoteAddr: c.remote(),
			Device: &event.Device{DeviceID: device.ID, AssetTag: device.AssetTag, OSType: verified.OSType(), CredentialID: device.CredentialID},
		})
	}
	return stream.Send(&dtv1.AuthenticateDeviceResponse{Payload: &dtv1.AuthenticateDeviceResponse_Success{
		Success: &dtv1.AuthenticateSuccess{
			Certificates: out.certificates, DeviceId: device.ID, AssetTag: device.AssetTag,
			EvidenceLevel: verified.Evidence().Level, Warnings: verified.Warnings(),
			RenewableUntil: timestamppb.New(out.most),
		},
	}})
}

// trustedIssuing is what a device that proved itself in c's login asks for.
func (s *Server) trustedIssuing(c caller, verified devices.Verified) (issuing, error) {
	keys := verified.Keys()
	want := issuing{
		user: c.login.User, loginID: c.login.ID, sshKey: keys.SSH(), tlsKey: keys.TLS(), keyAttestation: keys.Attestation(),
		// The device never lengthens the life of what the login had; a renewal
		// does, as far as the person asked and policy allows.
		until: c.identity.ValidBefore, began: c.login.Created, renewal: verified.Renew(),
		device: verified.Device(), evidence: verified.Evidence(), deviceOS: verified.OSType(), addr: c.addr,
	}
	if want.renewal {
		want.until = s.now().Add(cmp.Or(c.login.TTL, defaultCertTTL))
	}
	if want.sshKey == nil {
		var err error
		if want.sshKey, err = ssh.ParsePublicKey(c.login.SSHKey); err != nil {
			return issuing{}, fmt.Errorf("authd: the key of a login: %w", err)
		}
		want.tlsKey = c.login.TLSKey
	}
	return want, nil
}

// takeKeys gives the login now those of its keys that the ceremony was about:
// proved ones, or the ones that it has. These must be the ones that it had before
// the ceremony.
func (s *Server) takeKeys(tx *store.Tx, now, before login.Login, proved devices.LoginKeys) error {
	if !bytes.Equal(now.SSHKey, before.SSHKey) || !bytes.Equal(now.TLSKey, before.TLSKey) {
		return api.Refuse(connect.CodeAborted, "the login was given other keys at this moment").WithHint("Try again")
	}
	if proved.SSH() == nil {
		return nil
	}
	return s.login.ReplaceKeys(tx, now.ID, proved.SSH().Marshal(), proved.TLS())
}

// deviceTrust are the settings in force.
func (s *Server) deviceTrust(ctx context.Context) (trust policy.DeviceTrust, err error) {
	err = s.db.Read(ctx, func(tx *store.Tx) error {
		trust, err = s.trustIn(tx)
		return err
	})
	return trust, err
}

// trustIn are the settings in force in tx.
func (s *Server) trustIn(tx *store.Tx) (policy.DeviceTrust, error) {
	preference, err := s.catalog.Preference(tx)
	return preference.DeviceTrust, err
}

// AcceptDevice takes what the device last showed as its new baseline.
func (h deviceService) AcceptDevice(ctx context.Context, req *connect.Request[dtv1.AcceptDeviceRequest]) (*connect.Response[dtv1.AcceptDeviceResponse], error) {
	d, changes, err := h.s.devices.Accept(ctx, callerOf(ctx).actor, deviceRef(req.Msg.GetDevice()))
	if err != nil {
		return nil, err
	}
	document, err := resource.MarshalJSON(&d)
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&dtv1.AcceptDeviceResponse{Device: document, Changes: changes}), nil
}

// EvaluateDevices holds the evidence that is kept against the preference in
// force, or the one that is sent.
func (h deviceService) EvaluateDevices(ctx context.Context, req *connect.Request[dtv1.EvaluateDevicesRequest], stream *connect.ServerStream[dtv1.EvaluateDevicesResponse]) error {
	trust, err := h.evaluatedTrust(ctx, req.Msg.GetPreference())
	if err != nil {
		return err
	}
	ref := devices.Ref{}
	if req.Msg.GetDevice() != nil {
		if ref = deviceRef(req.Msg.GetDevice()); ref == (devices.Ref{}) {
			return api.Refuse(connect.CodeInvalidArgument, "a device is named by its ID or by its asset tag, one of the two")
		}
	}
	return h.s.devices.Evaluate(ctx, ref, trust, func(e devices.Evaluation) error {
		// A large inventory takes longer than any other answer.
		if h.s.stopping.Err() != nil {
			return api.Refuse(connect.CodeUnavailable, "dtauthd is stopping")
		}
		h.s.allowSend(ctx, unaryTimeout+takeTimeout)
		return stream.Send(&dtv1.EvaluateDevicesResponse{
			DeviceId: e.Device.Metadata.Name, AssetTag: e.Device.Spec.AssetTag, OsType: e.Device.Spec.OSType, Owner: e.Device.Spec.Owner,
			Passes: e.Passes, EvidenceLevel: string(e.Level), Reasons: e.Reasons,
		})
	})
}

func (h deviceService) evaluatedTrust(ctx context.Context, document []byte) (policy.DeviceTrust, error) {
	if len(document) == 0 {
		return h.s.deviceTrust(ctx)
	}
	r, err := parse(document, resource.KindPreference)
	if err != nil {
		return policy.DeviceTrust{}, err
	}
	return r.(*resource.Preference).Spec.DeviceTrust, nil
}

func deviceRef(r *dtv1.DeviceRef) devices.Ref {
	return devices.Ref{ID: r.GetDeviceId(), AssetTag: r.GetAssetTag()}
}

func enrollToken(t devices.Token) *dtv1.EnrollToken {
	return &dtv1.EnrollToken{Token: t.Token, AssetTag: t.AssetTag, DeviceId: t.DeviceID, Expires: timestamppb.New(t.Expires)}
}
