package devices

import "time"

const (
	// MaxMessage is what a message of a ceremony can have: an event log and
	// 64 KiB for the rest. Whoever serves the ceremonies sets it as the bound
	// of what is read from the wire.
	MaxMessage = maxEventLog + 64<<10

	// ceremonyTimeout is from the first message to the last. Slow chips take
	// seconds for an activation and a quote; what takes longer, the making of
	// keys, comes before.
	ceremonyTimeout = 60 * time.Second
	// maxCeremonies at once, each with up to MaxMessage in memory, and of
	// them maxPerUser of one person: nobody has more than a few machines
	// logging in at the same time.
	maxCeremonies = 256
	maxPerUser    = 8

	// defaultTokenTTL and maxTokenTTL of enrollment tokens: they are sent to
	// people, who have lunch and holidays, but they are also found in chats.
	defaultTokenTTL = time.Hour
	maxTokenTTL     = 7 * 24 * time.Hour
	// autoTokenTTL of those that a login asks for: it uses them at once, and a
	// slow chip makes its keys meanwhile.
	autoTokenTTL = 2 * time.Minute
	// tokenBytes of randomness: more than can be guessed.
	tokenBytes = 32

	// challengeBytes of randomness in a nonce or a challenge.
	challengeBytes = 32

	// maxEKCertificate: real ones have one to two KiB.
	maxEKCertificate = 16 << 10
	// maxEKKey: an RSA 2048 key has 294 bytes in PKIX DER.
	maxEKKey = 1 << 10
	// maxStructure bounds TPM structures; the largest, of RSA 4096 keys, have
	// about 600 bytes.
	maxStructure = 2 << 10
	// minRSABits and maxRSABits of attestation keys.
	minRSABits = 2048
	maxRSABits = 4096
	// maxMacKey is what every P-256 key has in PKIX DER, and maxMacSignature
	// what an ECDSA signature with one has at most in ASN.1 DER: two integers
	// of 33 bytes with their heads, and one more head.
	maxMacKey       = 91
	maxMacSignature = 72
	// maxEventLog: real ones have 30 to 300 KiB.
	maxEventLog = 1 << 20
	// maxLogAlgorithms: TPMs have two to four banks of PCRs.
	maxLogAlgorithms = 16
	// maxAuthentications is of how many logins the evidence is kept, beside
	// that of the enrollment: enough to see what a machine was before and
	// after a change. Each may have an event log of its own.
	maxAuthentications = 10
	// evaluated is how many devices are read in one transaction when all are
	// held against a policy; with an event log each, up to 16 MiB.
	evaluated = 16
	// maxToken and maxCredentialID: what is longer is no such thing.
	maxToken        = 128
	maxCredentialID = 64

	// maxField bounds each text that a device reports, in bytes.
	maxField = 256
	// maxCollected is how many reports of a device are kept.
	maxCollected = 10
	// maxUsernames and maxLabels bound what an administrator may note.
	maxUsernames = 64
	maxLabels    = 64

	// MaxBulk is how many devices are registered at once. Nothing else is
	// written meanwhile, which at 20,000 a second is for three seconds.
	MaxBulk = 50_000
	// maxLookup names are asked for in one query.
	maxLookup = 500

	// DefaultPage and MaxPage are how many devices a page of a list has;
	// maxPageBytes is of their documents, of which one more still fits an
	// answer of the API: 4 KiB each, while one with all of its reports has up
	// to 100.
	DefaultPage  = 100
	MaxPage      = 1000
	maxPageBytes = 4 << 20
	// maxPageToken: a tag and a system in base64 have less than 100.
	maxPageToken = 128
	// maxOwners: the people of a shift who share a machine, and some.
	maxOwners = 64
	// maxProblems of a synchronization are named; the others are counted.
	maxProblems = 20
	// deleteBatch is how many devices one transaction deletes: the store's one
	// writer is held for a tenth of a second.
	deleteBatch = 200
)
