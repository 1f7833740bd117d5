// Package machine says what this machine reports of itself: what its firmware
// and its system call it. All of it is a claim, for people to recognise the
// machine by; its endorsement key is what identifies it.
package machine

import (
	"context"
	"errors"
	"os"
	"os/user"
	"runtime"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/timestamppb"

	"devicetrust/api"
	"devicetrust/api/dtv1"
	"devicetrust/devices/assettag"
)

// Where a Linux system tells about itself.
const (
	DefaultDMIDir    = "/sys/class/dmi/id"
	DefaultOSRelease = "/etc/os-release"
)

// Source is where the facts come from.
type Source struct {
	// DMIDir holds the firmware's tables as files (Linux,
	// Documentation/ABI/testing/sysfs-class-dmi); empty is DefaultDMIDir.
	DMIDir string
	// OSRelease is a file as os-release(5) describes (Linux); empty is
	// DefaultOSRelease.
	OSRelease string
	// EK gives the public half of the TPM's endorsement key, PKIX DER. It is
	// asked only where the machine has no label of its own.
	EK func(context.Context) ([]byte, error)
}

// Collect gives what the machine reports at now, its asset tag included.
// Files that only root can read count as absent: nothing here needs sudo. A
// machine without a label is named after its TPM; the error of one that has no
// TPM either is a *api.Refusal with what to do.
func (s Source) Collect(ctx context.Context, now time.Time) (*dtv1.DeviceData, error) {
	firmware, system := s.firmware(ctx), s.system(ctx)
	d := &dtv1.DeviceData{
		OsType:                OSType(),
		CollectTime:           timestamppb.New(now),
		OsId:                  system.id,
		OsVersion:             system.version,
		OsBuild:               system.build,
		KernelVersion:         system.kernel,
		Hostname:              hostname(),
		OsUsername:            username(),
		ModelIdentifier:       firmware.productName,
		ReportedAssetTag:      firmware.chassisAssetTag,
		SystemSerialNumber:    firmware.productSerial,
		BaseBoardSerialNumber: firmware.boardSerial,

		JamfBinaryVersion:       system.jamf,
		MacosEnrollmentProfiles: system.profiles,
	}
	d.SerialNumber, _ = assettag.Pick(firmware.productSerial, firmware.boardSerial)
	var err error
	d.AssetTag, err = s.assetTag(ctx, firmware)
	return d, err
}

// AssetTag gives the machine's tag alone.
func (s Source) AssetTag(ctx context.Context) (string, error) {
	return s.assetTag(ctx, s.firmware(ctx))
}

// assetTag takes the label that the owner gave before those of the makers:
// everybody may read it, so the tag is the same with and without privileges.
func (s Source) assetTag(ctx context.Context, dmi firmware) (string, error) {
	if tag, ok := assettag.Pick(dmi.chassisAssetTag, dmi.productSerial, dmi.boardSerial); ok {
		return tag, nil
	}
	if s.EK == nil {
		return "", noTag(errNoTPM, dmi)
	}
	ek, err := s.EK(ctx)
	if ctx.Err() != nil {
		return "", context.Cause(ctx)
	}
	if err != nil {
		return "", noTag(err, dmi)
	}
	return assettag.FromEK(ek), nil
}

var errNoTPM = errors.New("there is no TPM to name it after")

// noTag keeps the TPM's own hint where it has one.
func noTag(err error, dmi firmware) error {
	out := api.Refuse(connect.CodeFailedPrecondition, "this machine has no usable serial number or asset tag: %v", err)
	turnOn := ""
	if errors.Is(err, errNoTPM) {
		turnOn = ", or turn on its TPM"
	}
	var hints []string
	if r, ok := errors.AsType[*api.Refusal](err); ok && r.Hint != "" {
		hints = append(hints, strings.TrimRight(r.Hint, "."))
	}
	if hidden := dmi.hidden(); hidden != "" {
		hints = append(hints, hidden)
	}
	if len(hints) == 0 {
		hints = append(hints, "Set an asset tag in the machine's firmware"+turnOn+".")
	}
	return out.WithHint("%s", strings.Join(hints, ". "))
}

// Hidden says how to let this account read the serial numbers that only root
// can, where that is why the machine is named after its TPM; else it is empty.
func (s Source) Hidden(tag string) string {
	if !assettag.IsFromEK(tag) {
		return ""
	}
	return s.dmi().hidden()
}

// system is what the operating system says of itself; what it does not tell is
// empty.
type system struct {
	id, version, build, kernel string
	// macOS: the version of the management agent, and what the system says of
	// its management.
	jamf, profiles string
}

// field is text that can be sent: firmware pads with white space, and what
// cannot be printed is not worth sending. Where it is longer than a field can
// be it is none.
func field(text string) string {
	text = strings.TrimSpace(strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) || r == utf8.RuneError {
			return -1
		}
		return r
	}, text))
	if len(text) > maxField {
		return ""
	}
	return text
}

// OSType is this system as devices have it: linux, macos or windows.
func OSType() string {
	if runtime.GOOS == "darwin" {
		return "macos"
	}
	return runtime.GOOS
}

func hostname() string {
	name, err := os.Hostname()
	if err != nil {
		return ""
	}
	return field(name)
}

// username is the account, as the system calls it: with its domain on Windows.
func username() string {
	u, err := user.Current()
	if err != nil {
		return ""
	}
	return field(u.Username)
}
