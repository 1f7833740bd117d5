package node

import (
	"cmp"
	"fmt"
	"os"
	"slices"
	"testing"
	"time"

	"devicetrust/e2e/stage"
	"devicetrust/store/storetest"
)

// How long it may take from the call that makes a lock until a server refuses,
// and has cut, whom it keeps out; 99 of a hundred times.
const limitLock, limitLockReplicas = 250, 1000

const fleetSize = 1000

// BenchmarkFleetLock makes locks while a thousand nodes follow and three real ones
// have a session.
func BenchmarkFleetLock(b *testing.B) {
	b.Run("SQLite", func(b *testing.B) {
		measureLocks(b, startRealPlane(b, []string{"authd"}), limitLock)
	})
	b.Run("PostgreSQL", func(b *testing.B) {
		p := startRealPlane(b, []string{"authd", "authd-2"}, "--storage="+storetest.PostgresURL(b))
		measureLocks(b, p, limitLockReplicas)
	})
}

func measureLocks(b *testing.B, p *realPlane, limit float64) {
	var nodeds []*stage.Daemon
	for i := range 3 {
		d, err := p.stage.Noded(b.Context(), p.authds[i%len(p.authds)], fmt.Sprintf("real-%d", i))
		must(b, err)
		nodeds = append(nodeds, d)
	}
	fleet := p.follow(b, fleetSize)
	awaitAll(b, fleet, false, time.Now())
	var refused, told, cut []time.Duration
	cpu, own := processorTime(b, p.authds[0].PID()), processorTime(b, os.Getpid())
	once := func() {
		var shells []*liveShell
		for _, d := range nodeds {
			shells = append(shells, p.enter(b, d))
		}
		name := fmt.Sprintf("lock-%d", len(cut))
		begin := time.Now()
		p.lock(b, name)
		refused = append(refused, awaitAll(b, fleet, true, begin)...)
		for _, s := range shells {
			told = append(told, await(b, s.told).Sub(begin))
			cut = append(cut, await(b, s.ended).Sub(begin))
		}
		p.unlock(b, name)
		awaitAll(b, fleet, false, time.Now())
	}
	for b.Loop() {
		once()
	}
	for len(cut) < 20*len(nodeds) { // b.Loop is content with few
		once()
	}
	b.ReportMetric(0, "ns/op") // it is of all that goes with it
	for what, d := range map[string][]time.Duration{"refused": refused, "told": told, "cut": cut} {
		b.ReportMetric(percentile(d, 50), what+"-p50-ms")
		b.ReportMetric(percentile(d, 99), what+"-p99-ms")
		b.ReportMetric(percentile(d, 100), what+"-max-ms")
	}
	changes := float64(2 * len(cut) / len(nodeds))
	b.ReportMetric(float64((processorTime(b, p.authds[0].PID())-cpu).Milliseconds())/changes, "cpu-ms/change")
	b.ReportMetric(float64((processorTime(b, os.Getpid())-own).Milliseconds())/changes, "cpu-ms/change_followers")
	b.ReportMetric(max(percentile(refused, 99), percentile(cut, 99)), "p99-ms")
	b.ReportMetric(limit, "limit-p99-ms")
}

// percentile of d in milliseconds, by the nearest rank.
func percentile(d []time.Duration, p int) float64 {
	sorted := slices.SortedFunc(slices.Values(d), cmp.Compare)
	return float64(sorted[max(0, (len(sorted)*p+99)/100-1)].Microseconds()) / 1000
}
