package store

import (
	"path/filepath"
	"testing"
)

// openAt opens a database with the schema of an earlier version.
func openAt(t *testing.T, version int64) *DB {
	t.Helper()
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
	if _, err := p.UpTo(t.Context(), version); err != nil {
		t.Fatal(err)
	}
	return db
}

func TestLoginsOfEarlierVersionsDidNotSayHowLong(t *testing.T) {
	db := openAt(t, 7)
	err := db.Write(t.Context(), func(tx *Tx) error {
		_, err := tx.Exec(`INSERT INTO users (name, document, revision, created_at) VALUES ('alice', '{}', 1, 0)`)
		if err != nil {
			return err
		}
		_, err = tx.Exec(`INSERT INTO logins (id, user_name, ssh_key, tls_key, remote_addr, created_at, expires_at)
			VALUES ('1', 'alice', $1, $1, '', 1, 2)`, []byte("key"))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := db.migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	var ttl, expires int64
	err = db.Read(t.Context(), func(tx *Tx) error {
		return tx.QueryRow(`SELECT ttl, expires_at FROM logins WHERE id = '1'`).Scan(&ttl, &expires)
	})
	if err != nil || ttl != 0 || expires != 2 {
		t.Errorf("ttl %d, expires at %d, %v", ttl, expires, err)
	}
}

func TestDevicesOfEarlierVersionsAreFoundByTheirSourceAndAttestation(t *testing.T) {
	db := openAt(t, 2)
	want := map[string][2]string{
		`{"metadata":{"description":"\"source\":{\"name\":\"self\","},"spec":{"source":{"name":"manual","origin":"api"}}}`:                    {"manual", ""},
		`{"spec":{"source":{"name":"self","origin":"api"},"credential":{"id":"1","device_attestation_type":"tpm_ekpub"}}}`:                    {"self", "tpm_ekpub"},
		`{"spec":{"source":{"name":"manual","origin":"api"},"credential":{"id":"2","device_attestation_type":"tpm_ekcert","tpm_serial":""}}}`: {"manual", "tpm_ekcert"},
		`{"spec":{"credential":{"id":"3","device_attestation_type":"tpm_ekcert_trusted"}}}`:                                                   {"", "tpm_ekcert_trusted"},
	}
	err := db.Write(t.Context(), func(tx *Tx) error {
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
