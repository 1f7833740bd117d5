package node

import (
	"context"
	"net"

	"devicetrust/audit/event"
	"devicetrust/node/sockets"
	"devicetrust/policy"
)

// agentChannel reaches the client's agent (OpenSSH's PROTOCOL.agent).
const agentChannel = "auth-agent@openssh.com"

// forwardAgent lets the session's programs use the person's agent: by a socket
// that only the account reaches, for as long as the session is.
func (s *session) forwardAgent(payload []byte) bool {
	if len(payload) > 0 || s.started || s.agent != nil {
		return false
	}
	l := s.newListener(policy.ToAgent, agentChannel)
	l.payload = func(net.Addr) []byte { return nil }
	err := s.conn.forwards.listen(l, event.Event{Type: event.AgentForward, SessionID: s.id},
		func(ctx context.Context, w *sockets.Worker, accept func(sockets.Conn)) (*sockets.Listener, error) {
			return w.Agent(ctx, accept)
		})
	if err != nil {
		l.end()
		return s.refuse("agent forwarding: " + err.Error())
	}
	s.agent = l
	close(l.ready)
	return true
}

// newListener is for what is asked for with a session and ends with it.
func (s *session) newListener(kind policy.TargetKind, channel string) *listener {
	return &listener{
		forwarded: s.conn.forwards.newForwarded(s.admit, policy.Target{Kind: kind}),
		ssh:       s.ssh, channel: channel, ready: make(chan struct{}),
	}
}

// closeForwards ends what the session's programs reach the client by.
func (s *session) closeForwards() {
	for _, l := range []*listener{s.agent, s.display} {
		if l != nil {
			s.conn.forwards.close(l)
		}
	}
}

// forwardEnvironment is how the session's programs find what is forwarded.
func (s *session) forwardEnvironment() []string {
	var env []string
	if s.agent != nil {
		env = append(env, "SSH_AUTH_SOCK="+s.agent.socket.Path)
	}
	if s.display != nil {
		env = append(env, "DISPLAY="+s.displayName())
	}
	return env
}
