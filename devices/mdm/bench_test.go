package mdm

import (
	"context"
	"fmt"
	"iter"
	"runtime"
	"testing"
	"time"

	"devicetrust/devices"
	"devicetrust/store/storetest"
)

// BenchmarkSync100k takes a hundred thousand computers over from a Jamf Pro,
// into an empty inventory and then, which is what happens every day, once
// more. The server is in this process too, and with it in the figures.
func BenchmarkSync100k(b *testing.B) {
	const computers = 100_000
	v := startVendor(b, jamfToken, newFleet(computers).serve)
	for b.Loop() {
		c := newCluster(storetest.Open(b))
		s := c.syncer(b, jamfConfig(b, v))
		source := &heap{Source: s.sources[0].Source}
		s.sources[0].Source = source
		for _, run := range []string{"first", "again"} {
			begin := time.Now()
			counts, err := s.Sync(b.Context(), "bench", "jamf", true, nil)
			if err != nil || counts.Seen != computers {
				b.Fatal(counts, err)
			}
			b.ReportMetric(float64(computers)/time.Since(begin).Seconds(), run+"-devices/s")
		}
		b.ReportMetric(float64(source.most)/1e6, "peak-MB")
	}
}

// heap is a source that looks at the memory in use before each page, garbage
// that was not collected yet among it.
type heap struct {
	Source
	most uint64
}

func (h *heap) Pages(ctx context.Context, since time.Time) iter.Seq2[[]devices.SyncRecord, error] {
	return func(yield func([]devices.SyncRecord, error) bool) {
		for page, err := range h.Source.Pages(ctx, since) {
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			h.most = max(h.most, m.HeapInuse+m.StackInuse)
			if !yield(page, err) {
				return
			}
		}
	}
}

// The bound is that of the issue, for a tenth as many, and for one that finds
// an inventory that is there.
func TestMemoryDoesNotGrowWithTheInventory(t *testing.T) {
	if testing.Short() {
		t.Skip("it writes thousands of devices")
	}
	var most []uint64
	for _, n := range []int{1000, 10_000} {
		c := newCluster(storetest.Open(t))
		s := c.syncer(t, jamfConfig(t, startVendor(t, jamfToken, newFleet(n).serve)))
		source := &heap{Source: s.sources[0].Source}
		s.sources[0].Source = source
		if _, err := s.Sync(t.Context(), "os:root", "jamf", true, nil); err != nil {
			t.Fatal(err)
		}
		most = append(most, source.most)
	}
	t.Log(fmt.Sprint(most))
	if most[1] > 2*most[0]+16<<20 {
		t.Errorf("ten times as many devices want %d bytes in place of %d", most[1], most[0])
	}
}
