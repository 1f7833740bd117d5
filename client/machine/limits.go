package machine

import "time"

const (
	// maxField bounds one text: SMBIOS strings are at most 64 characters in
	// practice, and 255 where a vendor overdoes it. The server takes no more.
	maxField = 256
	// maxOSRelease: real ones have under 1 KiB.
	maxOSRelease = 64 << 10
	// maxSMBIOS: real tables have 2 to 16 KiB, and 64 KiB is all that version
	// 2 could say.
	maxSMBIOS = 256 << 10
	// maxOutput of a program of the system; ioreg prints about 2 KiB.
	maxOutput = 64 << 10
	// commandTimeout is what such a program has: they take milliseconds, and
	// a login waits for them.
	commandTimeout = 5 * time.Second
	// waitDelay is for what it leaves behind; nothing of that is waited for.
	waitDelay = time.Second
)
