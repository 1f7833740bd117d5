package audit

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/google/go-cmp/cmp"

	"devicetrust/api"
	"devicetrust/audit/event"
	"devicetrust/store"
	"devicetrust/store/storetest"
)

var (
	testKey  = [32]byte{1, 2, 3}
	testTime = time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
)

func testLog(db *store.DB) *Log {
	return Open(db, "test", testKey, func() time.Time { return testTime })
}

// record appends n records, of alice1, alice2, …
func record(t *testing.T, db *store.DB, l *Log, n int) {
	t.Helper()
	for i := range n {
		e := event.Event{Type: event.UserCreate, User: "admin", Success: true, Kind: "user", Name: fmt.Sprintf("alice%d", i+1)}
		if err := db.Write(t.Context(), func(tx *store.Tx) error {
			_, err := l.Record(tx, e)
			return err
		}); err != nil {
			t.Fatal(err)
		}
	}
}

func verify(t *testing.T, l *Log) Verification {
	t.Helper()
	v, err := l.Verify(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func TestRecordFillsInWhatTheLogKnows(t *testing.T) {
	storetest.Run(t, func(t *testing.T, db *store.DB) {
		l := testLog(db)
		var got event.Event
		err := db.Write(t.Context(), func(tx *store.Tx) (err error) {
			got, err = l.Record(tx, event.Event{Type: event.DeviceEnroll, User: "alice", Success: true})
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		want := event.Event{
			Type: event.DeviceEnroll, Code: "TV005I", Time: testTime, UID: got.UID,
			Cluster: "test", User: "alice", Success: true,
		}
		if diff := cmp.Diff(want, got); diff != "" || len(got.UID) != 36 {
			t.Errorf("recorded (-want +got):\n%s", diff)
		}
		listed, _, err := l.List(t.Context(), Filter{})
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff([]event.Event{want}, listed); diff != "" {
			t.Errorf("listed (-want +got):\n%s", diff)
		}
	})
}

func TestAFailureHasItsOwnCode(t *testing.T) {
	db := storetest.Open(t)
	l := testLog(db)
	if err := l.RecordAlone(t.Context(), event.Event{Type: event.UserLogin}); err != nil {
		t.Fatal(err)
	}
	listed, _, err := l.List(t.Context(), Filter{})
	if err != nil || len(listed) != 1 || listed[0].Code != "T1000W" {
		t.Errorf("got %+v, %v; want one record with code T1000W", listed, err)
	}
}

func TestAnUnknownTypeIsNotRecorded(t *testing.T) {
	l := testLog(storetest.Open(t))
	if err := l.RecordAlone(t.Context(), event.Event{Type: "user.imagined"}); err == nil {
		t.Error("no error")
	}
	if err := l.RecordAlone(t.Context(), event.Event{}); err == nil {
		t.Error("no error for the zero event")
	}
	if v := verify(t, l); v.Records != 0 {
		t.Errorf("%d records", v.Records)
	}
}

func TestTheActFailsWhereItCannotBeRecorded(t *testing.T) {
	storetest.Run(t, func(t *testing.T, db *store.DB) {
		l := testLog(db)
		exec(t, db, `DROP TABLE audit_log`)
		err := db.Write(t.Context(), func(tx *store.Tx) error {
			if _, err := tx.Exec(`INSERT INTO settings (name, value) VALUES ('act', $1)`, []byte("done")); err != nil {
				return err
			}
			_, err := l.Record(tx, event.Event{Type: event.RoleCreate, User: "admin", Success: true})
			return err
		})
		if err == nil {
			t.Fatal("recorded without a table")
		}
		if n := count(t, db, `SELECT count(*) FROM settings`); n != 0 {
			t.Error("the act took place")
		}
	})
}

func TestARecordIsGoneWithItsAct(t *testing.T) {
	storetest.Run(t, func(t *testing.T, db *store.DB) {
		l := testLog(db)
		failed := errors.New("the act failed")
		err := db.Write(t.Context(), func(tx *store.Tx) error {
			if _, err := l.Record(tx, event.Event{Type: event.RoleCreate, Success: true}); err != nil {
				return err
			}
			return failed
		})
		if !errors.Is(err, failed) {
			t.Fatal(err)
		}
		record(t, db, l, 2) // the witness must not wait for the lost one
		if diff := cmp.Diff(Verification{Intact: true, Records: 2}, verify(t, l)); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	})
}

func TestRecordAloneOutlivesACancelledRequest(t *testing.T) {
	l := testLog(storetest.Open(t))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := l.RecordAlone(ctx, event.Event{Type: event.UserLogin, Message: "wrong password"}); err != nil {
		t.Fatal(err)
	}
	if v := verify(t, l); v.Records != 1 {
		t.Errorf("%d records, want 1", v.Records)
	}
}

func TestManyWritersMakeOneChain(t *testing.T) {
	storetest.RunAt(t, func(t *testing.T, address string) {
		const replicas, writers, each = 2, 4, 10
		var wg sync.WaitGroup
		for range replicas {
			l := testLog(storetest.OpenAt(t, address))
			for range writers {
				wg.Go(func() {
					for range each {
						if err := l.RecordAlone(t.Context(), event.Event{Type: event.UserLogin}); err != nil {
							t.Error(err)
						}
					}
				})
			}
		}
		wg.Wait()
		got := verify(t, testLog(storetest.OpenAt(t, address)))
		if diff := cmp.Diff(Verification{Intact: true, Records: replicas * writers * each}, got); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	})
}

func TestListFilters(t *testing.T) {
	storetest.Run(t, func(t *testing.T, db *store.DB) {
		now := testTime
		l := Open(db, "test", testKey, func() time.Time { return now })
		for _, e := range []event.Event{
			{Type: event.UserCreate, User: "admin", Success: true, Kind: "user", Name: "alice"},
			{Type: event.UserLogin, Kind: "user", Name: "alice", Message: "wrong password"},
			{Type: event.UserLogin, User: "alice", Success: true},
			{Type: event.UserLogin, User: "bob", Success: true},
		} {
			if err := l.RecordAlone(t.Context(), e); err != nil {
				t.Fatal(err)
			}
			now = now.Add(time.Minute)
		}
		for name, c := range map[string]struct {
			filter Filter
			want   []string
		}{
			"everything":             {Filter{}, []string{"user.create T1002I", "user.login T1000W", "user.login T1000I", "user.login T1000I"}},
			"the newest":             {Filter{Limit: 2}, []string{"user.login T1000I", "user.login T1000I"}},
			"a type":                 {Filter{Type: event.UserCreate}, []string{"user.create T1002I"}},
			"a user, and who claims": {Filter{User: "alice"}, []string{"user.login T1000W", "user.login T1000I"}},
			"failures":               {Filter{FailedOnly: true}, []string{"user.login T1000W"}},
			"since":                  {Filter{Since: testTime.Add(2 * time.Minute)}, []string{"user.login T1000I", "user.login T1000I"}},
			"all of it":              {Filter{Type: event.UserLogin, User: "alice", Since: testTime, FailedOnly: true, Limit: 5}, []string{"user.login T1000W"}},
			"nothing":                {Filter{User: "carol"}, nil},
		} {
			events, _, err := l.List(t.Context(), c.filter)
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, e := range events {
				got = append(got, string(e.Type)+" "+e.Code)
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("%s (-want +got):\n%s", name, diff)
			}
		}
		var r *api.Refusal
		if _, _, err := l.List(t.Context(), Filter{Type: "user.imagined"}); !errors.As(err, &r) || r.Code != connect.CodeInvalidArgument {
			t.Errorf("an unknown type: %v", err)
		}
	})
}

func TestPagesGiveEachRecordOnce(t *testing.T) {
	storetest.Run(t, func(t *testing.T, db *store.DB) {
		l := testLog(db)
		var want []string
		for i := range 7 {
			name := fmt.Sprintf("user-%d", i)
			want = append(want, name)
			if err := l.RecordAlone(t.Context(), event.Event{Type: event.UserCreate, Kind: "user", Name: name, Success: true}); err != nil {
				t.Fatal(err)
			}
		}
		for _, limit := range []int{1, 2, 3, 7, 8} {
			var got []string
			for f := (Filter{Limit: limit}); ; {
				page, before, err := l.List(t.Context(), f)
				if err != nil || len(page) > limit {
					t.Fatalf("%d records in a page of %d: %v", len(page), limit, err)
				}
				var names []string
				for _, e := range page {
					names = append(names, e.Name)
				}
				got = append(names, got...)
				if f.Before = before; before == 0 {
					break
				}
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("in pages of %d (-want +got):\n%s", limit, diff)
			}
		}
	})
}

func TestLongTextIsCutWithAMark(t *testing.T) {
	storetest.Run(t, func(t *testing.T, db *store.DB) {
		l := testLog(db)
		if err := l.RecordAlone(t.Context(), event.Event{
			Type: event.UserLogin, Kind: "user", Name: "al\x00ice\xff", Message: strings.Repeat("é", 20_000),
		}); err != nil {
			t.Fatal(err)
		}
		events, _, err := l.List(t.Context(), Filter{User: "al\x00ice\xff"})
		if err != nil || len(events) != 1 {
			t.Fatalf("%d events, %v", len(events), err)
		}
		want := strings.Repeat("é", 8<<10) + "… [23616 bytes cut]"
		if got := events[0].Message; got != want {
			t.Errorf("message of %d bytes ends in %q", len(got), got[len(got)-30:])
		}
		if v := verify(t, l); !v.Intact {
			t.Errorf("%+v", v)
		}
	})
}

func exec(t *testing.T, db *store.DB, query string, args ...any) {
	t.Helper()
	if err := db.Write(t.Context(), func(tx *store.Tx) error {
		_, err := tx.Exec(query, args...)
		return err
	}); err != nil {
		t.Fatal(err)
	}
}

func count(t *testing.T, db *store.DB, query string) (n int) {
	t.Helper()
	if err := db.Read(t.Context(), func(tx *store.Tx) error { return tx.QueryRow(query).Scan(&n) }); err != nil {
		t.Fatal(err)
	}
	return n
}
