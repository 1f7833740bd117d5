package store_test

import (
	"testing"

	"devicetrust/store"
	"devicetrust/store/storetest"
)

func TestPing(t *testing.T) {
	storetest.Run(t, func(t *testing.T, db *store.DB) {
		if err := db.Ping(t.Context()); err != nil {
			t.Fatal(err)
		}
	})
}
