//go:build !linux

package tpm

import (
	"fmt"
	"runtime"
)

func openDevice(string) (line, error) {
	return nil, fmt.Errorf("TPM devices are not supported on %s yet", runtime.GOOS)
}
