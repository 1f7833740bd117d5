package node

import (
	"context"
	"reflect"
	"time"

	"golang.org/x/crypto/ssh"

	"devicetrust/audit/event"
	"devicetrust/identity"
	"devicetrust/node/sshd"
	"devicetrust/policy"
)

// stockSession is what is remembered of a connection of a stock sshd.
type stockSession struct {
	connection *sshd.Connection
	// since is the policy that was in force when it was first seen.
	since *policy.State
	// recorded: its beginning is; unrecorded: it could not be. cut: it is being
	// ended.
	recorded, unrecorded, cut bool
	// before: it was there while sshd did not follow our part of its
	// configuration, which asks for a certificate.
	before bool
	// reason is that of a cut, whose record is written.
	reason string
	// told: that it is left alone was said.
	told bool
}

// enforce looks at who is in until ctx ends: when there is another state, when
// somebody comes in, when a certificate expires, and now and then.
func (c *sidecar) enforce(ctx context.Context) {
	pace := companionLook
	if files, _ := c.watch.Sources(); !files {
		pace = companionBlindLook
	}
	next := time.NewTimer(0)
	defer next.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-c.changed:
			// Those who are known are asked about first: to look takes a while.
			if c.looked {
				c.judgeAll(true)
			}
			next.Reset(0)
			continue
		case <-c.watch.News():
			if !sleep(ctx, companionSettle) {
				return
			}
		case <-next.C:
		}
		if c.look(ctx) {
			c.judgeAll(false)
			c.remember()
		}
		next.Reset(c.untilNext(pace))
	}
}

// untilNext is the pace, or less where a certificate expires before.
func (c *sidecar) untilNext(pace time.Duration) time.Duration {
	now := c.config.Now()
	for _, s := range c.sessions {
		for _, p := range s.connection.Proofs {
			if left := p.Identity.ValidBefore.Sub(now); p.Whole && !s.cut && left > 0 {
				pace = min(pace, left)
			}
		}
	}
	return max(pace, 10*time.Millisecond)
}

// look takes who is in now; false where that cannot be seen.
func (c *sidecar) look(ctx context.Context) bool {
	live, listening, err := c.watch.Look()
	if err != nil {
		c.config.Log.Error("the connections of sshd cannot be looked at", "error", err)
		return false
	}
	c.looked = true
	if c.deaf == listening {
		c.deaf = !listening
		if c.deaf {
			c.config.Log.Warn("no sshd listens with this configuration", "sshd_config", c.config.SSHDConfig)
		}
	}
	present := map[string]bool{}
	for _, l := range live {
		present[l.ID] = true
		s := c.sessions[l.ID]
		if s == nil {
			s = &stockSession{connection: l, since: c.states.get().policy, before: !c.watch.Obeyed(ctx)}
			c.sessions[l.ID] = s
		}
		c.recordStart(s)
	}
	for id, s := range c.sessions {
		if present[id] {
			continue
		}
		delete(c.sessions, id)
		if s.recorded && s.reason == "" {
			c.recordEnd(s)
		}
	}
	return true
}

// recordEnd is for a connection that is not cut.
func (c *sidecar) recordEnd(s *stockSession) {
	e := event.Event{Type: event.SessionEnd, Success: true}
	if s.connection.Found.IsZero() {
		e.Message = overMeanwhile
	}
	if err := c.record(c.eventOf(s, e)); err != nil {
		c.config.Log.Error("the end of a session is not recorded", "sid", s.connection.ID, "error", err)
	}
}

// recordStart records the beginning once it is known whose it is. It is later
// than on our own node, where it comes first.
func (c *sidecar) recordStart(s *stockSession) {
	if s.recorded || s.cut || s.reason != "" || len(s.connection.Proofs) == 0 {
		return
	}
	err := c.record(c.eventOf(s, event.Event{Type: event.SessionStart, Success: true}))
	if err != nil && !s.unrecorded {
		c.config.Log.Error("the beginning of a session is not recorded yet", "sid", s.connection.ID, "error", err)
	}
	s.recorded, s.unrecorded = err == nil, err != nil
}

func (c *sidecar) eventOf(s *stockSession, e event.Event) event.Event {
	var id identity.Identity
	if len(s.connection.Proofs) > 0 {
		id = s.connection.Proofs[0].Identity
	}
	return c.eventAbout(s, id, e)
}

func (c *sidecar) eventAbout(s *stockSession, id identity.Identity, e event.Event) event.Event {
	e.SessionID = s.connection.ID
	login := s.connection.Login
	if identity.CheckLogin(login) != nil {
		login = ""
	}
	return about(e, id, login, s.connection.Remote)
}

// record records before the act, where the disk lets it: one that hangs keeps
// nobody in, and what was given to it is written when it goes on.
func (c *sidecar) record(events ...event.Event) error {
	done := make(chan error, 1)
	go func() { done <- c.recorder.record(events...) }()
	patience := time.NewTimer(companionRecord)
	defer patience.Stop()
	select {
	case err := <-done:
		return err
	case <-patience.C:
		c.config.Log.Warn("the disk is slow; what happens to sessions is recorded later")
		return nil
	}
}

