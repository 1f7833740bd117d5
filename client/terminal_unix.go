//go:build unix

package client

import (
	"os"
	"os/signal"
	"syscall"
	"time"
)

func notifyResize(c chan<- os.Signal) { signal.Notify(c, syscall.SIGWINCH) }

// stopUntilResumed stops this process, as the terminal's Ctrl-Z does, and
// returns when it goes on. Where there is no shell that could make it go on,
// the kernel stops nothing.
func stopUntilResumed() {
	resumed := make(chan os.Signal, 1)
	signal.Notify(resumed, syscall.SIGCONT)
	defer signal.Stop(resumed)
	if syscall.Kill(os.Getpid(), syscall.SIGTSTP) != nil {
		return
	}
	// The stop comes a moment after the call: whoever took the terminal at once
	// would leave it raw to the shell.
	select {
	case <-resumed:
	case <-time.After(stopWithin):
	}
}
