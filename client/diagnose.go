package client

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"connectrpc.com/connect"

	"devicetrust/api"
	"devicetrust/api/dtv1"
	"devicetrust/devices/tpm"
)

// Diagnose looks at each thing that a trusted login on this machine needs, in
// the order in which they are needed, and says what to do about each fault. p
// is the person's cluster, logged in or not, and nil where there is none. What
// cannot be looked at for a fault before it is a note.
func (m *Machine) Diagnose(ctx context.Context, p *Profile, o Options) []*dtv1.Finding {
	d := &diagnosis{m: m, p: p, o: o}
	d.askTPM(ctx)
	d.askTag(ctx)
	d.askLogin()
	d.askEnrollment(ctx)
	d.askLoginKey(ctx)
	d.askCluster(ctx)
	d.askCertificate()
	return d.found
}

// diagnosis is one that goes on.
type diagnosis struct {
	m     *Machine
	p     *Profile
	o     Options
	found []*dtv1.Finding

	answers  bool // the TPM does
	loggedIn bool
	// creds are of the login.
	creds Credentials
	// useless is why the login's keys cannot be used here; empty where they can.
	useless string
	// refused tells that the cluster does not take this login any more.
	refused  bool
	enrolled tpm.Enrollment // zero where none is remembered
}

func (d *diagnosis) add(name string, state dtv1.Finding_State, detail, remedy string) {
	d.found = append(d.found, &dtv1.Finding{Name: name, State: state, Detail: detail, Remedy: remedy})
}

func (d *diagnosis) ok(name, format string, args ...any) {
	d.add(name, dtv1.Finding_STATE_OK, fmt.Sprintf(format, args...), "")
}

// fault says err, with the hint that it has.
func (d *diagnosis) fault(name string, err error) {
	f := outcomeOf(err)
	d.add(name, dtv1.Finding_STATE_FAULT, f.Reason, f.Hint)
}

func (d *diagnosis) skip(name, why string) {
	d.add(name, dtv1.Finding_STATE_NOTE, "not looked at: "+why, "")
}

func (d *diagnosis) askTPM(ctx context.Context) {
	const name = "tpm"
	address := d.m.Chip.Address
	if address == "" {
		address = tpm.DefaultAddress
	}
	if err := d.m.Chip.Reach(ctx); err != nil {
		remedy := outcomeOf(err).Hint
		if errors.Is(err, fs.ErrPermission) && strings.HasPrefix(address, "/") {
			if better := accessOf(address).remedy(); better != "" {
				remedy = better
			}
		}
		d.add(name, dtv1.Finding_STATE_FAULT, err.Error(), remedy)
		return
	}
	var manufacturer, firmware string
	err := d.m.Chip.Use(ctx, func(t *tpm.TPM) (err error) {
		manufacturer, firmware, err = t.Info(ctx)
		return err
	})
	if err != nil {
		d.fault(name, err)
		return
	}
	d.answers = true
	d.ok(name, "the TPM at %s answers: %s, firmware %s", address, manufacturer, firmware)
}

func (d *diagnosis) askTag(ctx context.Context) {
	const name = "asset_tag"
	tag, err := d.m.AssetTag(ctx)
	if err != nil {
		d.fault(name, err)
		return
	}
	if hidden := d.m.source().Hidden(tag); hidden != "" {
		d.add(name, dtv1.Finding_STATE_NOTE, "this machine is "+tag+", named after its TPM, for its serial numbers are not for this account to read", hidden)
		return
	}
	d.ok(name, "this machine is %s", tag)
}

func (d *diagnosis) askLogin() {
	const name = "login"
	if d.p == nil || d.p.User == "" {
		d.fault(name, ErrNotLoggedIn)
		return
	}
	creds, err := d.p.Credentials()
	if err == nil {
		err = creds.check(d.o.Now())
	}
	if err != nil {
		d.fault(name, err)
		return
	}
	d.loggedIn, d.creds = true, creds
	d.ok(name, "logged in to %s as %s", d.p.Cluster, d.p.User)
}

func (d *diagnosis) askEnrollment(ctx context.Context) {
	const remembered, key = "enrollment", "key"
	if d.p == nil || d.p.Cluster == "" {
		d.skip(remembered, "no cluster is known here")
		d.skip(key, "no cluster is known here")
		return
	}
	state := d.m.Home.DeviceState()
	enrolled, err := tpm.Enrolled(state, d.p.Cluster)
	if err != nil {
		d.fault(remembered, err)
		d.skip(key, "there is no enrollment that it could be of")
		return
	}
	d.enrolled = enrolled
	d.ok(remembered, "this machine remembers its enrollment in %s, as %s", d.p.Cluster, enrolled.AssetTag)
	if !d.answers {
		d.skip(key, "the TPM does not answer")
		return
	}
	err = d.m.Chip.Use(ctx, func(t *tpm.TPM) error { return t.CheckKey(ctx, state, d.p.Cluster) })
	if err != nil {
		d.fault(key, err)
		return
	}
	d.ok(key, "the TPM can make the key of that enrollment")
}

