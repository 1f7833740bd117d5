package fanout

const (
	// DefaultParallel nodes at a time: each costs a signature and a handshake.
	DefaultParallel = 16
	// MaxParallel leaves room below the 256 open files that some systems allow.
	MaxParallel = 100

	// maxLine in bytes: what is longer goes on in the next line.
	maxLine = 64 << 10
)
