package machine

import (
	"context"

	"golang.org/x/sys/unix"
)

// No Mac was at hand when this was written: it compiles, and what the programs
// print is parsed in tests (macos.go). That a Mac prints it so is not tested.

func (s Source) firmware(ctx context.Context) firmware {
	text, err := output(ctx, "/usr/sbin/ioreg", "-rd1", "-c", "IOPlatformExpertDevice")
	if err != nil {
		text = nil
	}
	return firmware{productSerial: serialNumber(text), productName: sysctl("hw.model")}
}

func (s Source) system(ctx context.Context) system {
	found := system{version: sysctl("kern.osproductversion"), build: sysctl("kern.osversion"), kernel: sysctl("kern.osrelease")}
	// Neither asks for rights; what is not installed says nothing.
	if text, err := output(ctx, "/usr/local/bin/jamf", "version"); err == nil {
		found.jamf = jamfVersion(text)
	}
	if text, err := output(ctx, "/usr/bin/profiles", "status", "-type", "enrollment"); err == nil {
		found.profiles = enrollmentProfiles(text)
	}
	return found
}

func sysctl(name string) string {
	value, err := unix.Sysctl(name)
	if err != nil {
		return ""
	}
	return field(value)
}
