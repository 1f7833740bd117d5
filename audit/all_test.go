package audit

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"devicetrust/audit/event"
	"devicetrust/store"
	"devicetrust/store/storetest"
)

func recordAll(t *testing.T, db *store.DB, l *Log, events []event.Event) error {
	t.Helper()
	return db.Write(t.Context(), func(tx *store.Tx) error { return l.RecordAll(tx, events) })
}

func many(n int) []event.Event {
	all := make([]event.Event, n)
	for i := range all {
		all[i] = event.Event{Type: event.DeviceCreate, User: fmt.Sprintf("user-%d", i), Success: true}
	}
	return all
}

func TestManyEventsAreRecordedAsIfOneByOne(t *testing.T) {
	storetest.Run(t, func(t *testing.T, db *store.DB) {
		l := testLog(db)
		record(t, db, l, 2)
		given := many(501)
		if err := recordAll(t, db, l, given); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(many(501), given); diff != "" {
			t.Errorf("the caller's events were changed: %s", diff)
		}
		if err := recordAll(t, db, l, nil); err != nil {
			t.Errorf("nothing to record: %v", err)
		}
		record(t, db, l, 1)
		if v := verify(t, l); v.Records != 504 || v.Problem != "" {
			t.Errorf("%+v", v)
		}
		if last, _ := l.seen.now(); last.seq != 504 {
			t.Errorf("record %d was seen, want 504", last.seq)
		}
		listed, _, err := l.List(t.Context(), Filter{User: "user-500"})
		if err != nil || len(listed) != 1 {
			t.Fatalf("%d records of the last: %v", len(listed), err)
		}
		e := listed[0]
		if e.Code != "TV001I" || e.Cluster != "test" || !e.Time.Equal(testTime) || len(e.UID) != 36 {
			t.Errorf("%+v", e)
		}
		exec(t, db, `UPDATE audit_log SET record = replace(record, 'user-250', 'user-251') WHERE seq = 253`)
		if v := verify(t, l); !strings.Contains(v.Problem, "253") {
			t.Errorf("a record among many was changed, and what is found is %q", v.Problem)
		}
	})
}

func TestOfManyEventsAllAreRecordedOrNone(t *testing.T) {
	db := storetest.Open(t)
	l := testLog(db)
	record(t, db, l, 1)
	events := many(300)
	events[299].Type = "user.imagined"
	if err := recordAll(t, db, l, events); err == nil || !strings.Contains(err.Error(), "user.imagined") {
		t.Errorf("got %v, want that the type is unknown", err)
	}
	// A log that was put back is not gone on from, and what is not committed
	// was not seen.
	exec(t, db, `DELETE FROM audit_log WHERE seq = 1`)
	if err := recordAll(t, db, l, many(2)); err == nil || !strings.Contains(err.Error(), "tampered") {
		t.Errorf("got %v, want that it was tampered with", err)
	}
	if last, _ := l.seen.now(); last.seq != 1 {
		t.Errorf("record %d was seen, want 1", last.seq)
	}
}
