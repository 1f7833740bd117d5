package node

import (
	"cmp"
	"fmt"
	"os"
	"slices"
	"testing"
	"time"

	"devicetrust/e2e/stage"
	"devicetrust/feed"
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

// limitRestart is what the restart of a node may take of dtauthd's processor
// time, in milliseconds, with manyRoles and manyLocks.
const limitRestart, manyRoles, manyLocks = 5, 5000, 5000

// BenchmarkFleetRestart is that: the node connects, says that it is there and
// what it has, and is told what that lacks.
func BenchmarkFleetRestart(b *testing.B) {
	p := startRealPlane(b, []string{"authd"})
	p.fill(b, manyRoles, manyLocks)
	f := p.follow(b, 1)[0]
	awaitAll(b, []*benchFollower{f}, false, time.Now())
	behind := f.restart(b, nil)
	p.lock(b, "one-more")
	awaitAll(b, []*benchFollower{f}, true, time.Now()) // dtauthd knows of it then
	current := f.restart(b, behind)
	for _, has := range []struct {
		name  string
		state *feed.State
		limit float64
	}{{"current", current, limitRestart}, {"behind", behind, limitRestart}, {"nothing", nil, 0}} {
		b.Run(has.name, func(b *testing.B) {
			const restarts = 200 // a tick of the processor's clock is 10 ms
			times := 0
			cpu := processorTime(b, p.authds[0].PID())
			for b.Loop() {
				for range restarts {
					if got := f.restart(b, has.state); !feed.SameContent(got, current) {
						b.Fatalf("what was told as of change %d is not what is at %d", got.Sequence(), current.Sequence())
					}
				}
				times += restarts
			}
			cpu = processorTime(b, p.authds[0].PID()) - cpu
			b.ReportMetric(0, "ns/op") // the node's time is in it
			b.ReportMetric(float64(cpu.Milliseconds())/float64(times), "cpu-ms")
			if has.limit > 0 {
				b.ReportMetric(has.limit, "limit-cpu-ms")
			}
		})
	}
}

// BenchmarkFleetChange is what one change takes of dtauthd with as many, while
// one node follows.
func BenchmarkFleetChange(b *testing.B) {
	p := startRealPlane(b, []string{"authd"})
	p.fill(b, manyRoles, manyLocks)
	fleet := p.follow(b, 1)
	awaitAll(b, fleet, false, time.Now())
	var took []time.Duration
	cpu := processorTime(b, p.authds[0].PID())
	for b.Loop() {
		for range 20 {
			begin := time.Now()
			p.lock(b, "one-more")
			took = append(took, awaitAll(b, fleet, true, begin)...)
			p.unlock(b, "one-more")
			awaitAll(b, fleet, false, time.Now())
		}
	}
	cpu = processorTime(b, p.authds[0].PID()) - cpu
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(float64(cpu.Milliseconds())/float64(2*len(took)), "cpu-ms/change")
	b.ReportMetric(percentile(took, 50), "refused-p50-ms")
}
