package cli

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	"devicetrust/api"
)

const (
	statusDone   = 0
	statusFailed = 1
	statusUsage  = 2
)

// ExitError makes the program leave with Status. Err is printed as any
// error is; where it is nil, nothing is: the command has said all there is.
type ExitError struct {
	Status int
	Err    error
}

func (e *ExitError) Error() string {
	if e.Err == nil {
		return fmt.Sprintf("exit status %d", e.Status)
	}
	return e.Err.Error()
}

func (e *ExitError) Unwrap() error { return e.Err }

// UsageError says that the command line was wrong: status 2, and a hint at
// the command's help. Commands return it (see Usagef) for what flags cannot
// express.
type UsageError struct{ Message string }

func (e *UsageError) Error() string { return e.Message }

// Usagef makes a UsageError.
func Usagef(format string, args ...any) error {
	return &UsageError{Message: fmt.Sprintf(format, args...)}
}

// Setting says of an err of a daemon that starts whether its command line was
// to blame: what is refused as an invalid argument is a setting that cannot be
// used. All else stays as it is.
func Setting(err error) error {
	if r, ok := errors.AsType[*api.Refusal](err); ok && r.Code == connect.CodeInvalidArgument {
		return &ExitError{Status: statusUsage, Err: err}
	}
	return err
}

// Hinter is an error of another package that knows what to do about it.
// *api.Refusal needs no method: its Hint is printed too.
type Hinter interface {
	error
	Hint() string
}

// leave prints err, where there is one, and tells the exit status.
func (e *Env) leave(ctx context.Context, cmd *cobra.Command, err error) int {
	if err == nil {
		return statusDone
	}
	status := statusFailed
	var exit *ExitError
	if errors.As(err, &exit) {
		if exit.Err == nil {
			return exit.Status
		}
		status, err = exit.Status, exit.Err
	}
	var usage *UsageError
	if errors.As(err, &usage) || !e.started {
		e.print(plainUsage(cmd, err.Error()), fmt.Sprintf("Try '%s --help'.", cmd.CommandPath()))
		return statusUsage
	}
	if e.debug {
		e.Log().Debug("failed", "error", err)
	}
	if ctx.Err() != nil && (errors.Is(err, context.Canceled) || connect.CodeOf(err) == connect.CodeCanceled) {
		var hint string
		if h, ok := errors.AsType[Hinter](err); ok {
			hint = h.Hint()
		}
		e.print("interrupted", hint)
		return status
	}
	e.print(Explain(err))
	return status
}

// PrintError prints err as a program's last words are printed, without
// leaving: for what goes wrong while the command as a whole goes on.
func (e *Env) PrintError(err error) { e.print(Explain(err)) }

func (e *Env) print(message, hint string) {
	fmt.Fprintf(e.Stderr, "ERROR: %s\n", Safe(message))
	if hint != "" {
		fmt.Fprintln(e.Stderr, Safe(hint))
	}
}

// Explain puts err into words for a person: one line, and what to do about
// it where that is known. Refusals of the server and faults of the network
// lose the wrapping that only a programmer reads.
func Explain(err error) (message, hint string) {
	var ce *connect.Error
	if errors.As(err, &ce) && connect.IsWireError(ce) {
		err = api.FromWire(err)
	}
	// First: it may wrap a refusal, and then knows more.
	if h, ok := errors.AsType[Hinter](err); ok {
		return err.Error(), h.Hint()
	}
	if r, ok := errors.AsType[*api.Refusal](err); ok {
		if ce != nil && !connect.IsWireError(ce) {
			return r.Message, r.Hint // made below the call that failed
		}
		return err.Error(), r.Hint
	}
	if message, hint = explainNetwork(err); message != "" {
		return message, hint
	}
	if ce != nil {
		return ce.Message(), ""
	}
	return err.Error(), ""
}

const hintReach = "Check the address, and that the server runs and can be reached from here."

const hintListen = "Name another address, or end the program that has this one."

func explainNetwork(err error) (message, hint string) {
	if dns, ok := errors.AsType[*net.DNSError](err); ok {
		return fmt.Sprintf("cannot find host %q: %s", dns.Name, dns.Err), "Check the name for a slip."
	}
	if _, ok := errors.AsType[x509.UnknownAuthorityError](err); ok {
		return "the server's certificate is not signed by an authority that is trusted here",
			"Pass the cluster's own pin with --ca-pin; dtauthd prints it at its start, and 'dtctl status' shows it."
	}
	if host, ok := errors.AsType[x509.HostnameError](err); ok {
		return fmt.Sprintf("the server's certificate is not for this address: %s", host.Error()),
			"Use the address that dtauthd announces (--public-addr)."
	}
	if op, ok := errors.AsType[*net.OpError](err); ok && op.Addr != nil {
		if op.Op == "listen" {
			return fmt.Sprintf("cannot listen on %s: %s", op.Addr, cause(op.Err)), hintListen
		}
		if op.Timeout() {
			return fmt.Sprintf("cannot reach %s: no answer in time", op.Addr), hintReach
		}
		if op.Op == "dial" {
			return fmt.Sprintf("cannot reach %s: %s", op.Addr, cause(op.Err)), hintReach
		}
		return fmt.Sprintf("the connection to %s broke: %s", op.Addr, cause(op.Err)), "Try again."
	}
	if errors.Is(err, context.DeadlineExceeded) || connect.CodeOf(err) == connect.CodeDeadlineExceeded {
		return "the server did not answer in time", hintReach
	}
	if u, ok := errors.AsType[*url.Error](err); ok {
		if errors.Is(u.Err, io.EOF) || errors.Is(u.Err, io.ErrUnexpectedEOF) {
			return "the server closed the connection", "Try again; the server's log tells why."
		}
		return u.Err.Error(), ""
	}
	return "", ""
}

// cause drops the name of the system call.
func cause(err error) error {
	if s, ok := errors.AsType[*os.SyscallError](err); ok {
		return s.Err
	}
	return err
}
