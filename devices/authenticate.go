package devices

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"

	"connectrpc.com/connect"

	"devicetrust/api"
	"devicetrust/api/dtv1"
	"devicetrust/audit"
	"devicetrust/audit/event"
	"devicetrust/identity"
	"devicetrust/policy"
	"devicetrust/resource"
	"devicetrust/store"
)

// AuthenticateStream is the server's end of DeviceService.AuthenticateDevice.
type AuthenticateStream interface {
	Receive() (*dtv1.AuthenticateDeviceRequest, error)
	Send(*dtv1.AuthenticateDeviceResponse) error
}

// Verified is a device that has just proved itself for one login. Only
// Authenticate makes one; the zero value is no device.
type Verified struct {
	device   identity.Device
	evidence identity.Evidence
	warnings []string
	osType   string
	owner    string
	keys     LoginKeys
	renew    bool
}

// Device is what a certificate says of it.
func (v Verified) Device() identity.Device { return v.device }

// Evidence is what it proved of itself in this ceremony.
func (v Verified) Evidence() identity.Evidence { return v.evidence }

// Warnings are what the person should know of it, one line each.
func (v Verified) Warnings() []string { return v.warnings }

// Keys are the login's keys that are proved to be in the TPM, if any.
func (v Verified) Keys() LoginKeys { return v.keys }

// Renew tells whether the device asks for certificates that live on.
func (v Verified) Renew() bool { return v.renew }

// OSType is linux, macos or windows.
func (v Verified) OSType() string { return v.osType }

// Demands are what the cluster asks of a device that logs in.
type Demands struct {
	// Trust gives the settings that hold in the transaction that decides: they
	// may change during a ceremony. Nil stands for empty ones.
	Trust func(tx *store.Tx) (policy.DeviceTrust, error)
	// Frozen, where not nil, is called in the transaction that freezes a
	// device, to end what it gave.
	Frozen func(tx *store.Tx, deviceID string) error
}

// Authenticate is the server's half of the ceremony of every login: the key of
// an enrolled device signs a nonce that covers the person and the two keys of
// b. Cluster, Challenge and CredentialID of b are filled in here. The last
// message of the stream, with the certificates, is the caller's. Every outcome
// is recorded; what a device is refused for is an *api.Refusal.
func (i *Inventory) Authenticate(ctx context.Context, b identity.LoginBinding, demands Demands, remoteAddr string, s AuthenticateStream) (Verified, error) {
	if b.User == "" || len(b.SSHPublicKey) == 0 || len(b.TLSPublicKey) == 0 {
		return Verified{}, errors.New("devices: a device is authenticated for a user and two keys")
	}
	leave, err := i.seats.take(b.User)
	if err != nil {
		return Verified{}, err
	}
	defer leave()
	ctx, cancel := context.WithTimeout(ctx, ceremonyTimeout)
	defer cancel()

	msg, err := receive(ctx, s.Receive)
	if err != nil {
		return Verified{}, err
	}
	if msg.GetInit() == nil {
		return Verified{}, api.Refuse(connect.CodeInvalidArgument, "a device authentication begins with init")
	}
	b.Cluster = i.cluster
	a := &authenticating{Inventory: i, binding: b, demands: demands, remoteAddr: remoteAddr}
	v, err := a.run(ctx, msg.GetInit(), s)
	if err != nil {
		return Verified{}, i.recordFailure(ctx, err, a.event(false, err.Error()))
	}
	return v, nil
}

// authenticating is one device authentication that goes on.
type authenticating struct {
	*Inventory
	binding    identity.LoginBinding
	demands    Demands
	remoteAddr string
	// device is zero until it is found, and then as it was when it was
	// challenged.
	device resource.Device
	// keys are zero until they are verified.
	keys LoginKeys
	// renew is what the device asked for.
	renew bool
}

