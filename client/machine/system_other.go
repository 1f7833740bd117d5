//go:build !darwin && !windows

package machine

import (
	"context"

	"golang.org/x/sys/unix"
)

func (s Source) firmware(context.Context) firmware { return s.dmi() }

func (s Source) system(context.Context) system {
	release := s.osRelease()
	return system{id: release["ID"], version: release["VERSION_ID"], build: release["BUILD_ID"], kernel: kernelVersion()}
}

// kernelVersion is what uname -r prints.
func kernelVersion() string {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return ""
	}
	return field(unix.ByteSliceToString(u.Release[:]))
}
