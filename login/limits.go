package login

import "time"

const (
	// Passwords, in bytes. NIST SP 800-63B section 5.1.1.2 asks for at least
	// 8 and for 64 to be allowed; the upper bound keeps what is hashed small.
	minPassword = 8
	maxPassword = 256

	// Each hash takes 64 MiB and, on two cores, 75 ms of both. Four at once
	// take 256 MiB; the others wait for about half a second at most, and who
	// comes when that many wait is sent away.
	concurrentHashes = 4
	waitingHashes    = 32

	// What a stored hash may ask for: the store must not be a way to make
	// us spend memory.
	maxHashMemoryKiB = 256 << 10
	maxHashPasses    = 16
	maxHashThreads   = 16
	maxHashText      = 512

	// An invite that is sent by mail is opened within the day, or the week.
	defaultInviteLife = time.Hour
	maxInviteLife     = 7 * 24 * time.Hour
	// 32 random bytes in base64url without padding.
	inviteTokenLen = 43

	// A user's document; what of it goes into certificates has bounds of its
	// own (identity).
	maxDocument = 64 << 10
	maxRoles    = 64
	maxRoleName = 128

	// How long a place from which somebody logged in counts as theirs.
	knownLife = 30 * 24 * time.Hour
	// How often expired rows are removed, at most; only to keep tables small.
	pruneEvery = time.Minute

	// Guesses at invites that are recorded within a minute, of all addresses
	// together: each address has a limit of its own, but an IPv6 site has
	// 65536 of them. A replica counts for itself what it writes.
	maxInviteRecords = 60

	// finishTimeout bounds what must be written after the caller left.
	finishTimeout = 10 * time.Second
)

// rate is a limit on guessing: so many failures cost nothing, then the wait
// doubles from base up to cap. After idle without an attempt all is forgotten,
// which gives no more guesses than going on at the cap does.
type rate struct {
	free      int64
	base, cap time.Duration
}

const idle = time.Hour

var (
	// One account from one address: 10 at once, then 288 a day. A person who
	// mistypes never waits, for longer than 5 minutes nobody.
	pairRate = rate{free: 10, base: time.Second, cap: 5 * time.Minute}
	// All accounts from one address, which an office may share.
	addrRate = rate{free: 50, base: time.Second, cap: time.Minute}
)

// delay is the wait after the failures-th attempt.
func (r rate) delay(failures int64) time.Duration {
	over := failures - r.free
	if over <= 0 {
		return 0
	}
	if over > 32 { // 2^32 s is above every cap, and shifts stay in range
		return r.cap
	}
	return min(r.base<<(over-1), r.cap)
}
