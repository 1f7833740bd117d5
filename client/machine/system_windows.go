package machine

import (
	"context"
	"fmt"
	"unsafe"

	"golang.org/x/sys/windows"
)

// No Windows was at hand when this was written: it compiles, and the table is
// parsed in tests (smbios.go). The calls themselves are not tested.

func (s Source) firmware(context.Context) firmware {
	raw, err := smbiosTable()
	if err != nil {
		return firmware{}
	}
	f, err := parseSMBIOS(raw)
	if err != nil {
		return firmware{}
	}
	return f
}

// smbiosTable is GetSystemFirmwareTable for the provider 'RSMB', which every
// account may read.
func smbiosTable() ([]byte, error) {
	const provider = 'R'<<24 | 'S'<<16 | 'M'<<8 | 'B'
	get := windows.NewLazySystemDLL("kernel32.dll").NewProc("GetSystemFirmwareTable")
	if err := get.Find(); err != nil {
		return nil, err
	}
	size, _, err := get.Call(provider, 0, 0, 0)
	if size == 0 || size > maxSMBIOS {
		return nil, fmt.Errorf("the SMBIOS table has %d bytes: %w", size, err)
	}
	table := make([]byte, size)
	n, _, err := get.Call(provider, 0, uintptr(unsafe.Pointer(&table[0])), size)
	if n == 0 || n > size {
		return nil, fmt.Errorf("the SMBIOS table has %d bytes: %w", n, err)
	}
	return table[:n], nil
}

func (s Source) system(context.Context) system {
	v := windows.RtlGetVersion()
	return system{
		version: fmt.Sprintf("%d.%d.%d", v.MajorVersion, v.MinorVersion, v.BuildNumber),
		build:   fmt.Sprint(v.BuildNumber),
	}
}
