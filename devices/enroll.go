package devices

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/json"
	"fmt"
	"time"

	"connectrpc.com/connect"

	"devicetrust/api"
	"devicetrust/api/dtv1"
	"devicetrust/audit/event"
	"devicetrust/devices/assettag"
	"devicetrust/identity"
	"devicetrust/resource"
	"devicetrust/store"
)

// EnrollStream is the server's end of DeviceService.EnrollDevice.
type EnrollStream interface {
	Receive() (*dtv1.EnrollDeviceRequest, error)
	Send(*dtv1.EnrollDeviceResponse) error
}

// Enroll is the server's half of the enrollment of a device by user, who was
// authenticated. It spends the token, has the TPM prove itself, enrolls the
// device and says so on the stream. Every outcome is recorded; what a device
// is refused for is an *api.Refusal. Nothing of an enrollment is stored before
// its last transaction, so one that is cut short leaves only a spent token.
func (i *Inventory) Enroll(ctx context.Context, user, remoteAddr string, trust Trust, s EnrollStream) error {
	if user == "" {
		return api.Refuse(connect.CodeUnauthenticated, "nobody is logged in")
	}
	leave, err := i.seats.take(user)
	if err != nil {
		return err
	}
	defer leave()
	ctx, cancel := context.WithTimeout(ctx, ceremonyTimeout)
	defer cancel()

	init, err := receiveEnrollInit(ctx, s)
	if err != nil {
		return err
	}
	device, auto, err := i.spendToken(ctx, user, remoteAddr, init.GetToken())
	if err != nil {
		return err
	}
	e := &enrolling{Inventory: i, user: user, remoteAddr: remoteAddr, trust: trust, auto: auto, device: device}
	if err = e.run(ctx, init, s); err != nil {
		return i.recordFailure(ctx, err, e.event(false, err.Error()))
	}
	document, err := json.Marshal(e.device)
	if err != nil {
		return fmt.Errorf("devices: %w", err)
	}
	return s.Send(&dtv1.EnrollDeviceResponse{Payload: &dtv1.EnrollDeviceResponse_Success{Success: &dtv1.EnrollSuccess{Device: document}}})
}

func receiveEnrollInit(ctx context.Context, s EnrollStream) (*dtv1.EnrollInit, error) {
	msg, err := receive(ctx, s.Receive)
	if err != nil {
		return nil, err
	}
	if msg.GetInit() == nil {
		return nil, api.Refuse(connect.CodeInvalidArgument, "an enrollment begins with init")
	}
	return msg.GetInit(), nil
}

// enrolling is one enrollment that goes on.
type enrolling struct {
	*Inventory
	user, remoteAddr string
	trust            Trust
	// auto: no administrator gave the token, so the conditions of
	// auto-enrollment hold to the end.
	auto bool
	// device is as the inventory has it, and after the last step as enrolled.
	device resource.Device
}

// proposal is what a device asks to be enrolled as, checked as far as that can
// be done without the TPM's answer.
type proposal struct {
	endorsement
	key        attestationKey
	activation activation
	data       *dtv1.DeviceData
}

func (e *enrolling) run(ctx context.Context, init *dtv1.EnrollInit, s EnrollStream) error {
	if err := e.admit(init); err != nil {
		return err
	}
	prove := e.proveTPM
	if e.device.Spec.OSType == osMacOS {
		prove = e.proveMacOS
	}
	p, m, err := prove(ctx, init, s)
	if err != nil {
		return err
	}
	return e.commit(ctx, p, m)
}

// ask sends a challenge and waits for its answer.
func ask(ctx context.Context, s EnrollStream, challenge *dtv1.EnrollDeviceResponse) (*dtv1.EnrollDeviceRequest, error) {
	if err := s.Send(challenge); err != nil {
		return nil, fmt.Errorf("devices: send the challenge: %w", err)
	}
	return receive(ctx, s.Receive)
}

var errNoAnswer = api.Refuse(connect.CodeInvalidArgument, "the device does not answer the challenge")

// proveTPM has a TPM show that it holds the endorsement and the attestation
// key, and sign its PCRs.
func (e *enrolling) proveTPM(ctx context.Context, init *dtv1.EnrollInit, s EnrollStream) (p proposal, m measured, err error) {
	if p, err = guard(func() (proposal, error) { return e.check(init) }); err != nil {
		return p, m, err
	}
	// The nonce lives in this call alone: it is good for the one answer that
	// is read here, and no other ceremony has the same.
	nonce := make([]byte, challengeBytes)
	rand.Read(nonce) // it never fails
	msg, err := ask(ctx, s, &dtv1.EnrollDeviceResponse{Payload: &dtv1.EnrollDeviceResponse_TpmChallenge{
		TpmChallenge: &dtv1.TPMEnrollChallenge{EncryptedCredential: p.activation.encrypted, Nonce: nonce},
	}})
	if err != nil {
		return p, m, err
	}
	answer := msg.GetTpmChallengeResponse()
	if answer == nil {
		return p, m, errNoAnswer
	}
	if subtle.ConstantTimeCompare(answer.GetActivatedSecret(), p.activation.secret) != 1 {
		return p, m, api.Refuse(connect.CodePermissionDenied, "the TPM could not decrypt the challenge: its attestation key is not in the TPM of its endorsement key")
	}
	bound := e.nonce(nonce, p.key.credentialID)
	m, err = guard(func() (measured, error) { return verifyQuote(p.key.public, answer.GetPlatform(), bound[:]) })
	return p, m, err
}

