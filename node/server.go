package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"

	gossh "golang.org/x/crypto/ssh"
)

// server is the SSH server. Its fields are set before serve and not changed
// after, but for those under mu.
type server struct {
	log      *slog.Logger
	now      func() time.Time
	limits   limits
	accounts accounts
	metrics  *metrics
	// algorithms that are spoken; all that we know where none is chosen.
	algorithms     algorithms
	noTCPKeepAlive bool
	proxies        []netip.Prefix // that speak for others
	// root: sessions run as whom they are for; else as uid, ourselves.
	root bool
	uid  uint32

	cluster, nodeID string
	name            string // shown to people
	port            uint16 // that we listen on
	hostSigners     func() []gossh.Signer
	states          *holder
	spool           *spool
	gatewayPorts    GatewayPorts
	sweeper         *sweeper
	helpers         *helpers
	abandoned       byAccount // processes that clients have left
	forwarding      byAccount // connections
	login           loginSettings
	logins          *logins
	guard           *guard
	// buffers of copyBuffer bytes, which outputs and inputs take turns with.
	buffers  sync.Pool
	refusals *refusals
	// unrecorded is what was done without a record, because roles allow that.
	unrecorded unrecorded

	// ctx ends when the server has to be gone.
	ctx context.Context
	// work is what has to end before the server is gone. What adds to it is
	// part of it, or holds mu and has seen that draining is false.
	work sync.WaitGroup

	// retired is closed when another process has taken our place.
	retired  chan struct{}
	retiring sync.Once

	mu       sync.Mutex
	draining bool
	live     map[*connection]struct{} // admitted
	all      map[*connection]struct{}
}

// serverConfig is what a server is made of.
type serverConfig struct {
	log             *slog.Logger
	now             func() time.Time
	limits          limits
	accounts        accounts
	uid             uint32
	cluster, nodeID string
	name            string
	hostSigners     func() []gossh.Signer
	states          *holder
	spool           *spool
	algorithms      algorithms
	noTCPKeepAlive  bool
	proxies         []netip.Prefix
	login           loginSettings
	loginFiles      loginFiles
	gatewayPorts    GatewayPorts
}

func newServer(ctx context.Context, c serverConfig) *server {
	s := &server{
		log: c.log, now: c.now, limits: c.limits, accounts: c.accounts, root: c.uid == 0, uid: c.uid,
		cluster: c.cluster, nodeID: c.nodeID, name: c.name, hostSigners: c.hostSigners,
		states: c.states, spool: c.spool, proxies: c.proxies, gatewayPorts: c.gatewayPorts,
		metrics: newMetrics(), algorithms: c.algorithms, noTCPKeepAlive: c.noTCPKeepAlive,
		sweeper:  newSweeper(readSessions),
		helpers:  &helpers{log: c.log},
		login:    c.login,
		logins:   &logins{files: c.loginFiles},
		guard:    newGuard(c.limits),
		refusals: newRefusals(c.limits),
		ctx:      ctx,
		retired:  make(chan struct{}),
		live:     map[*connection]struct{}{},
		all:      map[*connection]struct{}{},
	}
	s.metrics.watch(s)
	c.states.setting.Lock()
	c.states.onChange = s.reevaluate
	c.states.setting.Unlock()
	return s
}

// title is the node as people see it in a denial.
func (s *server) title() string { return fmt.Sprintf("%s:%d", s.name, s.port) }

// serve accepts connections until stop ends. Then it lets sessions come to
// their end for a while, tells the others that it is shutting down, and
// returns when all are gone. Once the server is retired it does that when the
// last connection has ended, or has been there for too long.
func (s *server) serve(stop context.Context, listeners ...net.Listener) error {
	s.port = addrPort(listeners[0].Addr()).Port()
	if _, err := s.helpers.take(); err != nil { // sessions try for themselves, and say so
		s.log.Warn("no sessions yet", "error", err)
	}
	defer s.helpers.close()
	defer s.sweeper.close()
	closed := context.AfterFunc(stop, func() { closeAll(listeners) })
	defer closed()
	var accepting sync.WaitGroup
	ended := make(chan error, len(listeners))
	for _, l := range listeners {
		accepting.Go(func() { ended <- s.accept(l) })
	}
	var err error
	select {
	case err = <-ended:
	case <-s.retired:
	}
	closeAll(listeners)
	accepting.Wait()
	if err == nil {
		s.outlive(stop)
	}
	s.drain()
	if stop.Err() != nil {
		return nil
	}
	return err
}

func (s *server) accept(listener net.Listener) error {
	retry := newBackoff()
	for {
		conn, err := listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return err
		}
		if err != nil {
			// Out of files, most likely; that passes as others leave.
			wait := retry.next()
			s.log.Error("cannot accept a connection", "error", err, "retry_in", wait)
			if !sleep(s.ctx, wait) {
				return err
			}
			continue
		}
		retry.reset()
		s.greet(conn)
	}
}

