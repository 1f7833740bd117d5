package client

import "os"

// notifyResize: consoles of Windows send no signal; the size stays what it
// was at the start.
func notifyResize(chan<- os.Signal) {}

// stopUntilResumed: processes of Windows are not stopped.
func stopUntilResumed() {}
