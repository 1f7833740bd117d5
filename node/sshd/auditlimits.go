package sshd

import "time"

const (
	// maxConfigFile bounds a file of sshd's configuration; sshd's own has 3 KiB.
	maxConfigFile = 1 << 20
	// maxConfigFiles and maxConfigLines bound what Include brings together.
	maxConfigFiles = 512
	maxConfigLines = 50_000
	// maxIncludeDepth is sshd's own (servconf.c, SERVCONF_MAX_DEPTH).
	maxIncludeDepth = 16
	// maxBlocks bounds the Match blocks: each connection is held against each.
	maxBlocks = 512

	// maxEffective bounds what `sshd -T` prints: it is some 4 KiB, and lists of
	// names may make it longer.
	maxEffective = 1 << 20
	maxSettings  = 10_000

	// maxAccounts bounds what is read of the accounts and groups.
	maxAccounts     = 200_000
	maxAccountsText = 64 << 20

	// maxTried bounds how often a combination of criteria is held against a Match
	// block, which takes 100 ns, and maxAsked the combinations about which sshd is
	// asked, at 10 ms each.
	maxTried = 10_000_000
	maxAsked = 1_000

	// askTimeout is for one run of sshd, which takes 10 ms.
	askTimeout = 10 * time.Second

	// maxWhom bounds those who are named in one finding, and maxBrief the bytes
	// of a value that it shows.
	maxWhom  = 20
	maxBrief = 300

	// maxProgram bounds the helper's file, of which the content is compared.
	maxProgram = 512 << 20

	// maxProcesses bounds what is read of /proc, and maxCommandLine one of them.
	maxProcesses   = 1 << 20
	maxCommandLine = 64 << 10

	// staleState is after how long without a word from the control plane the
	// side-car is taken not to run: it hears of it every few seconds.
	staleState = 15 * time.Minute
)
