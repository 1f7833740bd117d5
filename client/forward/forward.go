package forward

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
	"unicode"

	"golang.org/x/crypto/ssh"
)

// Options are what a Forwarder needs of the world.
type Options struct {
	Listening
	// Say tells the person of what could not be forwarded, in one line. It is
	// called from several goroutines.
	Say func(string)
	// Log gets details; nil drops them.
	Log *slog.Logger
}

// Forwarder is what is forwarded by way of one connection.
type Forwarder struct {
	client *ssh.Client
	o      Options
	ctx    context.Context
	stop   context.CancelFunc
	// slots are the connections that there may be.
	slots chan struct{}

	// asking is held while the node is asked for a listener: a channel from
	// it may come before the answer is here.
	asking sync.RWMutex

	mu        sync.Mutex
	changed   *sync.Cond // on mu: a connection has ended
	listeners map[net.Listener]struct{}
	specs     []Spec           // that are listened for, in order
	remote    map[Address]Spec // by what the node calls it
	handled   map[string]bool  // kinds of channel
	open      map[*connection]struct{}
	agents    int
	said      map[string]bool
	closed    bool
}

// connection is one that is forwarded.
type connection struct{ says string }

// New makes a Forwarder that forwards nothing yet. Close it.
func New(client *ssh.Client, o Options) *Forwarder {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Say == nil {
		o.Say = func(string) {}
	}
	f := &Forwarder{
		client: client, o: o, slots: make(chan struct{}, maxConnections),
		listeners: map[net.Listener]struct{}{}, remote: map[Address]Spec{}, handled: map[string]bool{},
		open: map[*connection]struct{}{}, said: map[string]bool{},
	}
	f.changed = sync.NewCond(&f.mu)
	f.ctx, f.stop = context.WithCancel(context.Background())
	return f
}

// Close ends all that is forwarded, and removes the sockets that were made.
func (f *Forwarder) Close() {
	f.stop()
	f.mu.Lock()
	defer f.mu.Unlock()
	f.closed = true
	for l := range f.listeners {
		l.Close()
	}
	clear(f.listeners)
}

// Wait returns when nothing is being forwarded any more, or ctx ends. What the
// agent is used for is not waited for: it ends with the session.
func (f *Forwarder) Wait(ctx context.Context) {
	defer context.AfterFunc(ctx, func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.changed.Broadcast()
	})()
	f.mu.Lock()
	defer f.mu.Unlock()
	for len(f.open) > 0 && ctx.Err() == nil {
		f.changed.Wait()
	}
}

// Open tells how many connections there are, without the agent's.
func (f *Forwarder) Open() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.open)
}

// List tells what is listened for, and the connections that there are, one line
// each.
func (f *Forwarder) List() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var lines []string
	for _, s := range f.specs {
		lines = append(lines, s.Flag())
	}
	var open []string
	for c := range f.open {
		open = append(open, "open: "+c.says)
	}
	slices.Sort(open)
	return append(lines, open...)
}

// ErrRefused: the node does not listen for us. It says no more.
var ErrRefused = errors.New("the node refused it")

// Start begins to forward s. port is what the node chose where s left it to
// it. Its errors are one line.
func (f *Forwarder) Start(ctx context.Context, s Spec) (port uint16, err error) {
	if f.started() >= maxListeners {
		return 0, fmt.Errorf("cannot listen at %s: more than %d listeners at once", s.Listen, maxListeners)
	}
	if s.Remote {
		return f.startRemote(ctx, s)
	}
	listeners, err := f.o.listen(ctx, s.Listen)
	if err != nil {
		return 0, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.specs = append(f.specs, s)
	for _, l := range listeners {
		if f.closed {
			l.Close()
			continue
		}
		f.listeners[l] = struct{}{}
		go f.accept(l, s)
	}
	return 0, nil
}

func (f *Forwarder) started() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.specs)
}

// accept takes connections to l. Where there are too many, the next ones wait.
func (f *Forwarder) accept(l net.Listener, s Spec) {
	for f.ctx.Err() == nil {
		conn, err := l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			f.o.Log.Debug("a connection was not accepted", "listener", s.Listen.String(), "error", err)
			select {
			case <-f.ctx.Done():
			case <-time.After(acceptPause):
			}
			continue
		}
		select {
		case f.slots <- struct{}{}:
		case <-f.ctx.Done():
			conn.Close()
			return
		}
		go func() {
			defer func() { <-f.slots }()
			defer f.recovered()
			defer conn.Close()
			f.fromHere(conn, s)
		}()
	}
}

// recovered keeps a fault in one connection from ending the program, whose
// terminal may be raw.
func (f *Forwarder) recovered() {
	if v := recover(); v != nil {
		f.say(fmt.Sprintf("internal error: %v", v))
	}
}

