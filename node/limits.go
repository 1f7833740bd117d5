package node

import "time"

// Bounds of the SSH server. What a stranger may use is small; what somebody
// admitted may use is what OpenSSH's defaults give, where it has one
// (sshd_config(5)).
type limits struct {
	// unauthenticated connections, together: one takes about 60 KiB, so all
	// of them stay under 16 MiB. OpenSSH's MaxStartups ends at 100.
	unauthenticated int
	// dropFrom so many of them on, dropRate percent of new ones are dropped,
	// and more the nearer they come to unauthenticated. Two addresses cannot
	// come so far.
	dropFrom, dropRate int
	// unauthenticatedPerAddress is one IPv4 address or IPv6 /64: a quarter of
	// all, so that four addresses are needed to keep others out, and enough
	// for Ansible's forks behind one NAT.
	unauthenticatedPerAddress int
	// connections, admitted or not: what a jump host of a large site has, with
	// room; an idle one takes about 60 KiB, so all of them stay under 512 MiB.
	connections int
	// loginGrace from the first byte to admission: time to touch a key or to
	// unlock an agent. OpenSSH's LoginGraceTime is 120 s.
	loginGrace time.Duration
	// authTries is OpenSSH's MaxAuthTries.
	authTries int
	// refusals of one user, or of all strangers together, that are recorded
	// at once, and how many each second: enough to see what goes wrong. The
	// rest are in the log, and a number in the next record.
	refusals          int
	refusalsPerSecond float64
	// refusedUsers that are counted by themselves, about 200 bytes each; the
	// others count as strangers.
	refusedUsers int
	// sessions of one connection, open or not yet closed by both sides;
	// OpenSSH's MaxSessions. Policy may set fewer.
	sessions int
	// pendingChannels are channels whose opening is not answered yet.
	// gliderlabs starts a goroutine for each, so a peer that opens and does
	// not read would otherwise grow them without end.
	pendingChannels int
	// forwards of one connection: connections that are forwarded, being opened,
	// or not yet closed by both sides. A browser behind ssh -D has some dozens;
	// each may hold 2 MiB that its peer does not take (x/crypto/ssh,
	// channelWindowSize).
	forwards int
	// forwardsOfAccount, in all of its connections: x/crypto holds up to 2 MiB
	// of what the other end of one does not take, so that one person's stay
	// under 1 GiB of a memory that is everybody's.
	forwardsOfAccount int
	// forwardListeners of one connection: ports, sockets, agents and displays.
	forwardListeners int
	// acceptBurst connections to the listeners of one connection, and so many
	// each second: whoever connects to them may be anybody, and each is a
	// record.
	acceptBurst      int
	acceptsPerSecond float64
	// forwardDial is longer than what opens sockets takes by itself (its
	// limits.go, dialTimeout); forwardListen is short: other requests of the
	// connection wait behind it.
	forwardDial, forwardListen time.Duration
	// requests of one connection: so many at once, so many each second. A
	// window that is dragged makes some dozens a second; a flood waits.
	requestBurst      int
	requestsPerSecond float64
	// keepalive is how often a peer is asked whether it lives: half of the
	// usual 60 s of a NAT's patience. silence is how long it may take to
	// answer: a laptop carried from one room to another comes back.
	keepalive, silence time.Duration
	// recheck is how often it is looked, without any news, whether somebody
	// may still be in. What has its time is looked at then; this is for a
	// machine that slept, or whose clock was set.
	recheck time.Duration
	// connectionTime is how long a connection may last; zero is no limit: the
	// certificate's life, and what roles say of it (disconnect_expired_cert,
	// client_idle_timeout), come from the cluster.
	connectionTime time.Duration
	// hangup is how long a process has between SIGHUP and SIGKILL when the
	// node shuts down, and how long its end is waited for when its client has
	// gone; policyHangup, between the signals when policy ends it, which has to
	// be done within a second.
	hangup, policyHangup time.Duration
	// abandoned processes of one account: what has outlived its client is no
	// session's any more, and takes a goroutine and two files of ours. More
	// than people have use for, and far from all files that there are.
	abandoned int
	// start is how long a session's process may take to begin: a home on a
	// network share that wakes up does in this time.
	start time.Duration
	// lastWords is how long a peer has to read why it is cut off; within the
	// same second.
	lastWords time.Duration
	// shutdown is how long sessions may go on after SIGTERM.
	shutdown time.Duration
	// drain is how long they may go on after the node was handed over: people
	// come back to what they began in the morning.
	drain time.Duration
}

