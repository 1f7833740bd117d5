package tpm

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// DefaultAddress is the TPM behind the kernel's resource manager.
const DefaultAddress = "/dev/tpmrm0"

// biosMeasurements is the firmware's event log as Linux shows it, often to
// root alone.
const biosMeasurements = "/sys/kernel/security/tpm0/binary_bios_measurements"

var (
	_ line     = (*device)(nil)
	_ measurer = (*device)(nil)
)

// device is the kernel's: /dev/tpmrm0, or /dev/tpm0 without its resource
// manager.
type device struct{ *os.File }

func openDevice(path string) (line, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if info.Mode()&os.ModeSocket != 0 {
		return nil, fmt.Errorf("it is a socket: write unix:%s", path)
	}
	if info.Mode()&os.ModeCharDevice == 0 {
		return nil, errors.New("it is not a device")
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	return &device{f}, nil
}

// deviceHint says what to do about a device that cannot be opened.
func deviceHint(address string, err error) string {
	switch {
	case errors.Is(err, fs.ErrPermission):
		return "Have an administrator of the machine add your account to the group tss (usermod -aG tss NAME), and log in to the machine again, or install udev rules for " + address + " such as those of the TPM2 Software Stack; dtsh device status prints one."
	case errors.Is(err, fs.ErrNotExist):
		return "This machine shows no TPM 2.0: turn it on in the firmware settings (fTPM, PTT); your account then needs the group tss, or udev rules for " + address + "."
	}
	return ""
}

// whyDevice has nothing to add: the kernel's errors are the system's.
func whyDevice(error) (what, hint string) { return "", "" }

func (d *device) measurements() ([]byte, error) { return readEventLog(biosMeasurements) }

// pollInterval is how often a waiting device looks whether it may wait on.
const pollInterval = 50 * time.Millisecond

// exchange writes the command at once and reads the answer at once, as the
// driver wants it (linux/drivers/char/tpm/tpm-dev-common.c). The driver says
// by poll when there is one; a read before that gives nothing.
func (d *device) exchange(ctx context.Context, command []byte) ([]byte, error) {
	if _, err := d.Write(command); err != nil {
		return nil, err
	}
	// Fd would put the file into blocking mode, in which Write lasts as long
	// as the command does.
	raw, err := d.SyscallConn()
	if err != nil {
		return nil, err
	}
	var response []byte
	var readErr error
	err = raw.Control(func(fd uintptr) { response, readErr = readResponse(ctx, int(fd)) })
	if err := errors.Join(err, readErr); err != nil {
		return nil, err
	}
	return response, nil
}

// readResponse takes the answer in one piece, or in several where the driver
// gives it so.
func readResponse(ctx context.Context, fd int) ([]byte, error) {
	buf, n := make([]byte, maxResponse), 0
	for want := headerLen; n < want; {
		if err := waitReadable(ctx, int32(fd)); err != nil {
			return nil, err
		}
		more, err := unix.Read(fd, buf[n:])
		if err != nil {
			return nil, fmt.Errorf("read: %w", err)
		}
		if more == 0 {
			return nil, fmt.Errorf("the answer ends after %d bytes", n)
		}
		if n += more; n >= headerLen {
			want = int(binary.BigEndian.Uint32(buf[2:]))
		}
		if want > maxResponse {
			return nil, fmt.Errorf("the answer is not one of a TPM 2.0: it claims %d bytes", want)
		}
	}
	return buf[:n], nil
}

func waitReadable(ctx context.Context, fd int32) error {
	for {
		fds := []unix.PollFd{{Fd: fd, Events: unix.POLLIN}}
		n, err := unix.Poll(fds, int(pollInterval.Milliseconds()))
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return fmt.Errorf("poll: %w", err)
		case n > 0 && fds[0].Revents&unix.POLLIN != 0:
			return nil
		case n > 0:
			return fmt.Errorf("poll gives events %#x", fds[0].Revents)
		}
	}
}
