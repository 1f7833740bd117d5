package devices

import (
	"context"
	"fmt"
	"strings"
	"time"

	"connectrpc.com/connect"

	"devicetrust/api"
	"devicetrust/api/dtv1"
	"devicetrust/audit/event"
	"devicetrust/resource"
	"devicetrust/store"
)

// Finding is one thing that was looked at on the way to a trusted device.
type Finding struct {
	// Name is of what was looked at, such as registered or profile.os_version.
	Name  string
	State State
	// Detail is what was found, and Remedy what to do about a fault; one line
	// each, for the person at the machine.
	Detail, Remedy string
	// Inside continues Detail for administrators and the record: what the
	// inventory expects would tell a stranger what to report.
	Inside string
}

// State of a Finding; the zero value is a fault.
type State int

const (
	Fault State = iota
	OK
	// Note is neither good nor bad, or was not looked at.
	Note
)

// Full is the detail with what is inside.
func (f Finding) Full() string {
	if f.Inside == "" {
		return f.Detail
	}
	return f.Detail + ": " + f.Inside
}

// AutoTerms is what auto-enrollment asks the rooms beside the inventory.
type AutoTerms struct {
	// Off, asked in the same transaction, refuses where the cluster enrolls no
	// machine by itself. A nil one refuses always.
	Off func(tx *store.Tx) error
	// Stands is as that of Trust.
	Stands func(tx *store.Tx, d resource.Device) error
}

// off is what Off says, where nobody says it: off.
func (t AutoTerms) off(tx *store.Tx) error {
	if t.Off == nil {
		return api.Refuse(connect.CodeFailedPrecondition, "auto-enrollment is off in this cluster")
	}
	return t.Off(tx)
}

func (t AutoTerms) stands(tx *store.Tx, d resource.Device) error {
	if t.Stands == nil {
		return nil
	}
	return t.Stands(tx, d)
}

// CreateAutoToken gives user a token for the machine that data describes,
// where the next login may enroll it: docs/attestation.md, "Auto-enrollment".
// What a registered device is refused for is recorded as a token that could
// not be created; a machine that is not registered is nobody's concern, and
// each of its logins comes here.
func (i *Inventory) CreateAutoToken(ctx context.Context, user string, data *dtv1.DeviceData, terms AutoTerms) (token Token, err error) {
	if err := checkData(data); err != nil {
		return Token{}, err
	}
	var d resource.Device
	look := func(tx *store.Tx) (err error) {
		d, err = i.mayAutoEnroll(tx, user, data, terms)
		return err
	}
	// Most that come here are refused: the writer is not asked for them.
	if err = i.db.Read(ctx, look); err == nil {
		err = i.db.Write(ctx, func(tx *store.Tx) error {
			if err := look(tx); err != nil {
				return err
			}
			token, err = i.issueAutoToken(tx, user, d)
			return err
		})
	}
	if refused := refusalOf(err); refused != nil && d.Metadata.Name != "" {
		return Token{}, i.recordFailure(ctx, err, event.Event{
			Type: event.DeviceTokenCreate, User: user, Message: err.Error(), Device: described(d),
		})
	}
	if err != nil {
		return Token{}, err
	}
	return token, nil
}

// mayAutoEnroll refuses by the first fault. The device is zero where it is not
// registered, or nothing is enrolled here without a token.
func (i *Inventory) mayAutoEnroll(tx *store.Tx, user string, data *dtv1.DeviceData, terms AutoTerms) (resource.Device, error) {
	if err := terms.off(tx); err != nil {
		return resource.Device{}, err
	}
	found, err := find(tx, `asset_tag = $1 AND os_type = $2`, data.GetAssetTag(), data.GetOsType())
	if err != nil {
		return resource.Device{}, err
	}
	if len(found) != 1 {
		return resource.Device{}, api.Refuse(connect.CodeNotFound, "device %s/%s is not registered in %s", data.GetAssetTag(), data.GetOsType(), i.cluster).
			WithHint("%s", registerRemedy(data))
	}
	d := found[0]
	findings, err := i.autoFindings(tx, d, user, data, terms)
	if err != nil {
		return d, err
	}
	return d, firstFault(findings)
}

func registerRemedy(data *dtv1.DeviceData) string {
	return fmt.Sprintf("An administrator registers it: dtctl devices add --os=%s --asset-tag=%s; or, where your roles allow it: dtsh device enroll --current-device",
		data.GetOsType(), data.GetAssetTag())
}