func defaultLimits() limits {
	return limits{
		unauthenticated:           256,
		dropFrom:                  128,
		dropRate:                  30,
		unauthenticatedPerAddress: 64,
		connections:               8192,
		loginGrace:                60 * time.Second,
		authTries:                 6,
		refusals:                  20,
		refusalsPerSecond:         0.2,
		refusedUsers:              1024,
		sessions:                  10,
		pendingChannels:           64,
		forwards:                  256,
		forwardsOfAccount:         512,
		forwardListeners:          64,
		acceptBurst:               256,
		acceptsPerSecond:          100,
		forwardDial:               35 * time.Second,
		forwardListen:             10 * time.Second,
		requestBurst:              256,
		requestsPerSecond:         200,
		keepalive:                 30 * time.Second,
		silence:                   5 * time.Minute,
		recheck:                   30 * time.Second,
		hangup:                    5 * time.Second,
		policyHangup:              500 * time.Millisecond,
		abandoned:                 256,
		start:                     30 * time.Second,
		lastWords:                 750 * time.Millisecond,
		shutdown:                  5 * time.Second,
		drain:                     24 * time.Hour,
	}
}

// Bounds of what SSHConfig may ask for.
const (
	// maxLoginGrace is OpenSSH's default five times: a stranger's place is not
	// to be had for ever.
	maxLoginGrace = 10 * time.Minute
	// maxAuthTries and maxSessions are far above what anybody uses.
	maxAuthTries = 100
	maxSessions  = 1000
	// maxAliveInterval is longer than any NAT remembers a connection.
	maxAliveInterval = 24 * time.Hour
	maxAliveCount    = 1000
	// minRekey is two packets of the largest size: with less there would be
	// more new keys than data. maxRekey is RFC 4253 section 9's.
	minRekey = 64 << 10
	maxRekey = 1 << 30
)

// Bounds of what one channel request may carry.
const (
	// maxCommand is well under the kernel's own bound for one argument
	// (MAX_ARG_STRLEN, 128 KiB), and is recorded whole.
	maxCommand = 32 << 10
	// maxTerm is the longest terminal name; terminfo's are under 20 bytes.
	maxTerm = 64
	// maxModes: a mode has five bytes and there are fewer than 160
	// (RFC 4254 section 8).
	maxModes = 5*160 + 1
	// maxWindow is what a winsize can hold (tty_ioctl(4)).
	maxWindow = 1<<16 - 1
	// maxEnv variables of at most maxEnvValue bytes: LANG and all of LC_*
	// are 14 in glibc, their values are names of locales; the rest is for what
	// else a node accepts.
	maxEnv      = 32
	maxEnvName  = 64
	maxEnvValue = 256
	// headerBuffer takes a PROXY header as proxies commonly write it at once.
	headerBuffer = 512
	// maxAcceptEnv patterns are compared with each of them.
	maxAcceptEnv = 64
	// copyBuffer is one channel packet (x/crypto/ssh channelMaxPacket).
	copyBuffer = 32 << 10
)

// Bounds of asking for a session's process.
const (
	// nurseryAnswers within: it does nothing that takes longer than a fork.
	nurseryAnswers = 10 * time.Second
	// nurseryTries: one may have ended since the last session, and the next
	// too where memory is short.
	nurseryTries = 3
)

// Bounds of file transfer.
const (
	// transferBuffer of what a client sends: some channel packets at once.
	transferBuffer = 4 * copyBuffer
	// transferPipe holds the largest packet of file transfer.
	transferPipe = 256 << 10
	// maxWatched is the longest request that is looked at: two paths, and
	// attributes. It fits transferBuffer.
	maxWatched = 16 << 10
	// maxPath is PATH_MAX, with the zero that ends it (limits.h). Two paths of
	// which each byte has to be escaped fit maxRecord.
	maxPath = 4096
)

// Bounds of the audit spool.
const (
	// maxSpool on disk: weeks of records of a busy server that cannot reach
	// its control plane. Beyond it no session starts.
	maxSpool = 64 << 20
	// maxRejections is the part of maxSpool that records of refused sessions
	// may fill: whoever may not enter cannot keep others out by being refused.
	maxRejections = maxSpool / 4
	// maxLesser is that of files and forwards, which one session makes by the
	// thousand: a quarter is left for sessions, some 16,000 of them.
	// maxUserShare is what one user may have of it: four are needed to keep
	// others from theirs.
	maxLesser    = maxSpool / 2
	maxUserShare = maxLesser / 4
	// lesserWait of such a record for room in the spool: a node that reports
	// more than its share is taken nothing of until the minute is over, and
	// asks again within retryMost.
	lesserWait = time.Minute + 2*retryMost
	// segmentSize: a file of the spool is deleted when all in it has arrived.
	segmentSize = 1 << 20
	// patience of a record that nothing waits for (a session's end, a file, a
	// forward): it is on the disk within so long, mostly by the fsync of the
	// next session's start.
	patience = 50 * time.Millisecond
	// rewindSize: the segment being written is emptied when it has so much
	// and all of it has arrived; less often would keep, and after a restart
	// send, more; more often would cost each login a truncation.
	rewindSize = 64 << 10
	// maxRecord is the longest record that the control plane takes (authd's
	// limits.go, maxEvent). A command of maxCommand bytes fits unless most of
	// it has to be escaped; what does not fit is not recorded, and not run.
	maxRecord = 64 << 10
	// maxUnrecorded users of whom it is counted what could not be recorded,
	// about 100 bytes each; of others it is in the log.
	maxUnrecorded = 4096
	// maxEndCommand of a command in the record of a session's end; that of its
	// start has all of it.
	maxEndCommand = 1 << 10
	// maxRefused is each of the two files of records that the control plane
	// finds invalid: some are enough to see what is wrong with them, and a
	// control plane that finds all of them so does not fill the disk.
	maxRefused = 2 << 20
	// maxDetails bounds the rules in the record of a refusal, in bytes.
	maxDetails = 24 << 10
	// batchRecords and batchBytes are sent at once.
	batchRecords = 256
	batchBytes   = 512 << 10
)

