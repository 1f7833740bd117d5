package authd

import (
	"testing"

	"connectrpc.com/connect"

	"devicetrust/api/dtv1"
	"devicetrust/api/dtv1/dtv1connect"
)

func TestAChangedPasswordEndsThePersonsOtherLogins(t *testing.T) {
	r := start(t)
	r.addUser("alice", "access")
	r.addUser("bob", "access")
	stolen, own, bob := r.login("alice"), r.login("alice"), r.login("bob")
	_, err := dtv1connect.NewLoginServiceClient(r.https(own), r.url()).ChangePassword(t.Context(), connect.NewRequest(&dtv1.ChangePasswordRequest{
		OldPassword: goodPassword, NewPassword: "something else 1",
	}))
	if err != nil {
		t.Fatal(err)
	}
	status := func(k *keys) error {
		return fails(dtv1connect.NewAdminServiceClient(r.https(k), r.url()).Status(t.Context(), connect.NewRequest(&dtv1.StatusRequest{})))
	}
	wantCode(t, status(stolen), connect.CodeUnauthenticated)
	for who, k := range map[string]*keys{"the login that changed it": own, "somebody else": bob} {
		if err := status(k); err != nil {
			t.Errorf("%s: %v", who, err)
		}
	}
	node := r.join("n")
	r.hearsOf(node, stolen.sshCert.Serial)
	if isRevoked(r.nextState(node, 0), own.sshCert.Serial) {
		t.Error("servers refuse the login that changed it")
	}
}
