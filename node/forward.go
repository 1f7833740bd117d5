package node

import (
	"context"
	"errors"
	"io"
	"sync"

	gossh "golang.org/x/crypto/ssh"
	"golang.org/x/time/rate"

	"devicetrust/node/sockets"
	"devicetrust/policy"
)

// forwards are what one connection reaches from the node, and what reaches it
// from there: connections, listeners, and the process that opens their sockets
// as the account. They are in nobody else's reach, and end with it.
type forwards struct {
	conn *connection
	// id stands for the connection in records of what is no session's.
	id   string
	ctx  context.Context
	stop context.CancelFunc
	// accepts holds down what connects to listeners: it may be anybody on the
	// machine, or beyond.
	accepts *rate.Limiter

	// starting is held while the worker is started.
	starting sync.Mutex
	worker   *sockets.Worker // under starting; nil until it is needed

	mu        sync.Mutex
	open      map[*forwarded]struct{}     // connections, open or being opened
	listeners map[*listener]struct{}      // all
	asked     map[policy.Target]*listener // those that a client can cancel
	listening int                         // listeners, open or being opened
}

func newForwards(c *connection) *forwards {
	l := c.server.limits
	ctx, stop := context.WithCancel(c.ctx)
	return &forwards{
		conn: c, id: c.server.newID(), ctx: ctx, stop: stop,
		accepts: rate.NewLimiter(rate.Limit(l.acceptsPerSecond), l.acceptBurst),
		open:    map[*forwarded]struct{}{}, listeners: map[*listener]struct{}{}, asked: map[policy.Target]*listener{},
	}
}

// forwarded is one connection, or one listener, for target.
type forwarded struct {
	target policy.Target
	admit  *admission
	ctx    context.Context
	end    context.CancelFunc
}

func (f *forwards) newForwarded(a *admission, target policy.Target) forwarded {
	ctx, end := context.WithCancel(f.ctx)
	return forwarded{target: target, admit: a, ctx: ctx, end: end}
}

// take counts one more connection; nil where there are too many, here or of
// the account.
func (f *forwards) take(a *admission, target policy.Target) *forwarded {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.open) >= f.conn.server.limits.forwards {
		return nil
	}
	forwarding, uid := &f.conn.server.forwarding, a.account.uid
	if !forwarding.add(uid, f.conn.server.limits.forwardsOfAccount) {
		forwarding.remove(uid)
		return nil
	}
	one := f.newForwarded(a, target)
	f.open[&one] = struct{}{}
	return &one
}

func (f *forwards) release(one *forwarded) {
	one.end()
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.open, one)
	f.conn.server.forwarding.remove(one.admit.account.uid)
}

// reconsider asks policy again about all that is open, and ends what it does
// not allow any more. People at terminals are told, and the record.
func (f *forwards) reconsider() {
	f.mu.Lock()
	listeners := make(map[*listener]policy.Target, len(f.listeners)) // with where they are
	for l := range f.listeners {
		listeners[l] = l.at
	}
	open := make([]*forwarded, 0, len(f.open))
	for one := range f.open {
		open = append(open, one)
	}
	f.mu.Unlock()
	var ended []endedForward
	for l, at := range listeners {
		if reason := f.refusedNow(&l.forwarded); reason != "" {
			f.close(l)
			ended = append(ended, endedForward{at, reason})
		}
	}
	for _, one := range open {
		if reason := f.refusedNow(one); reason != "" {
			one.end()
			ended = append(ended, endedForward{one.target, reason})
		}
	}
	if len(ended) > 0 {
		f.conn.announce("what is forwarded is ended: " + ended[0].reason)
		f.conn.recordEnded(f.conn.getAdmission(), ended)
	}
}

// refusedNow tells why policy does not allow it any more, or "".
func (f *forwards) refusedNow(one *forwarded) string {
	no := f.conn.server.mayStillForward(one.admit, one.target)
	if no == nil {
		return ""
	}
	f.conn.server.log.Info("forwarding is ended", "remote", f.conn.remote, "addr", addressOf(one.target), "reason", no.reason)
	return no.reason
}

