package audit

import (
	"strings"
	"testing"

	"devicetrust/audit/event"
	"devicetrust/store"
	"devicetrust/store/storetest"
)

// The replica has seen nothing, so that only what stands in the store can tell
// it that something is missing.
func TestAReplicaDoesNotGoOnFromALogThatSomethingIsMissingFrom(t *testing.T) {
	for name, c := range map[string]struct {
		sql  []string
		want string
	}{
		"the last record": {[]string{`DELETE FROM audit_log WHERE seq = 3`}, "record 3, the last, was removed"},
		"all records":     {[]string{`DELETE FROM audit_log`}, "record 3, the last, was removed"},
		"the head":        {[]string{`DELETE FROM audit_head`}, "the head was removed"},
		// With the place of the first free, a chain that begins anew would fit.
		"the head and the first record": {[]string{`DELETE FROM audit_head`, `DELETE FROM audit_log WHERE seq = 1`}, "the head was removed"},
	} {
		t.Run(name, func(t *testing.T) {
			storetest.Run(t, func(t *testing.T, db *store.DB) {
				record(t, db, testLog(db), 3)
				for _, q := range c.sql {
					exec(t, db, q)
				}
				left := count(t, db, `SELECT count(*) FROM audit_log`)
				err := testLog(db).RecordAlone(t.Context(), event.Event{Type: event.UserLogin})
				if err == nil || !strings.Contains(err.Error(), c.want) {
					t.Errorf("got %v, want %q in it", err, c.want)
				}
				if n := count(t, db, `SELECT count(*) FROM audit_log`); n != left {
					t.Errorf("%d records, before %d", n, left)
				}
			})
		})
	}
}

// An old copy of the log was put back and a replica that had not seen the newer
// went on until the numbers are the same again.
func TestAForkOfTheSameLengthIsNoticedByWhoeverSawTheOther(t *testing.T) {
	storetest.Run(t, func(t *testing.T, db *store.DB) {
		l := testLog(db)
		record(t, db, l, 3)
		exec(t, db, saveLog)
		exec(t, db, saveHead)
		record(t, db, l, 2)
		for _, q := range []string{dropLog, dropHead, putBack, putBackTop} {
			exec(t, db, q)
		}
		record(t, db, testLog(db), 2)
		err := l.RecordAlone(t.Context(), event.Event{Type: event.UserLogin})
		if err == nil || !strings.Contains(err.Error(), "record 5 is not the one that was seen") {
			t.Errorf("got %v, want that record 5 is another", err)
		}
		if n := count(t, db, `SELECT count(*) FROM audit_log`); n != 5 {
			t.Errorf("%d records, want 5", n)
		}
	})
}
