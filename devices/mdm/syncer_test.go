package mdm

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"

	"devicetrust/api"
	"devicetrust/audit"
	"devicetrust/audit/event"
	"devicetrust/devices"
	"devicetrust/store"
	"devicetrust/store/storetest"
)

// runs tells of each run that was recorded, the oldest first, "full" or
// "partial" and whether it succeeded.
func (c *cluster) runs(t *testing.T) string {
	t.Helper()
	found, _, err := c.log.List(t.Context(), audit.Filter{Type: event.DeviceSync})
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, e := range found {
		text := e.Reasons[0]
		if !e.Success {
			text += "!"
		}
		all = append(all, text)
	}
	return strings.Join(all, " ")
}

func (c *cluster) tags(t *testing.T) string {
	t.Helper()
	all, _, err := c.inv.ListPage(t.Context(), devices.Filter{}, devices.Page{})
	if err != nil {
		t.Fatal(err)
	}
	var tags []string
	for _, d := range all {
		tags = append(tags, d.Spec.AssetTag)
	}
	return strings.Join(tags, " ")
}

func assets(t testing.TB, tags ...string) Config {
	t.Helper()
	cfg := Config{Name: "assets", Type: "file", OnMissing: "delete"}
	cfg.Path = writeFile(t, "assets.csv", csvOf(tags...))
	return cfg
}

func csvOf(tags ...string) string {
	text := "os_type,asset_tag\n"
	for _, tag := range tags {
		text += "linux," + tag + "\n"
	}
	return text
}