var errTooMany = errors.New("too many forwarded connections at once")

// openDirect connects a channel from the client to what parse reads from its
// opening (RFC 4254 section 7.2).
func (c *connection) openDirect(conn *gossh.ServerConn, opened gossh.NewChannel, answered func(), parse func([]byte) (policy.Target, error)) {
	who, ok := c.whoOpens(conn, opened)
	if !ok {
		return
	}
	defer c.server.work.Done()
	target, err := parse(opened.ExtraData())
	if err != nil {
		c.throttle()
		_ = opened.Reject(gossh.ConnectionFailed, plain(err.Error()))
		return
	}
	one := c.forwards.take(who, target)
	if one == nil {
		c.throttle()
		_ = opened.Reject(gossh.ResourceShortage, errTooMany.Error())
		return
	}
	defer c.forwards.release(one)
	answered() // it is counted by the forwards from here on, while it connects
	c.throttle()
	socket, code, err := c.connect(one)
	if err != nil {
		_ = opened.Reject(code, plain(err.Error()))
		return
	}
	channel, requests, err := opened.Accept()
	if err != nil { // the connection is gone
		socket.Close()
		return
	}
	c.splice(one, channel, requests, socket)
}

// connect asks, records, and then connects.
func (c *connection) connect(one *forwarded) (sockets.Conn, gossh.RejectionReason, error) {
	c.net.relax()
	e := portEvent(one.target)
	if no := c.server.mayForward(one.admit, one.target); no != nil {
		c.refuseForward(one.admit, no, e)
		return nil, gossh.Prohibited, errors.New(no.line())
	}
	if err := c.recordForward(one.admit, e); err != nil {
		c.server.log.Error("nothing is forwarded", "remote", c.remote, "error", err)
		return nil, gossh.ResourceShortage, err
	}
	w, err := c.forwards.getWorker(one.admit)
	if err != nil {
		return nil, gossh.ConnectionFailed, err
	}
	ctx, cancel := context.WithTimeoutCause(one.ctx, c.server.limits.forwardDial, errNoAnswer)
	defer cancel()
	socket, err := w.Dial(ctx, sockets.Address{Host: one.target.Host, Port: one.target.Port, Path: one.target.Path})
	return socket, gossh.ConnectionFailed, err
}

var errNoAnswer = errors.New("no answer in time")

// splice carries bytes both ways until each has come to its end, which is
// passed on (RFC 4254 section 5.3), or one ends. It returns when the client has
// closed the channel too.
func (c *connection) splice(one *forwarded, channel gossh.Channel, requests <-chan *gossh.Request, socket sockets.Conn) {
	stop := context.AfterFunc(one.ctx, func() {
		defer c.recovered("forward")
		socket.Close()
		_ = channel.Close()
	})
	defer stop()
	var in, closed sync.WaitGroup
	in.Go(func() {
		defer c.recovered("forwarded input")
		_, err := c.server.copy(socket, &clientInput{channel, c})
		_ = socket.CloseWrite()
		if err != nil { // what it does not take is read all the same
			_, _ = c.server.copy(discard{}, channel)
		}
	})
	closed.Go(func() {
		defer c.recovered("forwarded requests")
		gossh.DiscardRequests(requests)
		in.Wait() // what came before the close
		socket.Close()
	})
	_, err := c.server.copy(channel, socket)
	switch {
	case err == nil:
		_ = channel.CloseWrite()
		in.Wait()
	case !errors.Is(err, io.EOF): // that would be the client, who has closed it
		socket.Close()
	}
	_ = channel.Close()
	closed.Wait()
	socket.Close()
}

// clientInput is what the client sends, and notes that the person does
// something, as in a session.
type clientInput struct {
	channel gossh.Channel
	conn    *connection
}

func (r *clientInput) Read(b []byte) (int, error) {
	n, err := r.channel.Read(b)
	if n > 0 {
		r.conn.active()
	}
	return n, err
}

// discard takes everything.
type discard struct{}

func (discard) Write(b []byte) (int, error) { return len(b), nil }
