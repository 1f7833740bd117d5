package forward

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"

	"golang.org/x/crypto/ssh"
)

// agentChannel reaches the agent (OpenSSH's PROTOCOL.agent, section 2.2 of the
// draft: draft-miller-ssh-agent).
const agentChannel = "auth-agent@openssh.com"

// Numbers of the agent's protocol (draft-miller-ssh-agent, section 5.1).
const (
	agentSuccess   = 6
	agentExtension = 27
)

// ForwardedExtension tells dtsh's agent, at the beginning of a connection, that
// what follows comes from the node that it names as an SSH string, with the
// host key behind it as another, so that it can tell whom not to believe. It stands in
// for session-bind@openssh.com, which needs what the handshake leaves here
// nowhere: the node's signature.
const ForwardedExtension = "forwarded@devicetrust"

// Agent is the person's.
type Agent struct {
	// Dial connects to it.
	Dial func(context.Context) (net.Conn, error)
	// Node is who will be using it, and Host the key that the node proved; nil
	// is not known.
	Node string
	Host ssh.PublicKey
	// Ours: it is dtsh's, which is told that the connection is forwarded, and
	// has to agree. Another one is told too; that it does not know the word is
	// no reason against it: it has nothing to hold its keys back by, and the
	// person said which it is.
	Ours bool
}

// Agent brings what the node opens to its agent channel to a. The session has
// to ask for it (auth-agent-req@openssh.com).
func (f *Forwarder) Agent(a Agent) error {
	return f.handle(agentChannel, func(opened ssh.NewChannel) { f.toAgent(a, opened) })
}

func (f *Forwarder) toAgent(a Agent, opened ssh.NewChannel) {
	release, ok := f.takeAgent()
	if !ok {
		_ = opened.Reject(ssh.ResourceShortage, "too many connections to the agent at once")
		return
	}
	defer release()
	conn, err := a.connect(f.ctx)
	if err != nil {
		f.say(fmt.Sprintf("the agent is not forwarded: %v", err))
		_ = opened.Reject(ssh.ConnectionFailed, "no agent")
		return
	}
	s, ok := conn.(socket)
	if !ok {
		s = wholeClose{conn}
	}
	channel, requests, err := opened.Accept()
	if err != nil { // the connection is gone
		conn.Close()
		return
	}
	carry(f.ctx, channel, requests, s)
}

// wholeClose is for what cannot be ended one way, as a pipe of Windows.
type wholeClose struct{ net.Conn }

func (w wholeClose) CloseWrite() error { return w.Close() }

// connect connects to the agent and says who is coming.
func (a Agent) connect(ctx context.Context) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, agentTimeout)
	defer cancel()
	conn, err := a.Dial(ctx)
	if err != nil {
		return nil, innermost(err)
	}
	// An agent that does not answer is not waited for.
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	err = a.announce(conn)
	if !stop() && err == nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		conn.Close()
		return nil, err
	}
	return conn, nil
}

var errAgentRefuses = errors.New("it does not serve this node")

// announce tells where the connection comes from, and reads the answer.
func (a Agent) announce(conn net.Conn) error {
	body := append([]byte{agentExtension}, ssh.Marshal(struct{ Name, Node string }{ForwardedExtension, a.Node})...)
	if a.Host != nil {
		body = append(body, ssh.Marshal(struct{ Host []byte }{a.Host.Marshal()})...)
	}
	message := append(binary.BigEndian.AppendUint32(nil, uint32(len(body))), body...)
	if _, err := conn.Write(message); err != nil {
		return innermost(err)
	}
	var size [4]byte
	if _, err := io.ReadFull(conn, size[:]); err != nil {
		return fmt.Errorf("it does not answer: %w", innermost(err))
	}
	n := binary.BigEndian.Uint32(size[:])
	if n == 0 || n > maxAgentAnswer {
		return fmt.Errorf("an answer of %d bytes", n)
	}
	var kind [1]byte
	if _, err := io.ReadFull(conn, kind[:]); err != nil {
		return fmt.Errorf("it does not answer: %w", innermost(err))
	}
	if _, err := io.CopyN(io.Discard, conn, int64(n)-1); err != nil {
		return fmt.Errorf("it does not answer: %w", innermost(err))
	}
	if kind[0] != agentSuccess && a.Ours {
		return errAgentRefuses
	}
	return nil
}
