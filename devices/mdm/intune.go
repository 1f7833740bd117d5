package mdm

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"iter"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"time"

	"devicetrust/devices"
	"devicetrust/resource"
)

// The hosts of the worldwide cloud; national ones are set by url and
// login_url.
const (
	graphURL = "https://graph.microsoft.com"
	loginURL = "https://login.microsoftonline.com"
)

// intune reads the managed devices of a tenant by Microsoft Graph 1.0.
type intune struct {
	cfg    Config
	remote *remote
	base   *url.URL
}

var tenantPattern = regexp.MustCompile(`^[0-9A-Za-z][0-9A-Za-z.-]{0,127}$`)

func openIntune(cfg Config, clock Clock) (Source, error) {
	if !tenantPattern.MatchString(cfg.TenantID) {
		return nil, fmt.Errorf("tenant_id: %.64q: want the ID of a tenant, or its domain", cfg.TenantID)
	}
	base, err := serverURL("url", cmp.Or(cfg.URL, graphURL))
	if err != nil {
		return nil, err
	}
	login, err := serverURL("login_url", cmp.Or(cfg.LoginURL, loginURL))
	if err != nil {
		return nil, err
	}
	scope := base.Scheme + "://" + base.Host + "/.default"
	r, err := newRemoteWithCredentials(cfg, clock, login.JoinPath(cfg.TenantID, "oauth2/v2.0/token"), scope)
	if err != nil {
		return nil, err
	}
	return &intune{cfg: cfg, remote: r, base: base.JoinPath("v1.0/deviceManagement/managedDevices")}, nil
}

// Pages follows the server's own links from page to page.
func (n *intune) Pages(ctx context.Context, since time.Time) iter.Seq2[[]devices.SyncRecord, error] {
	return func(yield func([]devices.SyncRecord, error) bool) {
		seen := 0
		for page, u := 1, n.first(since); u != nil; page++ {
			body, err := n.remote.get(ctx, u)
			var records []devices.SyncRecord
			if err == nil {
				records, u, err = n.read(body)
			}
			if seen += len(records); err == nil && seen > maxRecords || page > maxRecords {
				err = failed("more than %d devices", maxRecords)
			}
			if err != nil {
				yield(nil, at(err, "Intune, page %d", page))
				return
			}
			for i := range records {
				records[i].Profile = n.cfg.takenOver(records[i].Profile)
				records[i].Place = fmt.Sprintf("page %d, id %.64q", page, records[i].Place)
			}
			if !yield(records, nil) {
				return
			}
		}
	}
}

func (n *intune) first(since time.Time) *url.URL {
	u := *n.base
	q := url.Values{
		"$top":    {strconv.Itoa(pageRecords)},
		"$select": {"id,serialNumber,operatingSystem,osVersion,model,deviceName,lastSyncDateTime"},
	}
	var filters []string
	if n.cfg.Filter != "" {
		filters = append(filters, n.cfg.Filter)
	}
	if !since.IsZero() {
		if len(filters) > 0 {
			filters[0] = "(" + filters[0] + ")"
		}
		filters = append(filters, "lastSyncDateTime ge "+since.UTC().Format("2006-01-02T15:04:05Z"))
	}
	if len(filters) > 0 {
		q.Set("$filter", strings.Join(filters, " and "))
	}
	u.RawQuery = q.Encode()
	return &u
}

type intunePage struct {
	NextLink string         `json:"@odata.nextLink"`
	Value    []intuneDevice `json:"value"`
}

type intuneDevice struct {
	ID               string    `json:"id"`
	SerialNumber     string    `json:"serialNumber"`
	OperatingSystem  string    `json:"operatingSystem"`
	OSVersion        string    `json:"osVersion"`
	Model            string    `json:"model"`
	DeviceName       string    `json:"deviceName"`
	LastSyncDateTime time.Time `json:"lastSyncDateTime"`
}

// read reads one page, and where the next one is; the records' places are
// their IDs.
func (n *intune) read(body []byte) ([]devices.SyncRecord, *url.URL, error) {
	var page intunePage
	if err := json.Unmarshal(body, &page); err != nil {
		return nil, nil, failed("not what it should be: %v", err)
	}
	if page.Value == nil {
		return nil, nil, failed("it has no value")
	}
	records := make([]devices.SyncRecord, 0, len(page.Value))
	for _, d := range page.Value {
		records = append(records, d.record())
	}
	if page.NextLink == "" {
		return records, nil, nil
	}
	// The token goes where the link leads.
	next, err := url.Parse(page.NextLink)
	if err != nil || next.Scheme != n.base.Scheme || next.Host != n.base.Host || next.User != nil {
		return nil, nil, failed("the next page is not at %s", n.base.Host)
	}
	return records, next, nil
}

func (d intuneDevice) record() devices.SyncRecord {
	system := strings.ToLower(d.OperatingSystem)
	if strings.HasPrefix(system, "linux") { // "Linux (Ubuntu)"
		system = "linux"
	}
	p := resource.DeviceProfile{
		ExternalID: d.ID, UpdateTime: d.LastSyncDateTime, OSVersion: d.OSVersion,
		ModelIdentifier: d.Model, SerialNumber: d.SerialNumber,
	}
	if system != "macos" { // there it is what the person calls it
		p.Hostname = d.DeviceName
	}
	return devices.SyncRecord{OSType: system, AssetTag: d.SerialNumber, Profile: p, Place: d.ID}
}
