package sshd

import "time"

// Bounds of looking at the connections of an sshd.
const (
	// maxProcFile of a file of /proc: what people put into their environment is
	// theirs to choose, and sshd puts its own at the beginning.
	maxProcFile = 256 << 10
	// maxDepth of a process below its connection: a chain that is longer is
	// cut from below, not from above (see below).
	maxDepth = 4096
	// maxAuthInfo is some certificates of the largest size, in base64; one of
	// ours has less than 2 KiB.
	maxAuthInfo = 64 << 10
	// maxProofs of one connection: sshd has one, and what a person adds to it
	// does not grow without end.
	maxProofs = 16
	// maxAuthLine is longer than what sshd writes about a login, whose key ID has
	// up to 64 KiB in theory and under 256 bytes where it is one of ours.
	maxAuthLine = 8 << 10
	// maxLogRead of the log is looked at when the side-car starts: the logins
	// of some hours.
	maxLogRead = 4 << 20
	// logSlack: a log's times may be whole seconds, and a process's start is
	// in ticks.
	logSlack = 2 * time.Second
	// authInfoSlack is how long sshd may take from the start of the person's
	// process to the end of writing its file; it is the first that it does.
	authInfoSlack = 2 * time.Second
	// maxHints are lines of the log about processes that are not connections
	// yet: those of one look.
	maxHints = 4096
)

// logPoll is how often a file of syslogd's is looked at.
const logPoll = 250 * time.Millisecond

const (
	// logRetry is how long a log is left alone that cannot be read.
	logRetry = 5 * time.Second
	// maxAuthInfos of one account are looked at: sshd has one for each connection, and
	// everybody may make files in that folder.
	maxAuthInfos = 4096
	// maxSocketFD: sshd has the connection's as one of its first files.
	maxSocketFD = 16
	// maxSockets of the machine's table, of 150 bytes each: some ten thousand.
	maxSockets = 4 << 20
)

// Bounds of cutting.
const (
	// cutRounds: what forks is stopped with its parents, so the second round
	// finds the last; more are for a machine that is busy.
	cutRounds = 16
	// lastWords is how long sshd has to send a line, of the 250 ms that a cut
	// may take.
	lastWords = 100 * time.Millisecond
	// sshdEnds is how long sshd may take to end by itself: it removes its file,
	// and tells PAM and wtmp.
	sshdEnds = 75 * time.Millisecond
	endStep  = 5 * time.Millisecond
	// killTakes is how long what was killed may take to be gone, on a machine
	// that is busy, before it counts as left.
	killTakes = 2 * time.Second
	// maxWorkerFD of sshd's process are looked at for pipes: three for each of
	// its sessions (sshd_config(5), MaxSessions 10), and forwarded connections.
	maxWorkerFD = 256
)

// startSlack: the start of a process is known in ticks, and the time of a file
// in those of another clock.
const startSlack = 100 * time.Millisecond
