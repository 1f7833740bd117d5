package client

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"syscall"
	"time"

	"connectrpc.com/connect"
	"golang.org/x/crypto/ssh"

	"devicetrust/api"
	"devicetrust/identity"
)

// SSHLogin is one way into one node.
type SSHLogin struct {
	Login       string
	Target      Target
	Credentials Credentials
	// Authorities are the cluster's host authorities: a node without a
	// certificate of one of them is not spoken to.
	Authorities []ssh.PublicKey
	// Banner gets what the node shows before authentication.
	Banner io.Writer
	// Via, where set, is a node by way of which this one is reached. It carries
	// bytes: both ends are verified as without it.
	Via *ssh.Client
	// Verified, where set, is called with the certificate that the node proved,
	// once.
	Verified func(ssh.PublicKey)
	// Timeout of the connection, and of the handshake after it; zero is the
	// usual one.
	Timeout time.Duration
}

// Connect opens the connection. Errors are *api.Refusal where a person can do
// something about them.
func (l SSHLogin) Connect(ctx context.Context, o Options) (*ssh.Client, error) {
	if err := l.Credentials.check(o.Now()); err != nil {
		return nil, err
	}
	signer, err := l.Credentials.Signer()
	if err != nil {
		return nil, err
	}
	tcp, err := l.dial(ctx, o)
	if err != nil {
		return nil, err
	}
	host := hostVerifier{check: identity.HostCheck{Authorities: l.Authorities, Names: []string{l.Target.Name}}, now: o.Now}
	banners := banners{login: l.Login, show: l.Banner, left: maxBanner}
	config := &ssh.ClientConfig{
		Config:            algorithms(),
		User:              l.Login,
		Auth:              []ssh.AuthMethod{ssh.PublicKeys(signer)},
		HostKeyCallback:   host.verify,
		HostKeyAlgorithms: hostKeyAlgorithms(),
		BannerCallback:    banners.take,
		ClientVersion:     "SSH-2.0-dtsh",
	}
	conn, err := l.handshake(ctx, tcp, config)
	if err != nil {
		o.log().Debug("no SSH connection", "address", tcp.RemoteAddr().String(), "error", err)
		return nil, l.explain(err, &host, &banners)
	}
	if l.Verified != nil {
		l.Verified(host.verified)
	}
	return conn, nil
}

// dial tries the target's addresses, one after another.
func (l SSHLogin) dial(ctx context.Context, o Options) (net.Conn, error) {
	dial := (&net.Dialer{Timeout: l.timeout(dialTimeout)}).DialContext
	if l.Via != nil {
		dial = l.dialVia
	}
	var last error
	for _, address := range l.Target.Addresses {
		conn, err := dial(ctx, "tcp", address)
		if err == nil {
			return conn, nil
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		o.log().Debug("no TCP connection", "address", address, "error", err)
		last = err
	}
	if _, refused := errors.AsType[*ssh.OpenChannelError](last); refused {
		return nil, api.Refuse(connect.CodeUnavailable, "cannot reach %s at %s from the node before it: %s",
			l.Target.Shown, strings.Join(l.Target.Addresses, ", "), networkReason(last)).
			WithHint("That node has to reach it, and your roles have to allow port forwarding there.")
	}
	return nil, api.Refuse(connect.CodeUnavailable, "cannot reach %s at %s: %s",
		l.Target.Shown, strings.Join(l.Target.Addresses, ", "), networkReason(last)).
		WithHint("Check that the node runs and that a firewall lets you through.")
}

// dialVia has Via connect to address (RFC 4254 section 7.2).
func (l SSHLogin) dialVia(ctx context.Context, network, address string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, l.timeout(viaTimeout))
	defer cancel()
	conn, err := l.Via.DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	return viaConn{conn, l.Via}, nil
}

// viaConn is a connection by way of a node. Closing it closes the way: a channel
// alone goes on until that node answers, which it need not.
type viaConn struct {
	net.Conn
	via *ssh.Client
}

func (c viaConn) Close() error { return c.via.Close() }

func (l SSHLogin) timeout(usual time.Duration) time.Duration {
	if l.Timeout > 0 {
		return l.Timeout
	}
	return usual
}

// networkReason is the innermost cause, without addresses.
func networkReason(err error) string {
	if open, ok := errors.AsType[*ssh.OpenChannelError](err); ok {
		return fmt.Sprintf("%v: %s", open.Reason, strippedLine(open.Message))
	}
	if dns, ok := errors.AsType[*net.DNSError](err); ok {
		return dns.Err
	}
	if errno, ok := errors.AsType[syscall.Errno](err); ok {
		return errno.Error()
	}
	if ne, ok := errors.AsType[net.Error](err); ok && ne.Timeout() {
		return "no answer in time"
	}
	return fmt.Sprint(err)
}

