package feed

import (
	"math"
	"time"

	"devicetrust/policy"
)

const (
	// buckets of the state. One change sends the bucket that it is in to every
	// server, and every server that comes sends a digest of each: with 10,000
	// roles and locks a bucket has about 80, and the digests 8 KiB.
	buckets = 256

	// The buckets of a kind lie together, so that who wants only what one
	// certificate needs reads few of the roles.
	clusterBucket            = 0 // authorities and preference
	firstLock, lockBuckets   = 1, 63
	firstRevoked, revBuckets = 64, 64
	firstRole, roleBuckets   = 128, 128

	// maxPage is that of the highest serial.
	maxPage = math.MaxUint64 / policy.RevocationPage

	// MaxMessage bounds an update, and the file: some 100,000 roles and locks
	// of usual size and a million revoked serials.
	MaxMessage = 128 << 20

	// maxNumber is the highest number in decimal, with its newline.
	maxNumber = 21

	// maxSkew is by how much the control plane's clock may be ahead: as long as
	// what a certificate is backdated by for the same reason.
	maxSkew = 5 * time.Minute
)
