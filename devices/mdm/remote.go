package mdm

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"connectrpc.com/connect"

	"devicetrust/api"
)

// Clock is the time, and how it passes.
type Clock struct {
	Now func() time.Time
	// Wait returns after d, or with ctx's error where that ends first; nil
	// really waits.
	Wait func(ctx context.Context, d time.Duration) error
}

func (c Clock) wait(ctx context.Context, d time.Duration) error {
	if c.Wait != nil {
		return c.Wait(ctx, d)
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}

// failed is why a source could not be read: for the administrator, and the
// record.
func failed(format string, args ...any) error {
	return api.Refuse(connect.CodeUnavailable, format, args...)
}

// serverURL is a URL that secrets may be sent to.
func serverURL(setting, text string) (*url.URL, error) {
	u, err := url.Parse(text)
	if err != nil || u.Host == "" || u.User != nil || u.Fragment != "" {
		// The text is not shown: somebody may have put a password there.
		return nil, fmt.Errorf("%s: want https://HOST, without a user or a password", setting)
	}
	// In the clear only to this very machine: a proxy that does the rest.
	ip := net.ParseIP(u.Hostname())
	if local := u.Hostname() == "localhost" || ip != nil && ip.IsLoopback(); u.Scheme != "https" && (u.Scheme != "http" || !local) {
		return nil, fmt.Errorf("%s: want https, or http to this machine itself", setting)
	}
	return u, nil
}

// remote speaks to one server, and to no other.
type remote struct {
	http  *http.Client
	clock Clock
	// authorize gives the token to show; empty is none. fresh asks for
	// another one than before, which the server refused.
	authorize func(ctx context.Context, fresh bool) (string, error)
	// discreet leaves out of errors what the server says: it was sent a
	// secret, and may repeat it.
	discreet bool
}

func newRemote(caFile string, clock Clock) (*remote, error) {
	roots, err := readCAs(caFile)
	if err != nil {
		return nil, fmt.Errorf("ca_file: %w", err)
	}
	transport := &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		DialContext:           (&net.Dialer{Timeout: dialTimeout}).DialContext,
		TLSHandshakeTimeout:   dialTimeout,
		ResponseHeaderTimeout: answerTimeout,
		IdleConnTimeout:       answerTimeout,
		MaxIdleConnsPerHost:   1,
		ForceAttemptHTTP2:     true,
		TLSClientConfig:       &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12},
	}
	client := &http.Client{
		Transport: transport,
		// Whoever can make a server redirect would be sent our token.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	noToken := func(context.Context, bool) (string, error) { return "", nil }
	return &remote{http: client, clock: clock, authorize: noToken}, nil
}

// transient may be gone at the next try, after a wait; 0 leaves it to us.
type transient struct {
	error
	after time.Duration
}

func (t transient) Unwrap() error { return t.error }

// unauthorized: another token may do.
type unauthorized struct{ error }

func (u unauthorized) Unwrap() error { return u.error }

// get gives the JSON at u. It tries again what may pass.
func (r *remote) get(ctx context.Context, u *url.URL) (body []byte, err error) {
	ctx, cancel := context.WithTimeout(ctx, pageTimeout)
	defer cancel()
	err = r.do(ctx, func(token string) (*http.Request, error) { return getRequest(ctx, u, token) }, func(res *http.Response) error {
		body, err = readJSON(res)
		return err
	})
	return body, err
}

func getRequest(ctx context.Context, u *url.URL, token string) (*http.Request, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, failed("the address cannot be asked for")
	}
	req.Header.Set("Accept", "application/json, text/csv;q=0.9, */*;q=0.1")
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	return req, nil
}

