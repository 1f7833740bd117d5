package tpm

import (
	"cmp"
	"context"
	"errors"
	"io/fs"
	"strings"
	"syscall"

	"connectrpc.com/connect"
	"github.com/google/go-tpm/tpm2"

	"devicetrust/api"
)

// Open connects to the TPM at address: DefaultAddress or the path of a device,
// "unix:PATH" or "tcp:HOST:PORT" of a command socket; "" is DefaultAddress. What dead
// programs left in the TPM is flushed. The errors are *api.Refusal with what
// to do; where ctx ended first, its cause.
func Open(ctx context.Context, address string, options ...Option) (*TPM, error) {
	if address == "" {
		address = DefaultAddress
	}
	l, err := openLine(ctx, address)
	if errors.Is(ctx.Err(), context.Canceled) {
		return nil, context.Cause(ctx)
	}
	if err != nil {
		return nil, openRefusal(address, err)
	}
	t := newTPM(l, options...)
	if err := t.flushLeftovers(ctx); err != nil {
		if errors.Is(ctx.Err(), context.Canceled) {
			return nil, errors.Join(context.Cause(ctx), l.Close())
		}
		return nil, errors.Join(openRefusal(address, err), l.Close())
	}
	return t, nil
}

func openLine(ctx context.Context, address string) (line, error) {
	switch kind, rest, _ := strings.Cut(address, ":"); {
	case isDevice(address):
		return openDevice(address)
	case kind == "unix" && rest != "":
		return dial(ctx, "unix", rest)
	case kind == "tcp" && rest != "":
		return dial(ctx, "tcp", rest)
	default:
		return nil, errAddress
	}
}

func isDevice(address string) bool {
	return address == DefaultAddress || strings.HasPrefix(address, "/")
}

var errAddress = errors.New("the form is " + DefaultAddress + ", unix:PATH or tcp:HOST:PORT")

// openRefusal says what went wrong with the TPM and what to do, with the
// cause inside for errors.Is.
func openRefusal(address string, err error) error {
	what, hint := why(err)
	switch {
	case errors.Is(err, errAddress):
		hint = "Set DTSH_TPM to a TPM 2.0, or unset it for " + DefaultAddress + "."
	case isDevice(address):
		hint = cmp.Or(hint, deviceHint(address, err))
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		hint = "Start the software TPM that DTSH_TPM names, or unset DTSH_TPM for " + DefaultAddress + "."
	}
	hint = cmp.Or(hint, "See that DTSH_TPM names a TPM 2.0.")
	// The capital is of the message that people know and search for.
	r := api.Refuse(connect.CodeFailedPrecondition, "Failed to open the TPM device %q: %s", address, what).WithHint("%s", hint)
	return &refusal{Refusal: r, cause: err}
}

// refusal is a message for the person with the error behind it.
type refusal struct {
	*api.Refusal
	cause error
}

// Unwrap lets errors.As find the Refusal and errors.Is the cause.
func (r *refusal) Unwrap() []error { return []error{r.Refusal, r.cause} }

// flushLeftovers empties the slots of a TPM that no resource manager looks
// after: three loaded keys or sessions of a program that died would leave no
// room. Behind a resource manager, and on swtpm, which serves one connection
// at a time, whatever is loaded belongs to nobody.
func (t *TPM) flushLeftovers(ctx context.Context) error {
	release, err := t.hold(ctx)
	if err != nil {
		return err
	}
	defer release()
	for _, first := range []tpm2.TPMHandle{firstTransient, firstHMACSession, firstPolicySession} {
		handles, err := t.handles(first)
		if err != nil {
			return err
		}
		for _, h := range handles {
			// A handle that went in the meantime is as good as flushed.
			t.flush(h)
		}
	}
	return t.ch.broken
}

// First handles of their ranges (TPM 2.0 Part 2, section 7.2).
const (
	firstHMACSession   tpm2.TPMHandle = 0x02000000
	firstPolicySession tpm2.TPMHandle = 0x03000000
	firstTransient     tpm2.TPMHandle = 0x80000000
	firstPersistentEK  tpm2.TPMHandle = 0x81010000
)

func (t *TPM) handles(first tpm2.TPMHandle) ([]tpm2.TPMHandle, error) {
	rsp, err := tpm2.GetCapability{
		Capability: tpm2.TPMCapHandles, Property: uint32(first), PropertyCount: maxFlush,
	}.Execute(t.ch)
	if err != nil {
		return nil, failedTo("list what it holds", err)
	}
	list, err := rsp.CapabilityData.Data.Handles()
	if err != nil {
		return nil, failedTo("list what it holds", err)
	}
	return list.Handle, nil
}

// Shared tells whether other programs can use the TPM at address while it is
// open: the system shares it, other than a command socket or /dev/tpm0.
func Shared(address string) bool {
	return address == "" || address == DefaultAddress || strings.HasPrefix(address, "/dev/tpmrm")
}
