//go:build linux

package tpm_test

import (
	"bytes"
	"encoding/binary"
	"io"
	"net"
	"os"
	"strings"
	"testing"

	"github.com/creack/pty"
	"golang.org/x/term"

	"devicetrust/devices/tpm/tpmtest"
)

// No machine of ours has /dev/tpmrm0, so a terminal in raw mode stands for the
// kernel's device: a character device that can be polled, with swtpm behind.
func TestATPMBehindADeviceFile(t *testing.T) {
	chip := tpmtest.Start(t)
	want := ekPublic(t, chip.Address)
	master, slave, err := pty.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer master.Close()
	defer slave.Close()
	if _, err := term.MakeRaw(int(slave.Fd())); err != nil {
		t.Fatal(err)
	}
	conn, err := net.Dial("unix", strings.TrimPrefix(chip.Address, "unix:"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	go serveDevice(master, conn)
	if got := ekPublic(t, slave.Name()); !bytes.Equal(got, want) {
		t.Error("it has another key behind a device file")
	}
}

func serveDevice(device *os.File, tpm net.Conn) {
	for pass(tpm, device) == nil && pass(device, tpm) == nil {
	}
}

// pass carries one command or one response.
func pass(to io.Writer, from io.Reader) error {
	header := make([]byte, 10)
	if _, err := io.ReadFull(from, header); err != nil {
		return err
	}
	message := append(header, make([]byte, binary.BigEndian.Uint32(header[2:])-10)...)
	if _, err := io.ReadFull(from, message[10:]); err != nil {
		return err
	}
	_, err := to.Write(message)
	return err
}
