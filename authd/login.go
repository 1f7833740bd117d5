package authd

import (
	"cmp"
	"context"
	"errors"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/durationpb"

	"devicetrust/api"
	"devicetrust/api/dtv1"
	"devicetrust/api/dtv1/dtv1connect"
	"devicetrust/audit/event"
	"devicetrust/ca"
	"devicetrust/login"
	"devicetrust/store"
)

// loginService answers "who is it?".
type loginService struct{ s *Server }

var _ dtv1connect.LoginServiceHandler = loginService{}

func (h loginService) Login(ctx context.Context, req *connect.Request[dtv1.LoginRequest]) (*connect.Response[dtv1.LoginResponse], error) {
	s, m, c := h.s, req.Msg, callerOf(ctx)
	sshKey, err := parseUserKeys(m.GetSshPublicKey(), m.GetTlsPublicKey())
	if err != nil {
		return nil, err
	}
	ttl, err := duration(m.GetTtl())
	if err != nil {
		return nil, err
	}
	if ttl != 0 && ttl < minCertTTL {
		return nil, api.Refuse(connect.CodeInvalidArgument, "a certificate lives at least %s, not %s", minCertTTL, ttl)
	}
	verified, err := s.login.CheckPassword(ctx, m.GetUser(), login.NewSecret(m.GetPassword()), c.addr)
	if err != nil {
		return nil, err
	}
	want := issuing{
		user: verified.User(), loginID: login.NewID(), sshKey: sshKey, tlsKey: m.GetTlsPublicKey(),
		until: s.now().Add(cmp.Or(ttl, defaultCertTTL)), addr: c.addr,
	}
	out, err := s.issue(ctx, want, func(tx *store.Tx, until time.Time) error {
		_, err := s.login.Begin(tx, verified, login.Login{
			ID: want.loginID, SSHKey: m.GetSshPublicKey(), TLSKey: m.GetTlsPublicKey(),
			RemoteAddr: c.remote(), TTL: ttl, Expires: until,
		})
		return err
	})
	if err != nil {
		return nil, recordFailure(ctx, s, err, event.Event{Type: event.UserLogin, User: want.user, RemoteAddr: c.remote()})
	}
	cluster, err := s.clusterInfo(ctx)
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&dtv1.LoginResponse{Certificates: out.certificates, Cluster: cluster}), nil
}

func (h loginService) AcceptInvite(ctx context.Context, req *connect.Request[dtv1.AcceptInviteRequest]) (*connect.Response[dtv1.AcceptInviteResponse], error) {
	user, err := h.s.login.AcceptInvite(ctx, login.NewSecret(req.Msg.GetToken()), login.NewSecret(req.Msg.GetPassword()), callerOf(ctx).addr)
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&dtv1.AcceptInviteResponse{User: user}), nil
}

func (h loginService) ChangePassword(ctx context.Context, req *connect.Request[dtv1.ChangePasswordRequest]) (*connect.Response[dtv1.ChangePasswordResponse], error) {
	c, err := person(ctx)
	if err != nil {
		return nil, err
	}
	s := h.s
	// Somebody may change it because it was stolen, and would believe that
	// the thief is out.
	endOthers := func(tx *store.Tx) error {
		const why = "the password was changed"
		ended, err := s.login.EndOthers(tx, c.login, why)
		for _, id := range ended {
			if err == nil {
				_, err = s.ca.RevokeLogin(tx, id, why)
			}
		}
		return err
	}
	err = s.login.ChangePassword(ctx, c.login.User, login.NewSecret(req.Msg.GetOldPassword()), login.NewSecret(req.Msg.GetNewPassword()), c.addr, endOthers)
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&dtv1.ChangePasswordResponse{}), nil
}

func (h loginService) Logout(ctx context.Context, req *connect.Request[dtv1.LogoutRequest]) (*connect.Response[dtv1.LogoutResponse], error) {
	s, replaced := h.s, req.Msg.GetReplacedSerials()
	c, err := person(ctx)
	if err != nil {
		return nil, err
	}
	if len(replaced) > maxReplacedSerials {
		return nil, api.Refuse(connect.CodeInvalidArgument, "a logout names at most %d earlier certificates, not %d", maxReplacedSerials, len(replaced))
	}
	err = s.db.Write(ctx, func(tx *store.Tx) error {
		if err := s.endLogin(tx, c.login.ID); err != nil {
			return err
		}
		for _, serial := range replaced {
			if err := s.endReplaced(tx, c.login.User, serial); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&dtv1.LogoutResponse{}), nil
}

// endLogin ends a login that stands, with its certificates.
func (s *Server) endLogin(tx *store.Tx, id string) error {
	if _, err := s.ca.RevokeLogin(tx, id, "logged out"); err != nil {
		return err
	}
	return s.login.End(tx, id)
}

// endReplaced ends the login of a certificate, where it is one of user's that
// stands: whose certificate has a serial is nobody's business.
func (s *Server) endReplaced(tx *store.Tx, user string, serial uint64) error {
	id, err := ca.LoginBehind(tx, serial)
	if err != nil {
		return err
	}
	l, err := s.login.Find(tx, id)
	if no, ok := errors.AsType[*api.Refusal](err); ok && no.Code == connect.CodeUnauthenticated || err == nil && l.User != user {
		return nil
	}
	if err != nil {
		return err
	}
	return s.endLogin(tx, id)
}

// person is the caller of a method about the caller's own login, which the
// administrator on the socket does not have.
func person(ctx context.Context) (caller, error) {
	c := callerOf(ctx)
	if c.kind != callerUser {
		return c, api.Refuse(connect.CodeFailedPrecondition, "this needs a login of your own").WithHint("Log in: dtsh login")
	}
	return c, nil
}

// duration reads a length of time that somebody asked for; 0 is that nobody
// did, and each room has its own default and bounds.
func duration(d *durationpb.Duration) (time.Duration, error) {
	if d == nil {
		return 0, nil
	}
	if d.CheckValid() != nil || d.AsDuration() <= 0 {
		return 0, api.Refuse(connect.CodeInvalidArgument, "a time to live must be longer than nothing")
	}
	return d.AsDuration(), nil
}
