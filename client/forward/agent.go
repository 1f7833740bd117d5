package forward

import (
	"context"
	"fmt"
	"net"

	"golang.org/x/crypto/ssh"
)

// agentChannel reaches the agent (OpenSSH's PROTOCOL.agent, section 2.2 of the
// draft: draft-miller-ssh-agent).
const agentChannel = "auth-agent@openssh.com"

// Agent brings what the node opens to its agent channel to the person's agent,
// which dial connects to; it tells that agent that the node speaks. The session
// has to ask for it (auth-agent-req@openssh.com).
func (f *Forwarder) Agent(dial func(context.Context) (net.Conn, error)) error {
	return f.handle(agentChannel, func(opened ssh.NewChannel) { f.toAgent(dial, opened) })
}

func (f *Forwarder) toAgent(dial func(context.Context) (net.Conn, error), opened ssh.NewChannel) {
	release, ok := f.takeAgent()
	if !ok {
		_ = opened.Reject(ssh.ResourceShortage, "too many connections to the agent at once")
		return
	}
	defer release()
	ctx, cancel := context.WithTimeout(f.ctx, agentTimeout)
	conn, err := dial(ctx)
	cancel()
	if err != nil {
		f.say(fmt.Sprintf("the agent is not forwarded: %v", innermost(err)))
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
