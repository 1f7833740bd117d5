package policy

import "time"

// MaxSessionTTLDefault is how long certificates live where no role says
// otherwise: a working day, so that people log in once a day.
const MaxSessionTTLDefault = 12 * time.Hour

// Bounds of one role. Every node keeps every role and asks those of the
// subject at each session.
const (
	// maxName is what fits a column of `dtctl get`, and is more than any
	// name that people say aloud.
	maxName = 64
	// maxLogins is what an SSH certificate can carry as principals
	// (OpenSSH sshkey.h, SSHKEY_CERT_MAX_PRINCIPALS).
	maxLogins = 256
	// maxLabels, maxValues and maxText keep one role's label match far below
	// a microsecond; machines have a handful of labels.
	maxLabels = 64
	maxValues = 64
	maxText   = 256
	// maxTPMs: the TCG's registry has some thirty vendors, and the sentence of
	// a refusal names all of those that would do.
	maxTPMs = 16
	// maxTargets of permit_open or permit_listen: more than anybody lists by
	// hand. Each connection that is forwarded compares them all.
	maxTargets = 256
	// maxFirmware is four numbers of 32 bits with their dots.
	maxFirmware = 4*10 + 3
	// maxRules is several times the number of kinds there are.
	maxRules = 64
	// maxTTL: a certificate that outlives a year is a key that nobody
	// remembers.
	maxTTL = 366 * 24 * time.Hour
	// defaultStaleness, minStaleness and maxStaleness of what a server knows of
	// locks where it has to be current. A control plane says every 15 s that it
	// lives, and one that is silent is given up after three times of that; what
	// may be a month old is never found too old.
	defaultStaleness = 5 * time.Minute
	minStaleness     = time.Minute
	maxStaleness     = 31 * 24 * time.Hour
	// maxChanges is how many ways out a denial names; a person tries one.
	maxChanges = 3
)
