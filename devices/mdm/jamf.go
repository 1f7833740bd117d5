package mdm

import (
	"context"
	"encoding/json"
	"fmt"
	"iter"
	"net/url"
	"strconv"
	"strings"
	"time"

	"devicetrust/devices"
	"devicetrust/resource"
)

// jamf reads the computers of a Jamf Pro (API version 1,
// computers-inventory).
type jamf struct {
	cfg    Config
	remote *remote
	base   *url.URL
}

func openJamf(cfg Config, clock Clock) (Source, error) {
	base, err := serverURL("url", cfg.URL)
	if err != nil {
		return nil, err
	}
	r, err := newRemoteWithCredentials(cfg, clock, base.JoinPath("api/oauth/token"), "")
	if err != nil {
		return nil, err
	}
	return &jamf{cfg: cfg, remote: r, base: base.JoinPath("api/v1/computers-inventory")}, nil
}

// Pages reads by page numbers, in the order of the computers' IDs: new ones
// come last. Where one is deleted on a page that was read, all behind it move
// up, and one is passed over that is there: so a number of computers that
// falls ends the run.
func (j *jamf) Pages(ctx context.Context, since time.Time) iter.Seq2[[]devices.SyncRecord, error] {
	return func(yield func([]devices.SyncRecord, error) bool) {
		var list jamfList
		for page := 0; !list.done; page++ {
			body, err := j.remote.get(ctx, j.page(page, since))
			var records []devices.SyncRecord
			if err == nil {
				records, err = list.next(body)
			}
			if err != nil {
				yield(nil, at(err, "Jamf Pro, page %d", page+1))
				return
			}
			for i := range records {
				records[i].Profile = j.cfg.takenOver(records[i].Profile)
				records[i].Place = fmt.Sprintf("page %d, id %s", page+1, records[i].Place)
			}
			if !yield(records, nil) {
				return
			}
		}
	}
}

func (j *jamf) page(n int, since time.Time) *url.URL {
	u := *j.base
	q := url.Values{
		"section": {"GENERAL", "HARDWARE", "OPERATING_SYSTEM"}, "sort": {"id:asc"},
		"page": {strconv.Itoa(n)}, "page-size": {strconv.Itoa(pageRecords)},
	}
	var filters []string
	if j.cfg.Filter != "" {
		filters = append(filters, j.cfg.Filter)
	}
	if !since.IsZero() {
		if len(filters) > 0 {
			filters[0] = "(" + filters[0] + ")" // it may have an "or" in it
		}
		filters = append(filters, `general.reportDate=ge="`+since.UTC().Format("2006-01-02T15:04:05Z")+`"`)
	}
	if len(filters) > 0 {
		q.Set("filter", strings.Join(filters, ";"))
	}
	u.RawQuery = q.Encode()
	return &u
}

// jamfList is how far a listing has come.
type jamfList struct {
	done  bool
	seen  int64
	total int64
	last  int64 // ID
}

type jamfPage struct {
	TotalCount *int64         `json:"totalCount"`
	Results    []jamfComputer `json:"results"`
}

type jamfComputer struct {
	ID      string `json:"id"`
	General struct {
		Platform          string    `json:"platform"`
		JamfBinaryVersion string    `json:"jamfBinaryVersion"`
		ReportDate        time.Time `json:"reportDate"`
	} `json:"general"`
	Hardware struct {
		SerialNumber    string `json:"serialNumber"`
		ModelIdentifier string `json:"modelIdentifier"`
	} `json:"hardware"`
	OperatingSystem struct {
		Version string `json:"version"`
		Build   string `json:"build"`
	} `json:"operatingSystem"`
}

// next reads one page; the records' places are their IDs.
func (l *jamfList) next(body []byte) ([]devices.SyncRecord, error) {
	var page jamfPage
	if err := json.Unmarshal(body, &page); err != nil {
		return nil, failed("not what it should be: %v", err)
	}
	if page.TotalCount == nil || page.Results == nil {
		return nil, failed("it has no totalCount or no results")
	}
	if *page.TotalCount < l.total {
		return nil, failed("there were %d computers and now are %d; some may have been passed over", l.total, *page.TotalCount)
	}
	l.total = *page.TotalCount
	records := make([]devices.SyncRecord, 0, len(page.Results))
	for _, c := range page.Results {
		id, err := strconv.ParseInt(c.ID, 10, 64)
		if err != nil || id <= l.last {
			return nil, failed("computer with id %.64q after %d: the computers are not in the order of their ids", c.ID, l.last)
		}
		l.last = id
		records = append(records, c.record())
	}
	l.seen += int64(len(records))
	if len(records) == 0 && l.seen < l.total {
		return nil, failed("the list ends after %d of %d computers", l.seen, l.total)
	}
	if l.seen > l.total { // where such a list ends nobody knows
		return nil, failed("the list has %d computers and says that there are %d", l.seen, l.total)
	}
	l.done = l.seen == l.total
	if l.seen > maxRecords {
		return nil, failed("more than %d computers", maxRecords)
	}
	return records, nil
}

func (c jamfComputer) record() devices.SyncRecord {
	system := strings.ToLower(c.General.Platform)
	if system == "mac" {
		system = "macos"
	}
	return devices.SyncRecord{
		OSType: system, AssetTag: c.Hardware.SerialNumber, Place: c.ID,
		Profile: resource.DeviceProfile{
			ExternalID: c.ID, UpdateTime: c.General.ReportDate,
			OSVersion: c.OperatingSystem.Version, OSBuild: c.OperatingSystem.Build,
			ModelIdentifier: c.Hardware.ModelIdentifier, SerialNumber: c.Hardware.SerialNumber,
			JamfBinaryVersion: c.General.JamfBinaryVersion,
		},
	}
}
