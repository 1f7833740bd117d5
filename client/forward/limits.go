package forward

import "time"

const (
	// maxConnections of one SSH connection that are forwarded at once, those
	// to the agent among them: what a node takes (its limits.go, forwards). A
	// browser behind a SOCKS port has some dozens. Each may hold 2 MiB that
	// nobody here takes (x/crypto/ssh, channelWindowSize).
	maxConnections = 256
	// maxListeners of one SSH connection, here and on the node: as there.
	maxListeners = 64
	// maxAgents of them are the agent's: it serves one after another, and who
	// asks for more at once is no person's program.
	maxAgents = 32

	// maxHost is a DNS name's length (RFC 1035 section 2.3.4).
	maxHost = 255
	// maxPath is what a sockaddr_un holds (unix(7)), with its final NUL.
	maxPath = 107
	// maxSOCKSUser of a SOCKS 4 request, which is read and not used.
	maxSOCKSUser = 255

	// dialTimeout: as a node has for what it dials.
	dialTimeout = 30 * time.Second
	// answerTimeout for a node's answer to where it is to listen: it asks nobody.
	answerTimeout = 30 * time.Second
	// socksTimeout for a request of a SOCKS client to come: it is there at
	// once, unless the client is none.
	socksTimeout = 10 * time.Second
	// agentTimeout for an agent's answer to where its connection comes from:
	// it looks that up, and asks nobody.
	agentTimeout = 10 * time.Second
	// acceptPause after an accept that failed: out of files, most likely.
	acceptPause = 100 * time.Millisecond

	// maxReason of a node's is one line.
	maxReason = 256
	// maxSaid different lines are shown of what cannot be forwarded: a browser
	// makes hundreds of connections, and a node may invent a reason for each.
	maxSaid = 16
	// copyBuffer is one channel packet (x/crypto/ssh, channelMaxPacket).
	copyBuffer = 32 << 10
)
