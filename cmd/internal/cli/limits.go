package cli

import "time"

const (
	// maxLine bounds what is read for one answer: far more than any password
	// that the server takes.
	maxLine = 4096

	// suspendTimeout is how long a process runs on after SIGTSTP before it takes
	// it that nothing suspends it: the system ignores the signal where no shell
	// would let the process go on.
	suspendTimeout = time.Second
)