// nonce is what the device signs for a challenge, of whichever kind it is.
func (e *enrolling) nonce(challenge []byte, credentialID string) [32]byte {
	return identity.EnrollNonce(identity.EnrollBinding{
		Challenge: challenge, Cluster: e.cluster, User: e.user, CredentialID: credentialID,
	})
}

// admit holds what the machine says of itself against the inventory.
func (e *enrolling) admit(init *dtv1.EnrollInit) error {
	if err := checkData(init.GetDeviceData()); err != nil {
		return err
	}
	if err := matches(e.device, init.GetDeviceData()); err != nil {
		return err
	}
	if err := enrolledByOther(e.device, e.user); err != nil {
		return err
	}
	if err := notFrozen(e.device); err != nil {
		return err
	}
	switch mac := e.device.Spec.OSType == osMacOS; {
	case mac && (init.GetMacos() == nil || init.GetTpm() != nil):
		return api.Refuse(connect.CodeInvalidArgument, "the device has not shown the key of a Mac, and without one it cannot be enrolled")
	case !mac && (init.GetTpm() == nil || init.GetMacos() != nil):
		return api.Refuse(connect.CodeInvalidArgument, "the device has shown no TPM, and without one it cannot be enrolled")
	}
	return nil
}

func (e *enrolling) check(init *dtv1.EnrollInit) (p proposal, err error) {
	p.data = init.GetDeviceData()
	if p.endorsement, err = checkEndorsement(init.GetTpm(), e.trust, e.now()); err != nil {
		return proposal{}, err
	}
	if tag := e.device.Spec.AssetTag; assettag.IsFromEK(tag) && tag != assettag.FromEK(p.der) {
		return proposal{}, api.Refuse(connect.CodePermissionDenied, "asset tag %s is not that of this TPM, which is %s", tag, assettag.FromEK(p.der))
	}
	parameters := init.GetTpm().GetAttestationParameters()
	if p.key, err = checkKey(parameters.GetPublic()); err != nil {
		return proposal{}, err
	}
	if p.key.credentialID != init.GetCredentialId() {
		return proposal{}, api.Refuse(connect.CodeInvalidArgument, "the credential ID is not that of the attestation key")
	}
	if err = checkCreation(p.key, parameters); err != nil {
		return proposal{}, err
	}
	p.activation, err = challengeKey(p.endorsement, p.key)
	return p, err
}

// commit enrolls the device, in the one transaction that also records it. The
// inventory may have changed since the ceremony began.
func (e *enrolling) commit(ctx context.Context, p proposal, m measured) error {
	return e.db.Write(ctx, func(tx *store.Tx) error {
		d, err := e.Get(tx, Ref{ID: e.device.Metadata.Name})
		if err != nil {
			return err
		}
		if err := e.stands(tx, d, p); err != nil {
			return err
		}
		if err := enrolledByOther(d, e.user); err != nil {
			return err
		}
		if err := e.stillFits(tx, d, p.data); err != nil {
			return err
		}
		if err := enrolledWithOther(d, p); err != nil {
			return err
		}
		if err := notElsewhere(tx, d, p); err != nil {
			return err
		}
		if d.Spec.EnrollStatus == resource.Enrolled && (e.auto || d.Spec.Owner != e.user) {
			return e.join(tx, d, p)
		}
		if d.Spec.EnrollStatus == resource.Enrolled && e.trust.Replaced != nil {
			if err := e.trust.Replaced(tx, d.Metadata.Name); err != nil {
				return err
			}
		}
		now := e.instant()
		d.Spec.EnrollStatus, d.Spec.Owner = resource.Enrolled, e.user
		d.Spec.Credential = &resource.Credential{
			ID: p.key.credentialID, PublicKeyDER: p.key.der, TPMAKPublic: p.key.public,
			DeviceAttestationType: p.attestation, TPMSerial: p.serial, TPMEKKeyDigest: p.digest(),
		}
		d.Spec.UpdateTime, d.Spec.LastSeenTime = now, now
		d.Spec.Evidence = shown(m, p.manufacturer, now)
		collect(&d, p.data, now)
		if err := e.keep(tx, &d, p, m, now); err != nil {
			return err
		}
		if err := update(tx, &d); err != nil {
			return err
		}
		e.device = d
		ev := e.event(true, "")
		ev.Reasons = append([]string{"attestation: " + p.attestation}, m.reasons()...)
		_, err = e.log.Record(tx, ev)
		return err
	})
}