// fromHere brings what was accepted here to where it goes from the node.
func (f *Forwarder) fromHere(conn net.Conn, s Spec) {
	to, request := s.To, (*socksRequest)(nil)
	if s.Dynamic() {
		var err error
		if to, request, err = askedFor(f.ctx, conn); err != nil {
			f.o.Log.Debug("no request of SOCKS", "listener", s.Listen.String(), "error", err)
			return
		}
	}
	defer f.track(s.Flag(), to)()
	channel, requests, err := f.client.OpenChannel(directTo(to, conn.RemoteAddr()))
	if err != nil {
		f.sayOpen(to, err)
		request.refuse(conn, err)
		return
	}
	if err := request.grant(conn); err != nil {
		_ = channel.Close()
		return
	}
	carry(f.ctx, channel, requests, conn.(socket)) // TCP's or UNIX's
}

// directTo is the channel to a, with who has connected (RFC 4254 section 7.2;
// OpenSSH's PROTOCOL, section 2.4).
func directTo(a Address, peer net.Addr) (kind string, payload []byte) {
	host, port := "127.0.0.1", uint32(0)
	if tcp, ok := peer.(*net.TCPAddr); ok {
		host, port = tcp.IP.String(), uint32(tcp.Port)
	}
	if a.Path != "" {
		return "direct-streamlocal@openssh.com", ssh.Marshal(struct {
			Path, Reserved string
			Unused         uint32
		}{Path: a.Path})
	}
	return "direct-tcpip", ssh.Marshal(struct {
		Host   string
		Port   uint32
		Origin string
		From   uint32
	}{a.Host, uint32(a.Port), host, port})
}

// askedFor reads where a client of SOCKS wants to go, in its time.
func askedFor(ctx context.Context, s io.ReadWriteCloser) (Address, *socksRequest, error) {
	ctx, cancel := context.WithTimeout(ctx, socksTimeout)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { s.Close() })
	request, err := readSOCKS(s)
	if !stop() && err == nil {
		err = context.Cause(ctx)
	}
	return request.to, &request, err
}

// grant and refuse answer a request of SOCKS; nil is none.
func (r *socksRequest) grant(w io.Writer) error {
	if r == nil {
		return nil
	}
	return r.answer(w, socksGranted)
}

func (r *socksRequest) refuse(w io.Writer, err error) {
	if r == nil {
		return
	}
	answer := socksUnreachable
	if open, ok := errors.AsType[*ssh.OpenChannelError](err); ok && open.Reason == ssh.Prohibited {
		answer = socksNotAllowed
	} else if errors.Is(err, syscall.ECONNREFUSED) {
		answer = socksRefused
	}
	_ = r.answer(w, answer) // it is closed next
}

// track notes a connection until what it returns is called.
func (f *Forwarder) track(flag string, to Address) (done func()) {
	c := &connection{says: flag + " to " + to.String()}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.open[c] = struct{}{}
	return func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		delete(f.open, c)
		f.changed.Broadcast()
	}
}

func (f *Forwarder) takeAgent() (release func(), ok bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.agents >= maxAgents {
		return nil, false
	}
	f.agents++
	return func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.agents--
	}, true
}

// sayOpen tells why the node does not connect. What it does not allow at all is
// told once, and not for each place.
func (f *Forwarder) sayOpen(to Address, err error) {
	open, ok := errors.AsType[*ssh.OpenChannelError](err)
	switch {
	case !ok: // the connection has ended, which is told elsewhere
	case open.Reason == ssh.Prohibited:
		f.say(fmt.Sprintf("forwarding failed: %v: %s", open.Reason, oneLine(open.Message)))
	default:
		f.say(fmt.Sprintf("forwarding to %s failed: %v: %s", to, open.Reason, oneLine(open.Message)))
	}
}

// say tells the person a line, once, and not more than some.
func (f *Forwarder) say(line string) {
	f.mu.Lock()
	known := f.said[line] || len(f.said) >= maxSaid
	if !known {
		f.said[line] = true
	}
	last := !known && len(f.said) == maxSaid
	f.mu.Unlock()
	f.o.Log.Debug("not forwarded", "reason", line)
	if known {
		return
	}
	f.o.Say(line)
	if last {
		f.o.Say("what else cannot be forwarded is not told: see it with --debug")
	}
}

// oneLine makes text of a node's fit for a line.
func oneLine(text string) string {
	if len(text) > maxReason {
		text = text[:maxReason]
	}
	text = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) || unicode.In(r, unicode.Cf, unicode.Zl, unicode.Zp) {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(text, ""))
	return strings.Join(strings.Fields(text), " ")
}
