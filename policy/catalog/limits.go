package catalog

// Bounds of what is kept. Every node keeps all of it, gets what differs after
// each change, and looks at every lock at each session, which at 50 ns each is
// half a millisecond.
const (
	maxRoles = 10_000
	maxLocks = 10_000
	// maxAll is what all documents take together: a node that has nothing is
	// sent them as one message, and half of what that may have (feed.MaxMessage)
	// is left for what else is in it.
	maxAll = 64 << 20
	// maxDocument is that of a role with every list full of ordinary names.
	maxDocument = 64 << 10
	// maxPreference has room for the certificates of every TPM maker, some
	// 2 KiB each.
	maxPreference = 256 << 10
)
