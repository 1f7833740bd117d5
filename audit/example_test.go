package audit_test

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"devicetrust/audit"
	"devicetrust/audit/event"
	"devicetrust/store"
)

// An act and its record are one transaction: neither is without the other.
func ExampleLog_Record() {
	ctx := context.Background()
	dir, err := os.MkdirTemp("", "audit-example-")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir) //nolint:errcheck // an example
	db, err := store.Open(ctx, "sqlite:"+filepath.Join(dir, "dt.db"), slog.Default())
	if err != nil {
		panic(err)
	}
	defer db.Close() //nolint:errcheck // an example

	log := audit.Open(db, "example", [32]byte{}, time.Now)
	err = db.Write(ctx, func(tx *store.Tx) error {
		// … the act's own statements …
		_, err := log.Record(tx, event.Event{
			Type: event.DeviceDelete, User: "alice", Success: true,
			Device: &event.Device{AssetTag: "C02ABC"},
		})
		return err
	})
	if err != nil {
		panic(err)
	}
	events, _, err := log.List(ctx, audit.Filter{Type: event.DeviceDelete})
	if err != nil {
		panic(err)
	}
	for _, e := range events {
		fmt.Println(e.Code, e.User, e.Device.AssetTag)
	}
	v, err := log.Verify(ctx)
	fmt.Println(v.Intact, v.Records, err)
	// Output:
	// TV002I alice C02ABC
	// true 1 <nil>
}
