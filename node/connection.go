package node

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	glider "github.com/gliderlabs/ssh"
	gossh "golang.org/x/crypto/ssh"
	"golang.org/x/time/rate"
)

// connection is one SSH connection. It has a gliderlabs Server of its own, so
// nothing of it is shared with another.
type connection struct {
	server *server
	net    *quickConn
	pass   *pass
	// remote and local may become others before there is an admission; who is
	// not the connection itself reads them under mu until then.
	remote, local netip.AddrPort
	accepted      time.Time
	requests      *rate.Limiter
	grace         *time.Timer
	// of serve's goroutine
	paced  *paced
	unread unread
	ctx    context.Context // ends with the connection
	cancel context.CancelFunc

	forwards *forwards

	pendingChannels atomic.Int64
	// lastInput is when the person last did something, Unix nanoseconds.
	lastInput atomic.Int64

	mu sync.Mutex
	// admission, once there is one, for what policy does to the connection;
	// sessions take theirs from the verified ServerConn.
	admission *admission
	sessions  map[*session]struct{}
	// cutting: the connection is being ended, and why.
	cutting string
	// ssh is gliderlabs' context, which holds the ServerConn once there is one.
	ssh glider.Context
}

func (s *server) newConnection(c net.Conn, p *pass) *connection {
	ctx, cancel := context.WithCancel(s.ctx)
	conn := &connection{
		server: s, net: newQuickConn(c, s.metrics), pass: p,
		remote: addrPort(c.RemoteAddr()), local: addrPort(c.LocalAddr()), accepted: s.now(),
		requests: rate.NewLimiter(rate.Limit(s.limits.requestsPerSecond), s.limits.requestBurst),
		ctx:      ctx, cancel: cancel,
		sessions: map[*session]struct{}{},
	}
	conn.forwards = newForwards(conn)
	return conn
}

func addrPort(a net.Addr) netip.AddrPort {
	tcp, ok := a.(*net.TCPAddr)
	if !ok {
		return netip.AddrPort{}
	}
	ap := tcp.AddrPort()
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
}

// serve runs the connection until it ends.
func (c *connection) serve() {
	defer c.leave()
	defer c.recovered("connection")
	// Not a deadline: gliderlabs sets its own on each read and write.
	c.grace = time.AfterFunc(c.server.limits.loginGrace, func() { c.net.Close() })
	conn, err := c.introduced()
	if err != nil {
		level := slog.LevelWarn
		if errors.Is(err, errCrowded) {
			level = slog.LevelDebug // as in greet: whose fault it is may do it often
			_, _ = io.WriteString(c.net, exceeded)
		}
		c.server.log.Log(c.ctx, level, "a proxy's connection is closed", "remote", c.remote, "error", err)
		return
	}
	c.paced = newPaced(conn)
	c.transportServer().HandleConn(c.paced)
}

func (c *connection) leave() {
	c.grace.Stop()
	c.cancel()
	c.net.Close()
	c.server.forget(c)
	c.pass.leave()
	c.unread.discard()
}

// recovered keeps a fault in one connection from ending all others; the
// connection itself ends.
func (c *connection) recovered(where string) {
	if fault := recover(); fault != nil {
		c.server.log.Error("fault; the connection is closed", "in", where, "fault", fault, "remote", c.remote, "stack", string(debug.Stack()))
		c.net.Close()
	}
}

// transportServer is gliderlabs' part: the transport and nothing else. All
// that it decides by itself is replaced or refused.
func (c *connection) transportServer() *glider.Server {
	requests := map[string]glider.RequestHandler{"default": c.globalRequest}
	channels := map[string]glider.ChannelHandler{"default": c.openChannel}
	signers := make([]glider.Signer, 0, 2)
	for _, s := range c.server.hostSigners() {
		signers = append(signers, s)
	}
	return &glider.Server{
		HostSigners:          signers,
		Version:              "dtnoded",
		ServerConfigCallback: c.serverConfig,
		// Without it gliderlabs lets everybody in without authentication.
		// It decides nothing: it only spares people whose agent holds plain
		// keys a signature for each.
		PublicKeyHandler: func(_ glider.Context, key glider.PublicKey) bool {
			_, isCertificate := key.(*gossh.Certificate)
			return isCertificate
		},
		ChannelHandlers: channels,
		RequestHandlers: requests,
	}
}

// active notes that the person does something.
func (c *connection) active() { c.lastInput.Store(c.server.now().UnixNano()) }

// throttle holds up a peer that asks for too much at once. It is the only one
// who waits.
func (c *connection) throttle() { _ = c.requests.Wait(c.ctx) }

// globalRequest answers requests that belong to no channel, one after the
// other. Keepalives of OpenSSH want an answer, and any will do.
func (c *connection) globalRequest(ctx glider.Context, _ *glider.Server, req *gossh.Request) (bool, []byte) {
	defer c.recovered("request")
	c.throttle()
	parse := parseListen
	switch req.Type {
	case "streamlocal-forward@openssh.com", "cancel-streamlocal-forward@openssh.com":
		parse = parseListenSocket
	}
	switch req.Type {
	case "tcpip-forward", "streamlocal-forward@openssh.com":
		target, err := parse(req.Payload)
		return c.listenFor(ctx, req, target, err)
	case "cancel-tcpip-forward", "cancel-streamlocal-forward@openssh.com":
		target, err := parse(req.Payload)
		return c.cancelListen(target, err)
	default:
		return false, nil
	}
}

