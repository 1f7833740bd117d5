package krl

const (
	// maxSize of a list: a million serials one by one have 8 MB. sshd reads the
	// whole of it at each login.
	maxSize = 16 << 20

	// maxRanges bounds what a list unfolds to: a byte of a bitmap can be four
	// ranges, so 16 MiB of them would be gigabytes.
	maxRanges = 1 << 20

	// maxAuthorities: a cluster has one, and two while it changes.
	maxAuthorities = 16

	// maxComment is a line.
	maxComment = 256

	// maxBits of a bitmap: OpenSSH reads it as a number, and takes none of more
	// than 16384 bits (sshbuf.h, SSHBUF_MAX_BIGNUM).
	maxBits = 16384

	// maxDate is the last second of the year 9999.
	maxDate = 253402300799
)
