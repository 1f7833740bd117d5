//go:build unix && !linux && !darwin && !freebsd

package agent

import (
	"errors"
	"net"
)

// peerUID is not known, and nobody is let in.
func peerUID(*net.UnixConn) (int, error) {
	return 0, errors.New("the user at the other end is not known on this system")
}
