package agent

import (
	"errors"
	"time"

	"golang.org/x/crypto/ssh"
)

// Constraints of keys that are added (draft-miller-ssh-agent section 5.2).
const (
	constrainLifetime  = 1
	constrainExtension = 255
)

const extRestrictDestination = "restrict-destination-v00@openssh.com"

// constraints are how a key may be used.
type constraints struct {
	// until is when it goes; zero is never.
	until time.Time
	// destinations that it may be used at; none are all.
	destinations []destination
}

// destination is a hop that a key may be used for: from one host to another
// (PROTOCOL.agent of OpenSSH section 2).
type destination struct {
	from, to hop
}

type hop struct {
	user string // a pattern; empty is any
	host string // empty is this machine
	keys []hopKey
}

type hopKey struct {
	key ssh.PublicKey
	ca  bool
}

// parseConstraints refuses whatever it cannot hold: a key would be used where
// its owner forbade it. Confirmation is among that, since there may be no
// screen to ask on.
func parseConstraints(r *reader, now time.Time) (constraints, error) {
	var c constraints
	restricted := false
	for r.more() {
		switch r.byte() {
		case constrainLifetime:
			seconds := r.uint32()
			if !c.until.IsZero() || r.failed {
				return c, errMalformed
			}
			c.until = now.Round(0).Add(time.Duration(seconds) * time.Second)
		case constrainExtension:
			if name := string(r.string()); name != extRestrictDestination || restricted {
				return c, errors.New("a constraint that is not known here")
			}
			restricted = true
			list := reader{rest: r.string()}
			for list.more() {
				if len(c.destinations) >= maxDestinations {
					return c, errors.New("too many destinations")
				}
				d, err := parseDestination(list.string())
				if err != nil {
					return c, err
				}
				c.destinations = append(c.destinations, d)
			}
			// Restricted to nothing is not the same as not restricted.
			if list.failed || len(c.destinations) == 0 {
				return c, errMalformed
			}
		default:
			return c, errors.New("a constraint that is not known here")
		}
	}
	if r.failed {
		return c, errMalformed
	}
	return c, nil
}

func parseDestination(b []byte) (d destination, err error) {
	r := reader{rest: b}
	from, to, reserved := r.string(), r.string(), r.string()
	if !r.done() || len(reserved) != 0 {
		return d, errMalformed
	}
	if d.from, err = parseHop(from); err != nil {
		return d, err
	}
	if d.to, err = parseHop(to); err != nil {
		return d, err
	}
	if (d.from.host == "") != (len(d.from.keys) == 0) || d.from.user != "" || d.to.host == "" || len(d.to.keys) == 0 {
		return d, errMalformed
	}
	return d, nil
}

func parseHop(b []byte) (h hop, err error) {
	r := reader{rest: b}
	h.user, h.host = string(r.string()), string(r.string())
	if reserved := r.string(); r.failed || len(reserved) != 0 {
		return h, errMalformed
	}
	for r.more() {
		if len(h.keys) >= maxHopKeys {
			return h, errors.New("too many host keys")
		}
		h.keys = append(h.keys, hopKey{key: r.key(), ca: r.bool()})
	}
	if r.failed {
		return h, errMalformed
	}
	return h, nil
}

// mayList tells whether a key is shown on a connection: on one from another
// machine only where it may be used from there (identity_permitted of OpenSSH's
// ssh-agent.c).
func (c constraints) mayList(b *bindings, now time.Time) bool {
	if len(c.destinations) == 0 {
		return true
	}
	if b.failed || b.marked {
		return false
	}
	if len(b.list) == 0 {
		return true
	}
	return c.walk(b, "", now)
}

// maySign is mayList for an authentication of a user in the session that the
// connection is bound to last. What is not one, or in another session, is
// refused.
func (c constraints) maySign(b *bindings, data []byte, key ssh.PublicKey, now time.Time) bool {
	if len(c.destinations) == 0 {
		return true
	}
	session := b.last()
	if session == nil || b.marked {
		return false
	}
	req, ok := parseUserAuth(data)
	if !ok || !equal(req.key, key) || !req.in(session) {
		return false
	}
	// From a hop that is not bound to the host, the signature could go to another.
	if len(b.list) > 1 && req.host == nil {
		return false
	}
	return c.walk(b, req.user, now)
}

// walk follows the connection from hop to hop. user is empty where nothing is
// signed.
func (c constraints) walk(b *bindings, user string, now time.Time) bool {
	var from ssh.PublicKey
	for i, h := range b.list {
		last := i == len(b.list)-1
		if !last && !h.forwarding || last && h.forwarding && user != "" {
			return false
		}
		as := ""
		if last {
			as = user
		}
		if !c.permit(from, h.host, as, now) {
			return false
		}
		from = h.host
	}
	// A key that may be used at a host, but not from there, is not shown there.
	if b.list[len(b.list)-1].forwarding {
		return c.permit(from, nil, "", now)
	}
	return true
}

// permit tells whether there is a destination from one host to another; nil is
// this machine for from, and any for to.
func (c constraints) permit(from, to ssh.PublicKey, user string, now time.Time) bool {
	for _, d := range c.destinations {
		if from == nil && d.from.host != "" || from != nil && !d.from.has(from, now) {
			continue
		}
		if to != nil && !d.to.has(to, now) {
			continue
		}
		if user != "" && d.to.user != "" && !matches(user, d.to.user) {
			continue
		}
		return true
	}
	return false
}

func (h hop) has(key ssh.PublicKey, now time.Time) bool {
	cert, certified := key.(*ssh.Certificate)
	for _, k := range h.keys {
		switch {
		case k.ca != certified:
		case !certified && equal(k.key, key):
			return true
		case certified && equal(cert.SignatureKey, k.key) && checkHost(cert, h.host, now) == nil:
			return true
		}
	}
	return false
}

// checkHost checks a host's certificate but for who signed it, for host as a
// pattern of principals (sshkey_cert_check_host with wildcards); empty is for
// any host.
func checkHost(cert *ssh.Certificate, host string, now time.Time) error {
	if cert.CertType != ssh.HostCert {
		return errors.New("not a host's certificate")
	}
	principal := ""
	for _, p := range cert.ValidPrincipals {
		if host == "" || matches(host, p) {
			principal = p
			break
		}
	}
	if principal == "" {
		return errors.New("a certificate of another host")
	}
	checker := ssh.CertChecker{Clock: func() time.Time { return now }}
	return checker.CheckCert(principal, cert)
}

// in tells whether a request is for the session: by its identifier, and by the
// host where the request names one.
func (req userAuth) in(session *binding) bool {
	return string(req.sessionID) == string(session.sessionID) && (req.host == nil || equal(req.host, session.host))
}
