package devices

import (
	"net"
	"strings"
	"testing"
)

// commandChannel is how go-attestation reaches a software TPM.
type commandChannel struct{ net.Conn }

func (commandChannel) MeasurementLog() ([]byte, error) { return nil, nil }

func dialTPM(t testing.TB, m *machine) net.Conn {
	t.Helper()
	conn, err := net.Dial("unix", strings.TrimPrefix(m.chip.Address, "unix:"))
	if err != nil {
		t.Fatal(err)
	}
	return conn
}
