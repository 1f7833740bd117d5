package authd

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/timestamppb"

	"devicetrust/api"
	"devicetrust/api/dtv1"
	"devicetrust/api/dtv1/dtv1connect"
	"devicetrust/audit"
	"devicetrust/audit/event"
	"devicetrust/login"
	"devicetrust/policy"
	"devicetrust/resource"
	"devicetrust/store"
)

// adminService is what administrators do beside plain resources, and what
// everybody may see.
type adminService struct{ s *Server }

var _ dtv1connect.AdminServiceHandler = adminService{}

func (h adminService) AddUser(ctx context.Context, req *connect.Request[dtv1.AddUserRequest]) (*connect.Response[dtv1.Invite], error) {
	s, m, actor := h.s, req.Msg, callerOf(ctx).actor
	if n := len(m.GetLogins()); n > maxLogins {
		return nil, api.Refuse(connect.CodeInvalidArgument, "at most %d logins, got %d", maxLogins, n)
	}
	u := resource.User{Header: resource.NewHeader(resource.KindUser, m.GetName())}
	u.Spec.Roles = m.GetRoles()
	if len(m.GetLogins()) > 0 {
		u.Spec.Traits = map[string][]string{"logins": m.GetLogins()}
	}
	if m.Password != nil {
		password := login.NewSecret(m.GetPassword())
		if err := s.login.CreateUser(ctx, actor, u, &password); err != nil {
			return nil, err
		}
		return connect.NewResponse(&dtv1.Invite{User: m.GetName()}), nil
	}
	ttl, err := duration(m.GetTtl())
	if err != nil {
		return nil, err
	}
	invite, err := s.login.CreateInvited(ctx, actor, u, ttl)
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(s.invitation(m.GetName(), invite)), nil
}

func (s *Server) invitation(user string, i login.Invite) *dtv1.Invite {
	proxy, token := s.public[0], i.Token.Reveal()
	return &dtv1.Invite{
		User: user, Token: token, Url: "https://" + proxy + "/web/invite#" + token,
		Expires: timestamppb.New(i.Expires), Proxy: proxy, CaPins: s.tls.pins(),
	}
}

func (h adminService) ResetUser(ctx context.Context, req *connect.Request[dtv1.ResetUserRequest]) (*connect.Response[dtv1.Invite], error) {
	s, name := h.s, req.Msg.GetName()
	ttl, err := duration(req.Msg.GetTtl())
	if err != nil {
		return nil, err
	}
	invite, err := s.login.Reset(ctx, callerOf(ctx).actor, name, ttl, func(tx *store.Tx) error {
		return s.endUser(tx, name, "the user was reset")
	})
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(s.invitation(name, invite)), nil
}

func (h adminService) AddToken(ctx context.Context, req *connect.Request[dtv1.AddTokenRequest]) (*connect.Response[dtv1.JoinToken], error) {
	s, m := h.s, req.Msg
	if m.GetType() != "node" {
		return nil, api.Refuse(connect.CodeInvalidArgument, "unknown type of token %.64q", m.GetType()).WithHint("The only type is node")
	}
	ttl, err := duration(m.GetTtl())
	if err != nil {
		return nil, err
	}
	if ttl == 0 {
		ttl = defaultJoinTTL
	}
	if ttl > maxJoinTTL {
		return nil, api.Refuse(connect.CodeInvalidArgument, "a join token lives at most %s, not %s", maxJoinTTL, ttl)
	}
	if err := invalid(resource.CheckNodeLabels(m.GetLabels())); err != nil {
		return nil, err
	}
	var t joinToken
	err = s.db.Write(ctx, func(tx *store.Tx) (err error) {
		if t, err = s.nodes.addToken(tx, ttl, m.GetLabels()); err != nil {
			return err
		}
		_, err = s.audit.Record(tx, event.Event{
			Type: event.JoinTokenCreate, Success: true, User: callerOf(ctx).actor, Kind: resource.KindToken, Name: t.name,
		})
		return err
	})
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&dtv1.JoinToken{
		Name:  t.name,
		Token: t.secret, Type: "node", Expires: timestamppb.New(t.expires), CaPins: s.tls.pins(), AuthServer: s.public[0],
	}), nil
}

