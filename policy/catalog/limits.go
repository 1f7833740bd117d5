package catalog

// Bounds of what is kept. Every node keeps all of it, gets all of it again
// after each change, and looks at every lock at each session.
const (
	maxRoles = 500
	maxLocks = 2000
	// maxDocument is that of a role with every list full of ordinary names.
	maxDocument = 64 << 10
	// maxPreference has room for the certificates of every TPM maker, some
	// 2 KiB each.
	maxPreference = 256 << 10
)
