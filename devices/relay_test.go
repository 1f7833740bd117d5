package devices

import (
	"testing"

	"devicetrust/api"
	"devicetrust/api/dtv1"
	"devicetrust/identity"
	"devicetrust/store/storetest"
)

// A server can call itself as another cluster does, and the machine makes the
// same key for both.
func TestAnEnrollmentElsewhereSignsNoLogin(t *testing.T) {
	w, m := newWorld(t, storetest.Open(t)), newMachine(t)
	w.enroll(t, m, alice, Trust{})
	d := w.device(t, testTag)
	namesake := newWorld(t, storetest.Open(t))
	token := namesake.register(t, m).Token

	// The thief logs in with alice's password and keys of his own.
	binding := identity.LoginBinding{User: alice, SSHPublicKey: []byte("the thief's ssh key"), TLSPublicKey: []byte("the thief's tls key")}
	_, err := converse(t,
		func(s *serverEnd[dtv1.AuthenticateDeviceRequest, dtv1.AuthenticateDeviceResponse]) error {
			_, err := w.Authenticate(t.Context(), binding, Demands{}, testAddr, s)
			return err
		},
		func(s *clientEnd[dtv1.AuthenticateDeviceRequest, dtv1.AuthenticateDeviceResponse]) (none []byte, err error) {
			init := &dtv1.AuthenticateInit{CredentialId: d.Spec.Credential.ID, DeviceData: m.data}
			if err := s.Send(&dtv1.AuthenticateDeviceRequest{Payload: &dtv1.AuthenticateDeviceRequest_Init{Init: init}}); err != nil {
				return nil, err
			}
			msg, err := s.Receive()
			if err != nil {
				return nil, err
			}
			b := binding
			b.Cluster, b.CredentialID, b.Challenge = testCluster, init.CredentialId, msg.GetChallenge().GetChallenge()
			wanted := identity.LoginNonce(b)
			var signed *dtv1.TPMPlatform
			// What comes of the enrollment does not matter.
			_ = namesake.enrollWith(t, m, enrollment{
				token:       token,
				onChallenge: func(c *dtv1.TPMEnrollChallenge) { c.Nonce = wanted[:] },
				onAnswer:    func(a *dtv1.TPMEnrollChallengeResponse) { signed = a.GetPlatform() },
			})
			answer := &dtv1.TPMAuthenticateChallengeResponse{Platform: signed}
			if err := s.Send(&dtv1.AuthenticateDeviceRequest{Payload: &dtv1.AuthenticateDeviceRequest_TpmChallengeResponse{TpmChallengeResponse: answer}}); err != nil {
				return nil, err
			}
			_, err = s.Receive()
			return nil, api.FromWire(err)
		})
	wantRefusal(t, err, "quote does not hold")
}