// join lets an owner's account remember the enrollment that there is: the key is
// the TPM's for this cluster, whoever asks, so what was proved is that
// enrollment once more. Nothing of the device changes.
func (e *enrolling) join(tx *store.Tx, d resource.Device, p proposal) error {
	if c := d.Spec.Credential; c == nil || c.ID != p.key.credentialID {
		return api.Refuse(connect.CodeFailedPrecondition, "device %s is enrolled with another key", label(d)).
			WithHint("An administrator unenrolls it first: dtctl edit device/%s, and set enroll_status to %s", d.Metadata.Name, resource.NotEnrolled)
	}
	e.device = d
	ev := e.event(true, "")
	ev.Reasons = []string{"it was enrolled already; one of its owners remembers it now"}
	_, err := e.log.Record(tx, ev)
	return err
}

// stillFits asks again for what the token of auto-enrollment was given by: the
// machine may report something else now than then.
func (e *enrolling) stillFits(tx *store.Tx, d resource.Device, data *dtv1.DeviceData) error {
	if !e.auto {
		return nil
	}
	all, err := e.autoFindings(tx, d, e.user, data, AutoTerms{Off: e.trust.AutoOff, Stands: e.trust.Stands})
	if err != nil {
		return err
	}
	return firstFault(all)
}

// keep takes what the TPM signed as what the device should show from now on.
// A device that was enrolled already stays to what it should show, and its next
// login is held against that: only an administrator accepts something else.
func (e *enrolling) keep(tx *store.Tx, d *resource.Device, p proposal, m measured, now time.Time) error {
	if m.quoted == nil {
		return nil
	}
	if d.Spec.Baseline == nil {
		d.Spec.Baseline = baselineOf(m.quoted, now)
	}
	kept := evidenceOf(toEnroll, e.user, m, now)
	kept.document.EKKey, kept.document.EKCertificate = p.der, p.certificate
	return keep(tx, d.Metadata.Name, kept)
}

// stands asks whether the device may be enrolled, and every other device of
// the same TPM: a lock or a freeze is of one of them and means the machine,
// which must not come back under another operating system.
func (e *enrolling) stands(tx *store.Tx, d resource.Device, p proposal) error {
	all, err := withTPM(tx, d, p.digest())
	if err != nil {
		return err
	}
	for _, one := range all {
		if err := notFrozen(one); err != nil {
			return err
		}
		if e.trust.Stands == nil {
			continue
		}
		if err := e.trust.Stands(tx, one); err != nil {
			return err
		}
	}
	return nil
}

// sameAs tells whether p is the machine of an earlier enrollment: the one with
// that chip, or, without a chip, the one with that key.
func (p proposal) sameAs(c *resource.Credential) bool {
	switch {
	case c == nil:
		return false
	case p.attestation == attestedMacOS:
		return c.ID == p.key.credentialID
	default:
		return c.TPMEKKeyDigest == p.digest()
	}
}

// thing is what proves that p is the machine.
func (p proposal) thing() string {
	if p.attestation == attestedMacOS {
		return "key"
	}
	return "TPM"
}

// enrolledWithOther refuses another TPM than the one that a device is enrolled
// with, or another key where it has none: the tag is what a machine says of itself, and whoever can choose it
// would take the device's place.
func enrolledWithOther(d resource.Device, p proposal) error {
	if d.Spec.EnrollStatus != resource.Enrolled || p.sameAs(d.Spec.Credential) {
		return nil
	}
	return api.Refuse(connect.CodeFailedPrecondition, "device %s is enrolled with another %s", label(d), p.thing()).
		WithHint("If its %s or mainboard was replaced, an administrator unenrolls it first: dtctl edit device/%s, and set enroll_status to %s",
			p.thing(), d.Metadata.Name, resource.NotEnrolled)
}

// notElsewhere refuses a TPM that is another machine already: one chip would
// then be two devices, and locking one would leave the other. The exception is
// a machine with two operating systems, which is one device for each, under
// one tag.
func notElsewhere(tx *store.Tx, d resource.Device, p proposal) error {
	same, err := find(tx, `(ek_digest = $1 AND ek_digest <> '' OR credential_id = $2) AND id <> $3`, p.digest(), p.key.credentialID, d.Metadata.Name)
	if err != nil {
		return err
	}
	for _, other := range same {
		sameKey := other.Spec.Credential != nil && other.Spec.Credential.ID == p.key.credentialID
		if other.Spec.AssetTag != d.Spec.AssetTag || sameKey {
			return api.Refuse(connect.CodeFailedPrecondition, "this %s is enrolled already, as device %s", p.thing(), label(other)).
				WithHint("An administrator removes or unenrolls that one first: dtctl devices rm --device-id=%s", other.Metadata.Name)
		}
	}
	return nil
}

func (e *enrolling) event(success bool, message string) event.Event {
	return event.Event{
		Type: event.DeviceEnroll, User: e.user, RemoteAddr: e.remoteAddr,
		Success: success, Message: message, Device: described(e.device),
	}
}
