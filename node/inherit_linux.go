package node

import (
	"os"
	"os/signal"
	"strconv"

	"golang.org/x/sys/unix"
)

// keepFilesFromSessions marks all open files so that no session gets them.
// Go opens its own so; what this process was started with, by a shell or a
// supervisor, is not (sshd closes it: sshd.c, closefrom).
func keepFilesFromSessions() {
	const stderr = 2
	if unix.CloseRange(stderr+1, 1<<32-1, unix.CLOSE_RANGE_CLOEXEC) == nil {
		return
	}
	// Before Linux 5.11.
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return
	}
	for _, e := range entries {
		if fd, err := strconv.Atoi(e.Name()); err == nil && fd > stderr {
			unix.CloseOnExec(fd)
		}
	}
}

// keepSignalsFromSessions catches what this process was started to ignore
// (nohup(1), a shell's "&"): a session would ignore it too, and its Ctrl-C and
// its hanging up with it. What is caught is dropped, so we still ignore it. It
// stays so: given back, it would be ignored and os/signal not know it.
func keepSignalsFromSessions() {
	dropped := make(chan os.Signal, 1)
	for _, sig := range []os.Signal{unix.SIGHUP, unix.SIGINT} {
		if signal.Ignored(sig) {
			signal.Notify(dropped, sig)
		}
	}
}