func rewrite(t testing.TB, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestASourceIsTakenOverAndWhatIsGoneIsDeleted(t *testing.T) {
	storetest.Run(t, func(t *testing.T, db *store.DB) {
		c := newCluster(db)
		cfg := assets(t, "PF1", "PF2", "PF3")
		s := c.syncer(t, cfg)
		if _, err := s.Sync(t.Context(), "os:root", "assets", true, nil); err != nil || c.tags(t) != "PF1 PF2 PF3" {
			t.Fatalf("there are %s, %v", c.tags(t), err)
		}
		rewrite(t, cfg.Path, csvOf("PF1", "PF3"))
		if _, err := s.Sync(t.Context(), "os:root", "assets", false, nil); err != nil || c.tags(t) != "PF1 PF2 PF3" {
			t.Errorf("after a partial run there are %s, %v", c.tags(t), err)
		}
		counts, err := s.Sync(t.Context(), "os:root", "assets", true, nil)
		if err != nil || counts.Deleted != 1 || c.tags(t) != "PF1 PF3" {
			t.Errorf("got %v, %v; there are %s", counts, err, c.tags(t))
		}
		rewrite(t, cfg.Path, csvOf("PF1")+"linux")
		if _, err := s.Sync(t.Context(), "os:root", "assets", true, nil); err == nil || c.tags(t) != "PF1 PF3" {
			t.Errorf("a broken file: %v; there are %s", err, c.tags(t))
		}
		_, err = s.Sync(t.Context(), "os:root", "elsewhere", true, nil)
		wantRefused(t, err, connect.CodeNotFound, `there is no source "elsewhere"`)
	})
}

// What a run that was refused has registered makes its repetition no better.
func TestASourceThatRenamesItsDevicesDeletesNoneHoweverOftenItIsRead(t *testing.T) {
	storetest.Run(t, func(t *testing.T, db *store.DB) {
		c := newCluster(db)
		cfg := assets(t, "PF1", "PF2")
		s := c.syncer(t, cfg)
		if _, err := s.Sync(t.Context(), "os:root", "assets", true, func(devices.SyncCounts) { c.pass(time.Minute) }); err != nil {
			t.Fatal(err)
		}
		c.pass(time.Hour)
		rewrite(t, cfg.Path, csvOf("pf1", "pf2", "pf3"))
		for range 2 {
			_, err := s.Sync(t.Context(), "os:root", "assets", true, nil)
			wantRefused(t, err, connect.CodeFailedPrecondition, "2 of the 2 devices of assets are missing")
		}
		if got := c.tags(t); got != "PF1 PF2 pf1 pf2 pf3" {
			t.Errorf("there are %s", got)
		}
	})
}

func wantRefused(t *testing.T, err error, code connect.Code, text string) {
	t.Helper()
	r, ok := errors.AsType[*api.Refusal](err)
	if !ok || r.Code != code || !strings.Contains(r.Message, text) {
		t.Errorf("got %v, want %q", err, text)
	}
}

func TestOnlyOneRunReadsASourceAtATime(t *testing.T) {
	storetest.Run(t, func(t *testing.T, db *store.DB) {
		c := newCluster(db)
		cfg := assets(t, "PF1")
		first, second := c.syncer(t, cfg), c.syncer(t, cfg)
		_, err := first.Sync(t.Context(), "os:root", "assets", true, func(devices.SyncCounts) {
			_, err := second.Sync(t.Context(), "os:root", "assets", true, nil)
			wantRefused(t, err, connect.CodeAborted, "source assets is being synchronized already")
		})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := second.Sync(t.Context(), "os:root", "assets", true, nil); err != nil {
			t.Errorf("after it: %v", err)
		}
		if got := c.runs(t); got != "full full" {
			t.Errorf("recorded were %q", got)
		}
	})
}

// A run that was stopped for longer than its lease, with its machine say,
// comes back while another one has the source.
func TestARunThatLostItsLeaseWritesNothing(t *testing.T) {
	storetest.Run(t, func(t *testing.T, db *store.DB) {
		c := newCluster(db)
		cfg := assets(t, "PF1")
		rewrite(t, cfg.Path, csvOf(slices.Repeat([]string{"PF1"}, pageRecords)...)+"linux,LATE1\n")
		slow, fast := c.syncer(t, cfg), c.syncer(t, cfg)
		_, err := slow.Sync(t.Context(), "os:root", "assets", true, func(counts devices.SyncCounts) {
			if counts.Seen != pageRecords {
				t.Errorf("the slow one goes on: %v", counts)
			}
			c.pass(lease)
			r, _, err := fast.begin(t.Context(), fast.sources[0])
			if err != nil || r.id == "" {
				t.Errorf("the lease did not end: %v", err)
			}
		})
		wantRefused(t, err, connect.CodeAborted, "another one has taken over")
		if got := c.tags(t); got != "PF1" {
			t.Errorf("there are %s", got)
		}
		if _, err := slow.Sync(t.Context(), "os:root", "assets", true, nil); err == nil {
			t.Error("it took the lease of the other from it")
		}
	})
}

func TestARunThatIsInterruptedDeletesNothingAndFreesTheSource(t *testing.T) {
	storetest.Run(t, func(t *testing.T, db *store.DB) {
		c := newCluster(db)
		cfg := assets(t, "PF1", "PF2")
		s := c.syncer(t, cfg)
		if _, err := s.Sync(t.Context(), "os:root", "assets", true, nil); err != nil {
			t.Fatal(err)
		}
		rewrite(t, cfg.Path, csvOf("PF1"))
		c.pass(defaultFull)
		ctx, cancel := context.WithCancel(t.Context())
		_, err := s.Sync(ctx, "os:root", "assets", true, func(devices.SyncCounts) { cancel() })
		if full, due, err := s.due(t.Context(), s.sources[0]); !full || !due || err != nil {
			t.Errorf("it is not due any more: %v", err)
		}
		if !errors.Is(err, context.Canceled) || c.tags(t) != "PF1 PF2" {
			t.Errorf("got %v; there are %s", err, c.tags(t))
		}
		if _, err := s.Sync(t.Context(), "os:root", "assets", true, nil); err != nil || c.tags(t) != "PF1" {
			t.Errorf("the next: %v; there are %s", err, c.tags(t))
		}
	})
}

func TestTheScheduleAsksInItsTimeAndAfterAFailureLater(t *testing.T) {
	storetest.Run(t, func(t *testing.T, db *store.DB) {
		c := newCluster(db)
		cfg := assets(t, "PF1")
		s, replica := c.syncer(t, cfg), c.syncer(t, cfg)
		look := func(after time.Duration, want string) {
			t.Helper()
			c.pass(after)
			for _, s := range []*Syncer{s, replica} {
				s.scheduled(t.Context(), s.sources[0])
			}
			if got := c.runs(t); got != want {
				t.Fatalf("recorded were %q, want %q", got, want)
			}
		}
		look(0, "full")
		look(5*time.Hour, "full")
		look(time.Hour, "full partial")
		if _, err := s.Sync(t.Context(), "os:root", "assets", false, nil); err != nil {
			t.Fatal(err)
		}
		look(5*time.Hour, "full partial partial")
		look(13*time.Hour, "full partial partial full")

		if err := os.Remove(cfg.Path); err != nil {
			t.Fatal(err)
		}
		look(6*time.Hour, "full partial partial full partial!")
		look(firstRetry-time.Second, "full partial partial full partial!")
		look(firstRetry/5+time.Second, "full partial partial full partial! partial!")
		look(2*firstRetry-time.Second, "full partial partial full partial! partial!")
		rewrite(t, cfg.Path, csvOf("PF1"))
		look(2*firstRetry/5+time.Second, "full partial partial full partial! partial! partial")
	})
}

func TestARetryIsNeverLaterThanAPartialRunWouldBe(t *testing.T) {
	for failures := range 100 {
		if d := backOff(failures, defaultPartial); d < firstRetry || d > defaultPartial*6/5 {
			t.Errorf("%v after %d failures", d, failures)
		}
	}
}

func TestAPartialRunReachesBackToTheBeginningOfTheLast(t *testing.T) {
	storetest.Run(t, func(t *testing.T, db *store.DB) {
		c := newCluster(db)
		v := startVendor(t, jamfToken, newFleet(1).serve)
		s := c.syncer(t, jamfConfig(t, v))
		begin := c.time()
		for _, full := range []bool{false, true, false} {
			if _, err := s.Sync(t.Context(), "os:root", "jamf", full, func(devices.SyncCounts) { c.pass(time.Hour) }); err != nil {
				t.Fatal(err)
			}
		}
		asked := v.asked()
		if strings.Contains(asked[0], "reportDate") || strings.Contains(asked[1], "reportDate") {
			t.Errorf("asked for a part: %q", asked[:2])
		}
		want := "reportDate%3Dge%3D%22" + strings.ReplaceAll(begin.Add(time.Hour-overlap).Format(time.RFC3339), ":", "%3A")
		if !strings.Contains(asked[2], want) {
			t.Errorf("asked for %s, want %s", asked[2], want)
		}
	})
}

func TestTheScheduleEndsWithItsContext(t *testing.T) {
	c := newCluster(storetest.Open(t))
	s := c.syncer(t, assets(t, "PF1"))
	ctx, cancel := context.WithCancel(t.Context())
	s.clock.Wait = func(ctx context.Context, d time.Duration) error {
		if d < look/2 || d >= look*3/2 {
			t.Errorf("waits %v", d)
		}
		cancel()
		return ctx.Err()
	}
	s.Schedule(ctx)
	if got := c.runs(t); got != "full" {
		t.Errorf("recorded were %q", got)
	}
}

func TestASourceThatDoesNotAnswerDoesNotHoldUpTheOthers(t *testing.T) {
	c := newCluster(storetest.Open(t))
	ctx, cancel := context.WithCancel(t.Context())
	silent := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		select {
		case <-ctx.Done():
		case <-r.Context().Done():
		}
	}))
	defer silent.Close()
	s := c.syncer(t, Config{Name: "silent", Type: "file", URL: silent.URL}, assets(t, "PF1"))
	s.clock.Wait = Clock{}.wait
	var wg sync.WaitGroup
	wg.Go(func() { s.Schedule(ctx) })
	for end := time.Now().Add(10 * time.Second); c.runs(t) != "full" && time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
	}
	if got := c.tags(t); got != "PF1" {
		t.Errorf("there are %q", got)
	}
	cancel()
	wg.Wait()
}

func ExampleCheck() {
	fmt.Println(Check([]Config{{Name: "assets", Type: "file", Path: "/etc/dt/assets.csv", OnMissing: "remove"}}))
	// Output: mdm: source "assets": on_missing: "remove": want noop or delete
}
