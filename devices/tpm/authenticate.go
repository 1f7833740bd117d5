package tpm

import (
	"context"
	"errors"

	"devicetrust/api"
	"devicetrust/api/dtv1"
	"devicetrust/identity"
)

// AuthenticateStream is the client's end of DeviceService.AuthenticateDevice.
// Whoever opened it closes it.
type AuthenticateStream interface {
	Send(*dtv1.AuthenticateDeviceRequest) error
	Receive() (*dtv1.AuthenticateDeviceResponse, error)
}

// AuthArgs of a device authentication.
type AuthArgs struct {
	// StatePath of the file that remembers enrollments.
	StatePath string
	// EventLog is as in EnrollArgs.
	EventLog string
	// Data of the machine; the TPM's own two fields are filled in.
	Data *dtv1.DeviceData
	// Binding says what the quote is good for: Cluster and User, and the two
	// public keys of this login where they are not in the TPM. The rest is filled
	// in.
	Binding identity.LoginBinding
	// NewKeys makes two keys in the TPM and has them certified instead.
	NewKeys bool
	// Keys, where not nil, are such from before, to be certified again.
	Keys *LoginKeys
	// Renew asks for certificates that live on.
	Renew bool
}

// Authenticated is what an authentication gives.
type Authenticated struct {
	Success *dtv1.AuthenticateSuccess
	// Keys are those that Success certifies; nil where it is the two of the
	// binding.
	Keys *LoginKeys
}

// Authenticate proves to the server that this login happens on the enrolled
// device, which gives certificates that say so. The errors are ErrNotEnrolled
// and ErrStaleKey, both also *api.Refusal, and the server's *api.Refusal.
func (t *TPM) Authenticate(ctx context.Context, args AuthArgs, stream AuthenticateStream) (_ Authenticated, err error) {
	defer func() { err = fault(ctx, err) }()
	var none Authenticated
	cluster := args.Binding.Cluster
	enrolled, err := remembered(args.StatePath, cluster)
	if err != nil {
		return none, err
	}
	end, err := t.hold(ctx)
	if err != nil {
		return none, err
	}
	defer end()
	t.forget() // a ceremony has all slots
	data, err := t.describe(args.Data)
	if err != nil {
		return none, err
	}
	log, err := t.eventLog(args.EventLog)
	if err != nil {
		return none, err
	}
	keys, err := t.loginKeys(args)
	if err != nil {
		return none, err
	}
	defer keys.flush(t)
	ak, err := t.enrolledAK(cluster, enrolled)
	if err != nil {
		return none, err
	}
	defer t.flush(ak.handle.Handle)
	init := &dtv1.AuthenticateInit{CredentialId: enrolled.CredentialID, DeviceData: data, Renew: args.Renew}
	success, err := prove(stream, init, func(challenge []byte) (*dtv1.TPMAuthenticateChallengeResponse, error) {
		b := args.Binding
		b.Challenge, b.CredentialID = challenge, enrolled.CredentialID
		if err := keys.bind(&b); err != nil {
			return nil, err
		}
		nonce := identity.LoginNonce(b)
		platform, err := t.platform(ak, nonce[:], log)
		if err != nil {
			return nil, err
		}
		certified, err := keys.certify(t, ak, b)
		return &dtv1.TPMAuthenticateChallengeResponse{Platform: platform, Keys: certified}, err
	})
	if err != nil {
		return none, err
	}
	return Authenticated{Success: success, Keys: keys.kept()}, nil
}

// prove is the authentication as the wire sees it: init, challenge, response,
// success.
func prove(stream AuthenticateStream, init *dtv1.AuthenticateInit, answer func(challenge []byte) (*dtv1.TPMAuthenticateChallengeResponse, error)) (*dtv1.AuthenticateSuccess, error) {
	err := stream.Send(&dtv1.AuthenticateDeviceRequest{Payload: &dtv1.AuthenticateDeviceRequest_Init{Init: init}})
	if err != nil {
		return nil, fromServer(err, stream.Receive)
	}
	msg, err := stream.Receive()
	if err != nil {
		return nil, api.FromWire(err)
	}
	if msg.GetChallenge() == nil {
		return nil, errors.New("tpm: the server sent no challenge")
	}
	response, err := answer(msg.GetChallenge().GetChallenge())
	if err != nil {
		return nil, err
	}
	err = stream.Send(&dtv1.AuthenticateDeviceRequest{
		Payload: &dtv1.AuthenticateDeviceRequest_TpmChallengeResponse{
			TpmChallengeResponse: response,
		},
	})
	if err != nil {
		return nil, fromServer(err, stream.Receive)
	}
	if msg, err = stream.Receive(); err != nil {
		return nil, api.FromWire(err)
	}
	if msg.GetSuccess() == nil {
		return nil, errors.New("tpm: the server did not say that the device is authenticated")
	}
	return msg.GetSuccess(), nil
}
