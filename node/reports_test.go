package node

import (
	"context"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"devicetrust/policy"
)

func TestAHeartbeatTellsTheStateInForce(t *testing.T) {
	f, say, now := told(t)
	tells := func(sequence uint64, at time.Time) {
		t.Helper()
		m := f.member.reports.heartbeat(f.member.info)
		if m.GetStateSequence() != sequence || !m.GetStateTime().AsTime().Equal(at) {
			t.Errorf("it tells of change %d, confirmed at %v; want %d, %v", m.GetStateSequence(), m.GetStateTime().AsTime(), sequence, at)
		}
	}
	first := say.state(t)
	tells(5, first.Time())
	// The control plane says that it lives.
	*now = now.Add(time.Minute)
	say.time = first.Time().Add(time.Minute)
	if err := f.take(say.state(t)); err != nil {
		t.Fatal(err)
	}
	tells(5, first.Time().Add(time.Minute))
	// What is older is left aside for now, and is not what is decided by.
	if err := f.take(say.older().state(t)); err != nil {
		t.Fatal(err)
	}
	tells(5, first.Time().Add(time.Minute))
	say.sequence = 6
	say.content.Locks = []policy.Lock{{Name: "l", Target: policy.LockTarget{User: "bob"}}}
	if err := f.take(say.state(t)); err != nil {
		t.Fatal(err)
	}
	tells(6, first.Time().Add(time.Minute))
}

func TestANodeThatHasHeardNothingTellsNothing(t *testing.T) {
	var r reports
	if m := r.heartbeat(nil); m.GetStateSequence() != 0 || m.GetStateTime() != nil {
		t.Errorf("it tells %v", m)
	}
}

// reporting gives when each of n nodes tells of what happens to it while it
// waits.
func reporting(t *testing.T, n int, before, meanwhile func(*reports)) []time.Duration {
	t.Helper()
	all := make([]time.Duration, n)
	synctest.Test(t, func(t *testing.T) {
		begun := time.Now()
		nodes := make([]reports, n)
		for i := range all {
			r := &nodes[i]
			before(r)
			go func() {
				if !r.wait(t.Context()) {
					t.Error("it does not wait")
				}
				all[i] = time.Since(begun)
			}()
		}
		synctest.Wait()
		for i := range nodes {
			meanwhile(&nodes[i])
		}
		time.Sleep(2 * heartbeatInterval) // of the bubble's time
	})
	slices.Sort(all)
	return all
}

func TestAThousandNodesTellOfAChangeSoonAndNotAtOnce(t *testing.T) {
	state := saying(t, newSigner(t), 5, policy.RoleSpec{}).state(t)
	all := reporting(t, 1000, func(*reports) {}, func(r *reports) { r.note(state) })
	if first, last := all[0], all[len(all)-1]; first < reportSoonest || last > reportLatest {
		t.Errorf("the first comes after %v, the last after %v", first, last)
	}
	for at := reportSoonest; at < reportLatest; at += time.Second / 2 {
		n := 0
		for _, one := range all {
			if one >= at && one < at+time.Second/2 {
				n++
			}
		}
		if n > 250 {
			t.Errorf("%d come within half a second after %v", n, at)
		}
	}
}

func TestWithoutAChangeHeartbeatsAreAsUsual(t *testing.T) {
	state := saying(t, newSigner(t), 5, policy.RoleSpec{}).state(t)
	all := reporting(t, 100, func(r *reports) {
		r.note(state)
		r.heartbeat(nil) // it is told
	}, func(r *reports) {
		r.note(state) // and no other came
	})
	if first := all[0]; first < heartbeatInterval*9/10 {
		t.Errorf("the first comes after %v", first)
	}
}

func TestANodeThatEndsWaitsForNothing(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	var r reports
	if r.wait(ctx) {
		t.Error("one more heartbeat")
	}
	r.note(saying(t, newSigner(t), 5, policy.RoleSpec{}).state(t))
	if r.wait(ctx) {
		t.Error("one more heartbeat, of a change")
	}
}
