package store_test

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"

	"devicetrust/store"
)

// One SQL text, with $1 for the first argument, runs on both engines.
func ExampleDB_Write() {
	ctx := context.Background()
	dir, err := os.MkdirTemp("", "store-example-")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir) //nolint:errcheck // an example
	db, err := store.Open(ctx, "sqlite:"+filepath.Join(dir, "dt.db"), slog.Default())
	if err != nil {
		panic(err)
	}
	defer db.Close() //nolint:errcheck // an example

	err = db.Write(ctx, func(tx *store.Tx) error {
		tx.Changed() // followers hear of it
		_, err := tx.Exec(`INSERT INTO settings (name, value) VALUES ($1, $2)`, "colour", []byte("green"))
		return err
	})
	if err != nil {
		panic(err)
	}
	err = db.Read(ctx, func(tx *store.Tx) error {
		var colour []byte
		err := tx.QueryRow(`SELECT value FROM settings WHERE name = $1`, "colour").Scan(&colour)
		fmt.Println(string(colour))
		return err
	})
	if err != nil {
		panic(err)
	}
	// Output: green
}