// Bounds of several processes with one data directory.
const (
	// maxProcesses: the one that serves, and those before it that have sessions
	// yet. Each may have some hundred MiB of its own, and maxSpool on the disk.
	maxProcesses = 8
	// handoverTime is how long a successor has until it could serve: it waits
	// for news and for a certificate, firstNews each at most, and a machine that
	// has just been upgraded is busy.
	handoverTime = time.Minute
	// rereadInterval of the certificates, which are renewed at half of their
	// life by another process.
	rereadInterval = time.Minute
	// shipLeftInterval between two looks at what processes that ended have left.
	shipLeftInterval = time.Minute
)

// Bounds of the conversation with the control plane.
const (
	heartbeatInterval = 30 * time.Second
	// reportSoonest and reportLatest after a change of the state are when the
	// control plane is told that it is in force here. A thousand nodes hear of a
	// change in the same moment, and are some 250 heartbeats a second by this.
	reportSoonest = time.Second
	reportLatest  = 5 * time.Second
	// callTimeout of one unary call.
	callTimeout = 20 * time.Second
	// pingInterval: an HTTP/2 connection that is silent for so long is asked,
	// and given up when pingTimeout passes without an answer.
	pingInterval = 15 * time.Second
	pingTimeout  = 15 * time.Second
	// idleConnection is twice as long as between two heartbeats: the connection
	// in use is kept where no stream is, and each renewal leaves one behind.
	idleConnection = 2 * heartbeatInterval
	// retryFirst doubles up to retryMost between attempts to reach it.
	retryFirst = 250 * time.Millisecond
	retryMost  = 15 * time.Second
	// keepInterval is how old what is saved may say that it is, while it is
	// confirmed: a restart is not to make it older than strict roles take.
	keepInterval = time.Minute
	// firstNews is how long a start waits for the current state before it
	// serves by the saved one, or by none, which refuses everybody; and for a
	// certificate with new names before it serves with the old ones.
	firstNews = 5 * time.Second
	// lastFlush is how long a stop waits for the last audit records to arrive.
	lastFlush = 3 * time.Second
	// followSilence of a stream, before another one is tried: three times of
	// what authd promises to say something in (its limits.go, followKeepalive).
	followSilence = 3 * 15 * time.Second
	// olderAccepted is how long the control plane may say what is older than
	// what it said before (another replica that is a moment behind) until it
	// is believed (a store that was set back to a backup).
	olderAccepted = 30 * time.Second
	// maxSkew between the two clocks: as long as what a certificate is
	// commonly dated back.
	maxSkew = 5 * time.Minute
)

// Bounds of the port for diagnosis.
const (
	// diagTimeout for a request to come, and its answer to be taken; diagIdle
	// is longer than a scraper commonly waits between two.
	diagTimeout = 10 * time.Second
	diagIdle    = 2 * time.Minute
	// maxDiagConnections: a scraper and somebody who looks have a few.
	maxDiagConnections = 32
	maxScrapes         = 4
)

// Bounds of the account lookup.
const (
	// maxAccountFile is /etc/passwd or /etc/group of a very large site; one
	// line may be all of it: a group's is as long as it has members.
	maxAccountFile = 16 << 20
	// getentTimeout bounds what a directory service may take.
	getentTimeout = 3 * time.Second
	// maxGetent is the answer about one account: the numbers of some thousand
	// groups. What is longer would be cut off in the middle of one.
	maxGetent = 64 << 10
	// maxGroups is the kernel's own bound (NGROUPS_MAX).
	maxGroups = 1 << 16
)

// Bounds of what a login reads and writes of this machine's files.
const (
	// maxMOTD is each of the messages of the day: some screens of text.
	maxMOTD = 32 << 10
	// maxEnvironment of /etc/environment, and maxSiteEnv variables of it: read
	// at each session, and a small part of what execve(2) takes.
	maxEnvironment = 32 << 10
	maxSiteEnv     = 256
	// pamTimeout of PAM's word about an account: modules ask directories.
	pamTimeout = 10 * time.Second
	// maxNologin: more than one line of it is not shown.
	maxNologin = 4 << 10
	// maxUTMP is ten thousand terminals: what is read through at each login.
	maxUTMP = 4 << 20
	// lockTries, each lockPause after the other, for utmp and for wtmp: others
	// hold it for as long as a write takes, unless they mean harm to everybody's
	// logins.
	lockTries = 5
	lockPause = 2 * time.Millisecond
)
