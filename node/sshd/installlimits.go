package sshd

import "time"

const (
	// sshdRunTimeout of sshd -t, -T and -V, which take 10 ms.
	sshdRunTimeout = 10 * time.Second
	// maxPrintedBySSHD: sshd -T prints some 4 KiB, and lists of names may make
	// it longer.
	maxPrintedBySSHD = 1 << 20
	// maxIncluding bounds the configuration in which the Include is looked for;
	// Debian's has 3 KiB.
	maxIncluding = 1 << 20
	// maxDropIn is several times what ours has with the longest paths.
	maxDropIn = 64 << 10
	// maxPublicKey is twice what an RSA key of 16,384 bits has.
	maxPublicKey = 8 << 10
	// maxLinks is what Linux follows in one path (path_resolution(7)).
	maxLinks = 40
	// maxPIDFile is a number and a newline.
	maxPIDFile = 32
	// maxTitle of a process.
	maxTitle = 64 << 10

	// leastMajor and leastMinor: Include came with OpenSSH 8.2, the last to come
	// of what the drop-in needs.
	leastMajor, leastMinor = 8, 2

	// reloadTimeout until sshd listens again, which takes some milliseconds on a
	// machine that is not busy.
	reloadTimeout = 10 * time.Second
	reloadPoll    = 10 * time.Millisecond
	// systemctlTimeout is longer than systemd's own for a service's start.
	systemctlTimeout = 2 * time.Minute
)
