package node

import "time"

// Bounds of a stock sshd's side-car.
const (
	// maxClaims is larger than what the control plane takes of a node.
	maxClaims = 256 << 10
	// companionLook is how often the connections are looked for, and the files:
	// who came in by what the helper knew a moment before a lock is cut so much
	// later.
	companionLook = time.Second
	// companionBlindLook where the kernel does not tell of sshd's files: a
	// person's process may take its own away.
	companionBlindLook = 250 * time.Millisecond
	// companionSettle after news of a connection: sshd has a few steps to go
	// until it can be seen that somebody is in.
	companionSettle = 30 * time.Millisecond
	// companionGrace is how long a connection may be there before it is known
	// whose it is: the log may be late.
	companionGrace = 5 * time.Second
	// maxConnectionsFile has room for some thousand connections, with a
	// certificate of 2 KiB each.
	maxConnectionsFile = 16 << 20
	// companionKeep is the least time between two writings of what is known of
	// connections: a crash loses so much of it.
	companionKeep = 200 * time.Millisecond
	// companionRecord is how long a cut waits for its record: a disk that hangs
	// keeps nobody in.
	companionRecord = 50 * time.Millisecond
	// companionReload is how long sshd may take to look at its configuration.
	companionReload = 10 * time.Second
)
