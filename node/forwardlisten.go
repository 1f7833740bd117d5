package node

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync/atomic"

	glider "github.com/gliderlabs/ssh"
	gossh "golang.org/x/crypto/ssh"

	"devicetrust/audit/event"
	"devicetrust/node/sockets"
	"devicetrust/policy"
)

// listener is on the node; each connection to it opens a channel to the client.
type listener struct {
	forwarded
	worker *sockets.Worker
	socket *sockets.Listener
	ssh    gossh.Conn
	// channel is the kind that is opened, with what payload says of the
	// connection.
	channel string
	payload func(peer net.Addr) []byte
	// recorded tells whether each connection is: it is somebody's who may not
	// be the person.
	recorded bool
	// single: after the first connection it is closed.
	single bool
	used   atomic.Bool
	// at is the target with the port that it has; set, as channel and payload
	// are, when ready is closed.
	at policy.Target
	// ready is closed when all of this is set, and the client knows.
	ready chan struct{}
}

// opening is how a worker is asked for a listener.
type opening func(context.Context, *sockets.Worker, func(sockets.Conn)) (*sockets.Listener, error)

// listen asks, records e, and then opens l's socket. What fails is said in one
// line.
func (f *forwards) listen(l *listener, e event.Event, open opening) error {
	c := f.conn
	c.net.relax()
	if no := c.server.mayForward(l.admit, l.target); no != nil {
		c.refuseForward(l.admit, no, e)
		return errors.New(no.line())
	}
	if !f.room() {
		return errors.New("too many listeners at once")
	}
	if err := f.openListener(l, e, open); err != nil {
		f.mu.Lock()
		f.listening--
		f.mu.Unlock()
		l.end()
		return err
	}
	return nil
}

// room counts one more listener, if there may be one.
func (f *forwards) room() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.listening >= f.conn.server.limits.forwardListeners {
		return false
	}
	f.listening++
	return true
}

func (f *forwards) openListener(l *listener, e event.Event, open opening) error {
	c := f.conn
	if err := c.recordForward(l.admit, e); err != nil {
		return err
	}
	w, err := f.getWorker(l.admit)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeoutCause(l.ctx, c.server.limits.forwardListen, errNoAnswer)
	defer cancel()
	l.worker = w
	if l.socket, err = open(ctx, w, func(socket sockets.Conn) { f.accept(l, socket) }); err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.listeners[l] = struct{}{}
	select {
	case <-w.Done():
		f.closeLocked(l)
		return errors.New("what opens sockets has ended")
	default:
		return nil
	}
}

// close ends a listener; what it has accepted stays.
func (f *forwards) close(l *listener) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, open := f.listeners[l]; open {
		f.closeLocked(l)
		f.listening--
	}
}

func (f *forwards) closeLocked(l *listener) {
	delete(f.listeners, l)
	if f.asked[l.at] == l {
		delete(f.asked, l.at)
	}
	l.end()
	l.socket.Close()
}

// closeOf ends the listeners of a worker that has ended.
func (f *forwards) closeOf(w *sockets.Worker) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for l := range f.listeners {
		if l.worker == w {
			f.closeLocked(l)
			f.listening--
		}
	}
}

// accept takes a connection to l. It is called by the worker's Run and holds
// up nothing.
func (f *forwards) accept(l *listener, socket sockets.Conn) {
	one := (*forwarded)(nil)
	if f.accepts.Allow() {
		one = f.take(l.admit, l.target)
	}
	if one == nil {
		f.conn.server.log.Debug("too many connections to a forwarded listener; one is closed", "remote", f.conn.remote, "addr", addressOf(l.target))
		socket.Close()
		return
	}
	f.conn.server.work.Go(func() {
		defer f.conn.recovered("accepted")
		defer f.release(one)
		defer socket.Close()
		f.bring(l, one, socket)
	})
}

// bring opens a channel to the client for what l has accepted.
func (f *forwards) bring(l *listener, one *forwarded, socket sockets.Conn) {
	select {
	case <-l.ready:
	case <-l.ctx.Done(): // it is closed, or came to nothing
		return
	}
	if l.single {
		f.close(l)
		if l.used.Swap(true) {
			return
		}
	}
	e := event.Event{Type: event.Port, Action: acceptAction, Addr: peerOf(socket), Name: addressOf(l.at)}
	if no := f.conn.server.mayForward(l.admit, l.target); no != nil {
		f.conn.refuseForward(l.admit, no, e)
		return
	}
	if l.recorded {
		if err := f.conn.recordForward(l.admit, e); err != nil {
			f.conn.server.log.Error("nothing is forwarded", "remote", f.conn.remote, "error", err)
			return
		}
	}
	channel, requests, err := l.ssh.OpenChannel(l.channel, l.payload(socket.RemoteAddr()))
	if err != nil {
		return // the client does not want it, or is gone
	}
	f.conn.splice(one, channel, requests, socket)
}

