package stage

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport/linuxudstpm"
)

// TPM is a software TPM: swtpm, outside of every program that uses it, as a
// chip is.
type TPM struct {
	*Process
	stage  *Stage
	state  string
	socket string
}

// TPM starts the software TPM of a machine called name, with the state that
// an earlier one of that name left.
func (s *Stage) TPM(ctx context.Context, name string) (*TPM, error) {
	t := &TPM{stage: s, state: filepath.Join(s.Dir, name+".tpm"), socket: filepath.Join(s.Dir, name+".sock")}
	// sun_path has 108 bytes, the last one zero.
	if len(t.socket) > 107 {
		return nil, fmt.Errorf("the path %s is too long for a socket: set TMPDIR to a shorter one", t.socket)
	}
	if err := os.MkdirAll(t.state, 0o700); err != nil {
		return nil, err
	}
	return t, t.start(ctx)
}

func (t *TPM) start(ctx context.Context) error {
	err := os.Remove(t.socket)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	t.Process, err = t.stage.Start(Command{
		Name:    filepath.Base(t.state),
		Program: "swtpm",
		Args: []string{"socket", "--tpm2", "--tpmstate", "dir=" + t.state,
			"--server", "type=unixio,path=" + t.socket,
			"--ctrl", "type=unixio,path=" + t.socket + ".ctrl",
			"--flags", "not-need-init,startup-clear"},
	})
	if err != nil {
		return err
	}
	err = Poll(ctx, func() bool { return t.Ended() || answers("unix", t.socket) })
	if err == nil && t.Ended() {
		err = errors.New("it ended")
	}
	if err != nil {
		return fmt.Errorf("swtpm does not answer: %w\n%s", err, t.tail())
	}
	return t.started()
}

// started returns when the TPM has counted this start: it listens before, and
// one that is stopped right then was never started.
func (t *TPM) started() (err error) {
	tpm, err := linuxudstpm.Open(t.socket)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, tpm.Close()) }()
	_, err = tpm2.ReadClock{}.Execute(tpm)
	return err
}

// Address is what DTSH_TPM is set to.
func (t *TPM) Address() string { return "unix:" + t.socket }

// Clear does what the firmware's "clear TPM" does: all that the owner made is
// gone and the reset count is zero; the endorsement key and our attestation
// keys stay (TPM 2.0 Part 3, TPM2_Clear).
func (t *TPM) Clear() (err error) {
	tpm, err := linuxudstpm.Open(t.socket)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, tpm.Close()) }()
	_, err = tpm2.Clear{
		AuthHandle: tpm2.AuthHandle{Handle: tpm2.TPMRHPlatform, Auth: tpm2.PasswordAuth(nil)},
	}.Execute(tpm)
	return err
}

// Extend extends a PCR, as firmware and boot loader do with what they start.
func (t *TPM) Extend(pcr int) (err error) {
	tpm, err := linuxudstpm.Open(t.socket)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, tpm.Close()) }()
	digest := sha256.Sum256([]byte("another boot loader"))
	_, err = tpm2.PCRExtend{
		PCRHandle: tpm2.AuthHandle{Handle: tpm2.TPMHandle(pcr), Auth: tpm2.PasswordAuth(nil)},
		Digests:   tpm2.TPMLDigestValues{Digests: []tpm2.TPMTHA{{HashAlg: tpm2.TPMAlgSHA256, Digest: digest[:]}}},
	}.Execute(tpm)
	return err
}

// Restart turns it off and on, as the machine.
func (t *TPM) Restart(ctx context.Context) error {
	if err := t.Kill(); err != nil {
		return err
	}
	return t.start(ctx)
}

// permanent is the file in which swtpm keeps a TPM's memory.
const permanent = "tpm2-00.permall"

// Snapshot keeps the TPM's memory, as a snapshot of a virtual machine does.
func (t *TPM) Snapshot() error {
	memory, err := os.ReadFile(filepath.Join(t.state, permanent))
	if err != nil {
		return err
	}
	return os.WriteFile(t.state+".snapshot", memory, 0o600)
}

// Rollback goes back to the last snapshot.
func (t *TPM) Rollback(ctx context.Context) error {
	if err := t.Kill(); err != nil {
		return err
	}
	memory, err := os.ReadFile(t.state + ".snapshot")
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(t.state, permanent), memory, 0o600); err != nil {
		return err
	}
	return t.start(ctx)
}

// Replace puts another chip in its place, as with a new mainboard.
func (t *TPM) Replace(ctx context.Context) error {
	if err := t.Kill(); err != nil {
		return err
	}
	if err := os.RemoveAll(t.state); err != nil {
		return err
	}
	if err := os.Mkdir(t.state, 0o700); err != nil {
		return err
	}
	return t.start(ctx)
}
