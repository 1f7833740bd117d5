package tpmtest

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
)

// StartDebian runs a software TPM as Debian's swtpm_setup manufactures them for
// virtual machines, but without its RSA certificate: with one of an ECC P-384
// key. issuer is the CA of that in PEM.
func StartDebian(t testing.TB) (tpm *TPM, issuer string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "tpm")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := setUp(dir); err != nil {
		t.Fatal(err)
	}
	tpm, stop, err := Run(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(stop)
	tpm.Do(t, func(c transport.TPM) error { return removeNV(c, 0x01c00002) })
	ca, err := os.ReadFile(filepath.Join(dir, "issuercert.pem"))
	if err != nil {
		t.Fatal(err)
	}
	return tpm, string(ca)
}

// setUp manufactures a TPM in dir, by a CA in dir.
func setUp(dir string) error {
	files := map[string]string{
		"localca.options": "--platform-manufacturer test\n--platform-version 1\n--platform-model test\n",
		"localca.conf":    "statedir = %[1]s\nsigningkey = %[1]s/signkey.pem\nissuercert = %[1]s/issuercert.pem\ncertserial = %[1]s/certserial\n",
		"setup.conf": "create_certs_tool = /usr/bin/swtpm_localca\n" +
			"create_certs_tool_config = %[1]s/localca.conf\ncreate_certs_tool_options = %[1]s/localca.options\n",
	}
	for name, text := range files {
		if name != "localca.options" {
			text = fmt.Sprintf(text, dir)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			return err
		}
	}
	cmd := exec.Command("swtpm_setup", "--tpm2", "--tpm-state", dir, "--create-ek-cert", "--config", filepath.Join(dir, "setup.conf"))
	if said, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("tpmtest: swtpm_setup: %w (Debian has it in package swtpm-tools): %s", err, said)
	}
	return nil
}

func removeNV(tpm transport.TPM, index tpm2.TPMHandle) error {
	old, err := tpm2.NVReadPublic{NVIndex: index}.Execute(tpm)
	if err != nil {
		return fmt.Errorf("look at NV index %#x: %w", uint32(index), err)
	}
	_, err = tpm2.NVUndefineSpace{
		AuthHandle: tpm2.TPMRHPlatform, NVIndex: tpm2.NamedHandle{Handle: index, Name: old.NVName},
	}.Execute(tpm)
	if err != nil {
		return fmt.Errorf("remove NV index %#x: %w", uint32(index), err)
	}
	return nil
}
