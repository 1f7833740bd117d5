package audit

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"devicetrust/audit/event"
	"devicetrust/store"
	"devicetrust/store/storetest"
)

// Each row is what somebody with the database's password could do to a log of
// seven records, and what is said of it.
var tampering = map[string]struct {
	sql  []string
	want Verification
	// appends: the next act can be recorded, for only Verify reads it all.
	appends bool
}{
	"nothing": {nil, Verification{Intact: true, Records: 7}, true},
	"a record changed": {
		[]string{`UPDATE audit_log SET record = replace(record, 'alice3', 'mallory') WHERE seq = 3`},
		Verification{Records: 2, Problem: "record 3 was changed or added"}, true,
	},
	"a hash changed": {
		[]string{`UPDATE audit_log SET hash = (SELECT hash FROM audit_log WHERE seq = 1) WHERE seq = 3`},
		Verification{Records: 2, Problem: "record 3 was changed or added"}, true,
	},
	"a hash cut short": {
		[]string{`UPDATE audit_log SET hash = substr(hash, 1, 5) WHERE seq = 3`},
		Verification{Records: 2, Problem: "record 3 was changed or added"}, true,
	},
	"who is listed changed": {
		[]string{`UPDATE audit_log SET user_name = 'mallory' WHERE seq = 3`},
		Verification{Records: 2, Problem: "record 3 was changed: its column user_name is not what the record says"}, true,
	},
	"when is listed changed": {
		[]string{`UPDATE audit_log SET time = 5 WHERE seq = 3`},
		Verification{Records: 2, Problem: "record 3 was changed: its column time is not what the record says"}, true,
	},
	"a failure listed as a success": {
		[]string{`UPDATE audit_log SET success = NOT success WHERE seq = 3`},
		Verification{Records: 2, Problem: "record 3 was changed: its column success is not what the record says"}, true,
	},
	"its type listed as another": {
		[]string{`UPDATE audit_log SET event = 'session.start' WHERE seq = 3`},
		Verification{Records: 2, Problem: "record 3 was changed: its column event is not what the record says"}, true,
	},
	"its uid listed as another": {
		[]string{`UPDATE audit_log SET uid = 'x' WHERE seq = 3`},
		Verification{Records: 2, Problem: "record 3 was changed: its column uid is not what the record says"}, true,
	},
	"one removed from the middle": {
		[]string{`DELETE FROM audit_log WHERE seq = 3`},
		Verification{Records: 2, Problem: "record 3 was removed"}, true,
	},
	"some removed from the middle": {
		[]string{`DELETE FROM audit_log WHERE seq BETWEEN 3 AND 5`},
		Verification{Records: 2, Problem: "records 3 to 5 were removed"}, true,
	},
	"one removed and the gap closed": {
		[]string{`DELETE FROM audit_log WHERE seq = 6`, `UPDATE audit_log SET seq = 6 WHERE seq = 7`},
		Verification{Records: 5, Problem: "record 6 was changed or added"}, false,
	},
	"the first removed": {
		[]string{`DELETE FROM audit_log WHERE seq = 1`},
		Verification{Problem: "record 1 was removed"}, true,
	},
	"the last removed": {
		[]string{`DELETE FROM audit_log WHERE seq = 7`},
		Verification{Records: 6, Problem: "record 7 was removed from the end"}, false,
	},
	"the last removed and the head set back, with the hash that the log shows": {
		[]string{
			`DELETE FROM audit_log WHERE seq = 7`,
			`UPDATE audit_head SET seq = 6, hash = (SELECT hash FROM audit_log WHERE seq = 6)`,
		},
		Verification{Records: 6, Problem: "the head was changed: it names record 6, and the log ends with record 6"}, false,
	},
	"all removed": {
		[]string{`DELETE FROM audit_log`},
		Verification{Problem: "records 1 to 7 were removed from the end"}, false,
	},
	"all removed and the head too": {
		[]string{`DELETE FROM audit_log`, `DELETE FROM audit_head`},
		Verification{Problem: "an older log was put back: it ends with record 0, and record 7 was seen"}, false,
	},
	"the head removed": {
		[]string{`DELETE FROM audit_head`},
		Verification{Records: 7, Problem: "the head was removed"}, false,
	},
	"the head set back": {
		[]string{`UPDATE audit_head SET seq = 6`},
		Verification{Records: 7, Problem: "the head was changed: it names record 6, and the log ends with record 7"}, false,
	},
	"two neighbours swapped": {
		[]string{
			`UPDATE audit_log SET seq = 100 WHERE seq = 3`,
			`UPDATE audit_log SET seq = 3 WHERE seq = 4`,
			`UPDATE audit_log SET seq = 4 WHERE seq = 100`,
		},
		Verification{Records: 2, Problem: "the records were reordered: number 3 was written as number 4"}, true,
	},
	"two others swapped": {
		[]string{
			`UPDATE audit_log SET seq = 100 WHERE seq = 2`,
			`UPDATE audit_log SET seq = 2 WHERE seq = 5`,
			`UPDATE audit_log SET seq = 5 WHERE seq = 100`,
		},
		Verification{Records: 1, Problem: "the records were reordered: number 2 was written as number 5"}, true,
	},
	"one added at the end": {
		[]string{`INSERT INTO audit_log SELECT 8, 'new', time, event, user_name, success, record, hash FROM audit_log WHERE seq = 7`},
		Verification{Records: 7, Problem: "record 8 was added: it is a copy of record 7"}, false,
	},
	"one added at the end, with the head": {
		[]string{
			`INSERT INTO audit_log SELECT 8, 'new', time, event, user_name, success, record, hash FROM audit_log WHERE seq = 7`,
			`UPDATE audit_head SET seq = 8`,
		},
		Verification{Records: 7, Problem: "record 8 was added: it is a copy of record 7"}, false,
	},
	"one added before the first": {
		[]string{`INSERT INTO audit_log SELECT 0, 'new', time, event, user_name, success, record, hash FROM audit_log WHERE seq = 7`},
		Verification{Problem: "a record numbered 0 was added"}, true,
	},
	"one added in the middle": {
		[]string{
			`UPDATE audit_log SET seq = 8 WHERE seq = 7`,
			`UPDATE audit_log SET seq = 7 WHERE seq = 6`,
			`INSERT INTO audit_log SELECT 6, 'new', time, event, user_name, success, record, hash FROM audit_log WHERE seq = 5`,
		},
		Verification{Records: 5, Problem: "record 6 was added: it is a copy of record 5"}, false,
	},
}