// autoFindings adds to unfitness what only the store and the rooms beside it
// know.
func (i *Inventory) autoFindings(tx *store.Tx, d resource.Device, user string, data *dtv1.DeviceData, terms AutoTerms) ([]Finding, error) {
	f := facts{device: d, user: user}
	if data != nil {
		f.reported = report(data, time.Time{})
	} else if kept := d.Spec.CollectedData; len(kept) > 0 {
		f.reported = kept[len(kept)-1]
	}
	for _, ask := range []struct {
		of   func() error
		into **api.Refusal
	}{
		{func() error { return terms.off(tx) }, &f.off},
		{func() error { return terms.stands(tx, d) }, &f.keptOut},
	} {
		err := ask.of()
		if *ask.into = refusalOf(err); err != nil && *ask.into == nil {
			return nil, err
		}
	}
	var err error
	f.waiting, err = i.tokenWaits(tx, d.Metadata.Name, user)
	return findings(f), err
}

// facts are all that the findings follow from.
type facts struct {
	device   resource.Device
	user     string
	off      *api.Refusal
	keptOut  *api.Refusal
	waiting  bool
	reported resource.CollectedData // zero where it never reported
}

// findings says of each condition of auto-enrollment whether it is met, in the
// order in which they are asked: whose it is first, since the person hears of
// the first fault, and of somebody else's device no more than that it is.
func findings(f facts) []Finding {
	all := []Finding{
		answered("auto_enroll", f.off, "the cluster enrolls registered devices by itself"),
		{Name: "registered", State: OK, Detail: "device " + label(f.device) + " is registered"},
		notTaken(f.device, f.user),
		ownedByNobodyElse(f.device, f.user),
		answered("frozen", refusalOf(notFrozen(f.device)), "it is not frozen"),
		notKeptOut(f.keptOut),
		noTokenWaits(f.device, f.waiting),
	}
	return append(all, profileFindings(f.device, f.reported)...)
}

// answered is a finding that somebody else made.
func answered(name string, refused *api.Refusal, good string) Finding {
	if refused == nil {
		return Finding{Name: name, State: OK, Detail: good}
	}
	return Finding{Name: name, Detail: refused.Message, Remedy: refused.Hint}
}

func notKeptOut(refused *api.Refusal) Finding {
	f := answered("locked", refused, "no lock keeps it out")
	if f.State == Fault && f.Remedy == "" {
		f.Remedy = "An administrator sees what is locked, and why: dtctl get locks"
	}
	return f
}

// notTaken: an owner of a device that is enrolled proves that enrollment anew.
func notTaken(d resource.Device, user string) Finding {
	switch by := refusalOf(enrolledByOther(d, user)); {
	case by != nil:
		return Finding{Name: "enrolled", Detail: by.Message, Remedy: by.Hint, Inside: "by " + d.Spec.Owner}
	case d.Spec.EnrollStatus == resource.Enrolled:
		return Finding{Name: "enrolled", State: OK, Detail: "it is enrolled, and speaks for " + user}
	}
	return Finding{Name: "enrolled", State: OK, Detail: "nobody has enrolled it"}
}

func tokenRemedy(d resource.Device) string {
	return "ask an administrator for a token (dtctl devices enroll --asset-tag=" + d.Spec.AssetTag + "), and then: dtsh device enroll --token=TOKEN"
}

func ownedByNobodyElse(d resource.Device, user string) Finding {
	if len(d.Spec.Owners) == 0 || speaksFor(d, user) {
		return Finding{Name: "owners", State: OK, Detail: "it is not somebody else's"}
	}
	return Finding{
		Name: "owners", Detail: "device " + d.Spec.AssetTag + " belongs to another user", Inside: strings.Join(d.Spec.Owners, ", "),
		Remedy: "An administrator can add " + user + ": dtctl edit device/" + d.Spec.AssetTag + ", and list the user in owners",
	}
}

// noTokenWaits: the token of an administrator's is one that somebody is to
// use, and another login's is in use now. There is one for each device, and
// this would void it.
func noTokenWaits(d resource.Device, waiting bool) Finding {
	if !waiting {
		return Finding{Name: "token", State: OK, Detail: "no enrollment token waits for it"}
	}
	return Finding{
		Name: "token", Detail: "an enrollment token for device " + d.Spec.AssetTag + " is waiting to be used",
		Remedy: "Use it: dtsh device enroll --token=TOKEN; or log in again when it has expired",
	}
}