// askLoginKey has the TPM sign where it has the login's keys: there is no other
// use for them.
func (d *diagnosis) askLoginKey(ctx context.Context) {
	const name = "login_key"
	switch {
	case !d.loggedIn:
		d.skip(name, "nobody is logged in")
		return
	case !d.creds.InTPM():
		d.ok(name, "the keys of this login are files: %s", d.p.keyPath(d.p.User))
		return
	case !d.answers:
		d.useless = "the TPM, which has the keys of this login, does not answer"
		d.skip(name, "the TPM does not answer")
		return
	}
	digest := make([]byte, sha256.Size)
	rand.Read(digest) // it never fails
	_, err := d.m.Chip.Sign(ctx, d.creds.keys.chip.SSH, digest)
	if err != nil {
		d.useless = "the keys of this login cannot be used"
		d.fault(name, err)
		return
	}
	d.ok(name, "the TPM can make the keys of this login")
}

// askCluster has the server say what it makes of this machine.
func (d *diagnosis) askCluster(ctx context.Context) {
	const name = "cluster"
	if !d.loggedIn {
		d.skip(name, "nobody is logged in")
		return
	}
	if d.useless != "" {
		d.skip(name, d.useless)
		return
	}
	data, err := d.m.Collect(ctx)
	if err != nil {
		d.skip(name, "this machine has no asset tag to ask with")
		return
	}
	conn, err := Dial(d.p, d.o)
	if err != nil {
		d.fault(name, err)
		return
	}
	defer conn.Close()
	resp, err := conn.Device.DiagnoseDevice(ctx, connect.NewRequest(&dtv1.DiagnoseDeviceRequest{
		Device: data, CredentialId: d.enrolled.CredentialID,
	}))
	if err != nil {
		f := outcomeOf(Explain(d.p.Proxy, err))
		d.add(name, dtv1.Finding_STATE_FAULT, f.Reason, cmp.Or(f.Hint, "Ask an administrator of the cluster"))
		refused, ok := errors.AsType[*api.Refusal](err)
		d.refused = ok && (refused.Code == connect.CodeUnauthenticated || refused.Code == connect.CodePermissionDenied)
		return
	}
	d.ok(name, "%s answers", d.p.Proxy)
	d.found = append(d.found, resp.Msg.GetFindings()...)
}

func (d *diagnosis) askCertificate() {
	const name = "certificate"
	if !d.loggedIn {
		d.skip(name, "nobody is logged in")
		return
	}
	if d.useless != "" {
		d.skip(name, d.useless)
		return
	}
	if d.refused {
		d.skip(name, "the cluster refuses this login")
		return
	}
	s, err := d.p.Status()
	if err != nil {
		d.fault(name, err)
		return
	}
	if s.Device.Trusted {
		d.ok(name, "this login is one of the trusted device %s", s.Device.AssetTag)
		return
	}
	d.add(name, dtv1.Finding_STATE_FAULT, "this login is not one of a trusted device: "+d.p.Device.Reason,
		cmp.Or(d.p.Device.Hint, "When nothing else is wrong, log in again: dtsh login"))
}

// access is why an account may not open a TPM's device.
type access struct {
	device, account string
	// group is of the device, where that may open it; else empty.
	group string
	// tss tells that the system has that group.
	tss bool
	// member tells that the account is in group, as the system has it: this
	// session began before.
	member bool
}

const (
	rulesFile = "/etc/udev/rules.d/70-dt-tpm.rules"
	// uaccess gives the person at the machine access; the group is for those
	// who come over the network.
	ruleForSeat  = `KERNEL=="tpmrm[0-9]*", TAG+="uaccess"`
	ruleForGroup = ruleForSeat + `, GROUP="tss", MODE="0660"`
)

// remedy is one line, ready to be followed; empty where nothing is known of
// the device.
func (a access) remedy() string {
	if a.device == "" {
		return ""
	}
	join := fmt.Sprintf("have an administrator of this machine run: usermod -aG %s %s; and log in to the machine again", a.group, a.account)
	rule := func(text string) string {
		return fmt.Sprintf("write this line into %s: %s and run: udevadm control --reload && udevadm trigger --name-match=%s", rulesFile, text, a.device)
	}
	switch {
	case a.member:
		return fmt.Sprintf("%s belongs to the group %s, and %s is in it now: log in to the machine again", a.device, a.group, a.account)
	case a.group != "":
		return fmt.Sprintf("%s belongs to the group %s, and %s is not in it: %s. Or %s", a.device, a.group, a.account, join, rule(ruleForSeat))
	case a.tss:
		return fmt.Sprintf("No group may open %s: have an administrator of this machine %s, and run: usermod -aG tss %s; then log in to the machine again", a.device, rule(ruleForGroup), a.account)
	default:
		return fmt.Sprintf("No group may open %s, and there is no group tss: have an administrator of this machine %s", a.device, rule(ruleForSeat))
	}
}
