package devices

import (
	"fmt"
	"reflect"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/reflect/protoreflect"

	"devicetrust/api"
	"devicetrust/api/dtv1"
	"devicetrust/devices/assettag"
	"devicetrust/resource"
)

// checkData refuses a report that cannot be one, and names the field. The
// texts end up in tables and logs, so none may hold what moves a cursor.
func checkData(data *dtv1.DeviceData) error {
	if data == nil {
		return api.Refuse(connect.CodeInvalidArgument, "the device does not say what it is")
	}
	if err := checkOS(data.GetOsType()); err != nil {
		return err
	}
	if err := assettag.Valid(data.GetAssetTag()); err != nil {
		return api.Refuse(connect.CodeInvalidArgument, "%v", err)
	}
	var err error
	data.ProtoReflect().Range(func(field protoreflect.FieldDescriptor, value protoreflect.Value) bool {
		if field.Kind() == protoreflect.StringKind && !isLine(value.String()) {
			err = api.Refuse(connect.CodeInvalidArgument, "the device's %s is not a line of at most %d bytes", field.Name(), maxField)
		}
		return err == nil
	})
	if err != nil {
		return err
	}
	if t := data.GetCollectTime(); t != nil && (!t.IsValid() || t.AsTime().Year() < 1970 || t.AsTime().Year() > 9999) {
		return api.Refuse(connect.CodeInvalidArgument, "the device's collect_time is no time")
	}
	return nil
}

// isLine tells whether s can be printed as it is.
func isLine(s string) bool {
	return len(s) <= maxField && utf8.ValidString(s) &&
		strings.IndexFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) < 0
}

// matches tells whether a report is one of the registered device; the error
// says which of the two differs. It is asked at enrollment, when the tag says
// which device is meant.
func matches(d resource.Device, data *dtv1.DeviceData) error {
	if err := sameOS(d, data); err != nil {
		return err
	}
	if got := data.GetAssetTag(); got != d.Spec.AssetTag {
		return api.Refuse(connect.CodeFailedPrecondition, "this is device %q, and not %q", got, d.Spec.AssetTag).
			WithHint("dtsh device asset-tag says this machine's tag; the token must be one for it")
	}
	return nil
}

// sameOS is what a login asks of a report. Its tag is not asked for: the key
// says which machine it is, and the tag that a machine finds depends on who
// may read which serial number there. It is kept with the report.
func sameOS(d resource.Device, data *dtv1.DeviceData) error {
	if got := data.GetOsType(); got != d.Spec.OSType {
		return api.Refuse(connect.CodeFailedPrecondition, "device %s is registered for %s, and this machine runs %.16q", d.Spec.AssetTag, d.Spec.OSType, got).
			WithHint("Register this machine as it is: dtctl devices add --os=%s --asset-tag=%s", got, data.GetAssetTag())
	}
	return nil
}

// collect adds a report to those that are kept, the newest last. It gives what
// differs from the one before, one line each; of a first report nothing does.
func collect(d *resource.Device, data *dtv1.DeviceData, now time.Time) (changed []string) {
	c := report(data, now)
	if n := len(d.Spec.CollectedData); n > 0 {
		changed = drift(d.Spec.CollectedData[n-1], c)
	}
	kept := append(d.Spec.CollectedData, c)
	d.Spec.CollectedData = kept[max(0, len(kept)-maxCollected):]
	return changed
}

// report is data as it is kept.
func report(data *dtv1.DeviceData, now time.Time) resource.CollectedData {
	c := resource.CollectedData{
		RecordTime: now,
		OSType:     data.GetOsType(), AssetTag: data.GetAssetTag(),
		OSID: data.GetOsId(), OSVersion: data.GetOsVersion(), OSBuild: data.GetOsBuild(), KernelVersion: data.GetKernelVersion(),
		Hostname: data.GetHostname(), ModelIdentifier: data.GetModelIdentifier(),
		SerialNumber: data.GetSerialNumber(), ReportedAssetTag: data.GetReportedAssetTag(),
		SystemSerialNumber: data.GetSystemSerialNumber(), BaseBoardSerialNumber: data.GetBaseBoardSerialNumber(),
		TPMManufacturer: data.GetTpmManufacturer(), TPMFirmware: data.GetTpmFirmware(),
		OSUsername: data.GetOsUsername(), JamfBinaryVersion: data.GetJamfBinaryVersion(),
		MacOSEnrollmentProfiles: data.GetMacosEnrollmentProfiles(),
	}
	if t := data.GetCollectTime(); t != nil {
		c.CollectTime = t.AsTime().Truncate(time.Microsecond)
	}
	return c
}

// drift says which fields of two reports differ, as the resource names them;
// the times always do and are left out. Long values are cut: they are whole in
// the resource.
func drift(before, after resource.CollectedData) (changed []string) {
	was, is := reflect.ValueOf(before), reflect.ValueOf(after)
	for f, old := range was.Fields() {
		if now := is.FieldByIndex(f.Index); old.Kind() == reflect.String && old.String() != now.String() {
			name, _, _ := strings.Cut(f.Tag.Get("yaml"), ",")
			changed = append(changed, fmt.Sprintf("%s changed from %.64q to %.64q", name, old.String(), now.String()))
		}
	}
	return changed
}
