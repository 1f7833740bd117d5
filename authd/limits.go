package authd

import "time"

// Every bound of the edge, with its reason.
const (
	// maxConnections bounds the memory of callers who never say who they are:
	// a TLS connection costs about 50 KiB, so all of them 200 MiB.
	maxConnections = 4096
	// maxConnectionsPerAddress leaves room for an office behind one address,
	// or in one IPv6 /64; maxConnectionsPerSite for one that has a /48, of
	// whose 65536 networks each would be another address.
	maxConnectionsPerAddress = 512
	maxConnectionsPerSite    = 1024
	// maxStreams is how many calls one HTTP/2 connection may have open: a node
	// has three, dtctl and dtsh one or two.
	maxStreams = 16

	// readHeaderTimeout and idleTimeout end connections that say nothing.
	readHeaderTimeout = 10 * time.Second
	idleTimeout       = 2 * time.Minute
	// unaryTimeout bounds a call that is not a stream; the longest honest one
	// waits for its turn at hashing a password.
	unaryTimeout = 30 * time.Second

	// verifyTimeout bounds the reading of the whole audit record, which grows
	// for as long as the cluster lives: at 80000 records a second it is enough
	// for forty-eight million.
	verifyTimeout = 10 * time.Minute

	// takeTimeout is what a client has to fetch an answer. One that opens a
	// window of nothing would hold the answer, and its call, for ever.
	takeTimeout = 30 * time.Second
	// maxStrangersBody is what is read of a call before its caller has shown
	// a certificate of ours. A login with two keys of RSA 8192 and the longest
	// password has 2.5 KiB, 3.5 in JSON.
	maxStrangersBody = 8 << 10
	// maxJoinBody is that of a node that joins: 64 labels of 128 + 256 bytes,
	// 16 addresses of 260 and the keys are 32 KiB.
	maxJoinBody = 48 << 10
	// maxStrangersBytes is what strangers may be sending at once, each call
	// counted with all that it may have: 2048 logins. What is read is held
	// twice at worst, and a call costs about 20 KiB beside, so strangers cost
	// 200 MiB for connections, 32 for bodies and 40 for calls; without this
	// bound the 65536 streams of 4096 connections would be 1.8 GiB.
	// A place has a sixteenth of it, which is 128 logins in the same moment,
	// a site an eighth.
	maxStrangersBytes         = 16 << 20
	maxStrangersBytesPerPlace = 1 << 20
	maxStrangersBytesPerSite  = 2 << 20
	// strangersReadTimeout is what they have to send it: it came with the
	// call, or somebody holds a share that others want.
	strangersReadTimeout = 10 * time.Second

	// ceremonyTimeout is a little more than what devices gives a ceremony, so
	// that it is devices who says why it ended.
	ceremonyTimeout = 65 * time.Second

	// maxBulkBytes is what the documents of devices that are registered at once
	// have, 1.3 KiB each where there are as many as can be. As structures they
	// are about three times that, so it is one call at a time.
	maxBulkBytes = 64 << 20
	// bulkTimeout is for sending them and for their transaction.
	bulkTimeout = 2 * time.Minute

	// maxFailures of one caller within a minute are recorded one by one: more
	// than a person, or a script that goes wrong, needs to be understood.
	maxFailures = 60

	// followKeepalive is how often a node hears from us although nothing
	// changed, so that both sides notice a dead connection.
	followKeepalive = 15 * time.Second

	// maxFollows is on how many streams one node is told the state: two of each
	// of its processes (node, maxProcesses), for one begins anew before the
	// other is known to be over.
	maxFollows = 16
	// followLeave is what a stream that is one too many has to fetch that it is.
	followLeave = time.Second

	// reportSpeaks is how long what a node said that it decides by is taken for
	// what it decides by now: it says so every 30 s (node, heartbeatInterval)
	// while it hears from us every 15 s. What it said longer ago grows old.
	reportSpeaks = 45 * time.Second

	// feedTick is how long nodes may miss a change that nothing woke us for,
	// or that the store would not give: it is one row to read.
	feedTick = time.Second
	// feedLookTimeout ends a look at a store that does not answer, so that
	// another connection is tried.
	feedLookTimeout = 5 * time.Second
	// feedStale is how old what nodes are told may be before they are told
	// nothing: two looks that failed, and some.
	feedStale = 15 * time.Second

	// krlLife is how long a revocation list is given out without a look at what
	// has expired meanwhile; nothing that is revoked waits for that.
	krlLife = 10 * time.Minute
	// krlTimeout bounds the making of one: 200,000 certificates that can be used
	// were read in 0.7 s on a busy machine, of which 0.2 were ours.
	krlTimeout = 15 * time.Second
	// krlRest: after it, nobody has another made before three times as long, so
	// that callers, who may be anybody, take a quarter of a processor at most.
	krlRest = 3
	// krlCopies of a list, as bytes, are what a call for it holds: the message,
	// and that as JSON in a buffer that grew by doubling.
	krlCopies = 4
	// maxAnswersBytes is what strangers hold of that at once: lists are small
	// (a thousand ranges are 20 KiB), and who wants one of megabytes has GET.
	// The shares are those of maxStrangersBytes.
	maxAnswersBytes         = 64 << 20
	maxAnswersBytesPerPlace = 4 << 20
	maxAnswersBytesPerSite  = 8 << 20

	// syncSilence is how long a call that synchronizes devices may say nothing:
	// a source has four minutes for a page, with all that is tried again.
	syncSilence = 5 * time.Minute

	// maxEventsPerCall and maxEvent bound what a node reports in one call.
	maxEventsPerCall = 1000
	maxEvent         = 64 << 10

	// maxReported is what one node may report within a minute, in bytes: what a
	// node says is kept for ever, and where the disk is full nothing happens
	// any more. It is more than one person's longest commands, as fast as they
	// can be started (14 MiB were seen), so that nobody fills a server's spool
	// by them; a node that comes back with a full spool (64 MiB) is rid of it in
	// minutes. A hostile one writes 23 GB a day, and the log says which it is.
	maxReported = 16 << 20
	// changeCost is what a change of what a node is called, where, or with which
	// labels and certificates, counts as: the state is built anew for it, and
	// every node woken. It is 64 a minute of one that does nothing else.
	changeCost = maxReported / 64

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

	// maxReplacedSerials is how many earlier logins one logout ends: each is two
	// rows to write and a record, in one transaction, and nobody logs in as often
	// within the life of a certificate.
	maxReplacedSerials = 64
)