// peerOf is who has connected; a UNIX socket's peer has no name.
func peerOf(socket sockets.Conn) string {
	if tcp, ok := socket.RemoteAddr().(*net.TCPAddr); ok {
		return tcp.String()
	}
	return ""
}

// origin is a peer as RFC 4254 wants it, for a channel's opening.
func origin(peer net.Addr) (host string, port uint32) {
	ap := addrPort(peer)
	if !ap.IsValid() {
		return "127.0.0.1", 0
	}
	return ap.Addr().String(), uint32(ap.Port())
}

// listenFor answers "tcpip-forward" and "streamlocal-forward@openssh.com". The
// client is told before anybody who connects is brought to it.
func (c *connection) listenFor(ctx glider.Context, req *gossh.Request, target policy.Target, err error) (bool, []byte) {
	conn, ok := ctx.Value(glider.ContextKeyConn).(*gossh.ServerConn)
	who, admitted := c.whoOn(conn)
	if err != nil || !ok || !admitted || !c.server.hold() {
		return false, nil
	}
	defer c.server.work.Done()
	l := &listener{
		forwarded: c.forwards.newForwarded(who, target), at: target, ssh: conn, recorded: true, ready: make(chan struct{}),
	}
	at, e := c.server.bindAddress(target), portEvent(target)
	err = checkPrivileged(target, who.account)
	if err != nil {
		c.refuseForward(who, &refusal{identity: who.identity, reason: err.Error()}, e)
	} else {
		err = c.forwards.listen(l, e, func(ctx context.Context, w *sockets.Worker, accept func(sockets.Conn)) (*sockets.Listener, error) {
			return w.Listen(ctx, at, accept)
		})
	}
	if err != nil {
		l.end()
		c.server.log.Info("cannot listen for a client", "remote", c.remote, "login", who.login, "addr", addressOf(target), "error", err)
		return false, nil
	}
	var reply []byte
	if target.Kind == policy.FromPort && target.Port == 0 {
		given := target // which the record before it could not know
		given.Port = l.socket.Port
		if err := c.recordForward(who, portEvent(given)); err != nil {
			c.forwards.close(l)
			return false, nil
		}
		reply = gossh.Marshal(struct{ Port uint32 }{uint32(l.socket.Port)})
	}
	c.forwards.name(l)
	if req.WantReply {
		_ = req.Reply(true, reply)
		req.WantReply = false // gliderlabs replies once more, unless nobody wants it
	}
	close(l.ready)
	return true, nil
}

// name makes l one that the client can cancel, and gives it the port that it
// has.
func (f *forwards) name(l *listener) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, open := f.listeners[l]; !open {
		return
	}
	if l.target.Kind == policy.FromPort {
		l.at.Port = l.socket.Port
		to, port := l.at.Host, uint32(l.at.Port)
		l.channel, l.payload = "forwarded-tcpip", func(peer net.Addr) []byte {
			host, from := origin(peer)
			return gossh.Marshal(struct {
				Host       string
				Port       uint32
				Originator string
				From       uint32
			}{to, port, host, from})
		}
	} else {
		path := l.target.Path
		l.channel, l.payload = "forwarded-streamlocal@openssh.com", func(net.Addr) []byte {
			return gossh.Marshal(struct{ Path, Reserved string }{path, ""})
		}
	}
	f.asked[l.at] = l
}

// cancelListen answers "cancel-tcpip-forward" and its like: the table is the
// connection's own.
func (c *connection) cancelListen(target policy.Target, err error) (bool, []byte) {
	if err != nil {
		return false, nil
	}
	f := c.forwards
	f.mu.Lock()
	l := f.asked[target]
	f.mu.Unlock()
	if l == nil {
		return false, nil
	}
	f.close(l)
	return true, nil
}

// checkPrivileged keeps low ports for root, as sshd does (misc.c,
// bind_permitted), also where the machine leaves them to everybody.
func checkPrivileged(target policy.Target, acc account) error {
	const reserved = 1024
	if target.Kind == policy.FromPort && target.Port != 0 && target.Port < reserved && acc.uid != 0 {
		return fmt.Errorf("port %d is for root", target.Port)
	}
	return nil
}

// bindAddress is where target is listened at (sshd_config(5), GatewayPorts;
// channels.c, channel_fwd_bind_addr).
func (s *server) bindAddress(target policy.Target) sockets.Address {
	if target.Kind == policy.FromSocket {
		return sockets.Address{Path: target.Path}
	}
	const loopback, everywhere = "localhost", ""
	at := sockets.Address{Host: target.Host, Port: target.Port}
	wildcard := at.Host == "" || at.Host == "*"
	switch {
	case s.gatewayPorts == GatewayPortsYes, s.gatewayPorts == GatewayPortsClient && wildcard:
		at.Host = everywhere
	case s.gatewayPorts == GatewayPortsClient, at.Host == "127.0.0.1", at.Host == "::1":
	default:
		at.Host = loopback
	}
	return at
}
