package agent

import "time"

const (
	// maxMessage in bytes, as OpenSSH's agent and clients have it
	// (AGENT_MAX_LEN, MAX_AGENT_REPLY_LEN). A longer one ends the connection
	// before it is read.
	maxMessage = 256 << 10

	// messageTimeout bounds the time from a message's first byte to its last,
	// and that in which an answer must be taken. Idle connections may stay: an
	// SSH client keeps one open while the person types a passphrase.
	messageTimeout = 20 * time.Second

	// maxConns are served at once; who comes later waits in the kernel's queue.
	// The memory of a connection is two messages, so this is 64 MiB at worst.
	maxConns = 128

	// maxForwarded of them come by way of agent forwarding. A hostile server can
	// open as many as it likes, and must not keep the person's own out.
	maxForwarded = 32

	// maxBindings on one connection: hops of agent forwarding, as OpenSSH has it
	// (AGENT_MAX_SESSION_IDS).
	maxBindings = 16

	// maxSessionID in bytes: a hash of the key exchange, at most SHA-512. The
	// shortest is SHA-1's.
	maxSessionID = 64
	minSessionID = 20

	// maxAdded keys of ssh-add. A server that takes part in no more than six
	// attempts makes more than a few useless.
	maxAdded = 64

	// maxComment in bytes: a path.
	maxComment = 4096

	// maxKeyBlob in bytes of a public key or certificate: 64 of them and their
	// comments are more than a reply holds, which is cut, the logins first.
	maxKeyBlob = 32 << 10

	// maxRSABits: as x/crypto. Larger ones take minutes to check.
	maxRSABits = 16384

	// maxDestinations of one key, as OpenSSH has it (AGENT_MAX_DEST_CONSTRAINTS),
	// and maxHopKeys of one hop: a host has a key of each of a few kinds, and a
	// pattern of hosts some authorities.
	maxDestinations = 1024
	maxHopKeys      = 1024

	// unlockDelay for each failure to unlock since the last success, up to
	// maxUnlockFailures of them: 10 s, as OpenSSH's agent.
	unlockDelay       = 100 * time.Millisecond
	maxUnlockFailures = 100
)
