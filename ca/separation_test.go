package ca

import (
	"strings"
	"testing"

	"devicetrust/store"
	"devicetrust/store/storetest"
)

// Whoever can write to the database must not put one authority of a kind, an
// old one say, in another's place.
func TestASealedKeyOpensOnlyInItsOwnRow(t *testing.T) {
	storetest.Run(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db)
		w.addAuthority(t, kindUser)
		var ids []string
		w.read(t, func(tx *store.Tx) error {
			all, err := loadAuthorities(tx, w.keeper)
			for _, a := range all {
				if a.kind == kindUser {
					ids = append(ids, a.id)
				}
			}
			return err
		})
		if len(ids) != 2 {
			t.Fatalf("%d user authorities, want 2", len(ids))
		}
		w.exec(t, `DELETE FROM authorities WHERE id = $1`, ids[0])
		w.exec(t, `UPDATE authorities SET id = $1 WHERE id = $2`, ids[0], ids[1])
		_, err := Open(t.Context(), db, w.log, w.keeper, testCluster, w.clock.now)
		if err == nil || !strings.Contains(err.Error(), "does not open the cluster's stored keys") {
			t.Errorf("got %v, want that the key does not open", err)
		}
	})
}

// The audit log's key is handed to another package; it must not be one that
// opens the authorities' keys.
func TestTheAuditKeyOpensNothingThatIsSealed(t *testing.T) {
	k := newKeeperFile(t)
	sealed, err := k.Seal("authority/user/1", []byte("a private key"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := (&Keeper{sealing: k.AuditKey()}).Open("authority/user/1", sealed); err == nil {
		t.Error("it was opened")
	}
	if k.AuditKey() == ([32]byte{}) {
		t.Error("it is no key")
	}
}
