package client

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"log/slog"
	"net"
	"net/http"
	"sync/atomic"
	"time"

	"connectrpc.com/connect"

	"devicetrust/api/dtv1/dtv1connect"
	"devicetrust/identity"
)

// Services are the API's clients.
type Services struct {
	Login    dtv1connect.LoginServiceClient
	Device   dtv1connect.DeviceServiceClient
	Admin    dtv1connect.AdminServiceClient
	Resource dtv1connect.ResourceServiceClient
	// Address is how errors call the server: what Explain is given for those
	// of streams.
	Address string
}

// NewServices makes the API's clients on an HTTP client. address is how
// errors call the server. Unary calls get a time limit where ctx has none,
// and their errors come explained (Explain); those of streams do not.
func NewServices(h connect.HTTPClient, url, address string) Services {
	opts := []connect.ClientOption{
		connect.WithReadMaxBytes(maxResponse),
		connect.WithInterceptors(manners(address)),
	}
	return Services{
		Login:    dtv1connect.NewLoginServiceClient(h, url, opts...),
		Device:   dtv1connect.NewDeviceServiceClient(h, url, opts...),
		Admin:    dtv1connect.NewAdminServiceClient(h, url, opts...),
		Resource: dtv1connect.NewResourceServiceClient(h, url, opts...),
		Address:  address,
	}
}

// manners bounds unary calls in time and explains their errors.
func manners(address string) connect.UnaryInterceptorFunc {
	return func(next connect.UnaryFunc) connect.UnaryFunc {
		return func(ctx context.Context, req connect.AnyRequest) (connect.AnyResponse, error) {
			if _, ok := ctx.Deadline(); !ok {
				var cancel context.CancelFunc
				ctx, cancel = context.WithTimeout(ctx, limitOf(req.Spec().Procedure))
				defer cancel()
			}
			resp, err := next(ctx, req)
			return resp, Explain(address, err)
		}
	}
}

func limitOf(procedure string) time.Duration {
	if procedure == dtv1connect.AdminServiceVerifyAuditProcedure {
		return verifyTimeout
	}
	return callTimeout
}

// Conn is a connection to one dtauthd. Close it.
type Conn struct {
	Services
	// Proxy is the dtauthd's HOST:PORT.
	Proxy string

	http      *http.Client
	inChip    bool // the key that it shows is
	transport *http.Transport
	root      atomic.Pointer[x509.Certificate]
}

// Options are what connections need of the world.
type Options struct {
	Now func() time.Time
	// Log gets details for --debug; nil drops them.
	Log *slog.Logger
}

func (o Options) log() *slog.Logger {
	if o.Log == nil {
		return slog.New(slog.DiscardHandler)
	}
	return o.Log
}

// Dial gives an API connection as the person who is logged in with p. Nothing
// is sent before the first call. A login that has expired is refused.
func Dial(p *Profile, o Options) (*Conn, error) {
	creds, err := p.Credentials()
	if err != nil {
		return nil, err
	}
	if err := creds.check(o.Now()); err != nil {
		return nil, err
	}
	return dial(p.Proxy, p.Trust, creds.tls(), o)
}

// DialAnonymous gives an API connection to proxy (HOST:PORT) as nobody, for
// what comes before a login.
func DialAnonymous(proxy string, trust Trust, o Options) (*Conn, error) {
	return dial(proxy, trust, nil, o)
}

func dial(proxy string, trust Trust, cert *tls.Certificate, o Options) (*Conn, error) {
	c := &Conn{Proxy: proxy}
	guard := guard{proxy: proxy, now: o.Now, failed: func() error { return nil }}
	if cert != nil {
		if inChip, ok := cert.PrivateKey.(*chipKey); ok {
			key := &notingKey{Signer: inChip}
			noting := *cert
			noting.PrivateKey = key
			cert, guard.failed, c.inChip = &noting, key.failed, true
		}
	}
	config, err := trust.tlsConfig(proxy, cert, o.Now, func(root *x509.Certificate) {
		c.root.Store(root)
		o.log().Debug("server believed", "server", proxy, "authority", identity.PinOf(root))
	})
	if err != nil {
		return nil, err
	}
	var protocols http.Protocols
	protocols.SetHTTP2(true) // ceremonies are streams in both directions
	c.transport = &http.Transport{
		DialContext:           (&net.Dialer{Timeout: dialTimeout}).DialContext,
		TLSClientConfig:       config,
		TLSHandshakeTimeout:   handshakeTimeout,
		ResponseHeaderTimeout: verifyTimeout, // calls and ceremonies have ends of their own
		IdleConnTimeout:       ceremonyTimeout,
		Protocols:             &protocols,
		HTTP2:                 &http.HTTP2Config{SendPingTimeout: keepaliveInterval, PingTimeout: dialTimeout},
	}
	guard.next = c.transport
	c.http = &http.Client{
		Transport: guard,
		// The API does not redirect; whatever does is something else, which
		// must not be handed the request.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	c.Services = NewServices(c.http, "https://"+proxy, proxy)
	return c, nil
}

// shakeHands has the TLS handshake behind it where that takes a signature of
// the TPM: a ceremony has the TPM for itself.
func (c *Conn) shakeHands(ctx context.Context) error {
	if !c.inChip {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+c.Proxy+"/v1/webapi/find", nil)
	if err != nil {
		return err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return Explain(c.Proxy, connect.NewError(connect.CodeUnavailable, err))
	}
	return resp.Body.Close() // whatever it says, it is there
}

// Close ends the connection.
func (c *Conn) Close() { c.transport.CloseIdleConnections() }

// guard refuses answers of a server whose clock is too far from ours:
// certificates would be expired or not yet valid on one of the sides, and
// nobody would see why.
type guard struct {
	next  http.RoundTripper
	proxy string
	now   func() time.Time
	// failed is why our key could not sign the last handshake; nil where it
	// did.
	failed func() error
}

func (g guard) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := g.next.RoundTrip(r)
	if err != nil {
		if failed := g.failed(); failed != nil {
			return nil, failed
		}
		return nil, err
	}
	theirs, ok := serverTime(resp)
	if ours := g.now(); ok && ours.Sub(theirs).Abs() > clockTolerance {
		resp.Body.Close()
		return nil, &wrongClock{proxy: g.proxy, ours: ours, theirs: theirs}
	}
	return resp, nil
}

// serverTime: a server without a clock sends no date (RFC 9110 section 6.6.1).
func serverTime(resp *http.Response) (time.Time, bool) {
	t, err := http.ParseTime(resp.Header.Get("Date"))
	return t, err == nil
}
