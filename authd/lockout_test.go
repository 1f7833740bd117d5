package authd

import (
	"testing"

	"connectrpc.com/connect"

	"devicetrust/api/dtv1"
	"devicetrust/api/dtv1/dtv1connect"
)

// ceremony begins a device authentication that fails, and says for what.
func (r *running) ceremony(k *keys) error {
	s := dtv1connect.NewDeviceServiceClient(r.https(k), r.url()).AuthenticateDevice(r.t.Context())
	defer s.CloseResponse()                       //nolint:errcheck // what it says is known
	_ = s.Send(&dtv1.AuthenticateDeviceRequest{}) // Receive has the reason
	_, err := s.Receive()
	return err
}

func TestARevokedCertificateDoesNotKeepItsOwnerFromCeremonies(t *testing.T) {
	r := start(t)
	r.addUser("alice", "access")
	stolen := r.login("alice")
	if _, err := dtv1connect.NewLoginServiceClient(r.https(stolen), r.url()).Logout(t.Context(), connect.NewRequest(&dtv1.LogoutRequest{})); err != nil {
		t.Fatal(err)
	}
	own := r.login("alice")
	thief := dtv1connect.NewAdminServiceClient(r.https(stolen), r.url())
	for range 2 * maxFailures { // a minute may turn in between
		_, err := thief.Status(t.Context(), connect.NewRequest(&dtv1.StatusRequest{}))
		wantCode(t, err, connect.CodeUnauthenticated)
	}
	wantCode(t, r.ceremony(own), connect.CodeInvalidArgument)
}

func TestFailedCeremoniesOfOneLoginLeaveAnother(t *testing.T) {
	r := start(t)
	r.addUser("alice", "access")
	stolen, own := r.login("alice"), r.login("alice")
	for n := 0; connect.CodeOf(r.ceremony(stolen)) != connect.CodeResourceExhausted; n++ {
		if n > 3*maxFailures {
			t.Fatalf("%d ceremonies have failed, and others may", n)
		}
	}
	wantCode(t, r.ceremony(own), connect.CodeInvalidArgument)
}