// profileFindings compares each field of the profile that a device can report
// with what it reported.
func profileFindings(d resource.Device, got resource.CollectedData) (all []Finding) {
	p := d.Spec.Profile
	if p == nil {
		return []Finding{{Name: "profile", State: OK, Detail: "the inventory expects nothing of what it reports"}}
	}
	for _, field := range []struct {
		name string
		want []string
		got  []string
	}{
		{"os_id", one(p.OSID), one(got.OSID)},
		{"os_version", one(p.OSVersion), one(got.OSVersion)},
		{"os_build", one(p.OSBuild), one(got.OSBuild)},
		{"kernel_version", one(p.KernelVersion), one(got.KernelVersion)},
		{"hostname", one(p.Hostname), one(got.Hostname)},
		{"model_identifier", one(p.ModelIdentifier), one(got.ModelIdentifier)},
		{"serial_number", one(p.SerialNumber), one(got.SerialNumber)},
		// A label that the firmware hides is that by which it is registered.
		{"asset_tag", one(p.AssetTag), append(one(got.ReportedAssetTag), one(got.AssetTag)...)},
		{"jamf_binary_version", one(p.JamfBinaryVersion), one(got.JamfBinaryVersion)},
		{"os_usernames", p.OSUsernames, one(got.OSUsername)},
	} {
		if len(field.want) > 0 {
			all = append(all, profileFinding(d, field.name, field.want, field.got))
		}
	}
	if len(all) == 0 {
		return []Finding{{Name: "profile", State: OK, Detail: "the inventory expects nothing of what it reports"}}
	}
	if got.OSType == "" {
		return []Finding{{
			Name: "profile", State: Note, Detail: "the device has never reported, so nothing is compared",
			Remedy: "On the device: dtsh device collect --format=json; and then --collected=FILE",
		}}
	}
	return all
}

// one is a list of s, and empty where that is.
func one(s string) []string {
	if s == "" {
		return nil
	}
	return []string{s}
}

func profileFinding(d resource.Device, name string, want, got []string) Finding {
	reported := "nothing"
	if len(got) > 0 {
		reported = inQuotes(got)
	}
	f := Finding{Name: "profile." + name, State: OK, Detail: name + " is as the inventory expects: " + reported}
	if len(without(got, want)) == len(got) {
		f.State = Fault
		f.Detail = "device " + d.Spec.AssetTag + " is not as its profile says: " + name + " is reported as " + reported
		f.Inside = "expected is " + inQuotes(want)
		f.Remedy = "An administrator changes what is expected (dtctl edit device/" + d.Spec.AssetTag + "), or gives a token; dtctl devices explain " +
			d.Spec.AssetTag + " --user=USER shows it"
	}
	return f
}

// inQuotes is for texts that came from a machine or a document.
func inQuotes(texts []string) string {
	var all []string
	for _, s := range texts {
		all = append(all, fmt.Sprintf("%.64q", s))
	}
	return strings.Join(all, " or ")
}

// firstFault is the refusal that findings lead to; nil where there is no fault.
// A note is none only where people look: what was not compared does not fit.
func firstFault(all []Finding) error {
	for _, f := range all {
		if f.State == OK {
			continue
		}
		r := api.Refuse(connect.CodePermissionDenied, "%s", f.Detail).WithHint("%s", f.Remedy)
		if f.Inside == "" {
			return r
		}
		return withDetail(r, inside(f.Inside))
	}
	return nil
}

// inside is a detail that is only for the record.
type inside string

func (i inside) Error() string { return string(i) }

// ExplainAuto says whether the next login of user would enroll d, with what it
// reports: data, or where that is nil, what it last reported.
func (i *Inventory) ExplainAuto(tx *store.Tx, d resource.Device, user string, data *dtv1.DeviceData, terms AutoTerms) ([]Finding, error) {
	if data == nil {
		return i.autoFindings(tx, d, user, nil, terms)
	}
	if err := checkData(data); err != nil {
		return nil, err
	}
	all, err := i.autoFindings(tx, d, user, data, terms)
	return append([]Finding{answered("machine", refusalOf(matches(d, data)), "the report is one of this device")}, all...), err
}
