package tpm

import (
	"context"
	"testing"
)

// holdFor is hold that must succeed.
func holdFor(t *testing.T, chip *TPM, ctx context.Context) (release func()) {
	t.Helper()
	release, err := chip.hold(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return release
}