// do makes and sends requests until take has taken an answer, a failure is
// final, or there were enough of them.
func (r *remote) do(ctx context.Context, request func(token string) (*http.Request, error), take func(*http.Response) error) error {
	fresh := false
	for tries := 0; ; tries++ {
		token, err := r.authorize(ctx, fresh)
		if err != nil {
			return err
		}
		err = r.try(token, request, take)
		var t transient
		_, refused := errors.AsType[unauthorized](err)
		switch {
		case err == nil:
			return nil
		case refused && token != "" && !fresh:
			fresh = true
			continue
		case ctx.Err() != nil:
			return interrupted(ctx, err)
		case !errors.As(err, &t) || tries >= maxRetries:
			return err
		}
		wait := t.after
		if wait == 0 {
			wait = firstWait << tries
		}
		if wait > maxWait {
			return failed("%v, and asks to wait for %v", err, wait)
		}
		if err := r.clock.wait(ctx, wait); err != nil {
			return interrupted(ctx, t)
		}
	}
}

// interrupted tells our own time-out from a run that was ended.
func interrupted(ctx context.Context, err error) error {
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return failed("%v; given up after %v", err, pageTimeout)
	}
	return ctx.Err()
}

func (r *remote) try(token string, request func(token string) (*http.Request, error), take func(*http.Response) error) error {
	req, err := request(token)
	if err != nil {
		return err
	}
	res, err := r.http.Do(req)
	if err != nil {
		return notReached(req.URL, err)
	}
	defer res.Body.Close()
	return r.judge(res, token, take)
}

// notReached leaves out the URL that net/http quotes: a query can be a secret.
func notReached(u *url.URL, err error) error {
	var ue *url.Error
	if errors.As(err, &ue) {
		err = ue.Err
	}
	reason := failed("cannot reach %s: %v", u.Host, err)
	if _, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return reason
	}
	return transient{error: reason}
}

func (r *remote) judge(res *http.Response, token string, take func(*http.Response) error) error {
	host := res.Request.URL.Host
	switch code := res.StatusCode; {
	case code == http.StatusOK:
		return take(res)
	case code == http.StatusUnauthorized:
		if token == "" {
			return failed("%s refuses our credentials (401)%s", host, r.excerpt(res, token))
		}
		return unauthorized{failed("%s refuses our token, and a new one too (401)", host)}
	case code >= 300 && code < 400:
		return failed("%s answered %d, a redirection, which is not followed", host, code)
	case code == http.StatusTooManyRequests || code >= 500:
		return transient{failed("%s answered %d%s", host, code, r.excerpt(res, token)), r.retryAfter(res)}
	default:
		return failed("%s answered %d%s", host, code, r.excerpt(res, token))
	}
}

// retryAfter is RFC 9110, section 10.2.3: seconds, or a date.
func (r *remote) retryAfter(res *http.Response) time.Duration {
	value := res.Header.Get("Retry-After")
	if seconds, err := strconv.ParseUint(value, 10, 31); err == nil {
		return time.Duration(seconds) * time.Second
	}
	if at, err := http.ParseTime(value); err == nil {
		return max(0, at.Sub(r.clock.Now()))
	}
	return 0
}

// excerpt is what the server says beside the number, unless that may hold what
// we sent in confidence.
func (r *remote) excerpt(res *http.Response, token string) string {
	if r.discreet {
		return ""
	}
	text, err := io.ReadAll(io.LimitReader(res.Body, maxExcerpt))
	if err != nil || len(text) == 0 || token != "" && strings.Contains(string(text), token[:min(len(token), 16)]) {
		return ""
	}
	return fmt.Sprintf(": %q", text)
}

// readJSON reads an answer that says that it is JSON: a login page, or that
// of a proxy, comes with 200 too. What breaks off may come whole the next
// time.
func readJSON(res *http.Response) ([]byte, error) {
	host := res.Request.URL.Host
	kind, _, err := mime.ParseMediaType(res.Header.Get("Content-Type"))
	if err != nil || kind != "application/json" {
		return nil, failed("%s answers with %.64q, want application/json", host, res.Header.Get("Content-Type"))
	}
	body, err := readAll(res.Body, maxPage)
	if errors.Is(err, errTooLong) {
		return nil, failed("the answer of %s has more than %d bytes", host, maxPage)
	}
	if err != nil {
		return nil, transient{error: failed("the answer of %s breaks off: %v", host, err)}
	}
	return body, nil
}