// exceeded is what sshd tells whom it drops (sshd.c, drop_connection), in
// place of its version, as RFC 4253 section 4.2 permits.
const exceeded = "Exceeded MaxStartups\r\n"

// greet starts serving conn, or closes it where there are too many.
func (s *server) greet(conn net.Conn) {
	from := addrPort(conn.RemoteAddr()).Addr()
	if s.speaksForOthers(from) {
		from = netip.Addr{}
	}
	p := s.guard.enter(from)
	if p == nil {
		s.log.Debug("too many connections; one is closed", "remote", conn.RemoteAddr())
		_, _ = io.WriteString(conn, exceeded) // the first that is sent, so it need not wait
		conn.Close()
		return
	}
	if tcp, ok := conn.(*net.TCPConn); ok && s.noTCPKeepAlive { // else it is on: net.ListenConfig
		_ = tcp.SetKeepAlive(false) // about speed of noticing only: what fails is noticed by the read
	}
	c := s.newConnection(conn, p)
	s.mu.Lock()
	s.all[c] = struct{}{}
	s.mu.Unlock()
	s.work.Go(c.serve)
}

// enter makes c one of those that policy watches, as a.
func (s *server) enter(c *connection, a *admission) *refusal {
	s.mu.Lock()
	if s.draining {
		s.mu.Unlock()
		return &refusal{identity: a.identity, cause: causeShutdown, reason: shuttingDown}
	}
	c.setAdmission(a)
	s.live[c] = struct{}{}
	s.mu.Unlock()
	// A change since the decision has not seen this connection.
	if no := s.readmit(a); no != nil {
		s.mu.Lock()
		delete(s.live, c)
		s.mu.Unlock()
		return no
	}
	c.grace.Stop()
	c.pass.admit()
	s.metrics.handshake.Observe(s.now().Sub(c.accepted).Seconds())
	c.active()
	s.work.Go(func() { c.watch(a) })
	return nil
}

// hold adds one to work, unless the server is draining.
func (s *server) hold() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.draining {
		return false
	}
	s.work.Add(1)
	return true
}

func (s *server) forget(c *connection) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.live, c)
	delete(s.all, c)
}

// reevaluate asks again about everybody who is in.
func (s *server) reevaluate() {
	s.mu.Lock()
	live := make([]*connection, 0, len(s.live))
	for c := range s.live {
		live = append(live, c)
	}
	s.mu.Unlock()
	var cut []*condemned
	stay := live[:0]
	for _, c := range live {
		if no := s.readmit(c.getAdmission()); no != nil {
			cut = append(cut, c.condemn(no.reason, byPolicy))
		} else {
			stay = append(stay, c)
		}
	}
	s.tell(cut)
	for _, c := range stay {
		c.forwards.reconsider()
	}
}

// tell ends the sessions of connections that are condemned. What is written
// of it comes last: where the log goes may be slow.
func (s *server) tell(cut []*condemned) {
	for _, c := range cut {
		for _, session := range c.sessions {
			session.end(c.reason, c.by)
		}
	}
	for _, c := range cut {
		if c.reason != "" {
			s.log.Info("connection is ended", "remote", c.remote, "reason", c.reason)
			c.conn.recordEnded(c.conn.getAdmission(), c.forwards)
		}
	}
}

const shuttingDown = "the node is shutting down"

// drain ends all connections: those with sessions last.
func (s *server) drain() {
	s.mu.Lock()
	s.draining = true
	s.mu.Unlock()
	if s.sessions() > 0 {
		s.log.Info("sessions have a moment to end", "sessions", s.sessions(), "grace", s.limits.shutdown)
		s.announce(fmt.Sprintf("the node is shutting down in %s", s.limits.shutdown))
	}
	const step = 50 * time.Millisecond
	for waited := time.Duration(0); waited < s.limits.shutdown && s.sessions() > 0; waited += step {
		time.Sleep(step)
	}
	s.mu.Lock()
	all := make([]*connection, 0, len(s.all))
	for c := range s.all {
		all = append(all, c)
	}
	s.mu.Unlock()
	cut := make([]*condemned, 0, len(all))
	for _, c := range all {
		cut = append(cut, c.condemn(shuttingDown, byNode))
	}
	s.tell(cut)
	gone := make(chan struct{})
	go func() { s.work.Wait(); close(gone) }()
	// What even SIGKILL does not end (a hung disk) does not keep us.
	most := time.NewTimer(s.limits.lastWords + 3*s.limits.hangup)
	defer most.Stop()
	select {
	case <-gone:
	case <-most.C:
		s.log.Error("some sessions could not be ended")
	}
}

// announce tells people at terminals what comes; programs are left alone.
func (s *server) announce(text string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.live {
		c.mu.Lock()
		for session := range c.sessions {
			session.announce(text)
		}
		c.mu.Unlock()
	}
}

func (s *server) sessions() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for c := range s.live {
		c.mu.Lock()
		n += len(c.sessions)
		c.mu.Unlock()
	}
	return n
}
