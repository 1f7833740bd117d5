package mdm

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"devicetrust/devices"
	"devicetrust/resource"
)

const (
	testTenant  = "8f1a1c5e-0000-4000-8000-000000000001"
	intuneToken = "/" + testTenant + "/oauth2/v2.0/token"
)

// tenant gives n managed devices, in the published shape, size a page.
type tenant struct {
	n, size int
	// next, where not nil, is the link in place of the right one.
	next func(right string) string
	self string
}

var systems = []string{"Windows", "macOS", "Linux", "iOS", "Android"}

func managed(id int) map[string]any {
	return map[string]any{
		"id": fmt.Sprintf("id-%d", id), "deviceName": fmt.Sprintf("LAPTOP-%d", id), "serialNumber": fmt.Sprintf("SN%06d", id),
		"operatingSystem": systems[id%len(systems)], "osVersion": "10.0.22631.3447", "model": "Latitude 7440",
		"lastSyncDateTime": "2026-01-01T08:09:10.1234567Z",
	}
}

func (n *tenant) serve(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path != "/v1.0/deviceManagement/managedDevices" {
		http.Error(w, `{"error":{"code":"BadRequest"}}`, http.StatusBadRequest)
		return
	}
	skip := max(0, number(r.URL.Query().Get("$skiptoken")))
	answer := map[string]any{"@odata.context": "…/$metadata#deviceManagement/managedDevices", "@odata.count": n.size}
	value := []any{}
	for id := skip; id < min(n.n, skip+n.size); id++ {
		value = append(value, managed(id))
	}
	answer["value"] = value
	if skip+n.size < n.n {
		link := fmt.Sprintf("%s%s?$skiptoken=%d", n.self, r.URL.Path, skip+n.size)
		if n.next != nil {
			link = n.next(link)
		}
		answer["@odata.nextLink"] = link
	}
	w.Header().Set("Content-Type", "application/json;odata.metadata=minimal;odata.streaming=true;IEEE754Compatible=false;charset=utf-8")
	_ = json.NewEncoder(w).Encode(answer)
}

func startTenant(t testing.TB, n *tenant) (*vendor, Config) {
	v := startVendor(t, intuneToken, n.serve)
	n.self = v.URL
	return v, Config{
		Name: "intune", Type: "intune", TenantID: testTenant, URL: v.URL, LoginURL: v.URL,
		ClientID: testClient, ClientSecretFile: secretFile(t, testSecret),
	}
}

func TestIntuneDevicesAreReadByTheServersLinks(t *testing.T) {
	v, cfg := startTenant(t, &tenant{n: 12, size: 5})
	all, err := read(t.Context(), open(t, cfg, newWatch().clock()), time.Time{})
	if err != nil || len(all) != 12 || len(v.asked()) != 3 {
		t.Fatalf("got %d in %d pages, %v", len(all), len(v.asked()), err)
	}
	at := time.Date(2026, 1, 1, 8, 9, 10, 123456700, time.UTC)
	want := []devices.SyncRecord{
		{OSType: "windows", AssetTag: "SN000005", Place: `page 2, id "id-5"`, Profile: resource.DeviceProfile{
			ExternalID: "id-5", UpdateTime: at, OSVersion: "10.0.22631.3447", ModelIdentifier: "Latitude 7440", SerialNumber: "SN000005", Hostname: "LAPTOP-5",
		}},
		{OSType: "macos", AssetTag: "SN000006", Place: `page 2, id "id-6"`, Profile: resource.DeviceProfile{
			ExternalID: "id-6", UpdateTime: at, OSVersion: "10.0.22631.3447", ModelIdentifier: "Latitude 7440", SerialNumber: "SN000006",
		}},
	}
	if diff := cmp.Diff(want, all[5:7]); diff != "" {
		t.Error(diff)
	}
	if all[7].OSType != "linux" || all[8].OSType != "ios" || all[9].OSType != "android" {
		t.Errorf("the others run %q, %q, %q", all[7].OSType, all[8].OSType, all[9].OSType)
	}
}

func TestAPartialIntuneSyncAddsItsTimeToTheFilter(t *testing.T) {
	v, cfg := startTenant(t, &tenant{n: 1, size: 5})
	cfg.Filter = "a eq 1 or b eq 2"
	since := time.Date(2026, 1, 1, 1, 2, 3, 4, time.UTC)
	if _, err := read(t.Context(), open(t, cfg, newWatch().clock()), since); err != nil {
		t.Fatal(err)
	}
	r, err := http.NewRequest(http.MethodGet, v.asked()[0], nil)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := r.URL.Query().Get("$filter"), "(a eq 1 or b eq 2) and lastSyncDateTime ge 2026-01-01T01:02:03Z"; got != want {
		t.Errorf("asked for %q, want %q", got, want)
	}
}

// The token would be sent along.
func TestALinkToAnotherHostIsNotFollowed(t *testing.T) {
	asked := false
	elsewhere := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked = true }))
	t.Cleanup(elsewhere.Close)
	for _, link := range []string{
		elsewhere.URL + "/v1.0/deviceManagement/managedDevices", "https://graph.microsoft.com/x", "//elsewhere.example/x", "/relative", "::",
	} {
		n := &tenant{n: 12, size: 5, next: func(string) string { return link }}
		_, cfg := startTenant(t, n)
		_, err := read(t.Context(), open(t, cfg, newWatch().clock()), time.Time{})
		wantFailure(t, err, "Intune, page 1: the next page is not at 127.0.0.1")
	}
	if asked {
		t.Error("the other host was asked")
	}
}

func TestALinkWithAUserInItIsNotFollowed(t *testing.T) {
	n := &tenant{n: 12, size: 5}
	n.next = func(right string) string { return "http://user@" + right[len("http://"):] }
	_, cfg := startTenant(t, n)
	_, err := read(t.Context(), open(t, cfg, newWatch().clock()), time.Time{})
	wantFailure(t, err, "the next page is not at")
}

func TestAnIntuneAnswerThatIsNotAPageFails(t *testing.T) {
	for _, body := range []string{`{}`, `{"value":null}`, `{"value":{}}`, `{"value":[{"id":1}]}`, `{"value":[`, `null`} {
		v, cfg := startTenant(t, &tenant{n: 1, size: 5})
		v.fail(says("application/json", body))
		_, err := read(t.Context(), open(t, cfg, newWatch().clock()), time.Time{})
		wantFailure(t, err, "Intune, page 1: ")
	}
}

func FuzzIntunePage(f *testing.F) {
	f.Add([]byte(`{"value":[{"id":"1","operatingSystem":"Windows"}],"@odata.nextLink":"https://graph.microsoft.com/v1.0/x"}`))
	f.Add([]byte(`{"value":[],"@odata.nextLink":"https://graph.microsoft.com@evil.example/"}`))
	base, err := serverURL("url", graphURL)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		_, next, err := (&intune{base: base}).read(body)
		if err == nil && next != nil && (next.Host != base.Host || next.Scheme != "https") {
			t.Errorf("the token would go to %s", next)
		}
	})
}
