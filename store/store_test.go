package store_test

import (
	"context"
	"database/sql"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"devicetrust/store"
	"devicetrust/store/storetest"
)

const (
	setValue = `INSERT INTO settings (name, value) VALUES ($1, $2)
		ON CONFLICT (name) DO UPDATE SET value = excluded.value`
	getValue = `SELECT value FROM settings WHERE name = $1`
)

func set(tx *store.Tx, value string) error {
	_, err := tx.Exec(setValue, "x", []byte(value))
	return err
}

// get is "" where nothing was set.
func get(tx *store.Tx) (string, error) {
	var v []byte
	err := tx.QueryRow(getValue, "x").Scan(&v)
	if errors.Is(err, sql.ErrNoRows) {
		return "", nil
	}
	return string(v), err
}

func want(t *testing.T, db *store.DB, value string) {
	t.Helper()
	err := db.Read(t.Context(), func(tx *store.Tx) error {
		got, err := get(tx)
		if got != value {
			t.Errorf("the store has %q, want %q", got, value)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

func TestWhatIsWrittenIsRead(t *testing.T) {
	storetest.RunAt(t, func(t *testing.T, address string) {
		db := storetest.OpenAt(t, address)
		if err := db.Ping(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := db.Write(t.Context(), func(tx *store.Tx) error { return set(tx, "kept") }); err != nil {
			t.Fatal(err)
		}
		want(t, db, "kept")
		want(t, storetest.OpenAt(t, address), "kept")
	})
}

func TestAFailedOrPanickingWriteLeavesNothing(t *testing.T) {
	storetest.Run(t, func(t *testing.T, db *store.DB) {
		failed := errors.New("changed my mind")
		err := db.Write(t.Context(), func(tx *store.Tx) error { return errors.Join(set(tx, "half"), failed) })
		if !errors.Is(err, failed) {
			t.Errorf("got %v", err)
		}
		func() {
			defer func() { _ = recover() }()
			_ = db.Write(t.Context(), func(tx *store.Tx) error { _ = set(tx, "half"); panic("a fault") })
		}()
		ctx, cancel := context.WithCancel(t.Context())
		err = db.Write(ctx, func(tx *store.Tx) error {
			err := set(tx, "half")
			cancel()
			return err
		})
		if err == nil {
			t.Error("committed under a cancelled context")
		}
		want(t, db, "")
		if err := db.Write(t.Context(), func(tx *store.Tx) error { return set(tx, "whole") }); err != nil {
			t.Fatal("the writer is stuck:", err)
		}
		want(t, db, "whole")
	})
}

func TestReadCannotWrite(t *testing.T) {
	storetest.Run(t, func(t *testing.T, db *store.DB) {
		err := db.Read(t.Context(), func(tx *store.Tx) error { return set(tx, "sneaked in") })
		if err == nil {
			t.Error("no error")
		}
		want(t, db, "")
	})
}

func TestReadIsOneSnapshot(t *testing.T) {
	storetest.Run(t, func(t *testing.T, db *store.DB) {
		err := db.Read(t.Context(), func(tx *store.Tx) error {
			before, err := get(tx)
			if err != nil {
				return err
			}
			if err := db.Write(t.Context(), func(tx *store.Tx) error { return set(tx, "new") }); err != nil {
				return err
			}
			after, err := get(tx)
			if before != after {
				t.Errorf("read %q, then %q", before, after)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		want(t, db, "new")
	})
}

// What a writing transaction reads stays true until it commits, whoever else
// writes, on any replica.
func TestWritersRunOneAfterAnother(t *testing.T) {
	storetest.RunAt(t, func(t *testing.T, address string) {
		const replicas, writers, each = 2, 4, 10
		var wg sync.WaitGroup
		for range replicas {
			db := storetest.OpenAt(t, address)
			for range writers {
				wg.Go(func() {
					for range each {
						err := db.Write(t.Context(), func(tx *store.Tx) error {
							v, err := get(tx)
							if err != nil {
								return err
							}
							return set(tx, v+"x")
						})
						if err != nil {
							t.Error(err)
						}
					}
				})
			}
		}
		wg.Wait()
		want(t, storetest.OpenAt(t, address), strings.Repeat("x", replicas*writers*each))
	})
}

func TestAfterCommitRunsOnlyThen(t *testing.T) {
	storetest.Run(t, func(t *testing.T, db *store.DB) {
		var got []string
		note := func(tx *store.Tx, s string) {
			tx.AfterCommit(func() {
				want(t, db, "done")
				got = append(got, s)
			})
		}
		_ = db.Write(t.Context(), func(tx *store.Tx) error { note(tx, "rolled back"); return errors.New("no") })
		err := db.Write(t.Context(), func(tx *store.Tx) error {
			note(tx, "first")
			note(tx, "second")
			return set(tx, "done")
		})
		if err != nil || strings.Join(got, ",") != "first,second" {
			t.Errorf("called %q, %v", got, err)
		}
	})
}

func TestOpenRefusesOtherAddresses(t *testing.T) {
	for _, address := range []string{"", "dt.db", "mysql://x", "SQLITE:x"} {
		if db, err := store.Open(t.Context(), address, slog.New(slog.DiscardHandler)); err == nil {
			t.Errorf("%q was opened", address)
			db.Close() //nolint:errcheck // it failed already
		}
	}
}

func TestErrorsDoNotQuoteThePassword(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed := l.Addr().String()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	for _, address := range []string{
		"postgres://dt:hunter2@" + closed + "/dt",
		"postgres://dt:hunter2@host:notaport/dt",
		"postgres://dt:hunter2@%zz/dt",
	} {
		_, err := store.Open(t.Context(), address, slog.New(slog.DiscardHandler))
		if err == nil || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("got %v", err)
		}
	}
}

func TestSQLiteFilesAreTheOwnersAlone(t *testing.T) {
	// The odd name must not be taken for a part of SQLite's URI.
	path := filepath.Join(t.TempDir(), "new folder", "a?b#c%20 d.db")
	db := storetest.OpenAt(t, "sqlite:"+path)
	if err := db.Write(t.Context(), func(tx *store.Tx) error { return set(tx, "x") }); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(filepath.Dir(path))
	if err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("the folder has mode %v, %v", info.Mode(), err)
	}
	files, err := filepath.Glob(filepath.Join(filepath.Dir(path), "*"))
	if err != nil || len(files) < 2 {
		t.Fatalf("files %q, %v; want the database and its log", files, err)
	}
	for _, f := range files {
		if !strings.HasPrefix(f, path) {
			t.Errorf("%q is not the file asked for", f)
		}
		if info, err := os.Stat(f); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v, %v", f, info.Mode(), err)
		}
	}
}

func TestANewerSchemaIsRefused(t *testing.T) {
	storetest.RunAt(t, func(t *testing.T, address string) {
		db := storetest.OpenAt(t, address)
		err := db.Write(t.Context(), func(tx *store.Tx) error {
			_, err := tx.Exec(`INSERT INTO goose_db_version (version_id, is_applied) VALUES (9999, $1)`, true)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		_, err = store.Open(t.Context(), address, slog.New(slog.DiscardHandler))
		if err == nil || !strings.Contains(err.Error(), "run a newer dtauthd") {
			t.Errorf("got %v", err)
		}
	})
}

func TestTimesSurviveTheStore(t *testing.T) {
	at := time.Date(2026, 11, 21, 12, 0, 0, 123456000, time.FixedZone("", 3600))
	if got := store.Time(store.Micros(at)); !got.Equal(at) || got.Location() != time.UTC {
		t.Errorf("got %v, want %v in UTC", got, at)
	}
	if got := store.Time(store.Micros(time.Time{})); !got.IsZero() {
		t.Errorf("the zero time became %v", got)
	}
}
