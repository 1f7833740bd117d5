package forward

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"

	"golang.org/x/crypto/ssh"
)

// Kinds of channel that a node opens for what connects to its listeners
// (RFC 4254 section 7.2; OpenSSH's PROTOCOL, section 2.4).
const (
	forwardedPort   = "forwarded-tcpip"
	forwardedSocket = "forwarded-streamlocal@openssh.com"
)

// startRemote has the node listen. One that does not answer is hung up on: what
// waits for an answer waits for the connection.
func (f *Forwarder) startRemote(ctx context.Context, s Spec) (port uint16, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, answerTimeout, errNoAnswer)
	defer cancel()
	defer context.AfterFunc(ctx, func() { _ = f.client.Close() })()
	kind, read := forwardedPort, readForwardedPort
	if s.Listen.Path != "" {
		kind, read = forwardedSocket, readForwardedSocket
	}
	if err := f.handle(kind, func(opened ssh.NewChannel) { f.fromNode(opened, read) }); err != nil {
		return 0, err
	}
	f.asking.Lock()
	defer f.asking.Unlock()
	at := asked(s.Listen)
	if _, twice := f.remote[at]; twice {
		return 0, fmt.Errorf("%s is listened for already", s.Listen)
	}
	name, payload := "tcpip-forward", ssh.Marshal(struct {
		Host string
		Port uint32
	}{at.Host, uint32(at.Port)})
	if at.Path != "" {
		name, payload = "streamlocal-forward@openssh.com", ssh.Marshal(struct{ Path string }{at.Path})
	}
	ok, reply, err := f.client.SendRequest(name, true, payload)
	if cause := context.Cause(ctx); err != nil && cause != nil {
		return 0, fmt.Errorf("remote port forwarding failed for %s: %w", s.Listen, cause)
	}
	if err != nil {
		return 0, errors.New("the connection ended")
	}
	if !ok {
		return 0, fmt.Errorf("remote port forwarding failed for %s: %w", s.Listen, ErrRefused)
	}
	if at.Path == "" && at.Port == 0 {
		var given struct{ Port uint32 }
		if err := ssh.Unmarshal(reply, &given); err != nil || given.Port == 0 || given.Port > 1<<16-1 {
			return 0, fmt.Errorf("remote port forwarding failed for %s: the node says no port", s.Listen)
		}
		at.Port = uint16(given.Port)
		s.Listen.Port = at.Port
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.remote[at] = s
	f.specs = append(f.specs, s)
	return at.Port, nil
}

var errNoAnswer = errors.New("the node does not answer")

// asked is a listener as the node is asked for it, which is how it calls it
// afterwards (OpenSSH, channels.c, channel_rfwd_bind_host).
func asked(a Address) Address {
	switch {
	case a.Path != "":
	case a.Host == "":
		a.Host = "localhost"
	case a.Host == "*":
		a.Host = ""
	}
	return a
}

// handle takes the channels of a kind that the node opens, from now on.
func (f *Forwarder) handle(kind string, take func(ssh.NewChannel)) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.handled[kind] {
		return nil
	}
	opened := f.client.HandleChannelOpen(kind)
	if opened == nil {
		return fmt.Errorf("channels of kind %q are somebody else's, or the connection has ended", kind)
	}
	f.handled[kind] = true
	// Nothing in this loop waits for what the node may hold back: all else of
	// the connection is behind it.
	go func() {
		for c := range opened {
			select {
			case f.slots <- struct{}{}:
				go func() {
					defer func() { <-f.slots }()
					defer f.recovered()
					take(c)
				}()
			default:
				_ = c.Reject(ssh.ResourceShortage, "too many forwarded connections at once")
			}
		}
	}()
	return nil
}

func readForwardedPort(payload []byte) (Address, error) {
	var raw struct {
		Host   string
		Port   uint32
		Origin string
		From   uint32
	}
	if err := ssh.Unmarshal(payload, &raw); err != nil || raw.Port > 1<<16-1 {
		return Address{}, errMalformed
	}
	return Address{Host: raw.Host, Port: uint16(raw.Port)}, nil
}

func readForwardedSocket(payload []byte) (Address, error) {
	var raw struct{ Path, Reserved string }
	if err := ssh.Unmarshal(payload, &raw); err != nil || raw.Path == "" {
		return Address{}, errMalformed
	}
	return Address{Path: raw.Path}, nil
}

var errMalformed = errors.New("a channel that is not well formed")

// fromNode brings what has connected on the node to where it goes from here.
func (f *Forwarder) fromNode(opened ssh.NewChannel, read func([]byte) (Address, error)) {
	at, err := read(opened.ExtraData())
	if err != nil {
		_ = opened.Reject(ssh.ConnectionFailed, err.Error())
		return
	}
	f.asking.RLock()
	f.mu.Lock()
	s, ok := f.remote[at]
	f.mu.Unlock()
	f.asking.RUnlock()
	if !ok {
		f.o.Log.Debug("the node opened a channel for a listener that nobody asked for", "listener", fmt.Sprintf("%.128q", at.String()))
		_ = opened.Reject(ssh.Prohibited, "nobody asked for that")
		return
	}
	if s.Dynamic() {
		f.fromNodeBySOCKS(opened, s)
		return
	}
	defer f.track(s.Flag(), s.To)()
	conn, err := dial(f.ctx, s.To)
	if err != nil {
		f.say(fmt.Sprintf("forwarding to %s failed: %v", s.To, err))
		_ = opened.Reject(ssh.ConnectionFailed, err.Error())
		return
	}
	channel, requests, err := opened.Accept()
	if err != nil { // the connection is gone
		conn.Close()
		return
	}
	carry(f.ctx, channel, requests, conn.(socket))
}

// fromNodeBySOCKS is a SOCKS proxy on a channel.
func (f *Forwarder) fromNodeBySOCKS(opened ssh.NewChannel, s Spec) {
	channel, requests, err := opened.Accept()
	if err != nil {
		return
	}
	to, request, err := askedFor(f.ctx, channel)
	if err != nil {
		f.o.Log.Debug("no request of SOCKS", "listener", s.Listen.String(), "error", err)
		_ = channel.Close()
		ssh.DiscardRequests(requests)
		return
	}
	defer f.track(s.Flag(), to)()
	conn, err := dial(f.ctx, to)
	if err == nil {
		err = request.grant(channel)
	} else {
		f.say(fmt.Sprintf("forwarding to %s failed: %v", to, err))
		request.refuse(channel, err)
	}
	if err != nil {
		if conn != nil {
			conn.Close()
		}
		_ = channel.Close()
		ssh.DiscardRequests(requests)
		return
	}
	carry(f.ctx, channel, requests, conn.(socket))
}

// dial connects from here.
func dial(ctx context.Context, to Address) (net.Conn, error) {
	d := net.Dialer{Timeout: dialTimeout}
	network, address := "tcp", net.JoinHostPort(to.Host, strconv.Itoa(int(to.Port)))
	if to.Path != "" {
		network, address = "unix", to.Path
	}
	conn, err := d.DialContext(ctx, network, address)
	if err != nil {
		return nil, innermost(err)
	}
	return conn, nil
}
