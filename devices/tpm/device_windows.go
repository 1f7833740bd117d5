package tpm

import (
	"context"
	"errors"
	"fmt"

	"github.com/google/go-tpm/tpmutil/tbs"
)

// DefaultAddress is the system's TPM. Windows gives it to programs by its TPM
// Base Services (TBS), which share it, and which have no path.
const DefaultAddress = "tbs"

var (
	_ line     = (*device)(nil)
	_ measurer = (*device)(nil)
)

// device is the system's TPM behind the TPM Base Services. It was written from
// their documentation and could not be run: no machine of ours has Windows and
// a TPM. What is above it is the same as on Linux.
type device struct{ tbs.Context }

func openDevice(address string) (line, error) {
	if address != DefaultAddress {
		return nil, errAddress
	}
	info, err := tbs.GetDeviceInfo()
	if err != nil {
		return nil, err
	}
	if info.TPMVersion != tbs.TPMVersion20 {
		return nil, errors.New("it is not a TPM 2.0")
	}
	c, err := tbs.CreateContext(tbs.TPMVersion20, tbs.IncludeTPM20)
	if err != nil {
		return nil, err
	}
	return &device{c}, nil
}

// exchange waits for the service in a goroutine of its own: it cannot be
// interrupted, and when ctx ends nobody listens to what it says in the end.
func (d *device) exchange(ctx context.Context, command []byte) ([]byte, error) {
	type result struct {
		response []byte
		err      error
	}
	got := make(chan result, 1)
	go func() {
		response := make([]byte, maxResponse)
		n, err := d.SubmitCommand(tbs.NormalPriority, command, response)
		if err == nil && int64(n) > int64(len(response)) {
			err = fmt.Errorf("the answer is not one of a TPM 2.0: it claims %d bytes", n)
		}
		if err != nil {
			got <- result{err: err}
			return
		}
		got <- result{response: response[:n]}
	}()
	select {
	case r := <-got:
		return r.response, r.err
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// measurements asks for the log's size, and then for the log.
func (d *device) measurements() ([]byte, error) {
	size, err := d.GetTCGLog(nil)
	if err != nil {
		return nil, err
	}
	if size > maxEventLog {
		return nil, fmt.Errorf("it has more than %d bytes", maxEventLog)
	}
	log := make([]byte, size)
	n, err := d.GetTCGLog(log)
	if err != nil || n > size {
		return nil, errors.Join(err, fmt.Errorf("%d bytes of %d", n, size))
	}
	return log[:n], nil
}

func deviceHint(string, error) string { return "" }

// commandBlocked is TPM_E_COMMAND_BLOCKED: the services let administrators
// alone send that command.
const commandBlocked tbs.Error = 0x80280400

// whyDevice reads the errors of the services that a person can do something
// about.
func whyDevice(err error) (what, hint string) {
	code, ok := errors.AsType[tbs.Error](err)
	if !ok {
		return "", ""
	}
	switch code {
	case tbs.ErrTPMNotFound:
		return "this machine shows no TPM 2.0", "Turn it on in the firmware settings (fTPM, PTT)."
	case tbs.ErrAccessDenied, commandBlocked:
		return "Windows does not let this account do that", "Run dtsh as an administrator."
	case tbs.ErrServiceNotRunning, tbs.ErrServiceDisabled, tbs.ErrServiceStartPending:
		return "the TPM Base Services do not run", "Start the service TPM Base Services (TBS), and try again."
	}
	return fmt.Sprintf("the TPM Base Services answer with error %#x", uint32(code)), ""
}
