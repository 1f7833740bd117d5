package main

import "time"

const (
	// maxJumps on the way to a node: each is a connection inside of the others.
	maxJumps = 8
	// maxWait of what is to be waited for, in options: more is a slip.
	maxWait = 24 * time.Hour
)
