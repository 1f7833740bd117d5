package node

import (
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"time"

	gossh "golang.org/x/crypto/ssh"

	"devicetrust/feed"
	"devicetrust/identity"
	"devicetrust/policy"
)

// admission is who was let in, as what. Only admit makes one, after the
// peer's signature was verified.
type admission struct {
	identity identity.Identity
	login    string
	account  account
	// authority that signed the certificate, in wire format.
	authority string

	mu     sync.Mutex
	limits policy.Limits // as policy last said
	// changed wakes the watch when they are others; of capacity 1.
	changed chan struct{}
}

func (a *admission) getLimits() policy.Limits {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.limits
}

func (a *admission) setLimitsLocked(l policy.Limits) {
	if a.limits == l {
		return
	}
	a.limits = l
	select {
	case a.changed <- struct{}{}:
	default: // it is awake already
	}
}

// refusal is why somebody is not let in.
type refusal struct {
	// identity as far as it was verified: the zero value is a stranger.
	identity identity.Identity
	// cause is what decided, for metrics.
	cause rejectCause
	// reason is one line for the person; hint is what to do, or empty.
	reason, hint string
	// details are for the record: every rule that took part.
	details []string
}

// decider decides for one node, by the states that it holds.
type decider struct {
	states       *holder
	nodeID, name string
}

func (s *server) decider() decider { return decider{s.states, s.nodeID, s.name} }

// decide says whether id may (still) do here what r asks for: its action, login,
// target and time. The rest of r is filled in.
func (s *server) decide(st *state, id identity.Identity, r policy.Request) (policy.Limits, *refusal) {
	return s.decider().decide(st, id, r)
}

func (w decider) decide(st *state, id identity.Identity, r policy.Request) (policy.Limits, *refusal) {
	r.Subject, r.Node = feed.Subject(id), policy.Node{ID: w.nodeID, Name: w.name, Labels: st.labels}
	r.StateAge = w.states.age(r.Now)
	d := policy.Decide(st.policy, r)
	if !d.Allowed() {
		no := &refusal{identity: id, cause: rejectCause(d.Cause), reason: d.Reason, details: rules(d)}
		switch d.Cause {
		case policy.CauseTrustedDevice:
			no.reason, no.hint = policy.ReasonTrustedDevice, enrollHint
		case policy.CauseEvidence:
			no.hint = evidenceHint
		case policy.CauseAttestedKey:
			no.hint = attestedKeyHint
		case policy.CauseForwarding:
			no.hint = forwardHint
		default: // the reason says it
		}
		return policy.Limits{}, no
	}
	return d.Limits, nil
}

// enrollHint is the second line of a denial for want of a trusted device.
const enrollHint = "Enroll this device with: dtsh device enroll --current-device, then log in again"

// evidenceHint is that of a denial for want of evidence, which is as old as the
// certificate.
const evidenceHint = "See what this device proved: dtsh status --format=json; once it can prove more, log in again: dtsh login"

// attestedKeyHint is that of a denial for want of a key in a TPM, which logins
// have by themselves where they can.
const attestedKeyHint = "Log in again from an enrolled device with a TPM, without --key=software: dtsh login"

// forwardHint is that of a denial for want of an option in a role.
const forwardHint = "Ask who administers the cluster for a role that allows it, then log in again: dtsh login"

// rules are a decision's, one line each.
func rules(d policy.Decision) []string {
	lines := make([]string, 0, len(d.Rules))
	for _, r := range d.Rules {
		lines = append(lines, fmt.Sprintf("%s: %s: %s", r.Effect, r.Source, r.Detail))
	}
	return lines
}

// admit decides about somebody who has proved to hold key, and tells metrics how
// long that took.
func (s *server) admit(login string, key gossh.PublicKey, from netip.AddrPort) (*admission, *refusal) {
	begun := s.now()
	a, no := s.judge(login, key, from, begun)
	s.metrics.decision.Observe(s.now().Sub(begun).Seconds())
	return a, no
}

