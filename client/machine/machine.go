// Package machine says what this machine reports of itself: what its firmware
// and its system call it. All of it is a claim, for people to recognise the
// machine by; its endorsement key is what identifies it.
package machine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

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
	// OSRelease is a file as os-release(5) describes; empty is
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
	dmi := s.firmware()
	release := s.osRelease()
	d := &dtv1.DeviceData{
		OsType:                OSType(),
		CollectTime:           timestamppb.New(now),
		OsId:                  release["ID"],
		OsVersion:             release["VERSION_ID"],
		OsBuild:               release["BUILD_ID"],
		KernelVersion:         kernelVersion(),
		Hostname:              hostname(),
		ModelIdentifier:       dmi.productName,
		ReportedAssetTag:      dmi.chassisAssetTag,
		SystemSerialNumber:    dmi.productSerial,
		BaseBoardSerialNumber: dmi.boardSerial,
	}
	d.SerialNumber, _ = assettag.Pick(dmi.productSerial, dmi.boardSerial)
	var err error
	d.AssetTag, err = s.assetTag(ctx, dmi)
	return d, err
}

// AssetTag gives the machine's tag alone.
func (s Source) AssetTag(ctx context.Context) (string, error) {
	return s.assetTag(ctx, s.firmware())
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
	return s.firmware().hidden()
}

// hidden names a line of tmpfiles.d(5) for the first file: sysfs forgets a
// chmod at the next start.
func (f firmware) hidden() string {
	if len(f.unreadable) == 0 {
		return ""
	}
	return fmt.Sprintf("Only root can read %s: allow it with a line such as 'z %s 0440 - tss' in /etc/tmpfiles.d/dt.conf, or set an asset tag in the firmware.",
		strings.Join(f.unreadable, ", "), f.unreadable[0])
}

// firmware is what SMBIOS says (DMTF DSP0134, structures 1 to 3).
type firmware struct {
	chassisAssetTag, productSerial, boardSerial, productName string
	// unreadable are files that exist and are not for us.
	unreadable []string
}

func (s Source) firmware() firmware {
	dir := s.DMIDir
	if dir == "" {
		dir = DefaultDMIDir
	}
	var f firmware
	for _, file := range []struct {
		name string
		into *string
	}{
		{"chassis_asset_tag", &f.chassisAssetTag},
		{"product_serial", &f.productSerial},
		{"board_serial", &f.boardSerial},
		{"product_name", &f.productName},
	} {
		path := filepath.Join(dir, file.name)
		data, err := readBounded(path, maxField)
		if errors.Is(err, os.ErrPermission) {
			f.unreadable = append(f.unreadable, path)
		}
		*file.into = line(data)
	}
	return f
}

// readBounded reads at most limit bytes; more is no such file at all.
func readBounded(name string, limit int64) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(data)) > limit {
		return nil, errors.New("it is too long")
	}
	return data, nil
}

// line is the text of a one-line file: firmware pads with white space, and
// bytes that are not printable ASCII are not worth sending.
func line(data []byte) string {
	return strings.TrimSpace(strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return -1
		}
		return r
	}, string(data)))
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
	return line([]byte(name))
}
