package node

import (
	"net"
	"strings"
	"time"
)

// notifier is the socket on which a service manager hears how we are
// (sd_notify(3)); empty: nobody wants to know.
type notifier string

// notifyTimeout: who does not take a datagram in this time goes without.
const notifyTimeout = time.Second

// tell says, for example, READY=1. It is a courtesy: whether it was heard
// changes nothing here.
func (n notifier) tell(now time.Time, states ...string) {
	if n == "" {
		return
	}
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Net: "unixgram", Name: string(n)})
	if err != nil {
		return
	}
	defer conn.Close() //nolint:errcheck // a datagram is sent by then, or is not
	_ = conn.SetWriteDeadline(now.Add(notifyTimeout))
	_, _ = conn.Write([]byte(strings.Join(states, "\n")))
}
