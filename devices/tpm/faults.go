package tpm

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"syscall"

	"connectrpc.com/connect"
	"github.com/google/go-tpm/tpm2"

	"devicetrust/api"
)

// step is what the TPM was to do when err came.
type step struct {
	doing string
	err   error
}

// failedTo is err of a command; doing completes "the TPM cannot".
func failedTo(doing string, err error) error { return &step{doing, err} }

func (s *step) Error() string { return s.doing + ": " + s.err.Error() }
func (s *step) Unwrap() error { return s.err }

// fault puts what the TPM failed to do into words for a person; other errors
// are as they were. Whoever gave up, with ctx, hears that.
func fault(ctx context.Context, err error) error {
	s, ok := errors.AsType[*step](err)
	if !ok {
		return err
	}
	if errors.Is(ctx.Err(), context.Canceled) {
		return context.Cause(ctx)
	}
	what, hint := why(s.err)
	if hint == "" {
		hint = "Restart the machine and try again; with a software TPM, restart that."
	}
	r := api.Refuse(connect.CodeFailedPrecondition, "the TPM cannot %s: %s", s.doing, what).WithHint("%s", hint)
	return &refusal{Refusal: r, cause: err}
}

// why tells the cause of err, and what to do where that depends on nothing
// else.
func why(err error) (what, hint string) {
	if rc, ok := errors.AsType[tpm2.TPMRC](err); ok {
		return whyCode(rc)
	}
	switch {
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded):
		return "it does not answer", "Another program may be using the TPM: try again when it has ended."
	case errors.Is(err, syscall.EBUSY):
		return "another program has it", "Unset DTSH_TPM for " + DefaultAddress + ", which programs share, or try again when the other has ended."
	case isHangUp(err):
		return "it closed the connection", "See that DTSH_TPM names a TPM 2.0 that runs, and try again."
	}
	if what, hint = whyDevice(err); what != "" {
		return what, hint
	}
	return reason(err).Error(), ""
}

// isHangUp: the other end of a command socket has gone.
func isHangUp(err error) bool {
	for _, e := range []error{io.EOF, io.ErrUnexpectedEOF, net.ErrClosed, syscall.EPIPE, syscall.ECONNRESET} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// whyCode reads the response codes that a person can do something about (TPM
// 2.0 Part 2, section 6.6); of the others, the number helps whoever is asked.
func whyCode(rc tpm2.TPMRC) (what, hint string) {
	for _, known := range []struct {
		codes      []tpm2.TPMRC
		what, hint string
	}{
		{[]tpm2.TPMRC{tpm2.TPMRCInitialize}, "it was not started", "Give swtpm --flags not-need-init,startup-clear."},
		{[]tpm2.TPMRC{tpm2.TPMRCLockout}, "it is locked after wrong passwords", "Wait until it unlocks itself, which takes minutes to hours, and try again."},
		{[]tpm2.TPMRC{tpm2.TPMRCAuthFail, tpm2.TPMRCBadAuth, tpm2.TPMRCAuthMissing}, "its endorsement hierarchy has a password", "Take that password off (tpm2_changeauth -c endorsement), or clear the TPM in the firmware settings."},
		{[]tpm2.TPMRC{tpm2.TPMRCHierarchy, tpm2.TPMRCDisabled}, "the firmware has turned that off", "Turn the TPM and its hierarchies on in the firmware settings."},
		{[]tpm2.TPMRC{tpm2.TPMRCObjectMemory, tpm2.TPMRCSessionMemory}, "other programs have filled it", "Unset DTSH_TPM for " + DefaultAddress + ", which programs share, or end the other programs."},
	} {
		for _, code := range known.codes {
			if rc.Is(code) {
				return known.what, known.hint
			}
		}
	}
	return fmt.Sprintf("it answers with error %#x", uint32(rc)), ""
}

// reason drops from an error the path and the address, which the message has
// already.
func reason(err error) error {
	if e, ok := errors.AsType[*fs.PathError](err); ok {
		return e.Err
	}
	if e, ok := errors.AsType[*os.LinkError](err); ok {
		return e.Err
	}
	if e, ok := errors.AsType[*os.SyscallError](err); ok {
		return e.Err
	}
	return err
}
