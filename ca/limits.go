package ca

import (
	"time"

	"devicetrust/identity"
)

const (
	// skew is how far certificates begin before now: clocks of servers and
	// people differ by less where they keep time at all.
	skew = time.Minute

	// maxUserLife bounds a user's certificate whatever the caller asks for: a
	// year, which is also the longest max_session_ttl. Revoked serials are
	// kept and sent to every node for as long as the certificates live.
	maxUserLife = 366 * 24 * time.Hour

	// NodeLife is that of a node's two certificates. Nodes renew at half of
	// it, so a control plane may be away for NodeLife/2 before a server
	// cannot be reached any more.
	NodeLife = 24 * time.Hour

	// maxServerLife bounds what IssueServer gives: its certificates are in no
	// inventory and cannot be revoked.
	maxServerLife = 31 * 24 * time.Hour

	// rootLife is that of the TLS root, which clients pin by its key.
	rootLife = 10 * 365 * 24 * time.Hour

	// expiryGrace is how long after its end a certificate still counts as one
	// that must be known as revoked: a node whose clock is late by less than
	// this would accept it otherwise.
	expiryGrace = 10 * time.Minute
	// remembered is how long after its end a certificate can be revoked, and is
	// told of to nodes: for as long as a session may go on that it opened.
	remembered = identity.OutliveMost + expiryGrace

	// aftermath bounds the withdrawal of what was recorded and could not be
	// signed; it does not end with the request. It is the time that the store
	// waits for SQLite's lock.
	aftermath = 10 * time.Second

	// maxKeyFile is far above what a key file holds.
	maxKeyFile = 1 << 10

	// maxServerNames is far above the addresses of one dtauthd.
	maxServerNames = 64
)
