package audit

import (
	"errors"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/google/go-cmp/cmp"

	"devicetrust/api"
	"devicetrust/audit/event"
	"devicetrust/store"
	"devicetrust/store/storetest"
)

func foreign() event.Event {
	return event.Event{
		Type: event.SessionStart, Time: testTime.Add(-time.Hour), UID: "0b7e2b1c-0000-4000-8000-000000000001",
		User: "alice", Success: true, NodeID: "n1", Login: "root",
	}
}

func recordForeign(t *testing.T, db *store.DB, l *Log, e event.Event) error {
	t.Helper()
	return db.Write(t.Context(), func(tx *store.Tx) error { return l.RecordForeign(tx, e) })
}

func TestANodesEventKeepsItsTimeAndIsStoredOnce(t *testing.T) {
	storetest.Run(t, func(t *testing.T, db *store.DB) {
		l := testLog(db)
		for range 2 {
			if err := recordForeign(t, db, l, foreign()); err != nil {
				t.Fatal(err)
			}
		}
		want := foreign()
		want.Cluster, want.Code = "test", "T2000I"
		got, _, err := l.List(t.Context(), Filter{})
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff([]event.Event{want}, got); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	})
}

func TestANodeCannotReportWhatItMayNot(t *testing.T) {
	db := storetest.Open(t)
	l := testLog(db)
	for name, change := range map[string]func(*event.Event){
		"an act of the CA":      func(e *event.Event) { e.Type = event.CertCreate },
		"an unknown type":       func(e *event.Event) { e.Type = "session.imagined" },
		"another type's code":   func(e *event.Event) { e.Code = "TV001I" },
		"another cluster":       func(e *event.Event) { e.Cluster = "other" },
		"no uid":                func(e *event.Event) { e.UID = "" },
		"a long uid":            func(e *event.Event) { e.UID = string(make([]byte, 65)) },
		"an odd uid":            func(e *event.Event) { e.UID = "'; --" },
		"no time":               func(e *event.Event) { e.Time = time.Time{} },
		"a time beyond writing": func(e *event.Event) { e.ValidUntil = time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC) },
	} {
		e := foreign()
		change(&e)
		var r *api.Refusal
		if err := recordForeign(t, db, l, e); !errors.As(err, &r) || r.Code != connect.CodeInvalidArgument {
			t.Errorf("%s: got %v, want a refusal", name, err)
		}
	}
	if v := verify(t, l); v.Records != 0 {
		t.Errorf("%d records", v.Records)
	}
}
