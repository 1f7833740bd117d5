//go:build linux

// Package storetest gives tests a fresh store on each engine that the product
// runs on: SQLite in the test's own folder, and a database of its own on a
// private PostgreSQL, which is started once per test process from Debian's
// package and ends with that process.
package storetest

import (
	"context"
	"log/slog"
	"path/filepath"
	"testing"

	"devicetrust/store"
)

// Open returns a fresh, empty, migrated SQLite store. It is closed when t ends.
func Open(t testing.TB) *store.DB {
	t.Helper()
	return OpenAt(t, sqliteAddress(t))
}

// OpenPostgres is Open on PostgreSQL. Where its programs are missing, t fails
// and names the Debian package.
func OpenPostgres(t testing.TB) *store.DB {
	t.Helper()
	return OpenAt(t, PostgresURL(t))
}

// OpenAt opens the store at address and closes it when t ends; two of them at
// one address are what two replicas of dtauthd have.
func OpenAt(t testing.TB, address string) *store.DB {
	t.Helper()
	log := slog.New(slog.NewTextHandler(t.Output(), nil))
	// Not t's context: it ends before the clean-up does.
	db, err := store.Open(context.Background(), address, log)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Errorf("close the store: %v", err)
		}
	})
	return db
}

// Run runs body as the subtests "sqlite" and "postgres", each on a fresh,
// empty, migrated store.
func Run(t *testing.T, body func(t *testing.T, db *store.DB)) {
	t.Helper()
	RunAt(t, func(t *testing.T, address string) { body(t, OpenAt(t, address)) })
}

// RunAt is Run for bodies that open the store themselves, more than once say.
// The store at address exists; it is migrated at the latest by opening it.
func RunAt(t *testing.T, body func(t *testing.T, address string)) {
	t.Helper()
	t.Run("sqlite", func(t *testing.T) { body(t, sqliteAddress(t)) })
	t.Run("postgres", func(t *testing.T) { body(t, PostgresURL(t)) })
}

func sqliteAddress(t testing.TB) string {
	return "sqlite:" + filepath.Join(t.TempDir(), "dt.db")
}