func (s *server) judge(login string, key gossh.PublicKey, from netip.AddrPort, now time.Time) (*admission, *refusal) {
	if identity.CheckLogin(login) != nil {
		return nil, &refusal{cause: causeLogin, reason: "no account has such a name"}
	}
	st := s.states.get()
	if st.removed {
		return nil, &refusal{cause: causeRemoved, reason: removedReason}
	}
	if len(st.authorities) == 0 {
		return nil, &refusal{cause: causeNoNews, reason: noNewsReason}
	}
	id, err := identity.SSHCheck{Authorities: st.authorities, Login: login, Addr: from.Addr(), Now: now}.Check(key)
	if err != nil {
		return nil, certificateRefusal(err, key)
	}
	cert, ok := key.(*gossh.Certificate)
	if !ok { // SSHCheck has refused it
		return nil, &refusal{cause: causeOf(identity.ReasonNotACertificate), reason: "the key is not a certificate"}
	}
	limits, no := s.decide(st, id, policy.Request{Action: policy.OpenSession, Login: login, Now: now})
	if no != nil {
		return nil, no
	}
	acc, err := s.findAccount(login, now)
	if err != nil {
		return nil, &refusal{identity: id, cause: causeAccount, reason: err.Error()}
	}
	if reason := s.logins.files.closedFor(acc.uid); reason != "" {
		return nil, &refusal{identity: id, cause: causeAccount, reason: reason}
	}
	if err := s.login.pam.account(s.ctx, acc.name, from.Addr().String()); err != nil {
		return nil, &refusal{identity: id, cause: causeAccount, reason: err.Error()}
	}
	return &admission{
		identity: id, login: login, account: acc, limits: limits,
		authority: string(cert.SignatureKey.Marshal()), changed: make(chan struct{}, 1),
	}, nil
}

// readmit tells why somebody who was let in would not be any more, or nil; who
// stays is held to what policy says now.
func (s *server) readmit(a *admission) *refusal {
	// Held from before the state is read: what an older one says is not to
	// come last.
	a.mu.Lock()
	defer a.mu.Unlock()
	limits, no := s.ask(a, policy.Request{Action: policy.OpenSession})
	if no == nil {
		a.setLimitsLocked(limits)
	}
	return no
}

// ask says whether somebody who was let in may now do what r asks for.
func (s *server) ask(a *admission, r policy.Request) (policy.Limits, *refusal) {
	r.Login, r.Now = a.login, s.now()
	return s.decider().ask(a.identity, a.authority, r)
}

// ask says whether somebody who was let in, with a certificate that authority
// signed, may now do what r asks for; its login and time too.
func (w decider) ask(id identity.Identity, authority string, r policy.Request) (policy.Limits, *refusal) {
	st := w.states.get()
	if st.removed {
		return policy.Limits{}, &refusal{identity: id, cause: causeRemoved, reason: removedReason}
	}
	for _, key := range st.authorities {
		if string(key.Marshal()) == authority {
			return w.decide(st, id, r)
		}
	}
	return policy.Limits{}, &refusal{identity: id, cause: causeOf(identity.ReasonAuthority), reason: distrustedReason}
}

// distrustedReason is what people are told whose certificate's authority was
// taken out of use.
const distrustedReason = "the authority of the certificate is no longer trusted"

// noNewsReason is what people are told by a node that knows no authority.
const noNewsReason = "the node has not heard from its control plane yet"

// expiredReason is what people are told whose certificate ends while they are
// in.
const expiredReason = "the certificate has expired; log in again with: dtsh login"

func (s *server) expired(a *admission) bool { return !s.now().Before(a.identity.ValidBefore) }

// certificateRefusal puts into words why a certificate was refused. They are
// ours: what is in it may be anybody's as long as it is not verified.
func certificateRefusal(err error, key gossh.PublicKey) *refusal {
	r := &refusal{cause: causeOf(identity.ReasonOf(err)), reason: "the certificate is not acceptable", details: []string{err.Error()}}
	const again = "Log in again with: dtsh login"
	switch identity.ReasonOf(err) {
	case identity.ReasonExpired:
		r.reason, r.hint = "the certificate has expired", again
	case identity.ReasonNotYetValid:
		r.reason = "the certificate is not valid yet; is the clock of a machine wrong?"
	case identity.ReasonPrincipal:
		r.reason, r.hint = "the certificate is not for this login", "See which it is for with: dtsh status"
	case identity.ReasonSourceAddress:
		r.reason, r.hint = "the certificate is for connections from another address", again
	case identity.ReasonNoTouch:
		r.reason = "the certificate does not want its security key to be touched"
	case identity.ReasonAuthority:
		r.reason = "the certificate is not from this cluster"
		return r
	default:
		return r
	}
	// These are found after the authority's signature was verified, so the
	// record may say whose certificate it is.
	if cert, ok := key.(*gossh.Certificate); ok {
		if id, err := identity.UnverifiedFromSSH(cert); err == nil {
			r.identity = id
		}
	}
	return r
}

// findAccount looks login up. Without root there is only our own account.
func (s *server) findAccount(login string, now time.Time) (account, error) {
	acc, err := s.accounts.lookup(s.ctx, login, now)
	if err != nil {
		return account{}, err
	}
	if !s.root && acc.uid != s.uid {
		return account{}, errors.New("dtnoded does not run as root and serves its own account only")
	}
	return acc, nil
}
