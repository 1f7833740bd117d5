package store_test

import (
	"os"
	"path/filepath"
	"testing"

	"devicetrust/store/storetest"
)

func TestADatabaseThatOthersMayOpenIsClosedToThem(t *testing.T) {
	path := filepath.Join(t.TempDir(), "dt.db")
	files := []string{path, path + "-wal", path + "-shm"}
	for _, f := range files { // empty ones are as good as none to SQLite
		if err := os.WriteFile(f, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(f, 0o664); err != nil {
			t.Fatal(err)
		}
	}
	db := storetest.OpenAt(t, "sqlite:"+path)
	if err := db.Write(t.Context(), change); err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		info, err := os.Stat(f)
		if err != nil {
			t.Fatal(err)
		}
		if mode := info.Mode().Perm(); mode != 0o600 {
			t.Errorf("%s has mode %04o", filepath.Base(f), mode)
		}
	}
}
