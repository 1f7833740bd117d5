package sockets

import "time"

const (
	// maxMessage: the longest are a host's and a path's, each byte of which may
	// take six in JSON, and a display's, with the account's home.
	maxMessage = 4 << 10
	// maxSocketPath is what a sockaddr_un holds (unix(7)), with its final NUL.
	maxSocketPath = 107
	// maxHost is a DNS name's length (RFC 1035 section 2.3.4).
	maxHost = 255
	// maxCookie in hexadecimal: MIT-MAGIC-COOKIE-1 has 32 digits.
	maxCookie = 256
	// maxProtocol of xauth(1): its names have under 20 bytes.
	maxProtocol = 64
	// maxScreen: X servers have one, or a handful.
	maxScreen = 255
	// maxWhy is one line of an error.
	maxWhy = 256
	// maxWaiting are questions without an answer. The node bounds what is
	// opened at once far below; this is for a worker that answers nothing.
	maxWaiting = 1024
	// dialTimeout is shorter than the 127 s of Linux (tcp_syn_retries): by then
	// nobody waits any more.
	dialTimeout = 30 * time.Second
	// xauthTimeout: where the home cannot be written to, xauth tries for 20 s,
	// and a person waits for the session.
	xauthTimeout = 5 * time.Second
	// firstDisplay and displays are sshd's X11DisplayOffset and MAX_DISPLAYS
	// (channels.c): lower ones are for screens that are really there.
	firstDisplay = 10
	displays     = 1000
	displayPort  = 6000
	// samePort: how often another free port is tried that has to be free on two
	// addresses.
	samePort = 8
	// acceptPause after an accept that failed: out of files, most likely.
	acceptPause = 100 * time.Millisecond
)
