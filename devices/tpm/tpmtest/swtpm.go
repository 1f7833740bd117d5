// Package tpmtest gives tests a real TPM 2.0: swtpm in a process of its own,
// with the endorsement key and its certificate made as a manufacturer makes
// them, or as one should not.
package tpmtest

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
)

// patience is for what an idle machine does at once.
const patience = time.Minute

// TPM is a running software TPM.
type TPM struct {
	// Address in the form that DTSH_TPM takes: unix:PATH.
	Address string
	// EKCertificate is what Manufacture put into it, DER; nil without one.
	EKCertificate []byte

	dir  string // its state and its socket
	stop func()
}

// Start runs a software TPM until the test ends, with the endorsement key
// certificates that are asked for; without any it has none, as it comes.
func Start(t testing.TB, certificates ...Certificate) *TPM {
	t.Helper()
	// Not t.TempDir: a socket path has at most 107 bytes, and test names are long.
	dir, err := os.MkdirTemp("", "tpm")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	tpm := start(t, dir)
	for _, c := range certificates {
		if tpm.EKCertificate, err = Manufacture(tpm.Address, c); err != nil {
			t.Fatal(err)
		}
	}
	return tpm
}

func start(t testing.TB, dir string) *TPM {
	t.Helper()
	tpm, stop, err := Run(dir)
	if err != nil {
		t.Fatal(err)
	}
	tpm.dir, tpm.stop = dir, stop
	t.Cleanup(func() { tpm.stop() })
	return tpm
}

// Restart turns it off and on again, as with the machine: TPM Reset.
func (tpm *TPM) Restart(t testing.TB) {
	t.Helper()
	tpm.stop()
	again, stop, err := Run(tpm.dir)
	if err != nil {
		t.Fatal(err)
	}
	tpm.Address, tpm.stop = again.Address, stop
}

