package mdm

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"devicetrust/devices"
	"devicetrust/resource"
)

// fleet are the computers of a Jamf Pro, by number.
type fleet struct {
	ids []int
	// before, where not nil, happens before a page is given.
	before func(f *fleet, page int)
}

func newFleet(n int) *fleet {
	f := &fleet{}
	for i := range n {
		f.ids = append(f.ids, i+1)
	}
	return f
}

// computer is in the published shape; of its many fields, some that we do not
// read are here.
func computer(id int) map[string]any {
	return map[string]any{
		"id": strconv.Itoa(id), "udid": fmt.Sprintf("udid-%d", id),
		"general": map[string]any{
			"name": fmt.Sprintf("mac-%d", id), "platform": "Mac", "jamfBinaryVersion": "11.4.1-t1712591696",
			"reportDate": "2026-01-01T16:39:56.307Z", "lastContactTime": "2026-01-01T16:40:00Z", "assetTag": nil,
		},
		"hardware": map[string]any{
			"make": "Apple", "model": "MacBook Pro 14-inch", "modelIdentifier": "MacBookPro18,3",
			"serialNumber": fmt.Sprintf("C02AB%06d", id),
		},
		"operatingSystem": map[string]any{"name": "macOS", "version": "14.4.1", "build": "23E224"},
		"userAndLocation": nil,
	}
}

