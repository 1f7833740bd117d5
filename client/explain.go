package client

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"syscall"
	"time"

	"connectrpc.com/connect"

	"devicetrust/api"
)

// untrusted: the server at proxy is not believed.
type untrusted struct {
	proxy string
	now   time.Time
	why   error
}

func (e *untrusted) Error() string { return fmt.Sprintf("cannot trust %s: %v", e.proxy, e.why) }
func (e *untrusted) Unwrap() error { return e.why }

// refusal says it for a person.
func (e *untrusted) refusal() *api.Refusal {
	say := func(format string, args ...any) *api.Refusal {
		return api.Refuse(connect.CodeUnavailable, "cannot trust %s: %s", e.proxy, fmt.Sprintf(format, args...))
	}
	if pin, ok := errors.AsType[*pinMismatch](e.why); ok {
		return say("%v", pin).
			WithHint("Somebody may be in between, or the pin is another cluster's. %s", hintPin)
	}
	if _, ok := errors.AsType[x509.UnknownAuthorityError](e.why); ok {
		return say("its certificate is not signed by an authority that is known here").
			WithHint("Pass the cluster's pin: --ca-pin=sha256:… (%s)", "an administrator sees it with: dtctl status")
	}
	if invalid, ok := errors.AsType[x509.CertificateInvalidError](e.why); ok {
		if invalid.Reason == x509.Expired && invalid.Cert != nil {
			return say("its certificate is valid from %s to %s, and this machine's clock says %s",
				stamp(invalid.Cert.NotBefore, e.now), stamp(invalid.Cert.NotAfter, e.now), stamp(e.now, e.now)).
				WithHint("%s If it is right, the server's certificate has to be renewed.", hintClock)
		}
		return say("its certificate is not for servers or does not fit its authority").
			WithHint("Something else than dtauthd answers there.")
	}
	if name, ok := errors.AsType[x509.HostnameError](e.why); ok {
		return say("%v", name).
			WithHint("Use one of the addresses that dtauthd was started with (--public-addr).")
	}
	return say("%v", e.why)
}

// wrongClock: this machine's clock and the server's are too far apart.
type wrongClock struct {
	proxy        string
	ours, theirs time.Time
}

func (e *wrongClock) Error() string { return e.refusal().Message }

func (e *wrongClock) refusal() *api.Refusal {
	side, off := "ahead of", e.ours.Sub(e.theirs)
	if off < 0 {
		side, off = "behind", -off
	}
	return api.Refuse(connect.CodeFailedPrecondition, "this machine's clock is %s %s that of %s: it says %s",
		off.Round(time.Second), side, e.proxy, stamp(e.ours, e.ours)).WithHint(hintClock)
}

const hintClock = "Set this machine's clock, for example with: sudo timedatectl set-ntp true."

// stamp is t as the person reads times, whose zone is that of their clock.
func stamp(t, now time.Time) string {
	return t.In(now.Location()).Format("2006-01-02 15:04:05 -0700")
}

// Explain puts an error of a call to the dtauthd at proxy into words for a
// person: a *api.Refusal with what to do about it, where that is known. Errors
// that are no fault of the connection come back as they are.
func Explain(proxy string, err error) error {
	if err == nil {
		return nil
	}
	if r, ok := errors.AsType[*api.Refusal](err); ok {
		return r
	}
	if u, ok := errors.AsType[*untrusted](err); ok {
		return u.refusal()
	}
	if c, ok := errors.AsType[*wrongClock](err); ok {
		return c.refusal()
	}
	ce, ok := errors.AsType[*connect.Error](err)
	if !ok {
		return err
	}
	if connect.IsWireError(ce) {
		return api.FromWire(err)
	}
	if errors.Is(err, context.Canceled) {
		return err // the person's own doing
	}
	return transport(proxy, ce)
}

// transport explains faults below the API.
func transport(proxy string, err *connect.Error) *api.Refusal {
	unreachable := func(format string, args ...any) *api.Refusal {
		return api.Refuse(connect.CodeUnavailable, "cannot reach %s: %s", proxy, fmt.Sprintf(format, args...)).
			WithHint("Check the address, and that dtauthd runs there.")
	}
	if _, ok := errors.AsType[tls.RecordHeaderError](err); ok || errors.Is(err, http.ErrSchemeMismatch) {
		return unreachable("it does not speak TLS")
	}
	if dns, ok := errors.AsType[*net.DNSError](err); ok {
		return unreachable("%s", dns.Err)
	}
	if isHangUp(err) {
		return unreachable("it closed the connection")
	}
	if errno, ok := errors.AsType[syscall.Errno](err); ok {
		return unreachable("%s", errno.Error())
	}
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, os.ErrDeadlineExceeded) {
		return unreachable("no answer in time")
	}
	if op, ok := errors.AsType[*net.OpError](err); ok {
		if op.Timeout() {
			return unreachable("no answer in time")
		}
		if op.Op == "remote error" { // crypto/tls: an alert
			return api.Refuse(connect.CodeUnauthenticated, "%s does not accept the connection: %v", proxy, op.Err).
				WithHint("If you are logged in, log in again: dtsh login")
		}
		return unreachable("%v", op.Err)
	}
	if code := connect.CodeOf(err); code == connect.CodeUnimplemented || code == connect.CodeUnknown {
		return unreachable("what answers there is not dtauthd")
	}
	return unreachable("%v", err.Unwrap())
}

func isHangUp(err error) bool {
	for _, e := range []error{io.EOF, io.ErrUnexpectedEOF, syscall.ECONNRESET, syscall.EPIPE} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}
