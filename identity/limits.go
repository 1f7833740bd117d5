package identity

// Bounds of what one certificate may carry. What the CA would not write, the
// reader refuses.
const (
	// MaxLogins is OpenSSH's own limit (sshkey.h, SSHKEY_CERT_MAX_PRINCIPALS).
	MaxLogins = 256
	// MaxRoles is far above any person's roles; every node evaluates each of
	// them at every session.
	MaxRoles = 128
	// maxRoleName is that of a user: names of the same kind of thing.
	maxRoleName = 128
	// maxTraits and maxTraitValues keep the traits a list that people write.
	maxTraits      = 32
	maxTraitValues = MaxLogins
	maxTraitText   = 256
	// maxJSON bounds one JSON extension before it is parsed: MaxRoles names
	// of maxRoleName bytes with their quotes and some room. With it a
	// certificate stays far below an SSH packet (256 KiB in OpenSSH).
	maxJSON = 20 << 10
	// maxDeviceField: IDs are UUIDs; asset tags are serial numbers of at
	// most a few dozen characters.
	maxDeviceField = 128
	// maxCommand is a command line that people write.
	maxCommand = 4 << 10
	// maxLogin is what useradd(8) takes; maxUser has room for an e-mail address.
	maxLogin = 32
	maxUser  = 128
	// maxNodeID is a UUID with room; maxLevel is one word.
	maxNodeID = 64
	maxLevel  = 32
	// maxHostLabel and maxHostName are the longest part of a DNS name, and the
	// longest name (RFC 1035 section 2.3.4).
	maxHostLabel = 63
	maxHostName  = 253
	// minRSA: NIST SP 800-131A allows no shorter key; OpenSSH's own
	// RequiredRSASize default is lower (1024) and not followed.
	minRSA = 2048
	// maxSeconds is the last second of the year 9999, the last that RFC 5280
	// section 4.1.2.5 can write. "For ever" (2^64-1) lies beyond it.
	maxSeconds = 253402300799
)