// handshake authenticates both sides, within handshakeTimeout.
func (l SSHLogin) handshake(ctx context.Context, tcp net.Conn, config *ssh.ClientConfig) (*ssh.Client, error) {
	ctx, cancel := context.WithTimeout(ctx, l.timeout(handshakeTimeout))
	defer cancel()
	// Closing ends the handshake wherever it is; x/crypto knows no context.
	stop := context.AfterFunc(ctx, func() { _ = tcp.Close() })
	conn, channels, requests, err := ssh.NewClientConn(tcp, l.Target.Addresses[0], config)
	if !stop() {
		if err == nil {
			_ = conn.Close() // it came too late
		}
		return nil, context.Cause(ctx)
	}
	if err != nil {
		return nil, err
	}
	return ssh.NewClient(conn, channels, requests), nil
}

// algorithms are x/crypto's without SHA-1, which its defaults still hold.
func algorithms() ssh.Config {
	a := ssh.SupportedAlgorithms()
	return ssh.Config{
		KeyExchanges: a.KeyExchanges,
		Ciphers:      a.Ciphers,
		MACs:         []string{ssh.HMACSHA256ETM, ssh.HMACSHA512ETM, ssh.HMACSHA256, ssh.HMACSHA512},
	}
}

// hostKeyAlgorithms are certificates only: a plain key says nothing to us.
func hostKeyAlgorithms() []string {
	return []string{
		ssh.CertAlgoED25519v01,
		ssh.CertAlgoECDSA256v01, ssh.CertAlgoECDSA384v01, ssh.CertAlgoECDSA521v01,
		ssh.CertAlgoRSASHA512v01, ssh.CertAlgoRSASHA256v01,
	}
}

// hostVerifier verifies the node's certificate, and remembers how it went.
type hostVerifier struct {
	check identity.HostCheck
	now   func() time.Time
	// verified is the certificate that was accepted.
	verified ssh.PublicKey
	refused  error
}

// verify is an ssh.HostKeyCallback. Each rekeying asks again: a long session
// goes on with the certificate that it began with.
func (h *hostVerifier) verify(_ string, _ net.Addr, key ssh.PublicKey) error {
	if h.verified != nil && bytes.Equal(h.verified.Marshal(), key.Marshal()) {
		return nil
	}
	h.check.Now = h.now()
	if h.refused = h.check.Check(key); h.refused != nil {
		return h.refused
	}
	h.verified = key
	return nil
}

// explain says why there is no connection.
func (l SSHLogin) explain(err error, host *hostVerifier, b *banners) error {
	shown := l.Target.Shown
	switch {
	case errors.Is(err, context.Canceled):
		return err
	case host.refused != nil:
		return hostRefusal(l.Target, host.refused)
	case b.denial != "":
		return b.refusal(shown)
	case errors.Is(err, context.DeadlineExceeded):
		return api.Refuse(connect.CodeUnavailable, "%s does not answer as an SSH server", shown)
	}
	if n, ok := errors.AsType[*ssh.AlgorithmNegotiationError](err); ok {
		return api.Refuse(connect.CodeFailedPrecondition, "cannot trust %s: it has no host certificate, or no %s in common with us", shown, n.What).
			WithHint("Only nodes that joined the cluster have one: see dtsh ls")
	}
	_, isNet := errors.AsType[net.Error](err)
	if host.verified == nil || isNet || errors.Is(err, io.EOF) {
		return api.Refuse(connect.CodeUnavailable, "cannot connect to %s: %s", shown, strippedLine(err.Error()))
	}
	return b.refusal(shown)
}

func hostRefusal(t Target, err error) error {
	r := api.Refuse(connect.CodeFailedPrecondition, "cannot trust %s: %v", t.Shown, err)
	switch identity.ReasonOf(err) {
	case identity.ReasonExpired, identity.ReasonNotYetValid:
		return r.WithHint("%s", hintClock)
	case identity.ReasonAuthority:
		return r.WithHint("Another machine may be answering there. If the cluster got new authorities, learn them with: dtsh login")
	case identity.ReasonPrincipal:
		if !t.Listed {
			// It may be the right node by an address of no concern to it.
			return api.Refuse(connect.CodeFailedPrecondition, "cannot trust %s: the node's certificate does not have %q in it", t.Shown, t.Name).
				WithHint("Use the node's name, which dtsh ls shows, or an address that it announces (--public-addr).")
		}
		return r.WithHint("Another node answers there: see dtsh ls")
	default:
		return r
	}
}
