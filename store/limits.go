package store

import "time"

const (
	// listenProbe is how long the connection that hears of changes may say
	// nothing before it is asked whether it still lives: one whose other end
	// vanished (a firewall that forgot it, a host that lost its power) is
	// silent for ever, and so would be every revocation.
	listenProbe = 5 * time.Second
	// listenAnswer is what it, and a new one, has to answer.
	listenAnswer = 5 * time.Second
	// listenRetry is between two tries to reach a server that is away.
	listenRetry = 500 * time.Millisecond
)