func (f *fleet) serve(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	page, size := number(q.Get("page")), number(q.Get("page-size"))
	if r.URL.Path != "/api/v1/computers-inventory" || size < 1 || size > 2000 || q.Get("sort") != "id:asc" ||
		!slices.Equal(q["section"], []string{"GENERAL", "HARDWARE", "OPERATING_SYSTEM"}) {
		http.Error(w, `{"httpStatus":400}`, http.StatusBadRequest)
		return
	}
	if f.before != nil {
		f.before(f, page)
	}
	results := []any{}
	for _, id := range f.ids[min(len(f.ids), page*size):min(len(f.ids), (page+1)*size)] {
		results = append(results, computer(id))
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(map[string]any{"totalCount": len(f.ids), "results": results})
}

func number(s string) int {
	n, err := strconv.Atoi(s)
	if err != nil {
		return -1
	}
	return n
}

const jamfToken = "/api/oauth/token"

func jamfConfig(t testing.TB, v *vendor) Config {
	return Config{Name: "jamf", Type: "jamf", URL: v.URL, ClientID: testClient, ClientSecretFile: secretFile(t, testSecret)}
}

func TestJamfComputersAreReadPageByPage(t *testing.T) {
	v := startVendor(t, jamfToken, newFleet(2*pageRecords+5).serve)
	cfg := jamfConfig(t, v)
	cfg.URL += "/" // as people copy it
	all, err := read(t.Context(), open(t, cfg, newWatch().clock()), time.Time{})
	if err != nil || len(all) != 2*pageRecords+5 {
		t.Fatalf("got %d, %v", len(all), err)
	}
	want := devices.SyncRecord{OSType: "macos", AssetTag: "C02AB000201", Place: "page 2, id 201", Profile: resource.DeviceProfile{
		ExternalID: "201", UpdateTime: time.Date(2026, 1, 1, 16, 39, 56, 307e6, time.UTC), OSVersion: "14.4.1", OSBuild: "23E224",
		ModelIdentifier: "MacBookPro18,3", SerialNumber: "C02AB000201", JamfBinaryVersion: "11.4.1-t1712591696",
	}}
	if diff := cmp.Diff(want, all[pageRecords]); diff != "" {
		t.Error(diff)
	}
	if n := len(v.asked()); n != 3 {
		t.Errorf("%d pages were asked for", n)
	}
}

func TestAPartialJamfSyncAddsItsTimeToTheFilter(t *testing.T) {
	v := startVendor(t, jamfToken, newFleet(1).serve)
	cfg := jamfConfig(t, v)
	since := time.Date(2026, 1, 1, 1, 2, 3, 4, time.FixedZone("", 3600))
	for _, tt := range []struct {
		filter string
		since  time.Time
		want   string
	}{
		{"", time.Time{}, ""},
		{"general.site.name==Berlin", time.Time{}, "general.site.name==Berlin"},
		{"", since, `general.reportDate=ge="2026-01-01T00:02:03Z"`},
		{"a==1,b==2", since, `(a==1,b==2);general.reportDate=ge="2026-01-01T00:02:03Z"`},
	} {
		cfg.Filter = tt.filter
		if _, err := read(t.Context(), open(t, cfg, newWatch().clock()), tt.since); err != nil {
			t.Fatal(err)
		}
		r, err := http.NewRequest(http.MethodGet, v.asked()[len(v.asked())-1], nil)
		if err != nil || r.URL.Query().Get("filter") != tt.want {
			t.Errorf("asked for %v, want %q", r.URL, tt.want)
		}
	}
}

func TestOnlyTheFieldsThatAreWantedAreTakenOver(t *testing.T) {
	v := startVendor(t, jamfToken, newFleet(1).serve)
	cfg := jamfConfig(t, v)
	cfg.Profile = []string{"serial_number", "os_usernames"}
	all, err := read(t.Context(), open(t, cfg, newWatch().clock()), time.Time{})
	if err != nil {
		t.Fatal(err)
	}
	want := resource.DeviceProfile{ExternalID: "1", UpdateTime: all[0].Profile.UpdateTime, SerialNumber: "C02AB000001"}
	if diff := cmp.Diff(want, all[0].Profile); diff != "" {
		t.Error(diff)
	}
}

// A computer that is deleted on a page already read moves all behind it up.
func TestAJamfListThatShrinksOrBreaksItsOrderFails(t *testing.T) {
	for _, tt := range []struct {
		name, want string
		before     func(f *fleet, page int)
	}{
		{"it shrinks", "Jamf Pro, page 2: there were 405 computers and now are 404", func(f *fleet, page int) {
			if page == 1 {
				f.ids = f.ids[1:]
			}
		}},
		{"it is in another order", "Jamf Pro, page 2: computer with id \"1\" after 200", func(f *fleet, page int) {
			if page == 1 {
				f.ids[pageRecords] = 1
			}
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := newFleet(405)
			f.before = tt.before
			_, err := read(t.Context(), open(t, jamfConfig(t, startVendor(t, jamfToken, f.serve)), newWatch().clock()), time.Time{})
			wantFailure(t, err, tt.want)
		})
	}
}

func TestAJamfListThatGrowsIsReadToItsEnd(t *testing.T) {
	f := newFleet(2 * pageRecords)
	f.before = func(f *fleet, page int) {
		if page == 1 {
			f.ids = append(f.ids, 1000)
		}
	}
	all, err := read(t.Context(), open(t, jamfConfig(t, startVendor(t, jamfToken, f.serve)), newWatch().clock()), time.Time{})
	if err != nil || len(all) != 2*pageRecords+1 {
		t.Errorf("got %d, %v", len(all), err)
	}
}

func TestAnAnswerThatIsNotAPageFails(t *testing.T) {
	const end = `"results":[{"id":"1","hardware":{"serialNumber":"X1"}}]}`
	for _, tt := range []struct{ name, kind, body, want string }{
		{"a login page", "text/html; charset=utf-8", "<html>", `answers with "text/html; charset=utf-8", want application/json`},
		{"no kind", "", "{}", "want application/json"},
		{"broken off, in full length", "application/json", `{"totalCount":2,"resu`, "Jamf Pro, page 1: not what it should be: unexpected end of JSON input"},
		{"another type", "application/json", `{"totalCount":"2",` + end, "not what it should be"},
		{"no count", "application/json", "{" + end, "no totalCount or no results"},
		{"no results", "application/json", `{"totalCount":2}`, "no totalCount or no results"},
		{"null", "application/json", `null`, "no totalCount or no results"},
		{"fewer than it says", "application/json", `{"totalCount":2,"results":[]}`, "the list ends after 0 of 2 computers"},
		{"more than it says", "application/json", `{"totalCount":0,` + end, "the list has 1 computers and says that there are 0"},
		{"an id that is no number", "application/json", `{"totalCount":1,"results":[{"id":"x"}]}`, `computer with id "x"`},
		{"too large", "application/json", `{"totalCount":1,"results":[` + strings.Repeat(" ", maxPage) + `]}`, "has more than 8388608 bytes"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			v := startVendor(t, jamfToken, newFleet(1).serve)
			v.fail(says(tt.kind, tt.body))
			_, err := read(t.Context(), open(t, jamfConfig(t, v), newWatch().clock()), time.Time{})
			wantFailure(t, err, tt.want)
		})
	}
}

func FuzzJamfPage(f *testing.F) {
	f.Add([]byte(`{"totalCount":1,"results":[{"id":"1","general":{"platform":"Mac"},"hardware":{"serialNumber":"X1"}}]}`))
	f.Add([]byte(`{"totalCount":-1,"results":[]}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		var l jamfList
		records, err := l.next(body)
		if err == nil && l.done != (l.seen == l.total) || int64(len(records)) != l.seen && err == nil {
			t.Errorf("%d records, seen %d of %d", len(records), l.seen, l.total)
		}
	})
}
