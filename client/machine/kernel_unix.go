//go:build unix

package machine

import "golang.org/x/sys/unix"

// kernelVersion is what uname -r prints.
func kernelVersion() string {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return ""
	}
	return line([]byte(unix.ByteSliceToString(u.Release[:])))
}
