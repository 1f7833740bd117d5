//go:build !unix

package machine

// kernelVersion is not told apart from the system's version here.
func kernelVersion() string { return "" }