// openChannel answers a channel's opening. It runs on a goroutine of its own
// that gliderlabs starts for each.
func (c *connection) openChannel(_ *glider.Server, conn *gossh.ServerConn, opened gossh.NewChannel, _ glider.Context) {
	defer c.recovered("channel")
	if c.pendingChannels.Add(1) > int64(c.server.limits.pendingChannels) {
		c.net.Close()
		return
	}
	answered := sync.OnceFunc(func() { c.pendingChannels.Add(-1) })
	defer answered()
	switch opened.ChannelType() {
	case "session":
		c.throttle()
		c.openSession(conn, opened, answered)
	case "direct-tcpip":
		c.openDirect(conn, opened, answered, parseDirectTCP)
	case "direct-streamlocal@openssh.com":
		c.openDirect(conn, opened, answered, parseDirectSocket)
	default:
		c.throttle()
		_ = opened.Reject(gossh.UnknownChannelType, "this kind of channel is not available on this node")
	}
}

// whoOn takes who it is from the verified ServerConn and nowhere else. A
// connection that nobody was admitted on is closed.
func (c *connection) whoOn(conn *gossh.ServerConn) (*admission, bool) {
	who, ok := admitted(conn)
	if !ok {
		c.server.log.Error("a request on a connection that nobody was admitted on", "remote", c.remote)
		c.net.Close()
	}
	return who, ok
}

// whoOpens is whoOn for a channel. Where it is true, the server is not gone
// before work.Done is called.
func (c *connection) whoOpens(conn *gossh.ServerConn, opened gossh.NewChannel) (*admission, bool) {
	who, ok := c.whoOn(conn)
	if ok && !c.server.hold() {
		_ = opened.Reject(gossh.ResourceShortage, shuttingDown)
		return nil, false
	}
	return who, ok
}

func (c *connection) openSession(conn *gossh.ServerConn, opened gossh.NewChannel, answered func()) {
	who, ok := c.whoOpens(conn, opened)
	if !ok {
		return
	}
	defer c.server.work.Done()
	// A connection that is held open does not lengthen a certificate's life:
	// what is begun anew wants a current proof.
	if c.server.expired(who) {
		c.rejectSession(opened, who, gossh.Prohibited, &refusal{cause: causeExpired, reason: expiredReason})
		return
	}
	s := &session{conn: c, admit: who, id: c.server.newID(), ssh: conn}
	if reason := c.add(s); reason != "" {
		c.rejectSession(opened, who, gossh.ResourceShortage, &refusal{cause: causeMaxSessions, reason: reason})
		return
	}
	defer c.remove(s)
	channel, requests, err := opened.Accept()
	answered()
	if err != nil {
		return // the connection is gone
	}
	s.run(channel, requests)
}

func (c *connection) rejectSession(opened gossh.NewChannel, who *admission, code gossh.RejectionReason, no *refusal) {
	no.identity = who.identity
	c.server.recordRefusal(c, who.login, no)
	_ = opened.Reject(code, no.reason)
}

// add counts a session, or tells why there is no room.
func (c *connection) add(s *session) string {
	most := c.server.limits.sessions
	if n := s.admit.getLimits().MaxSessions; n > 0 && n < int64(most) {
		most = int(n)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cutting != "" {
		return c.cutting
	}
	if len(c.sessions) >= most {
		return "too many sessions on one connection"
	}
	c.sessions[s] = struct{}{}
	return ""
}

func (c *connection) remove(s *session) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.sessions, s)
}

// condemned is a connection that ends within lastWords, whatever else happens.
type condemned struct {
	conn     *connection
	remote   netip.AddrPort
	sessions []*session // to be told
	// forwards of it that policy ends.
	forwards []endedForward
	// reason is "" where somebody else has condemned it.
	reason string
	by     ender
}

// cut ends the connection: each session is told why and hung up, and a little
// later the connection is closed whether or not that was read.
func (c *connection) cut(reason string, by ender) {
	c.server.tell([]*condemned{c.condemn(reason, by)})
}

// condemn is the part of cut that nothing holds up: where many are ended, it
// is done for all of them first.
func (c *connection) condemn(reason string, by ender) *condemned {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cutting != "" {
		return &condemned{}
	}
	c.cutting = reason
	var forwards []endedForward
	if by == byPolicy {
		forwards = c.forwards.all(reason)
	}
	c.forwards.stop()
	sessions := make([]*session, 0, len(c.sessions))
	for s := range c.sessions {
		sessions = append(sessions, s)
	}
	if len(sessions) == 0 {
		c.net.Close()
	} else {
		time.AfterFunc(c.server.limits.lastWords, func() { c.net.Close() })
	}
	return &condemned{conn: c, remote: c.remote, sessions: sessions, forwards: forwards, reason: reason, by: by}
}

func (c *connection) setAdmission(a *admission) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.admission = a
}

func (c *connection) getAdmission() *admission {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.admission
}