func TestVerifySaysWhatWasTamperedWith(t *testing.T) {
	for name, c := range tampering {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			storetest.Run(t, func(t *testing.T, db *store.DB) {
				l := testLog(db)
				record(t, db, l, 7)
				for _, q := range c.sql {
					exec(t, db, q)
				}
				if diff := cmp.Diff(c.want, verify(t, l)); diff != "" {
					t.Errorf("(-want +got):\n%s", diff)
				}
				err := l.RecordAlone(t.Context(), event.Event{Type: event.UserLogin})
				if c.appends != (err == nil) {
					t.Errorf("the next record: %v", err)
				}
				if v := verify(t, l); v.Intact != c.want.Intact {
					t.Errorf("after one more record: %+v", v)
				}
			})
		})
	}
}

func TestRecordsOfAnotherKeyAreNotOurs(t *testing.T) {
	db := storetest.Open(t)
	record(t, db, testLog(db), 2)
	other := testLog(db)
	other.chain.key[0] ^= 1
	if v := verify(t, other); v.Intact || v.Records != 0 {
		t.Errorf("%+v", v)
	}
	if err := other.RecordAlone(t.Context(), event.Event{Type: event.UserLogin}); err == nil {
		t.Error("a record was appended under another key")
	}
}

// save and restore are what a backup of the database would do.
const (
	saveLog    = `CREATE TABLE old_log AS SELECT * FROM audit_log`
	saveHead   = `CREATE TABLE old_head AS SELECT * FROM audit_head`
	dropLog    = `DELETE FROM audit_log`
	dropHead   = `DELETE FROM audit_head`
	putBack    = `INSERT INTO audit_log SELECT * FROM old_log`
	putBackTop = `INSERT INTO audit_head SELECT * FROM old_head`
)

func TestAnOlderLogPutBackIsNoticedByWhoeverSawTheNewer(t *testing.T) {
	storetest.Run(t, func(t *testing.T, db *store.DB) {
		anchor := filepath.Join(t.TempDir(), "audit-anchor")
		l := testLog(db)
		if err := l.UseAnchor(anchor); err != nil {
			t.Fatal(err)
		}
		record(t, db, l, 3)
		exec(t, db, saveLog)
		exec(t, db, saveHead)
		record(t, db, l, 2)
		for _, q := range []string{dropLog, dropHead, putBack, putBackTop} {
			exec(t, db, q)
		}
		want := Verification{Records: 3, Problem: "an older log was put back: it ends with record 3, and record 5 was seen"}
		noticed := func(l *Log, who string) {
			t.Helper()
			if diff := cmp.Diff(want, verify(t, l)); diff != "" {
				t.Errorf("%s (-want +got):\n%s", who, diff)
			}
			if err := l.RecordAlone(t.Context(), event.Event{Type: event.UserLogin}); err == nil {
				t.Errorf("%s: recorded", who)
			}
		}
		noticed(l, "the same process")

		restarted := testLog(db)
		if err := restarted.UseAnchor(anchor); err != nil {
			t.Fatal(err)
		}
		noticed(restarted, "the next process, by the anchor")

		// A replica that saw nothing goes on; the witness sees the fork.
		record(t, db, testLog(db), 4)
		want = Verification{Records: 4, Problem: "record 5 is not the one that was seen"}
		if diff := cmp.Diff(want, verify(t, restarted)); diff != "" {
			t.Errorf("after a fork (-want +got):\n%s", diff)
		}
		for _, l := range []*Log{l, restarted} {
			if err := l.Close(); err != nil {
				t.Error(err)
			}
		}
	})
}

func TestADamagedAnchorIsNotBelieved(t *testing.T) {
	db := storetest.Open(t)
	path := filepath.Join(t.TempDir(), "audit-anchor")
	l := testLog(db)
	if err := l.UseAnchor(path); err != nil {
		t.Fatal(err)
	}
	record(t, db, l, 1)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	for i := range good {
		bad := append([]byte(nil), good...)
		bad[i] ^= 1
		if err := os.WriteFile(path, bad, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := testLog(db).UseAnchor(path); err == nil {
			t.Errorf("believed with byte %d changed: %q", i, bad)
		}
	}
}
