package sshd

import (
	"fmt"
	"math"
	"time"

	"devicetrust/feed"
	"devicetrust/identity"
	"devicetrust/policy"
)

// admission is who may log in, as what.
type admission struct {
	identity identity.Identity
	login    string
	limits   policy.Limits
	forwards policy.PortForwards
}

// refusal is why somebody is not let in.
type refusal struct {
	// user and serial are of the certificate, where one of our authorities
	// signed it; login is what was asked for, where it is one.
	user   string
	serial uint64
	login  string
	cause  string
	// age is that of the state, where there is one.
	age    time.Duration
	reason string
}

// Causes of refusals beside those of policy and, after certificate-, of identity.
const (
	causeArguments = "arguments"
	causeState     = "state"
	causeTime      = "time"
	causeFault     = "fault"
)

// unread is the age of a state that cannot be read.
const unread = time.Duration(math.MaxInt64)

// decide says whether whoever holds the certificate that q is about may log in
// at now, by the state that lies in d. It reads, and does nothing else: sshd
// asks twice for each login, and before the key was proved to be held.
func (d Dir) decide(q *unverifiedQuestion, now time.Time) (*admission, *refusal) {
	no := &refusal{age: unread}
	cert, err := q.certificate()
	if err != nil {
		return nil, no.because(causeArguments, err)
	}
	no.login = q.login
	state, err := d.ReadState()
	if err != nil {
		return nil, no.because(causeState, err)
	}
	no.age = state.Age(now)
	unverified, err := identity.UnverifiedFromSSH(cert)
	if err != nil {
		return nil, no.because(causeOf(err), err)
	}
	view, err := state.ViewFor(unverified.Roles, unverified.Serial)
	if err != nil {
		return nil, no.because(causeState, err)
	}
	id, err := identity.SSHCheck{Authorities: view.UserAuthorities, Login: q.login, Now: now, ServerChecksAddr: true}.Check(cert)
	if err != nil {
		if isSigned(identity.ReasonOf(err)) {
			no.user, no.serial = unverified.User, unverified.Serial
		}
		return nil, no.because(causeOf(err), err)
	}
	no.user, no.serial = id.User, id.Serial
	decision := policy.Decide(view.Policy, sessionRequest(state, id, q.login, now))
	if !decision.Allowed() {
		return nil, no.because(string(decision.Cause), refusedWith(decision.Reason, view.Problems))
	}
	return &admission{id, q.login, decision.Limits, view.Policy.PortForwards(feed.Subject(id))}, nil
}

func (no *refusal) because(cause string, why error) *refusal {
	no.cause, no.reason = cause, why.Error()
	return no
}

// ReadState gives the state that lies in d, where one of the authorities there
// signed it for the node that this is.
func (d Dir) ReadState() (*feed.State, error) {
	node, err := d.ReadNode()
	if err != nil {
		return nil, err
	}
	authorities, err := d.ReadUserCA()
	if err != nil {
		return nil, err
	}
	return feed.File{Path: d.State()}.Load(authorities, node.Cluster, node.ID)
}

// sessionRequest is the question that policy is asked.
func sessionRequest(state *feed.State, id identity.Identity, login string, now time.Time) policy.Request {
	r := policy.Request{
		Action: policy.OpenSession, Subject: feed.Subject(id), Login: login,
		Now: now, StateAge: state.Age(now),
	}
	r.Node.ID, r.Node.Name, r.Node.Labels = state.Node()
	return r
}

func causeOf(err error) string { return "certificate-" + string(identity.ReasonOf(err)) }

// isSigned tells of what SSHCheck refuses only where it has verified the
// signature. sshd has done so too, but who types the command has not.
func isSigned(r identity.Reason) bool {
	switch r {
	case identity.ReasonExpired, identity.ReasonNotYetValid, identity.ReasonPrincipal, identity.ReasonNoTouch:
		return true
	default:
		return false
	}
}

// refusedWith says with a refusal what of the state could not be read: it may
// be what the person lacks.
func refusedWith(reason string, problems []error) error {
	if len(problems) > 0 {
		return fmt.Errorf("%s; part of the state cannot be read: %w", reason, problems[0])
	}
	return fmt.Errorf("%s", reason)
}
