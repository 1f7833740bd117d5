package tpm

import "time"

const (
	// openTimeout bounds connecting to a command socket, which is local.
	openTimeout = 5 * time.Second
	// commandTimeout bounds one command. Chips answer in at most two seconds
	// (TCG PC Client Platform TPM Profile, command durations); a software TPM
	// serves one connection at a time and may be busy with another's.
	commandTimeout = 20 * time.Second
	// queueInterval is how often a command socket is asked where others wait for
	// it already. A signature takes it for longer.
	queueInterval = 20 * time.Millisecond
	// keyTimeout bounds the creation of a key: some chips look for RSA primes
	// for more than half a minute.
	keyTimeout = 120 * time.Second
	// slowAfter is when a person is told that it is the TPM that they wait for.
	slowAfter = 2 * time.Second
	// turnTimeout bounds the wait for the conversation before: a ceremony, with
	// keys to be made, and with the server's 60 s.
	turnTimeout = 3 * time.Minute
	// flushTimeout bounds a flush where nobody waits for what comes after.
	flushTimeout = 2 * time.Second
	// maxRetries of a command that the chip asks to send again; the waits
	// double from a millisecond, so they add up to half a second.
	maxRetries = 9
	// maxResponse is more than any TPM answers (TPM2_PT_MAX_RESPONSE_SIZE is
	// 4096 on all known ones).
	maxResponse = 8192
	// maxFlush bounds the handles that one look at the TPM can give.
	maxFlush = 64
	// maxEKCertificate: real ones have one to two KiB.
	maxEKCertificate = 16 << 10
	// nvChunk is what every TPM reads at once (TPM_PT_NV_BUFFER_MAX is 512 on
	// the smallest known ones).
	nvChunk = 512
	// maxEventLog: real ones have 30 to 300 KiB. The server takes as much.
	maxEventLog = 1 << 20
	// maxPublic: the public area of a P-256 key has 90 bytes.
	maxPublic = 1 << 10
	// quoteAttempts: with IMA the kernel extends PCR 10 at any time, also
	// between the quote and the reading of the values.
	quoteAttempts = 3
	// maxEnrollment is the room that is kept for an enrollment; one has about a
	// KiB.
	maxEnrollment = 8 << 10
	// maxState: an enrollment has about a KiB.
	maxState = 1 << 20
)
