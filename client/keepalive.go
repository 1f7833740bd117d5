package client

import (
	"context"
	"time"

	"connectrpc.com/connect"
	"golang.org/x/crypto/ssh"

	"devicetrust/api"
)

// keepAlive asks the node every interval whether it is there, and ends the
// session after keepaliveMisses without an answer. Any answer will do, also a
// refusal (OpenSSH, clientloop.c, server_alive_check).
func keepAlive(ctx context.Context, client ssh.Conn, interval time.Duration, lost context.CancelCauseFunc) {
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
			if missed++; missed >= keepaliveMisses {
				lost(api.Refuse(connect.CodeUnavailable, "the connection broke: no answer from the node for %s", interval*(keepaliveMisses+1)))
				return
			}
		}
	}
}
