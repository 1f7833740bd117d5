package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"time"

	"connectrpc.com/connect"

	"devicetrust/api"
	"devicetrust/api/dtv1"
	"devicetrust/client/machine"
	"devicetrust/devices/tpm"
	"devicetrust/resource"
)

// Machine is this machine as a device: what it reports, its TPM, and where it
// remembers its enrollments.
type Machine struct {
	Home *Home
	// DMIDir holds the firmware's tables; empty is the system's own.
	DMIDir string
	Chip   *Chip
	// EventLog is the file of the firmware's event log as tpm.EnrollArgs has it.
	EventLog string
	Now      func() time.Time
}

func (m *Machine) source() machine.Source {
	return machine.Source{DMIDir: m.DMIDir, EK: func(ctx context.Context) (der []byte, err error) {
		err = m.Chip.Use(ctx, func(t *tpm.TPM) error {
			der, err = t.EKPublicDER(ctx)
			return err
		})
		return der, err
	}}
}

// AssetTag is what the machine is called.
func (m *Machine) AssetTag(ctx context.Context) (string, error) {
	return m.source().AssetTag(ctx)
}

// Collect is what the machine reports. Where its TPM cannot be reached, the
// fields that the TPM tells are empty.
func (m *Machine) Collect(ctx context.Context) (*dtv1.DeviceData, error) {
	data, err := m.source().Collect(ctx, m.Now())
	if err != nil {
		return nil, err
	}
	// The ceremonies ask for these again and report a failure.
	_ = m.Chip.Use(ctx, func(t *tpm.TPM) error {
		data.TpmManufacturer, data.TpmFirmware, err = t.Info(ctx)
		return err
	})
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	return data, nil
}

// Prove holds the device authentication ceremony: the machine's half of
// AuthenticateDevice, a Prover. The TPM is only reached for where the machine
// is enrolled in the cluster.
func (m *Machine) Prove(ctx context.Context, args tpm.AuthArgs, stream tpm.AuthenticateStream) (proved tpm.Authenticated, err error) {
	args.StatePath, args.EventLog = m.Home.DeviceState(), m.EventLog
	if _, err := tpm.Enrolled(args.StatePath, args.Binding.Cluster); err != nil {
		return proved, err
	}
	if err := m.Chip.Reach(ctx); err != nil {
		return proved, err
	}
	if args.Data, err = m.source().Collect(ctx, m.Now()); err != nil {
		return proved, err
	}
	err = m.Chip.Use(ctx, func(t *tpm.TPM) error {
		proved, err = t.Authenticate(ctx, args, stream)
		return err
	})
	tag := args.Data.GetAssetTag()
	return proved, aboutTag(err, tag, m.source().Hidden(tag))
}

// EnrollCurrent registers this machine where it is not registered, and
// enrolls it in p's cluster.
func (m *Machine) EnrollCurrent(ctx context.Context, p *Profile, o Options) (resource.Device, error) {
	return m.enroll(ctx, p, o, func(ctx context.Context, c *Conn, data *dtv1.DeviceData) (string, error) {
		resp, err := c.Device.RegisterCurrentDevice(ctx, connect.NewRequest(&dtv1.RegisterCurrentDeviceRequest{Device: data}))
		if err != nil {
			return "", mayNotRegister(Explain(p.Proxy, err))
		}
		return resp.Msg.GetToken(), nil
	})
}

// AutoEnroll enrolls this machine in p's cluster where that enrolls registered
// machines by itself, and this one may be; an Enroller.
func (m *Machine) AutoEnroll(ctx context.Context, p *Profile, conn *Conn) (resource.Device, error) {
	return m.enrollOver(ctx, conn, p, func(ctx context.Context, c *Conn, data *dtv1.DeviceData) (string, error) {
		resp, err := c.Device.CreateAutoEnrollToken(ctx, connect.NewRequest(&dtv1.CreateAutoEnrollTokenRequest{Device: data}))
		if err != nil {
			return "", aboutTag(Explain(p.Proxy, err), data.GetAssetTag(), m.source().Hidden(data.GetAssetTag()))
		}
		return resp.Msg.GetToken(), nil
	})
}

// mayNotRegister tells of tokens who was refused without a hint: with one,
// nobody needs rights of their own.
func mayNotRegister(err error) error {
	r, ok := errors.AsType[*api.Refusal](err)
	if !ok || r.Code != connect.CodePermissionDenied || r.Hint != "" {
		return err
	}
	return r.WithHint("Where your roles do not allow it, ask an administrator for a token (dtctl devices add --enroll, or dtctl devices enroll), and then: dtsh device enroll --token=TOKEN")
}

// aboutTag adds hint to a refusal that speaks of this machine's tag.
func aboutTag(err error, tag, hint string) error {
	if ce, ok := errors.AsType[*connect.Error](err); ok && connect.IsWireError(ce) {
		err = api.FromWire(err)
	}
	r, ok := errors.AsType[*api.Refusal](err)
	if !ok || hint == "" || !strings.Contains(r.Message, tag) {
		return err
	}
	if r.Hint != "" {
		hint = strings.TrimRight(r.Hint, ".") + ". " + hint
	}
	return r.WithHint("%s", hint)
}

