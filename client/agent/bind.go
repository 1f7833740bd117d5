package agent

import (
	"bytes"
	"errors"
	"slices"
	"strings"

	"golang.org/x/crypto/ssh"
)

// binding is one session that the connection was bound to: the key that the
// host proved to have, over the session's identifier.
type binding struct {
	host      ssh.PublicKey // a certificate where the host presented one
	sessionID []byte
	// forwarding: the host may speak over this connection.
	forwarding bool
}

// bindings are where a connection comes from: hops of agent forwarding, and at
// the end the session that is to be authenticated.
type bindings struct {
	list []binding
	// failed: the first binding was refused. An SSH client goes on all the same,
	// so that the next could come from another machine and look like one of this.
	failed bool
	// marked by whoever pipes a connection for another machine and cannot bind
	// it, as an SSH client of x/crypto; then hopName is that machine's, and hop its
	// key where it is known.
	marked  bool
	hopName string
	hop     ssh.PublicKey
}

// bind does what a session-bind@openssh.com asks for.
func (b *bindings) bind(contents []byte) error {
	if b.failed {
		return errors.New("the first session was not bound")
	}
	err := b.add(contents)
	b.failed = err != nil && len(b.list) == 0
	return err
}

func (b *bindings) add(contents []byte) error {
	r := reader{rest: contents}
	next := binding{host: r.key(), sessionID: r.string()}
	sig := r.string()
	next.forwarding = r.bool()
	if !r.done() || len(next.sessionID) < minSessionID || len(next.sessionID) > maxSessionID {
		return errMalformed
	}
	var signature ssh.Signature
	if err := ssh.Unmarshal(sig, &signature); err != nil {
		return errMalformed
	}
	if err := next.host.Verify(next.sessionID, &signature); err != nil {
		return errors.New("the host has not signed the session's identifier")
	}
	for _, old := range b.list {
		if !old.forwarding {
			return errors.New("the connection is bound to a session that is authenticated")
		}
		sameID, sameHost := bytes.Equal(old.sessionID, next.sessionID), equal(old.host, next.host)
		if sameID && sameHost {
			return nil // said twice, as ssh does for each connection that a hop opens
		}
		if sameID {
			return errors.New("the session's identifier was bound with another host key")
		}
	}
	if len(b.list) >= maxBindings {
		return errors.New("too many sessions")
	}
	next.sessionID = bytes.Clone(next.sessionID)
	b.list = append(b.list, next)
	return nil
}

// mark notes that another machine speaks. contents has its name, and may have
// its host key behind that.
func (b *bindings) mark(contents []byte) error {
	if len(b.list) > 0 || b.marked {
		return errors.New("the connection is known already")
	}
	// Whatever is wrong with the rest: it is another machine's.
	b.marked = true
	r := reader{rest: contents}
	b.hopName = string(r.string())
	if r.more() {
		b.hop = r.key()
	}
	if !r.done() {
		return errMalformed
	}
	return nil
}

// forwarded tells whether another machine speaks over the connection, or may.
func (b *bindings) forwarded() bool {
	return b.marked || b.failed || slices.ContainsFunc(b.list, func(h binding) bool { return h.forwarding })
}

// last is the session that is being authenticated; nil where the connection is
// not bound to one.
func (b *bindings) last() *binding {
	if b.failed || len(b.list) == 0 || b.list[len(b.list)-1].forwarding {
		return nil
	}
	return &b.list[len(b.list)-1]
}

// isHop tells whether host is a machine on the way, whatever certifies its key;
// of one whose key is not known, whether it is certified for the name.
func (b *bindings) isHop(host ssh.PublicKey) bool {
	if b.marked && b.hop == nil && b.hasName(host) {
		return true
	}
	if b.hop != nil && equal(plain(b.hop), plain(host)) {
		return true
	}
	return slices.ContainsFunc(b.list, func(h binding) bool { return h.forwarding && equal(plain(h.host), plain(host)) })
}

// hasName tells whether host is certified for the name of the machine that
// speaks, or may be: principals are in lower case.
func (b *bindings) hasName(host ssh.PublicKey) bool {
	cert, ok := host.(*ssh.Certificate)
	name := strings.ToLower(b.hopName)
	return !ok || name == "" || slices.ContainsFunc(cert.ValidPrincipals, func(p string) bool {
		return p == name || strings.HasPrefix(p, name+".")
	})
}

// plain is the key that a certificate is for.
func plain(key ssh.PublicKey) ssh.PublicKey {
	if cert, ok := key.(*ssh.Certificate); ok {
		return cert.Key
	}
	return key
}