// Reset turns the chip alone off and on again: whoever is connected stays so, and
// has to send TPM2_Startup.
func (tpm *TPM) Reset(t testing.TB) {
	t.Helper()
	conn, err := net.Dial("unix", filepath.Join(tpm.dir, "tpm.sock.ctrl"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	// CMD_INIT without flags, and its result (swtpm_ioctls(3)).
	result := make([]byte, 4)
	if _, err := conn.Write([]byte{0, 0, 0, 2, 0, 0, 0, 0}); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(conn, result); err != nil || binary.BigEndian.Uint32(result) != 0 {
		t.Fatalf("the TPM was not reset: %x, %v", result, err)
	}
}

// Copy gives a second TPM with what this one has stored, as with the disk of a
// virtual machine. The copy has been started once more.
func (tpm *TPM) Copy(t testing.TB) *TPM {
	t.Helper()
	dir, err := os.MkdirTemp("", "tpm")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	state, err := os.ReadFile(filepath.Join(tpm.dir, "tpm2-00.permall"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "tpm2-00.permall"), state, 0o600); err != nil {
		t.Fatal(err)
	}
	return start(t, dir)
}

// Run starts swtpm with its state and its socket in dir and waits until it
// answers; stop ends it.
func Run(dir string) (tpm *TPM, stop func(), err error) {
	socket := filepath.Join(dir, "tpm.sock")
	if len(socket) > 100 {
		return nil, nil, fmt.Errorf("tpmtest: %s is too long for a socket", socket)
	}
	if err := os.Remove(socket); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, nil, err
	}
	cmd := exec.Command("swtpm", "socket", "--tpm2", "--tpmstate", "dir="+dir,
		"--server", "type=unixio,path="+socket, "--ctrl", "type=unixio,path="+socket+".ctrl",
		"--flags", "not-need-init,startup-clear")
	// It reports every client that leaves, so what it says is for the one case
	// in which it does not start.
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Start(); err != nil {
		return nil, nil, fmt.Errorf("tpmtest: %w (Debian has it in package swtpm)", err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	stop = func() {
		cmd.Process.Kill()
		<-ended
	}
	deadline := time.After(patience)
	for {
		if conn, err := net.Dial("unix", socket); err == nil {
			conn.Close()
			return &TPM{Address: "unix:" + socket}, stop, nil
		}
		select {
		case err := <-ended:
			return nil, nil, fmt.Errorf("tpmtest: swtpm ended: %w: %s", err, said.Bytes())
		case <-deadline:
			stop()
			return nil, nil, errors.New("tpmtest: swtpm does not answer")
		case <-time.After(2 * time.Millisecond):
		}
	}
}

// Clear does what the firmware's "clear TPM" does: all that the owner made is
// gone and the reset count is zero; the endorsement seed stays, and with it the
// endorsement key and our attestation keys.
func (tpm *TPM) Clear(t testing.TB) {
	t.Helper()
	tpm.Do(t, func(c transport.TPM) error {
		_, err := tpm2.Clear{AuthHandle: tpm2.TPMRHPlatform}.Execute(c)
		return err
	})
}

// ChangeEPS gives the TPM another endorsement seed, and so another identity: it
// is then as another chip, with certificates of keys that it does not have.
func (tpm *TPM) ChangeEPS(t testing.TB) {
	t.Helper()
	tpm.Do(t, func(c transport.TPM) error {
		// go-tpm has not this command (TPM 2.0 Part 3, TPM2_ChangeEPS); the
		// platform's password is empty.
		rsp, err := c.Send([]byte{
			0x80, 0x02, 0, 0, 0, 27, 0, 0, 0x01, 0x24, 0x40, 0, 0, 0x0c,
			0, 0, 0, 9, 0x40, 0, 0, 0x09, 0, 0, 0, 0, 0,
		})
		if err != nil {
			return err
		}
		if rc := binary.BigEndian.Uint32(rsp[6:]); rc != 0 {
			return tpm2.TPMRC(rc)
		}
		return nil
	})
}

// SetEndorsementPassword lets whoever uses that hierarchy give a password.
func (tpm *TPM) SetEndorsementPassword(t testing.TB) {
	t.Helper()
	tpm.Do(t, func(c transport.TPM) error {
		_, err := tpm2.HierarchyChangeAuth{AuthHandle: tpm2.TPMRHEndorsement, NewAuth: tpm2.TPM2BAuth{Buffer: []byte("secret")}}.Execute(c)
		return err
	})
}

// Do runs fn on a connection of its own.
func (tpm *TPM) Do(t testing.TB, fn func(transport.TPM) error) {
	t.Helper()
	if err := onTPM(tpm.Address, fn); err != nil {
		t.Fatal(err)
	}
}

// Loaded counts the keys and sessions in the TPM's slots.
func (tpm *TPM) Loaded(t testing.TB) int {
	t.Helper()
	n := 0
	tpm.Do(t, func(c transport.TPM) error {
		for _, first := range []uint32{0x02000000, 0x03000000, 0x80000000} {
			rsp, err := tpm2.GetCapability{Capability: tpm2.TPMCapHandles, Property: first, PropertyCount: 16}.Execute(c)
			if err != nil {
				return err
			}
			list, err := rsp.CapabilityData.Data.Handles()
			if err != nil {
				return err
			}
			n += len(list.Handle)
		}
		return nil
	})
	return n
}

func onTPM(address string, fn func(transport.TPM) error) error {
	network, path, ok := cutAddress(address)
	if !ok {
		return fmt.Errorf("tpmtest: %q is not unix:PATH or tcp:HOST:PORT", address)
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	conn, err := new(net.Dialer).DialContext(ctx, network, path)
	if err != nil {
		return fmt.Errorf("tpmtest: %w", err)
	}
	defer conn.Close()
	if err := fn(transport.FromReadWriter(conn)); err != nil {
		return fmt.Errorf("tpmtest: %w", err)
	}
	return nil
}