func (a *authenticating) run(ctx context.Context, init *dtv1.AuthenticateInit, s AuthenticateStream) (Verified, error) {
	if err := a.find(ctx, init); err != nil {
		return Verified{}, err
	}
	if err := sameOS(a.device, init.GetDeviceData()); err != nil {
		return Verified{}, err
	}
	a.renew = init.GetRenew()
	// The challenge lives in this call alone, as in an enrollment.
	a.binding.Challenge = make([]byte, challengeBytes)
	rand.Read(a.binding.Challenge) // it never fails
	a.binding.CredentialID = a.device.Spec.Credential.ID
	err := s.Send(&dtv1.AuthenticateDeviceResponse{Payload: &dtv1.AuthenticateDeviceResponse_Challenge{
		Challenge: &dtv1.AuthenticateChallenge{Challenge: a.binding.Challenge},
	}})
	if err != nil {
		return Verified{}, fmt.Errorf("devices: send the challenge: %w", err)
	}
	msg, err := receive(ctx, s.Receive)
	if err != nil {
		return Verified{}, err
	}
	m, err := guard(func() (measured, error) { return a.verify(msg) })
	if err != nil {
		return Verified{}, err
	}
	return a.commit(ctx, init.GetDeviceData(), m)
}

// verify holds the answer against what the device was enrolled with. An answer
// of the other kind is none.
func (a *authenticating) verify(msg *dtv1.AuthenticateDeviceRequest) (measured, error) {
	nonce, c := identity.LoginNonce(a.binding), a.device.Spec.Credential
	if c.DeviceAttestationType == attestedMacOS {
		if msg.GetMacosChallengeResponse() == nil {
			return measured{}, errNoAnswer
		}
		return verifySignature(c.PublicKeyDER, msg.GetMacosChallengeResponse().GetSignature(), nonce)
	}
	answer := msg.GetTpmChallengeResponse()
	if answer == nil {
		return measured{}, errNoAnswer
	}
	if answer.GetKeys() == nil {
		return verifyQuote(c.TPMAKPublic, answer.GetPlatform(), nonce[:])
	}
	// All that is signed is about the keys that are to be certified.
	keys, err := unverifiedLoginKeys(answer.GetKeys())
	if err != nil {
		return measured{}, err
	}
	b := a.binding
	b.SSHPublicKey, b.TLSPublicKey = keys.ssh.Marshal(), keys.tls
	nonce = identity.LoginNonce(b)
	m, err := verifyQuote(c.TPMAKPublic, answer.GetPlatform(), nonce[:])
	if err != nil {
		return measured{}, err
	}
	if a.keys, err = verifyLoginKeys(c.TPMAKPublic, answer.GetKeys(), keys, b); err != nil {
		return measured{}, err
	}
	return m, nil
}

// find takes the device of a credential, which must speak for this person.
func (a *authenticating) find(ctx context.Context, init *dtv1.AuthenticateInit) error {
	if err := checkData(init.GetDeviceData()); err != nil {
		return err
	}
	id := init.GetCredentialId()
	if id == "" || len(id) > maxCredentialID {
		return api.Refuse(connect.CodeInvalidArgument, "the device does not say which key it has")
	}
	var found []resource.Device
	err := a.db.Read(ctx, func(tx *store.Tx) (err error) {
		found, err = find(tx, `credential_id = $1`, id)
		return err
	})
	if err != nil {
		return err
	}
	if len(found) != 1 {
		return api.Refuse(connect.CodeNotFound, "this device is not enrolled in %s, or not any more", a.cluster).
			WithHint("Enroll it: dtsh device enroll --current-device, or dtsh device enroll --token=TOKEN with a token of an administrator's")
	}
	a.device = found[0]
	return stands(a.device, a.verified())
}

// Counts gives the device that a login of user on d would be one with, and what
// it proved when it was last asked, or why it would be one with none
// (*api.Refusal).
func Counts(d resource.Device, user string) (identity.Device, identity.Evidence, error) {
	device := identity.Device{ID: d.Metadata.Name, AssetTag: d.Spec.AssetTag}
	if d.Spec.Credential != nil {
		device.CredentialID = d.Spec.Credential.ID
	}
	if err := stands(d, Verified{device: device, owner: user}); err != nil {
		return identity.Device{}, identity.Evidence{}, err
	}
	return device, lastEvidence(d), nil
}

