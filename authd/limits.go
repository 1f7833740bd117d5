package authd

import "time"

// Every bound of the edge, with its reason.
const (
	// maxConnections bounds the memory of callers who never say who they are:
	// a TLS connection costs about 50 KiB.
	maxConnections = 4096
	// maxConnectionsPerAddress leaves room for an office behind one address.
	maxConnectionsPerAddress = 512
	// maxStreams is how many calls one HTTP/2 connection may have open.
	maxStreams = 64

	// readHeaderTimeout and idleTimeout end connections that say nothing.
	readHeaderTimeout = 10 * time.Second
	idleTimeout       = 2 * time.Minute
	// unaryTimeout bounds a call that is not a stream; the longest honest one
	// waits for its turn at hashing a password.
	unaryTimeout = 30 * time.Second

	// takeTimeout is what a client has to fetch an answer. One that opens a
	// window of nothing would hold the answer, and its call, for ever.
	takeTimeout = 30 * time.Second
	// maxStrangersBody is what is read of a call before its caller has shown
	// a certificate of ours: a login is a kilobyte or two, and thousands of
	// strangers may send at once.
	maxStrangersBody = 64 << 10

	// ceremonyTimeout is a little more than what devices gives a ceremony, so
	// that it is devices who says why it ended.
	ceremonyTimeout = 65 * time.Second

	// maxFailures of one caller within a minute are recorded one by one: more
	// than a person, or a script that goes wrong, needs to be understood.
	maxFailures = 60

	// followKeepalive is how often a node hears from us although nothing
	// changed, so that both sides notice a dead connection.
	followKeepalive = 15 * time.Second

	// feedTick is how long nodes may miss a change that nothing woke us for,
	// or that the store would not give: it is one row to read.
	feedTick = time.Second
	// feedLookTimeout ends a look at a store that does not answer, so that
	// another connection is tried.
	feedLookTimeout = 5 * time.Second
	// feedStale is how old what nodes are told may be before they are told
	// nothing: two looks that failed, and some.
	feedStale = 15 * time.Second

	// maxEventsPerCall and maxEvent bound what a node reports in one call.
	maxEventsPerCall = 1000
	maxEvent         = 64 << 10

	// maxRoles and maxLogins of a user: far above what people use, and all of
	// them fit into certificates.
	maxRoles, maxLogins = 64, 64

	// The HTTPS certificate of our own CA is renewed while it still has a
	// long weekend to live and more.
	serverCertLife  = 30 * 24 * time.Hour
	serverCertRenew = 10 * 24 * time.Hour

	// drainTime is what a stop waits for calls that are under way.
	drainTime = 10 * time.Second
	// pruneEvery only keeps tables small; what has expired counts nowhere.
	pruneEvery = 10 * time.Minute

	// Join tokens travel from one terminal to another.
	defaultJoinTTL = 30 * time.Minute
	maxJoinTTL     = 7 * 24 * time.Hour

	// defaultCertTTL is a working day; below minCertTTL a certificate expires
	// before the person has typed the next command.
	defaultCertTTL = 12 * time.Hour
	minCertTTL     = time.Minute
)
