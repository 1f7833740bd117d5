package store

import (
	"path/filepath"
	"testing"
)

func TestDevicesOfEarlierVersionsAreFoundByTheirSourceAndAttestation(t *testing.T) {
	db, err := openSQLite(filepath.Join(t.TempDir(), "dt.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	p, err := db.migrator()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.UpTo(t.Context(), 2); err != nil {
		t.Fatal(err)
	}
	want := map[string][2]string{
		`{"metadata":{"description":"\"source\":{\"name\":\"self\","},"spec":{"source":{"name":"manual","origin":"api"}}}`:                    {"manual", ""},
		`{"spec":{"source":{"name":"self","origin":"api"},"credential":{"id":"1","device_attestation_type":"tpm_ekpub"}}}`:                    {"self", "tpm_ekpub"},
		`{"spec":{"source":{"name":"manual","origin":"api"},"credential":{"id":"2","device_attestation_type":"tpm_ekcert","tpm_serial":""}}}`: {"manual", "tpm_ekcert"},
		`{"spec":{"credential":{"id":"3","device_attestation_type":"tpm_ekcert_trusted"}}}`:                                                   {"", "tpm_ekcert_trusted"},
	}
	err = db.Write(t.Context(), func(tx *Tx) error {
		for document := range want {
			if _, err := tx.Exec(`INSERT INTO devices (id, os_type, asset_tag, enroll_status, document, revision, created_at, updated_at)
				VALUES ($1, 'linux', $1, 'enrolled', $1, 1, 0, 0)`, document); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := db.migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	for document, w := range want {
		var got [2]string
		err := db.Read(t.Context(), func(tx *Tx) error {
			return tx.QueryRow(`SELECT source, attestation FROM devices WHERE document = $1`, document).Scan(&got[0], &got[1])
		})
		if err != nil || got != w {
			t.Errorf("%s: got %q, want %q: %v", document, got, w, err)
		}
	}
}