// Enroll enrolls this machine in p's cluster with an administrator's token.
func (m *Machine) Enroll(ctx context.Context, p *Profile, token string, o Options) (resource.Device, error) {
	return m.enroll(ctx, p, o, func(context.Context, *Conn, *dtv1.DeviceData) (string, error) { return token, nil })
}

// enroll holds the enrollment ceremony with the token that getToken gives. The
// TPM is opened first, and room made for what is to be remembered, so that a
// token is neither made nor spent in vain.
func (m *Machine) enroll(ctx context.Context, p *Profile, o Options, getToken func(context.Context, *Conn, *dtv1.DeviceData) (string, error)) (resource.Device, error) {
	conn, err := Dial(p, o)
	if err != nil {
		return resource.Device{}, err
	}
	defer conn.Close()
	d, err := m.enrollOver(ctx, conn, p, getToken)
	if err != nil {
		return d, err
	}
	return d, p.outdate(ctx)
}

// outdate has p say that its login is from before the device was enrolled:
// what kept the device out then does not any more. A login that another dtsh
// made or ended meanwhile stays as it is.
func (p *Profile) outdate(ctx context.Context) error {
	unlock, err := p.home.Lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	now, err := p.home.Profile(p.Proxy)
	if err != nil || now.User != p.User || !reflect.DeepEqual(now.Device, p.Device) {
		return err
	}
	now.Device = DeviceOutcome{Reason: "the device was enrolled after it", Hint: "Log in again: dtsh login"}
	return now.save()
}

// enrollOver is enroll over a connection that there is.
func (m *Machine) enrollOver(ctx context.Context, conn *Conn, p *Profile, getToken func(context.Context, *Conn, *dtv1.DeviceData) (string, error)) (resource.Device, error) {
	var none resource.Device
	if err := m.Chip.Reach(ctx); err != nil {
		return none, err
	}
	data, err := m.Collect(ctx)
	if err != nil {
		return none, err
	}
	if err := m.Home.folder("device"); err != nil {
		return none, err
	}
	if err := tpm.CanRemember(m.Home.DeviceState()); err != nil {
		return none, err
	}
	ctx, cancel := context.WithTimeout(ctx, ceremonyTimeout)
	defer cancel()
	if err := conn.shakeHands(ctx); err != nil {
		return none, err
	}
	token, err := getToken(ctx, conn, data)
	if err != nil {
		return none, err
	}
	stream := conn.Device.EnrollDevice(ctx)
	var enrolled []byte
	err = m.Chip.Use(ctx, func(t *tpm.TPM) error {
		enrolled, err = t.Enroll(ctx, tpm.EnrollArgs{
			Token: token, Cluster: p.Cluster, User: p.User, Data: data, StatePath: m.Home.DeviceState(), EventLog: m.EventLog, Lock: m.lock(ctx),
		}, stream)
		return err
	})
	if err != nil {
		return none, Explain(p.Proxy, aboutTag(err, data.GetAssetTag(), m.source().Hidden(data.GetAssetTag())))
	}
	hangUp(stream)
	var d resource.Device
	if err := json.Unmarshal(enrolled, &d); err != nil {
		return none, fmt.Errorf("%s gave an unusable device: %w", p.Proxy, err)
	}
	return d, p.keepAttestation(d)
}

// lock is Home.Lock for when a token is spent: nobody is worth losing an
// enrollment for.
func (m *Machine) lock(ctx context.Context) func() (unlock func()) {
	return func() func() {
		unlock, err := m.Home.Lock(context.WithoutCancel(ctx))
		if err != nil {
			return func() {}
		}
		return unlock
	}
}

// hangUp ends a stream whose last message has come.
func hangUp(stream interface {
	CloseRequest() error
	CloseResponse() error
}) {
	// Nothing more is wanted of the server; whatever it says is too late.
	_ = stream.CloseRequest()
	_ = stream.CloseResponse()
}

// attestation is the file of how the server believed this machine's TPM when
// it was enrolled; certificates do not tell.
type attestation struct {
	DeviceID    string `json:"device_id"`
	Attestation string `json:"attestation"`
}

func (p *Profile) attestationFile() []string {
	return []string{"device", fileName(p.Proxy) + ".json"}
}

func (p *Profile) keepAttestation(d resource.Device) error {
	a := attestation{DeviceID: d.Metadata.Name}
	if d.Spec.Credential != nil {
		a.Attestation = d.Spec.Credential.DeviceAttestationType
	}
	data, err := json.Marshal(a)
	if err != nil {
		return err
	}
	return p.home.write(append(data, '\n'), p.attestationFile()...)
}

// attestationOf is empty for devices that were enrolled elsewhere.
func (p *Profile) attestationOf(deviceID string) string {
	data, err := p.home.read(p.attestationFile()...)
	if err != nil {
		return ""
	}
	var a attestation
	if json.Unmarshal(data, &a) != nil || a.DeviceID != deviceID {
		return ""
	}
	return a.Attestation
}
