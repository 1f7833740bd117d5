//go:build !linux && !windows

package tpm

import (
	"errors"
	"runtime"
)

// DefaultAddress is where a TPM would be.
const DefaultAddress = "/dev/tpmrm0"

var errNoDevices = errors.New("this system has no TPM")

func openDevice(string) (line, error) { return nil, errNoDevices }

func deviceHint(string, error) string {
	return "Enroll a machine with Linux or Windows and a TPM 2.0; this one can log in without a device where no role asks for one."
}

func whyDevice(err error) (what, hint string) {
	if errors.Is(err, errNoDevices) && runtime.GOOS == "darwin" {
		return "Macs have no TPM, and their Secure Enclave is not supported in this version", ""
	}
	return "", ""
}
