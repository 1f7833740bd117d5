package agent

import (
	"context"
	"encoding/binary"
	"net"

	"golang.org/x/crypto/ssh"
)

// conn is one connection. Its messages are answered one after the other.
type conn struct {
	agent    *Agent
	bindings bindings
	counted  bool // among agent.forwarded
}

// ServeConn answers the messages of one connection until it ends, or ctx does,
// and closes it.
//
// The loop is our own and not x/crypto's ServeAgent: that one allocates 16 MiB
// on the word of four bytes, prints to the log what a client chose, cannot tell
// that the client has gone while something is signed, and drops nothing of a
// constraint only if the agent behind it looks twice.
func (a *Agent) ServeConn(ctx context.Context, c net.Conn) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer c.Close()
	defer context.AfterFunc(ctx, func() { _ = c.Close() })()
	messages := make(chan []byte)
	go func() {
		// Whatever is being signed is for nobody any more when this ends.
		defer cancel()
		defer close(messages)
		for {
			msg, err := readMessage(c)
			if err != nil {
				return
			}
			select {
			case messages <- msg:
			case <-ctx.Done():
				return
			}
		}
	}()
	s := &conn{agent: a}
	defer s.uncount()
	// A fault in what reads messages is the end of this connection, and not of
	// everybody's keys.
	defer func() {
		if v := recover(); v != nil {
			a.cfg.Log.Error("internal error", "panic", v)
		}
	}()
	for msg := range messages {
		answer := s.answer(ctx, msg)
		clear(msg) // it may hold a private key or a passphrase
		if answer == nil || ctx.Err() != nil || writeMessage(c, answer) != nil {
			return
		}
	}
}

func status(ok bool) []byte {
	if ok {
		return []byte{msgSuccess}
	}
	return []byte{msgFailure}
}

// answer is nil where the connection is to end.
func (s *conn) answer(ctx context.Context, msg []byte) []byte {
	kind, rest := msg[0], msg[1:]
	if kind == msgExtension {
		return s.extension(rest)
	}
	// Before the lock, which another machine must not learn of.
	forwarded := s.bindings.forwarded()
	switch kind {
	case msgRequestIdentities:
		return s.list(ctx)
	case msgSign:
		return s.sign(ctx, rest)
	case msgLock, msgUnlock:
		return status(!forwarded && s.setLock(ctx, kind, rest))
	}
	if forwarded || s.agent.lock.on.Load() {
		return status(false)
	}
	switch kind {
	case msgAdd, msgAddConstrained:
		return status(s.add(rest, kind == msgAddConstrained))
	case msgRemove:
		return status(s.remove(ctx, rest))
	case msgRemoveAll:
		return status(s.removeAll(ctx))
	case msgRemoveAllOfVersion1:
		return status(true) // there are none
	}
	return status(false)
}

// list shows as many identities as a reply holds. Of a login there are two, as
// of one that ssh-add has added: ssh with an IdentityFile of the public key asks
// the agent only where that has the same key, and shows the CertificateFile. The
// plain ones come last, and not on other machines: an ssh that tries one key
// after the other should begin with what servers take.
func (s *conn) list(ctx context.Context) []byte {
	var n uint32
	var keys []byte
	add := func(key ssh.PublicKey, comment string) {
		blob := key.Marshal()
		if 5+len(keys)+8+len(blob)+len(comment) > maxMessage {
			return
		}
		keys = appendString(appendString(keys, blob), comment)
		n++
	}
	if !s.agent.lock.on.Load() {
		now := s.agent.cfg.Now()
		var after []usable
		for _, id := range s.agent.identities(ctx) {
			if !id.mayList(&s.bindings, now) {
				continue
			}
			add(id.public, id.comment)
			if id.login != nil && !s.bindings.forwarded() {
				after = append(after, id)
			}
		}
		for _, id := range after {
			add(plain(id.public), id.comment)
		}
	}
	return append(binary.BigEndian.AppendUint32([]byte{msgIdentities}, n), keys...)
}

func (s *conn) sign(ctx context.Context, rest []byte) []byte {
	r := reader{rest: rest}
	key, data, flags := r.key(), r.string(), r.uint32()
	if !r.done() || s.agent.lock.on.Load() {
		return status(false)
	}
	id, ok := s.agent.find(ctx, key)
	if !ok {
		return status(false)
	}
	if !id.maySign(&s.bindings, data, key, s.agent.cfg.Now()) {
		s.agent.cfg.Log.Warn("refused a signature", "key", ssh.FingerprintSHA256(plain(id.public)),
			"forwarded", s.bindings.forwarded(), "bound", s.bindings.last() != nil)
		return status(false)
	}
	var sig *ssh.Signature
	var err error
	if id.login != nil {
		sig, err = id.login.Sign(ctx, data)
	} else {
		sig, err = id.added.sign(ctx, data, flags)
	}
	if err != nil || sig == nil {
		if ctx.Err() == nil {
			s.agent.cfg.Log.Warn("cannot sign", "key", ssh.FingerprintSHA256(plain(id.public)), "err", err)
		}
		return status(false)
	}
	// Somebody may have locked it meanwhile; a key in a TPM takes its time.
	if s.agent.lock.on.Load() {
		return status(false)
	}
	return appendString([]byte{msgSignature}, ssh.Marshal(sig))
}

func (s *conn) add(rest []byte, constrained bool) bool {
	k, err := parseAdd(rest, constrained, s.agent.cfg.Now())
	return err == nil && s.agent.add(k)
}

func (s *conn) remove(ctx context.Context, rest []byte) bool {
	r := reader{rest: rest}
	key := r.key()
	if !r.done() {
		return false
	}
	id, ok := s.agent.find(ctx, key)
	if !ok {
		return false
	}
	s.agent.remove([]usable{id})
	return true
}

func (s *conn) removeAll(ctx context.Context) bool {
	s.agent.remove(s.agent.identities(ctx))
	return true
}

func (s *conn) setLock(ctx context.Context, kind byte, rest []byte) bool {
	r := reader{rest: rest}
	passphrase := r.string()
	if !r.done() {
		return false
	}
	if kind == msgLock {
		return s.agent.lock.lock(passphrase)
	}
	return s.agent.lock.unlock(ctx, passphrase)
}

func (s *conn) extension(rest []byte) []byte {
	r := reader{rest: rest}
	name := string(r.string())
	if r.failed {
		return status(false)
	}
	var err error
	switch name {
	case extSessionBind:
		err = s.bindings.bind(r.rest)
	case extForwarded:
		err = s.bindings.mark(r.rest)
	case extStop:
		if s.bindings.forwarded() {
			return status(false)
		}
		s.agent.stop()
		return status(true)
	default:
		return status(false)
	}
	if !s.count() {
		return nil
	}
	if err != nil {
		s.agent.cfg.Log.Debug("refused to bind a connection", "why", err)
	}
	return status(err == nil)
}

// count reports false where too many connections come from other machines.
func (s *conn) count() bool {
	if s.counted || !s.bindings.forwarded() {
		return true
	}
	s.agent.mu.Lock()
	defer s.agent.mu.Unlock()
	if s.agent.forwarded >= maxForwarded {
		return false
	}
	s.agent.forwarded++
	s.counted = true
	return true
}

func (s *conn) uncount() {
	if s.counted {
		s.agent.mu.Lock()
		defer s.agent.mu.Unlock()
		s.agent.forwarded--
	}
}