// ListNodes shows each caller the nodes that policy lets it see. Where news have
// not arrived yet is for those who may list nodes as resources: others could
// use it.
func (h adminService) ListNodes(ctx context.Context, _ *connect.Request[dtv1.ListNodesRequest]) (*connect.Response[dtv1.ListNodesResponse], error) {
	s, c := h.s, callerOf(ctx)
	out := &dtv1.ListNodesResponse{}
	err := s.db.Read(ctx, func(tx *store.Tx) error {
		state, err := s.policyState(tx)
		if err != nil {
			return err
		}
		all, err := s.nodes.list(tx)
		if err := errors.Join(err, s.markBehind(tx, all...)); err != nil {
			return err
		}
		full := policy.Decide(state, policy.Request{
			Action: policy.CallAPI, Subject: c.subject, Resource: resource.KindNode, Verb: "list", Now: s.now(),
		}).Allowed()
		for _, n := range all {
			if !full {
				n.Spec.State = nil
			}
			d := policy.Decide(state, policy.Request{Action: policy.SeeNode, Subject: c.subject, Node: policyNode(n), Now: s.now()})
			if !d.Allowed() {
				continue
			}
			doc, err := resource.MarshalJSON(n)
			if err != nil {
				return err
			}
			out.Nodes = append(out.Nodes, doc)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(out), nil
}

func (h adminService) ListAudit(ctx context.Context, req *connect.Request[dtv1.ListAuditRequest]) (*connect.Response[dtv1.ListAuditResponse], error) {
	m := req.Msg
	var since time.Time
	if m.GetSince() != nil {
		since = m.GetSince().AsTime()
	}
	events, before, err := h.s.audit.List(ctx, audit.Filter{
		Type: event.Type(m.GetType()), User: m.GetUser(), Since: since, FailedOnly: m.GetFailed(),
		Before: m.GetBefore(), Limit: int(m.GetLimit()),
	})
	if err != nil {
		return nil, err
	}
	out := &dtv1.ListAuditResponse{Before: before}
	for _, e := range events {
		doc, err := json.Marshal(e)
		if err != nil {
			return nil, err
		}
		out.Events = append(out.Events, doc)
	}
	return connect.NewResponse(out), nil
}

func (h adminService) VerifyAudit(ctx context.Context, _ *connect.Request[dtv1.VerifyAuditRequest]) (*connect.Response[dtv1.VerifyAuditResponse], error) {
	v, err := h.s.audit.Verify(ctx)
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&dtv1.VerifyAuditResponse{Intact: v.Intact, Records: v.Records, Problem: v.Problem}), nil
}

func (h adminService) ExportAuthority(_ context.Context, req *connect.Request[dtv1.ExportAuthorityRequest]) (*connect.Response[dtv1.ExportAuthorityResponse], error) {
	text, err := h.s.ca.Export(req.Msg.GetType())
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&dtv1.ExportAuthorityResponse{Text: text}), nil
}

func (h adminService) Status(ctx context.Context, _ *connect.Request[dtv1.StatusRequest]) (*connect.Response[dtv1.StatusResponse], error) {
	s := h.s
	info, err := s.clusterInfo(ctx)
	if err != nil {
		return nil, err
	}
	out := &dtv1.StatusResponse{
		Cluster: info.GetName(), Version: s.cfg.Version, CaPins: s.tls.pins(), PublicAddresses: s.public,
		DeviceTrustMode: info.GetDeviceTrustMode(), Counts: map[string]int64{},
	}
	if err := s.db.Read(ctx, func(tx *store.Tx) error { return s.count(tx, callerOf(ctx), out.Counts) }); err != nil {
		return nil, err
	}
	return connect.NewResponse(out), nil
}

// count tells c how much there is of what c may list.
func (s *Server) count(tx *store.Tx, c caller, into map[string]int64) error {
	state, err := s.policyState(tx)
	if err != nil {
		return err
	}
	for kind, count := range map[string]func() error{
		resource.KindUser: func() (err error) { into["users"], err = s.login.Count(tx); return err },
		resource.KindNode: func() (err error) { into["nodes"], err = s.nodes.count(tx); return err },
		resource.KindRole: func() (err error) { into["roles"], err = s.catalog.Count(tx, resource.KindRole); return err },
		resource.KindLock: func() (err error) { into["locks"], err = s.catalog.Count(tx, resource.KindLock); return err },
		resource.KindDevice: func() (err error) {
			into["devices"], into["devices_enrolled"], err = s.devices.Count(tx)
			return err
		},
	} {
		d := policy.Decide(state, policy.Request{Action: policy.CallAPI, Subject: c.subject, Resource: kind, Verb: "list", Now: s.now()})
		if !d.Allowed() {
			continue
		}
		if err := count(); err != nil {
			return err
		}
	}
	return nil
}