// judgeAll asks about everybody who is in, or all who are known, and cuts those
// who would not be let in.
func (c *sidecar) judgeAll(known bool) {
	// Read first: what changes meanwhile was not asked.
	c.judged = stateMark(c.states.get())
	var cut []sshd.Condemned
	var events []event.Event
	for _, s := range c.sessions {
		if s.cut || known && len(s.connection.Proofs) == 0 {
			continue
		}
		if s.reason != "" { // its end was recorded before this start
			s.cut = true
			cut = append(cut, s.connection.Condemn(plain(s.reason)))
			continue
		}
		no := c.judge(s)
		if no == nil {
			continue
		}
		reason := no.reason
		s.cut, s.reason = true, reason
		events = append(events, c.eventAbout(s, no.identity, event.Event{
			Type: event.SessionEnd, Message: reason, Reasons: boundedLines(no.details),
		}))
		cut = append(cut, s.connection.Condemn(plain(reason)))
	}
	if len(cut) == 0 {
		return
	}
	if err := c.recordCuts(events); err != nil { // nobody stays for want of a record
		c.config.Log.Error("the ends of sessions are not recorded", "error", err)
	}
	go c.cut(cut)
	for _, e := range events {
		c.config.Log.Info("connection is ended", "sid", e.SessionID, "user", e.User, "login", e.Login, "remote", e.RemoteAddr, "reason", e.Message)
	}
}

func (c *sidecar) recordCuts(events []event.Event) error {
	if len(events) == 0 {
		return nil
	}
	return c.record(events...)
}

func (c *sidecar) cut(all []sshd.Condemned) {
	if left := c.watch.Cut(all); len(left) > 0 {
		c.config.Log.Error("some connections could not be ended", "connections", len(left))
	}
}

// judge tells why a connection has to end, or nil.
func (c *sidecar) judge(s *stockSession) *refusal {
	l := s.connection
	for _, p := range l.Proofs {
		if no := c.judgeProof(s, p); no != nil {
			return no
		}
	}
	if len(l.Proofs) > 0 {
		return nil
	}
	st := c.states.get()
	if !st.removed && len(st.authorities) == 0 {
		return nil // nothing can be told of anybody, and the helper lets nobody in
	}
	alone := ""
	switch {
	case l.Otherwise:
		alone = "somebody came in without a certificate: see dtnoded sshd audit"
	case s.before:
		alone = "sshd does not follow our part of its configuration; reload it, or end this where it was uninstalled: a connection may have come in without a certificate"
	case l.Began.Before(c.node.Installed):
		alone = "a connection is older than the installation"
	case l.Orphan && !sshd.IsDefault(c.config.SSHDConfig):
		alone = "a connection may be another sshd's"
	}
	if alone != "" {
		if !s.told {
			c.config.Log.Warn(alone+"; it is left alone", "connection", l.String(), "remote", l.Remote)
		}
		s.told = true
		return nil
	}
	if st.removed { // there is no authority to find out by any more
		return &refusal{cause: causeRemoved, reason: removedReason}
	}
	if c.config.Now().Sub(l.Found) < companionGrace {
		return nil
	}
	no := &refusal{cause: causeUnknownSession, reason: unknownSession}
	if l.Began.Before(c.started) && !l.Recalled {
		no.reason = olderThanSync
	}
	return no
}

// causeUnknownSession is that too little is known of a connection.
const causeUnknownSession rejectCause = "unknown-session"

// unknownSession is what people are told of whom it is not known who they are.
const unknownSession = "it cannot be told whose certificate this connection has; log in again"

// judgeProof asks the same policy as at a login.
func (c *sidecar) judgeProof(s *stockSession, p sshd.Proof) *refusal {
	now := c.config.Now()
	r := policy.Request{Action: policy.OpenSession, Login: s.connection.Login, Now: now}
	if !p.Whole {
		return c.judgePart(s, p, r)
	}
	limits, no := c.decider.ask(p.Identity, p.Authority, r)
	if no == nil && limits.DisconnectExpiredCert && !now.Before(p.Identity.ValidBefore) {
		no = &refusal{identity: p.Identity, cause: causeExpired, reason: expiredReason}
	}
	return no
}

// judgePart is for what only the log tells of: user, serial and login, and
// neither roles nor device. What is refused by what is known ends it. What
// depends on the rest held when sshd asked the helper, which knew all; it is
// refused when that may have changed.
func (c *sidecar) judgePart(s *stockSession, p sshd.Proof, r policy.Request) *refusal {
	st := c.states.get()
	if st.removed {
		return &refusal{identity: p.Identity, cause: causeRemoved, reason: removedReason}
	}
	trusted := false
	for _, key := range st.authorities {
		trusted = trusted || ssh.FingerprintSHA256(key) == p.Authority
	}
	if !trusted {
		return &refusal{identity: p.Identity, cause: causeOf(identity.ReasonAuthority), reason: distrustedReason}
	}
	id := p.Identity
	id.Logins = []string{r.Login}
	// A certificate without roles opens nothing: there is always a refusal.
	_, no := c.decider.decide(st, id, r)
	if no != nil && no.cause == rejectCause(policy.CauseNotGranted) && sameButFor(s.since, st.policy) {
		return nil
	}
	if no == nil || no.cause == rejectCause(policy.CauseNotGranted) {
		no = &refusal{identity: p.Identity, cause: causeUnknownSession, reason: partlyKnown}
	}
	return no
}

// partlyKnown is what people are told of whom only the log tells.
const partlyKnown = "the policy has changed, and sshd's log does not tell the roles and the device of this connection; log in again"

// sameButFor tells whether what depends on roles and devices is as it was: each
// role, the preference, and no lock on a role or a device has come.
func sameButFor(before, now *policy.State) bool {
	if before == nil || now == nil || len(before.Roles) == 0 || !reflect.DeepEqual(before.Preference, now.Preference) || !reflect.DeepEqual(before.Roles, now.Roles) {
		return false
	}
	had := map[string]policy.Lock{}
	for _, l := range before.Locks {
		had[l.Name] = l
	}
	for _, l := range now.Locks {
		if (l.Target.Role != "" || l.Target.Device != "") && !reflect.DeepEqual(had[l.Name], l) {
			return false
		}
	}
	return true
}
