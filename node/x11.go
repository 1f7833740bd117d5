package node

import (
	"context"
	"fmt"
	"net"

	gossh "golang.org/x/crypto/ssh"

	"devicetrust/audit/event"
	"devicetrust/node/sockets"
	"devicetrust/policy"
)

// forwardDisplay shows what the session's programs draw on the person's screen
// (RFC 4254 section 6.3).
func (s *session) forwardDisplay(payload []byte) bool {
	req, err := parseX11(payload)
	if err != nil || s.started || s.display != nil {
		return false
	}
	l := s.newListener(policy.ToDisplay, "x11")
	l.single = req.single
	l.payload = func(peer net.Addr) []byte {
		host, port := origin(peer)
		return gossh.Marshal(struct {
			Host string
			Port uint32
		}{host, port})
	}
	req.display.Home = s.admit.account.home
	err = s.conn.forwards.listen(l, event.Event{Type: event.X11, SessionID: s.id},
		func(ctx context.Context, w *sockets.Worker, accept func(sockets.Conn)) (*sockets.Listener, error) {
			return w.Display(ctx, req.display, accept)
		})
	if err != nil {
		l.end()
		return s.refuse("X11 forwarding: " + err.Error())
	}
	s.display, s.screen = l, req.display.Screen
	close(l.ready)
	return true
}

// displayName is that of a display on loopback, as sshd gives it
// (X11UseLocalhost, sshd_config(5)).
func (s *session) displayName() string {
	return fmt.Sprintf("localhost:%d.%d", s.display.socket.Port, s.screen)
}
