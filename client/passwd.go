package client

import (
	"context"

	"connectrpc.com/connect"

	"devicetrust/api"
	"devicetrust/api/dtv1"
)

// CheckPassword refuses what can be no password: an empty one, or more than a
// person types.
func CheckPassword(password string) error {
	if password == "" {
		return api.Refuse(connect.CodeInvalidArgument, "the password is empty")
	}
	if len(password) > maxPassword {
		return api.Refuse(connect.CodeInvalidArgument, "the password has more than %d bytes", maxPassword)
	}
	return nil
}

// ChangePassword replaces the person's own password.
func (c *Conn) ChangePassword(ctx context.Context, old, replacement string) error {
	_, err := c.Login.ChangePassword(ctx, connect.NewRequest(&dtv1.ChangePasswordRequest{
		OldPassword: old, NewPassword: replacement,
	}))
	return err
}

// AcceptInvite spends an invite to set a first password, and tells whose.
func (c *Conn) AcceptInvite(ctx context.Context, token, password string) (user string, err error) {
	resp, err := c.Login.AcceptInvite(ctx, connect.NewRequest(&dtv1.AcceptInviteRequest{Token: token, Password: password}))
	if err != nil {
		return "", err
	}
	return resp.Msg.GetUser(), nil
}

// Believed is whom c's server was believed by: trust, with the authority that
// it turned out to have in place of a pin. It is for a new profile to keep.
func (c *Conn) Believed(trust Trust) Trust {
	if trust.System && len(trust.Pins) == 0 {
		return Trust{System: true}
	}
	return Trust{}.with(trust.Roots...).with(c.root.Load())
}
