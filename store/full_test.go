package store_test

import (
	"errors"
	"fmt"
	"syscall"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"

	"devicetrust/store"
	"devicetrust/store/storetest"
)

func TestAFullDiskIsTold(t *testing.T) {
	db := storetest.Open(t)
	err := db.Write(t.Context(), func(tx *store.Tx) error {
		if _, err := tx.Exec(`PRAGMA max_page_count = 1`); err != nil { // no more than it has
			return err
		}
		return set(tx, string(make([]byte, 1<<20)))
	})
	if !store.IsFull(err) {
		t.Errorf("not told from %v", err)
	}
	want(t, db, "")
}

func TestWhatIsAFullDisk(t *testing.T) {
	for err, full := range map[error]bool{
		&pgconn.PgError{Code: "53100"}: true,
		&pgconn.PgError{Code: "23505"}: false,
		syscall.ENOSPC:                 true,
		errors.New("disk full"):        false,
	} {
		if got := store.IsFull(fmt.Errorf("store: %w", err)); got != full {
			t.Errorf("%v: %v", err, got)
		}
	}
	if store.IsFull(nil) {
		t.Error("no error is a full disk")
	}
}
