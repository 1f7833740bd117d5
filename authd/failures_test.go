package authd

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"devicetrust/api/dtv1/dtv1connect"
)

func TestRefusalsDoNotFillTheRecord(t *testing.T) {
	r := start(t)
	r.addUser("mallory", "access")
	db := r.database()
	for _, test := range []struct {
		name  string
		flood func(c *http.Client) string
	}{
		{"calls that policy refuses", func(c *http.Client) string {
			_, answer := post(t, c, r.url()+dtv1connect.AdminServiceListAuditProcedure, "application/json", []byte(`{}`))
			return answer
		}},
		{"ceremonies that begin with nonsense", func(c *http.Client) string {
			_, answer := post(t, c, r.url()+dtv1connect.DeviceServiceAuthenticateDeviceProcedure, "application/connect+json", framed(t, []byte(`{"init":{}}`)))
			return answer
		}},
		{"enrollments with tokens that are none", func(c *http.Client) string {
			_, answer := post(t, c, r.url()+dtv1connect.DeviceServiceEnrollDeviceProcedure, "application/connect+json", framed(t, []byte(`{"init":{"token":"x"}}`)))
			return answer
		}},
	} {
		c := r.https(r.login("mallory"))
		before := len(column(t, db, `SELECT uid FROM audit_log`))
		for range 3 * maxFailures {
			if answer := test.flood(c); !strings.Contains(answer, `"code"`) {
				t.Fatalf("%s: answered %q", test.name, answer)
			}
		}
		// A minute may turn in between.
		if got := len(column(t, db, `SELECT uid FROM audit_log`)) - before; got > 2*maxFailures {
			t.Errorf("%s: %d records of %d calls", test.name, got, 3*maxFailures)
		}
	}
	if told := column(t, db, fmt.Sprintf(`SELECT record FROM audit_log WHERE record LIKE '%%%s%%'`, unrecordedNote)); len(told) == 0 {
		t.Error("no record says that others are missing")
	}
}

func TestFailuresAreForgottenWithTheirMinute(t *testing.T) {
	var f failures
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for range maxFailures {
		f.add("mallory", now)
	}
	if f.check("mallory", now) == nil {
		t.Error("not refused")
	}
	if err := f.check("alice", now); err != nil {
		t.Errorf("somebody else: %v", err)
	}
	if err := f.check("mallory", now.Add(time.Minute)); err != nil {
		t.Errorf("a minute later: %v", err)
	}
}
