package client

import (
	"cmp"
	"context"
	"time"

	"connectrpc.com/connect"
	"golang.org/x/crypto/ssh"

	"devicetrust/api"
)

// Alive says how a node that has gone is noticed; the zero value is the usual
// way.
type Alive struct {
	// Off: it is not asked.
	Off bool
	// Interval between two questions; zero is keepaliveInterval.
	Interval time.Duration
	// Misses without an answer end the session; zero is keepaliveMisses.
	Misses int
}

// keepAlive asks the node every interval whether it is there, and ends the
// session after so many without an answer. Any answer will do, also a refusal
// (OpenSSH, clientloop.c, server_alive_check).
func keepAlive(ctx context.Context, client ssh.Conn, a Alive, lost context.CancelCauseFunc) {
	if a.Off {
		return
	}
	interval, misses := cmp.Or(a.Interval, keepaliveInterval), cmp.Or(a.Misses, keepaliveMisses)
	tick := time.NewTicker(interval)
	defer tick.Stop()
	answered := make(chan error, 1)
	waiting, missed := false, 0
	for {
		select {
		case <-ctx.Done():
			return
		case err := <-answered:
			if err != nil {
				return // the connection has ended, which Wait tells
			}
			waiting, missed = false, 0
		case <-tick.C:
			if !waiting {
				waiting = true
				go func() {
					_, _, err := client.SendRequest("keepalive@openssh.com", true, nil)
					answered <- err
				}()
				continue
			}
			if missed++; missed >= misses {
				lost(api.Refuse(connect.CodeUnavailable, "the connection broke: no answer from the node for %s", interval*time.Duration(misses+1)))
				return
			}
		}
	}
}
