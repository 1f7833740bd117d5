package tpm

import (
	"errors"
	"fmt"
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-tpm/tpm2"

	"devicetrust/devices/tpm/tpmtest"
)

// hour is what a key's quote says of its TPM's past.
type hour struct {
	resets, restarts uint32
	firmware         uint64
}

// quoted makes the key of e again, has it quote, and reads what the TPM says of
// itself there.
func quoted(t *testing.T, address string, e enrollment) (hour, error) {
	t.Helper()
	chip, err := Open(t.Context(), address)
	if err != nil {
		t.Fatal(err)
	}
	defer chip.Close()
	defer holdFor(t, chip, t.Context())()
	ak, err := chip.enrolledAK("example", e)
	if err != nil {
		return hour{}, err
	}
	defer chip.flush(ak.handle.Handle)
	quote, _, err := chip.quote(ak, []byte("nonce"))
	if err != nil {
		t.Fatal(err)
	}
	attest, err := tpm2.Unmarshal[tpm2.TPMSAttest](quote.GetQuote())
	if err != nil {
		t.Fatal(err)
	}
	return hour{attest.ClockInfo.ResetCount, attest.ClockInfo.RestartCount, attest.FirmwareVersion}, nil
}

// enrollChip makes a key as an enrollment does.
func enrollChip(t *testing.T, address, cluster, os string) enrollment {
	t.Helper()
	chip, err := Open(t.Context(), address)
	if err != nil {
		t.Fatal(err)
	}
	defer chip.Close()
	defer holdFor(t, chip, t.Context())()
	unique := uniqueOf(cluster, os)
	ak, _, err := chip.provenAK(unique)
	if err != nil {
		t.Fatal(err)
	}
	chip.flush(ak.handle.Handle)
	return enrollment{Enrollment: Enrollment{CredentialID: credentialID(ak.public)}, Unique: unique}
}

// A key of another hierarchy would tell numbers that mean nothing.
func TestQuotesTellHowOftenTheTPMWasStartedAndItsFirmware(t *testing.T) {
	dir, err := os.MkdirTemp("", "tpm") //nolint:usetesting // its path is too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	chip, stop, err := tpmtest.Run(dir)
	if err != nil {
		t.Fatal(err)
	}
	e := enrollChip(t, chip.Address, "example", "linux")
	first, err := quoted(t, chip.Address, e)
	stop()
	if err != nil {
		t.Fatal(err)
	}
	if first.resets != 1 || first.restarts != 0 {
		t.Errorf("a new TPM says %+v", first)
	}
	if chip, stop, err = tpmtest.Run(dir); err != nil {
		t.Fatal(err)
	}
	defer stop()
	second, err := quoted(t, chip.Address, e)
	if err != nil {
		t.Fatal(err)
	}
	if want := (hour{2, 0, first.firmware}); second != want {
		t.Errorf("started again it says %+v, want %+v", second, want)
	}
	opened, err := Open(t.Context(), chip.Address)
	if err != nil {
		t.Fatal(err)
	}
	defer opened.Close()
	_, firmware, err := opened.Info(t.Context())
	if signed := fmt.Sprintf("%d.%d", second.firmware>>48, second.firmware>>32&0xffff); err != nil || signed != firmware {
		t.Errorf("the quote says firmware %s, the TPM %s, %v", signed, firmware, err)
	}
}

func TestAClearedTPMStillHasTheKeyAndTellsThatItWasCleared(t *testing.T) {
	chip := tpmtest.Start(t)
	e := enrollChip(t, chip.Address, "example", "linux")
	chip.Clear(t)
	cleared, err := quoted(t, chip.Address, e)
	if err != nil {
		t.Fatal(err)
	}
	if cleared.resets != 0 {
		t.Errorf("it says %+v", cleared)
	}
}

func TestAnotherSeedMakesAnotherKey(t *testing.T) {
	chip := tpmtest.Start(t)
	e := enrollChip(t, chip.Address, "example", "linux")
	chip.ChangeEPS(t)
	if _, err := quoted(t, chip.Address, e); !errors.Is(err, ErrStaleKey) {
		t.Errorf("got %v", err)
	}
	if n := chip.Loaded(t); n != 0 {
		t.Errorf("%d keys and sessions were left in the TPM", n)
	}
}

func TestATPMHasOneKeyForEachClusterAndSystem(t *testing.T) {
	chip, another := tpmtest.Start(t), tpmtest.Start(t)
	a := enrollChip(t, chip.Address, "example", "linux")
	if diff := cmp.Diff(a, enrollChip(t, chip.Address, "example", "linux")); diff != "" {
		t.Errorf("enrolled again: %s", diff)
	}
	for name, b := range map[string]enrollment{
		"another cluster":            enrollChip(t, chip.Address, "other", "linux"),
		"another system":             enrollChip(t, chip.Address, "example", "windows"),
		"where the cluster's end is": enrollChip(t, chip.Address, "examplel", "inux"),
		"another TPM":                enrollChip(t, another.Address, "example", "linux"),
	} {
		if a.CredentialID == b.CredentialID {
			t.Errorf("%s: the same key", name)
		}
	}
	a.Unique = uniqueOf("other", "linux")
	if _, err := quoted(t, chip.Address, a); !errors.Is(err, ErrStaleKey) {
		t.Errorf("with another's unique: %v", err)
	}
}
