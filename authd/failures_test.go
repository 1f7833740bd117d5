package authd

import (
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/durationpb"

	"devicetrust/api/dtv1"
	"devicetrust/api/dtv1/dtv1connect"
)

func TestRefusalsDoNotFillTheRecord(t *testing.T) {
	// The clock stands still, for each minute counts anew. It is ahead, so that
	// no deadline which the server reckons by it comes.
	var minutes atomic.Int64
	ahead := time.Now().Add(time.Hour).Truncate(time.Minute)
	r := startWith(t, t.TempDir(), "", func() time.Time { return ahead.Add(time.Duration(minutes.Load()) * time.Minute) })
	r.addUser("mallory", "access")
	r.autoEnroll()
	// A token waits for the device, so that nobody gets one by auto-enrollment.
	_, err := dtv1connect.NewDeviceServiceClient(r.admin, "http://admin").AddDevice(t.Context(),
		connect.NewRequest(&dtv1.AddDeviceRequest{OsType: "linux", AssetTag: "TAG12345", Enroll: true, EnrollTtl: durationpb.New(24 * time.Hour)}))
	if err != nil {
		t.Fatal(err)
	}
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
		{"auto-enrollments that are refused", func(c *http.Client) string {
			_, answer := post(t, c, r.url()+dtv1connect.DeviceServiceCreateAutoEnrollTokenProcedure, "application/json", []byte(`{"device":{"osType":"linux","assetTag":"TAG12345"}}`))
			return answer
		}},
	} {
		minutes.Add(1) // all are of one caller and would count together
		c := r.https(r.login("mallory"))
		before := len(column(t, db, `SELECT uid FROM audit_log`))
		for range 3 * maxFailures {
			if answer := test.flood(c); !strings.Contains(answer, `"code"`) {
				t.Fatalf("%s: answered %q", test.name, answer)
			}
		}
		if got := len(column(t, db, `SELECT uid FROM audit_log`)) - before; got != maxFailures {
			t.Errorf("%s: %d records of %d calls, want %d", test.name, got, 3*maxFailures, maxFailures)
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
