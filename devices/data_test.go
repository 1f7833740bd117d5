package devices

import (
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"devicetrust/audit/event"
	"devicetrust/resource"
	"devicetrust/store/storetest"
)

func TestDriftNamesEachFieldThatDiffersAndNoTime(t *testing.T) {
	long := strings.Repeat("x", maxField)
	for _, test := range []struct {
		name          string
		before, after resource.CollectedData
		want          []string
	}{
		{name: "nothing"},
		{name: "the times", after: resource.CollectedData{CollectTime: time.Unix(1, 0), RecordTime: time.Unix(2, 0)}},
		{
			name:   "two fields",
			before: resource.CollectedData{Hostname: "a", OSUsername: "alice", OSType: "linux"},
			after:  resource.CollectedData{Hostname: `"b"`, OSType: "linux"},
			want:   []string{`hostname changed from "a" to "\"b\""`, `os_username changed from "alice" to ""`},
		},
		{
			name:  "a long value",
			after: resource.CollectedData{OSBuild: long},
			want:  []string{`os_build changed from "" to "` + long[:64] + `"`},
		},
	} {
		if diff := cmp.Diff(test.want, drift(test.before, test.after)); diff != "" {
			t.Errorf("%s: %s", test.name, diff)
		}
	}
}

// A field that is none of text would not be compared.
func TestEveryFieldOfAReportIsTextOrATime(t *testing.T) {
	for f := range reflect.TypeFor[resource.CollectedData]().Fields() {
		if f.Type.Kind() != reflect.String && f.Type != reflect.TypeFor[time.Time]() {
			t.Errorf("%s is a %v", f.Name, f.Type)
		}
	}
}

func TestWhatChangedSinceTheLastLoginIsRecorded(t *testing.T) {
	w, m := newWorld(t, storetest.Open(t)), newMachine(t)
	w.enroll(t, m, alice, Trust{})
	const changed = `hostname changed from "laptop" to "renamed"`
	for _, test := range []struct {
		hostname string
		want     bool
	}{{"laptop", false}, {"renamed", true}, {"renamed", false}} {
		m.data.Hostname = test.hostname
		if _, err := w.loginWith(t, m, login{}); err != nil {
			t.Fatal(err)
		}
		if got := w.lastEvent(t, event.DeviceAuthenticate).Reasons; slices.Contains(got, changed) != test.want {
			t.Errorf("as %s: the reasons are %q", test.hostname, got)
		}
	}
	if got := w.lastEvent(t, event.DeviceEnroll).Reasons; slices.ContainsFunc(got, func(r string) bool { return strings.Contains(r, "changed") }) {
		t.Errorf("the first report: the reasons are %q", got)
	}
}
