package node

import (
	"sync/atomic"
	"time"

	glider "github.com/gliderlabs/ssh"
	gossh "golang.org/x/crypto/ssh"

	"devicetrust/identity"
	"devicetrust/policy"
)

// watch ends an admitted connection when its time has come: the person idle
// for too long, the certificate expired, policy changed its mind, the peer
// gone.
func (c *connection) watch(a *admission) {
	defer c.recovered("watch")
	keepalive := time.NewTicker(c.server.limits.keepalive)
	defer keepalive.Stop()
	check := time.NewTimer(c.nextCheck(a))
	defer check.Stop()
	var asking atomic.Bool // a peer that answers slowly delays nothing else
	for {
		select {
		case <-c.ctx.Done():
			return
		case <-check.C:
			if reason := c.overdue(a); reason != "" {
				c.cut(reason, byPolicy)
				return
			}
			check.Reset(c.nextCheck(a))
		case <-a.changed:
			check.Reset(c.nextCheck(a))
		case <-keepalive.C:
			if !asking.Swap(true) {
				go func() {
					defer c.recovered("keepalive")
					defer asking.Store(false)
					c.askAlive()
				}()
			}
		}
	}
}

// overdue tells why the connection must end now, or "".
func (c *connection) overdue(a *admission) string {
	// What is known of locks may have become too old without any news.
	if no := c.server.readmit(a); no != nil {
		return no.reason
	}
	limits, now := a.getLimits(), c.server.now()
	if limits.DisconnectExpiredCert && c.server.expired(a) {
		return expiredReason
	}
	if c.outliveLeft(a, now) <= 0 {
		return outlivedReason
	}
	if c.idleLeft(limits, now) <= 0 {
		return "the session was idle for " + limits.IdleTimeout.String()
	}
	if c.timeLeft(now) <= 0 {
		return "this node ends connections after " + c.server.limits.connectionTime.String()
	}
	return ""
}

// outlivedReason is what people are told whose certificate nobody could revoke
// any more.
const outlivedReason = "the certificate expired a week ago; log in again with: dtsh login"

// outliveLeft is how long the connection may go on by its certificate, which has
// ended.
func (c *connection) outliveLeft(a *admission, now time.Time) time.Duration {
	return a.identity.ValidBefore.Add(identity.OutliveMost).Sub(now)
}

// timeLeft is how long the connection may still last.
func (c *connection) timeLeft(now time.Time) time.Duration {
	most := c.server.limits.connectionTime
	if most == 0 {
		return time.Hour
	}
	return most - now.Sub(c.accepted)
}

// idleLeft is how long the person may still do nothing.
func (c *connection) idleLeft(l policy.Limits, now time.Time) time.Duration {
	if l.IdleTimeout <= 0 {
		return time.Hour
	}
	return l.IdleTimeout - now.Sub(time.Unix(0, c.lastInput.Load()))
}

// staleLeft is how long what is known of locks is new enough, and a moment.
func (c *connection) staleLeft(l policy.Limits, now time.Time) time.Duration {
	if l.StaleAfter <= 0 {
		return time.Hour
	}
	return l.StaleAfter - c.server.states.age(now) + 1
}

// nextCheck is when something could be overdue.
func (c *connection) nextCheck(a *admission) time.Duration {
	limits, now := a.getLimits(), c.server.now()
	next := min(c.server.limits.recheck, c.idleLeft(limits, now), c.timeLeft(now), c.staleLeft(limits, now), c.outliveLeft(a, now))
	if limits.DisconnectExpiredCert {
		next = min(next, a.identity.ValidBefore.Sub(now))
	}
	return max(next, 10*time.Millisecond)
}

// askAlive asks the peer for any answer, and closes the connection when it is
// silent for too long.
func (c *connection) askAlive() {
	c.mu.Lock()
	ssh := c.ssh
	c.mu.Unlock()
	conn, ok := ssh.Value(glider.ContextKeyConn).(*gossh.ServerConn)
	if !ok { // admitted, and does not read that it is
		c.net.Close()
		return
	}
	silent := time.AfterFunc(c.server.limits.silence, func() { c.net.Close() })
	defer silent.Stop()
	// The name that OpenSSH uses; who does not know it answers all the same.
	_, _, _ = conn.SendRequest("keepalive@openssh.com", true, nil)
}
