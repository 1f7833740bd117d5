package authd

import (
	"cmp"
	"context"
	"strings"

	"connectrpc.com/connect"

	"devicetrust/api"
	"devicetrust/api/dtv1"
	"devicetrust/devices"
	"devicetrust/policy"
	"devicetrust/resource"
	"devicetrust/store"
)

// autoOff refuses where the cluster enrolls no machine by itself.
func (s *Server) autoOff(tx *store.Tx) error {
	preference, err := s.catalog.Preference(tx)
	if err != nil {
		return err
	}
	trust := preference.DeviceTrust
	if trust.Mode != policy.ModeOff && trust.AutoEnroll {
		return nil
	}
	return api.Refuse(connect.CodeFailedPrecondition, "auto-enrollment is off in this cluster").
		WithHint("An administrator turns it on: dtctl edit cluster_auth_preference, and set device_trust.auto_enroll to true, with a mode that is not off")
}

// maySpeak asks whether a login of c could be one with d: locks target
// devices, too.
func (s *Server) maySpeak(tx *store.Tx, c caller, d resource.Device) error {
	c.subject.DeviceID, c.subject.DeviceAssetTag = d.Metadata.Name, d.Spec.AssetTag
	return s.decideCall(tx, c, "", "")
}

// autoTerms are those of auto-enrollment by a login of c.
func (s *Server) autoTerms(c caller) devices.AutoTerms {
	return devices.AutoTerms{
		Off:    s.autoOff,
		Stands: func(tx *store.Tx, d resource.Device) error { return s.maySpeak(tx, c, d) },
	}
}

// CreateAutoEnrollToken is asked by each login of a machine that is not
// enrolled. What one login can have recorded by it is bounded as its
// ceremonies are.
func (h deviceService) CreateAutoEnrollToken(ctx context.Context, req *connect.Request[dtv1.CreateAutoEnrollTokenRequest]) (*connect.Response[dtv1.EnrollToken], error) {
	c, err := person(ctx)
	if err != nil {
		return nil, err
	}
	if err := h.s.ceremonies.check(c.login.ID, h.s.now()); err != nil {
		return nil, err
	}
	// A token that is given is a record as well.
	h.s.ceremonies.add(c.login.ID, h.s.now())
	token, err := h.s.devices.CreateAutoToken(ctx, c.actor, req.Msg.GetDevice(), h.s.autoTerms(c))
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(enrollToken(token)), nil
}

// ExplainAutoEnroll asks as a login of the user would, from where nobody is.
func (h deviceService) ExplainAutoEnroll(ctx context.Context, req *connect.Request[dtv1.ExplainAutoEnrollRequest]) (*connect.Response[dtv1.ExplainAutoEnrollResponse], error) {
	s, m := h.s, req.Msg
	var found []devices.Finding
	err := s.db.Read(ctx, func(tx *store.Tx) error {
		user, err := s.login.GetUser(tx, m.GetUser())
		if err != nil {
			return err
		}
		d, err := s.devices.Get(tx, deviceRef(m.GetDevice()))
		if err != nil {
			return err
		}
		found, err = s.devices.ExplainAuto(tx, d, m.GetUser(), m.GetReported(), devices.AutoTerms{
			Off: s.autoOff,
			Stands: func(tx *store.Tx, d resource.Device) error {
				return s.mayLogIn(tx, policy.Subject{
					User: m.GetUser(), Roles: user.Spec.Roles, Traits: user.Spec.Traits,
					DeviceID: d.Metadata.Name, DeviceAssetTag: d.Spec.AssetTag,
				})
			},
		})
		return err
	})
	if err != nil {
		return nil, err
	}
	out := &dtv1.ExplainAutoEnrollResponse{WouldEnroll: true}
	for _, f := range found {
		out.WouldEnroll = out.WouldEnroll && f.State == devices.OK
		out.Findings = append(out.Findings, finding(f, f.Full()))
	}
	return connect.NewResponse(out), nil
}

func (s *Server) mayLogIn(tx *store.Tx, subject policy.Subject) error {
	state, err := s.policyState(tx)
	if err != nil {
		return err
	}
	d := policy.Decide(state, policy.Request{Action: policy.LogIn, Subject: subject, Now: s.now()})
	if !d.Allowed() {
		return api.Refuse(connect.CodePermissionDenied, "access denied: %s", d.Reason)
	}
	return nil
}

func (h deviceService) DiagnoseDevice(ctx context.Context, req *connect.Request[dtv1.DiagnoseDeviceRequest]) (*connect.Response[dtv1.DiagnoseDeviceResponse], error) {
	c, err := person(ctx)
	if err != nil {
		return nil, err
	}
	s := h.s
	var found []devices.Finding
	err = s.db.Read(ctx, func(tx *store.Tx) error {
		state, err := s.policyState(tx)
		if err != nil {
			return err
		}
		found, err = s.devices.Diagnose(tx, c.login.User, req.Msg.GetDevice(), req.Msg.GetCredentialId(), s.autoTerms(c))
		found = append(found, trustIsOn(state), whoAsks(state, c.subject))
		return err
	})
	if err != nil {
		return nil, err
	}
	out := &dtv1.DiagnoseDeviceResponse{}
	for _, f := range found {
		out.Findings = append(out.Findings, finding(f, f.Detail))
	}
	return connect.NewResponse(out), nil
}

func trustIsOn(state *policy.State) devices.Finding {
	mode := cmp.Or(state.Preference.DeviceTrust.Mode, policy.ModeOptional)
	if mode == policy.ModeOff {
		return devices.Finding{
			Name: "device_trust", Detail: "device trust is off in this cluster",
			Remedy: "An administrator turns it on: dtctl edit cluster_auth_preference",
		}
	}
	return devices.Finding{Name: "device_trust", State: devices.OK, Detail: "device trust is on in this cluster: " + string(mode)}
}

// whoAsks is a note: a trusted device that nobody asks for is no fault.
func whoAsks(state *policy.State, subject policy.Subject) devices.Finding {
	f := devices.Finding{Name: "required", State: devices.Note, Detail: "neither the cluster nor any of your roles asks for a trusted device"}
	if names := policy.DemandersOf(state, subject); len(names) > 0 {
		f.Detail = "a trusted device is asked for by " + strings.Join(names, ", ")
	}
	return f
}

func finding(f devices.Finding, detail string) *dtv1.Finding {
	state := dtv1.Finding_STATE_FAULT
	switch f.State {
	case devices.OK:
		state = dtv1.Finding_STATE_OK
	case devices.Note:
		state = dtv1.Finding_STATE_NOTE
	case devices.Fault:
	}
	return &dtv1.Finding{Name: f.Name, State: state, Detail: detail, Remedy: f.Remedy}
}
