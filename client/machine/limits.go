package machine

const (
	// maxField bounds one file of the firmware's tables: SMBIOS strings are
	// at most 64 characters in practice, and 255 where a vendor overdoes it.
	maxField = 256
	// maxOSRelease: real ones have under 1 KiB.
	maxOSRelease = 64 << 10
)
