package devices_test

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"devicetrust/audit"
	"devicetrust/devices"
	"devicetrust/store"
)

func ExampleInventory_AddWithToken() {
	dir, err := os.MkdirTemp("", "example")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	ctx := context.Background()
	db, err := store.Open(ctx, "sqlite:"+filepath.Join(dir, "dt.db"), slog.New(slog.DiscardHandler))
	if err != nil {
		panic(err)
	}
	defer db.Close()
	now := func() time.Time { return time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC) }
	inventory := devices.New(db, audit.Open(db, "example", [32]byte{1}, now), "example", now)

	device, token, err := inventory.AddWithToken(ctx, "admin", devices.NewDevice{OSType: "linux", AssetTag: "PF2ABCDE"}, 0)
	if err != nil {
		panic(err)
	}
	fmt.Println(device.Spec.AssetTag, device.Spec.EnrollStatus)
	fmt.Println(len(token.Token), token.Expires)
	// Output:
	// PF2ABCDE not_enrolled
	// 43 2026-01-02 04:04:05 +0000 UTC
}
