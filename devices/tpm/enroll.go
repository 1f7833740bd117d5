package tpm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"

	"google.golang.org/protobuf/proto"

	"devicetrust/api"
	"devicetrust/api/dtv1"
	"devicetrust/identity"
)

// EnrollStream is the client's end of DeviceService.EnrollDevice. Whoever
// opened it closes it.
type EnrollStream interface {
	Send(*dtv1.EnrollDeviceRequest) error
	Receive() (*dtv1.EnrollDeviceResponse, error)
}

// EnrollArgs of an enrollment.
type EnrollArgs struct {
	// Token of dtctl devices enroll, or of RegisterCurrentDevice.
	Token string
	// Cluster that the enrollment is remembered under, and User who enrolls:
	// the quote is good for these alone.
	Cluster, User string
	// Data of the machine; the TPM's own two fields are filled in.
	Data *dtv1.DeviceData
	// StatePath of the file that remembers enrollments.
	StatePath string
	// EventLog is the file of the firmware's event log; empty is the system's
	// own, where it has one of this TPM, and NoEventLog sends none.
	EventLog string
	// Lock keeps other programs from changing that file until unlock is called;
	// nil where there are none.
	Lock func() (unlock func())
}

// Enroll proves this TPM to the server, which gives the device as a JSON
// resource, and remembers the enrollment. Nothing is remembered unless the
// server has said yes. A refusal of the server's is an *api.Refusal.
func (t *TPM) Enroll(ctx context.Context, args EnrollArgs, stream EnrollStream) (device []byte, err error) {
	defer func() { err = fault(ctx, err) }()
	room, err := reserve(args.StatePath) // before the token is spent
	if err != nil {
		return nil, err
	}
	defer room.release()
	end, err := t.hold(ctx)
	if err != nil {
		return nil, err
	}
	defer end()
	t.forget() // a ceremony has all slots
	log, err := t.eventLog(args.EventLog)
	if err != nil {
		return nil, err
	}
	// All that takes a chip long comes before the server's clock starts.
	unique := uniqueOf(args.Cluster, args.Data.GetOsType())
	ak, made, err := t.provenAK(unique)
	if err != nil {
		return nil, err
	}
	defer t.flush(ak.handle.Handle)
	ek, err := t.endorsementKeyLocked()
	if err != nil {
		return nil, err
	}
	loaded, release, err := t.loadEK(ek)
	if err != nil {
		return nil, err
	}
	release = sync.OnceFunc(release)
	defer release()
	data, err := t.describe(args.Data)
	if err != nil {
		return nil, err
	}
	init := &dtv1.EnrollInit{
		Token: args.Token, CredentialId: credentialID(ak.public), DeviceData: data,
		Tpm: &dtv1.TPMEnroll{EkCert: ek.cert, EkKey: ek.der, AttestationParameters: made},
	}
	device, err = converse(stream, init, func(c *dtv1.TPMEnrollChallenge) (*dtv1.TPMEnrollChallengeResponse, error) {
		credential := c.GetEncryptedCredential()
		secret, err := t.activate(ak, loaded, credential.GetCredential(), credential.GetSecret())
		if err != nil {
			return nil, err
		}
		release()
		// Whatever calls itself Cluster has this key sign: a login is not to be
		// among what it can ask for.
		nonce := identity.EnrollNonce(identity.EnrollBinding{
			Challenge: c.GetNonce(), Cluster: args.Cluster, User: args.User, CredentialID: init.CredentialId,
		})
		platform, err := t.platform(ak, nonce[:], log)
		if err != nil {
			return nil, err
		}
		return &dtv1.TPMEnrollChallengeResponse{ActivatedSecret: secret, Platform: platform}, nil
	})
	if err != nil {
		return nil, err
	}
	e := enrollment{Unique: unique}
	if e.Enrollment, err = enrolledAs(device); err != nil {
		return nil, err
	}
	e.CredentialID = init.CredentialId
	return device, room.remember(args.Lock, args.Cluster, e)
}

// describe fills in what the TPM says of itself.
func (t *TPM) describe(data *dtv1.DeviceData) (*dtv1.DeviceData, error) {
	full := &dtv1.DeviceData{}
	if data != nil {
		full = proto.CloneOf(data)
	}
	manufacturer, firmware, err := t.infoLocked()
	if err != nil {
		return nil, err
	}
	full.TpmManufacturer, full.TpmFirmware = manufacturer, firmware
	return full, nil
}

// converse is the enrollment as the wire sees it: init, challenge, response,
// success.
func converse(stream EnrollStream, init *dtv1.EnrollInit, answer func(*dtv1.TPMEnrollChallenge) (*dtv1.TPMEnrollChallengeResponse, error)) (device []byte, err error) {
	err = stream.Send(&dtv1.EnrollDeviceRequest{Payload: &dtv1.EnrollDeviceRequest_Init{Init: init}})
	if err != nil {
		return nil, fromServer(err, stream.Receive)
	}
	msg, err := stream.Receive()
	if err != nil {
		return nil, api.FromWire(err)
	}
	challenge := msg.GetTpmChallenge()
	if challenge == nil {
		return nil, errors.New("tpm: the server sent no challenge")
	}
	response, err := answer(challenge)
	if err != nil {
		return nil, err
	}
	err = stream.Send(&dtv1.EnrollDeviceRequest{
		Payload: &dtv1.EnrollDeviceRequest_TpmChallengeResponse{TpmChallengeResponse: response},
	})
	if err != nil {
		return nil, fromServer(err, stream.Receive)
	}
	if msg, err = stream.Receive(); err != nil {
		return nil, api.FromWire(err)
	}
	if msg.GetSuccess() == nil {
		return nil, errors.New("tpm: the server did not say that the device is enrolled")
	}
	return msg.GetSuccess().GetDevice(), nil
}

// enrolledAs reads from the device's resource what is to be remembered.
func enrolledAs(device []byte) (Enrollment, error) {
	var d struct {
		Metadata struct {
			Name string `json:"name"`
		} `json:"metadata"`
		Spec struct {
			AssetTag string `json:"asset_tag"`
		} `json:"spec"`
	}
	if err := json.Unmarshal(device, &d); err != nil {
		return Enrollment{}, fmt.Errorf("tpm: the server's device: %w", err)
	}
	return Enrollment{DeviceID: d.Metadata.Name, AssetTag: d.Spec.AssetTag}, nil
}
