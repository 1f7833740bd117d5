package mdm

import "time"

const (
	// pageRecords is how many devices are asked for at once: with 2 to 5 KiB
	// of each a page is a megabyte, and one transaction a tenth of a second.
	pageRecords = 200
	// maxPage bounds the body of an answer, eight times that.
	maxPage = 8 << 20
	// maxRecords of a source: what gives more gives the same again and again.
	maxRecords = 2_000_000
	// maxRecord bounds a line of a file, or an object: hundreds of times a
	// real one.
	maxRecord = 64 << 10
	// maxFile bounds a whole file: two million devices.
	maxFile = 1 << 30
	// maxSecret bounds a file with a secret, and maxCAFile one with
	// certificates: a bundle of all public CAs has 250 KiB.
	maxSecret = 16 << 10
	maxCAFile = 1 << 20
	// maxExcerpt is what an error shows of an answer.
	maxExcerpt = 200

	// dialTimeout and answerTimeout of one request; cloud services answer
	// large pages in seconds.
	dialTimeout   = 15 * time.Second
	answerTimeout = time.Minute
	// maxRetries of one request after the first, waiting for firstWait and
	// then twice as long each time: half a minute in all. What is down for
	// longer is tried again by the schedule.
	maxRetries = 5
	firstWait  = time.Second
	// maxWait is the longest that a server's Retry-After is followed.
	maxWait = time.Minute
	// pageTimeout is for a page with all its retries, and for what comes of a
	// file between two batches.
	pageTimeout = 4 * time.Minute
	// lease is how long a run may say nothing before another dtauthd takes the
	// source over: a page, and some.
	lease = pageTimeout + time.Minute
	// tokenMargin is how long before its end a token is not used any more.
	tokenMargin = 30 * time.Second
	// overlap is how far a partial run reaches back beyond the run before it:
	// clocks differ, and what was reported may be found a little later.
	overlap = 10 * time.Minute
	// releaseTimeout is for the last write of a run that was interrupted.
	releaseTimeout = 10 * time.Second

	// look is how often the schedule looks for what is due, on average.
	look = time.Minute
	// firstRetry after a run that failed, twice as long after each further
	// one, and at most the interval of partial runs.
	firstRetry = 5 * time.Minute

	defaultPartial = 6 * time.Hour
	defaultFull    = 24 * time.Hour
	// minEvery keeps a slip of the pen (6s for 6h) off a cloud service.
	minEvery = time.Minute
	// defaultMaxDelete: what loses half of its devices between two runs has
	// lost its filter, or its permissions, sooner than the machines.
	defaultMaxDelete = 50
	maxName          = 64
)
