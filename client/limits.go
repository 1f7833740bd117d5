package client

import "time"

const (
	// defaultPort is where dtauthd listens unless told otherwise.
	defaultPort = "3080"

	// dialTimeout: a TCP connection over the worst link people work from
	// takes about 3 s with one lost SYN; three losses are an outage.
	dialTimeout = 10 * time.Second

	// handshakeTimeout bounds TLS and SSH handshakes: a few round trips and,
	// on the other side, possibly a slow disk.
	handshakeTimeout = 20 * time.Second

	// callTimeout bounds one API call. The server queues password hashes, so
	// a login may wait; longer than this means that it is overloaded.
	callTimeout = 30 * time.Second

	// verifyTimeout bounds the one call that reads the whole audit record; the
	// server ends it a little earlier and says so.
	verifyTimeout = 11 * time.Minute

	// ceremonyTimeout bounds a device ceremony. A discrete TPM takes seconds
	// to create a key; the server's challenges live for 60 s.
	ceremonyTimeout = 2 * time.Minute

	// goodbyeTimeout bounds a logout at the server: people wait for it, and
	// the local keys go whether it succeeds or not.
	goodbyeTimeout = 5 * time.Second

	// clockTolerance is how far this clock may be from the server's.
	// Certificates are dated back by less than this, so a machine further
	// off would meet certificates "not yet valid" in random places.
	clockTolerance = 5 * time.Minute

	// lockInterval and lockAttempts: whoever has the home's lock writes a few
	// small files. Ten seconds are a full disk queue; longer is a program that
	// was suspended.
	lockInterval = 20 * time.Millisecond
	lockAttempts = 500

	// readAttempts of keys and certificates, which a login may exchange for
	// others between two of the files. A login takes longer than reading them.
	readAttempts = 3

	// renewalLead is how long before its end a login is renewed at the latest,
	// where it lasts twice as long: a server that is down for a minute, or a
	// network that comes back after a train's tunnel, is no reason to log in.
	renewalLead = 5 * time.Minute

	// renewalPause is between two attempts, and grows with failures up to
	// maxRenewalPause.
	renewalPause    = 15 * time.Second
	maxRenewalPause = 5 * time.Minute

	// renewalAnswer is how long a renewal waits for each of the server's two
	// answers, which take milliseconds. Signatures wait for the TPM meanwhile, for
	// signTimeout at most.
	renewalAnswer = 10 * time.Second

	// maxResponse bounds one API message. The largest is a list of nodes:
	// 10,000 at 1 KiB each.
	maxResponse = 16 << 20

	// maxPassword in bytes: longer than any passphrase, shorter than a file
	// piped in by mistake.
	maxPassword = 1024

	// maxStored bounds every file read from DTSH_HOME or named by --ca-file.
	maxStored = 1 << 20

	// viaTimeout: a node on the way tries for 30 s (node/sockets' limits.go,
	// dialTimeout), and says then why it could not.
	viaTimeout = 40 * time.Second

	// maxStatus is the highest that a process can end with (POSIX, exit).
	maxStatus = 255

	// maxReason of a node's is one line.
	maxReason = 256

	// maxBanner bounds what a node may show before authentication.
	maxBanner = 4 << 10

	// stopWithin: a process that signals itself to stop has stopped by then, or
	// does not.
	stopWithin = 500 * time.Millisecond

	// keepaliveInterval and keepaliveMisses: a session whose node has gone
	// is noticed after 90 s, which outlasts a change of network.
	keepaliveInterval = 30 * time.Second
	keepaliveMisses   = 3

	// chipIdle is how long an open TPM is kept for the next command: long
	// enough for the two signatures of a login over SSH that follows a call,
	// short enough that nobody sees a second program wait.
	chipIdle = 200 * time.Millisecond

	// chipTurn is how long an open TPM is used without a break: other programs
	// wait for a command socket meanwhile, for twenty seconds at most
	// (devices/tpm's limits.go, commandTimeout). To open it again and to make the
	// key costs a software TPM some milliseconds.
	chipTurn = time.Second

	// slowAfter: people take what lasts longer for a program that hangs.
	slowAfter = 2 * time.Second

	// signTimeout bounds a signature by the TPM and waiting for it: discrete
	// chips make the key and sign in about a second, and others may be before
	// us. Servers wait two minutes for an authentication (LoginGraceTime).
	signTimeout = 30 * time.Second

	// signAttempts: the second is for a TPM that was reset in between.
	signAttempts = 2

	// agentTimeout bounds what the person's own ssh-agent is asked. One may ask
	// the person first, but not for adding and removing.
	agentTimeout = 5 * time.Second

	// maxReplaced bounds the earlier logins that a profile remembers, to be
	// ended with it. Older ones expire by themselves.
	maxReplaced = 16

	// maxAgentLog in bytes: some thousand lines, of which an agent writes a few
	// an hour when all goes wrong.
	maxAgentLog = 256 << 10
)