func lastEvidence(d resource.Device) identity.Evidence {
	e := d.Spec.Evidence
	if e == nil {
		return identity.Evidence{}
	}
	return identity.Evidence{Level: e.Level, TPMManufacturer: e.TPMManufacturer, TPMFirmware: e.TPMFirmware}
}

// stands tells whether a device is still what a Verified says.
func stands(d resource.Device, v Verified) error {
	if d.Spec.EnrollStatus != resource.Enrolled || d.Spec.Credential == nil || d.Spec.Credential.ID != v.device.CredentialID {
		return api.Refuse(connect.CodePermissionDenied, "device %s is not enrolled any more", d.Spec.AssetTag)
	}
	if err := notTheirs(d, v.owner); err != nil {
		return err
	}
	return notFrozen(d)
}

func (a *authenticating) verified() Verified {
	v := Verified{
		device: identity.Device{ID: a.device.Metadata.Name, AssetTag: a.device.Spec.AssetTag},
		osType: a.device.Spec.OSType,
		owner:  a.binding.User,
		keys:   a.keys,
		renew:  a.renew,
	}
	if a.device.Spec.Credential != nil {
		v.device.CredentialID = a.device.Spec.Credential.ID
	}
	return v
}

// commit keeps what the device reported and showed, with the record of it,
// provided that it still stands: the inventory may have changed since the
// ceremony began. A device that is refused for what it showed is kept and
// recorded in the same way.
func (a *authenticating) commit(ctx context.Context, data *dtv1.DeviceData, m measured) (Verified, error) {
	v := a.verified()
	var refused *api.Refusal
	err := a.db.Write(ctx, func(tx *store.Tx) error {
		d, err := a.Get(tx, Ref{ID: v.device.ID})
		if err != nil {
			return err
		}
		if err := stands(d, v); err != nil {
			return err
		}
		if err := machineNotFrozen(tx, d); err != nil {
			return err
		}
		now := a.instant()
		ev := a.event(true, "")
		ev.Reasons = m.reasons()
		j, err := a.judge(tx, &d, m, now)
		if err != nil {
			return err
		}
		if refused = j.refused; refused != nil {
			ev.Success, ev.Message = false, refused.Message
		} else {
			ev.Key = a.keys.recorded()
			d.Spec.LastSeenTime = now
			ev.Reasons = append(ev.Reasons, collect(&d, data, now)...)
		}
		ev.Reasons, v.warnings = append(ev.Reasons, j.notes...), j.warnings
		v.evidence = lastEvidence(d)
		if err := update(tx, &d); err != nil {
			return err
		}
		_, err = a.log.Record(tx, ev)
		return err
	})
	if err != nil {
		return Verified{}, err
	}
	if refused != nil {
		return Verified{}, audit.Recorded(refused)
	}
	return v, nil
}

func (a *authenticating) event(success bool, message string) event.Event {
	e := event.Event{
		Type: event.DeviceAuthenticate, User: a.binding.User, RemoteAddr: a.remoteAddr,
		Success: success, Message: message,
	}
	if a.device.Metadata.Name != "" {
		e.Device = described(a.device)
	}
	return e
}

// StillStands refuses where the device of v was removed, unenrolled or given to
// somebody else since it proved itself: the last look before a certificate
// says so.
func (i *Inventory) StillStands(tx *store.Tx, v Verified) error {
	if !v.device.Trusted() || v.owner == "" {
		return api.Refuse(connect.CodePermissionDenied, "no device has proved itself")
	}
	d, err := i.Get(tx, Ref{ID: v.device.ID})
	if err != nil {
		return err
	}
	if err := stands(d, v); err != nil {
		return err
	}
	return machineNotFrozen(tx, d)
}
