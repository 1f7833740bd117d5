package login

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"

	"devicetrust/audit/event"
	"devicetrust/store"
)

// fail makes n wrong guesses, each as soon as it is allowed.
func (w *world) fail(user string, from netip.Addr, n int) {
	w.t.Helper()
	for range n {
		refused(w.t, w.check(user, wrong, from), connect.CodeUnauthenticated, "wrong")
		w.clock.forward(w.waits(user, from))
	}
}

// waits asks how long an attempt would have to wait, without making one.
func (w *world) waits(user string, from netip.Addr) (wait time.Duration) {
	w.t.Helper()
	a := newAttempt(user, from)
	w.must(w.db.Read(w.t.Context(), func(tx *store.Tx) error {
		if err := a.skipAddress(tx, w.now()); err != nil {
			return err
		}
		for _, b := range a.buckets {
			t, _, err := readTally(tx, b.name)
			if err != nil {
				return err
			}
			wait = max(wait, t.wait(w.now(), b.rate))
		}
		return nil
	}))
	return wait
}

func TestTheWaitDoublesUpToItsCap(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		w.alice()
		w.fail("alice", home, int(pairRate.free))
		var got []time.Duration
		for range 12 {
			refused(t, w.check("alice", wrong, home), connect.CodeUnauthenticated, "wrong")
			wait := w.waits("alice", home)
			got = append(got, wait)
			w.clock.forward(wait - time.Millisecond)
			refused(t, w.check("alice", right, home), connect.CodeResourceExhausted, "Try again in 1s")
			w.clock.forward(time.Millisecond)
		}
		s := time.Second
		diff(t, []time.Duration{s, 2 * s, 4 * s, 8 * s, 16 * s, 32 * s, 64 * s, 128 * s, 256 * s, 300 * s, 300 * s, 300 * s}, got)
	})
}

func TestTheWaitIsTheSameForAUserWhoDoesNotExist(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		w.fail("nobody", home, int(pairRate.free))
		refused(t, w.check("nobody", wrong, home), connect.CodeUnauthenticated, "wrong")
		refused(t, w.check("nobody", wrong, home), connect.CodeResourceExhausted, "too many failed attempts")
	})
}

func TestAStrangerDoesNotLockThePersonOut(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		w.alice()
		w.fail("alice", stranger, 20)
		refused(t, w.check("alice", wrong, stranger), connect.CodeUnauthenticated, "")
		refused(t, w.check("alice", right, stranger), connect.CodeResourceExhausted, "5m0s")
		w.must(w.check("alice", right, home))
	})
}

func TestAPersonWaitsForMinutesAtMost(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		w.alice()
		w.fail("alice", home, 40)
		refused(t, w.check("alice", wrong, home), connect.CodeUnauthenticated, "")
		w.clock.forward(pairRate.cap)
		w.must(w.check("alice", right, home))
		w.fail("alice", home, int(pairRate.free)) // forgiven
		w.must(w.check("alice", right, home))
	})
}

func TestAnAddressThatTriesManyAccountsWaits(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		w.alice()
		for i := range int(addrRate.free) + 1 {
			refused(t, w.check(fmt.Sprintf("user%d", i), wrong, stranger), connect.CodeUnauthenticated, "wrong")
		}
		refused(t, w.check("another", wrong, stranger), connect.CodeResourceExhausted, "Try again in 1s")
		refused(t, w.check("alice", right, stranger), connect.CodeResourceExhausted, "Try again in 1s")
		w.must(w.check("alice", right, home))
	})
}

// Names that cannot be users' have no bucket of their own; they count for
// the address all the same, and so do guesses at invites.
func TestOddNamesAndInvitesCountForTheAddress(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		for i := range int(addrRate.free) + 1 {
			if i%2 == 0 {
				refused(t, w.check("a b\x00|", wrong, stranger), connect.CodeUnauthenticated, "wrong")
				continue
			}
			_, err := w.AcceptInvite(t.Context(), NewSecret("guess"), right, stranger)
			refused(t, err, connect.CodeUnauthenticated, "invite is not valid")
		}
		refused(t, w.check("x y", wrong, stranger), connect.CodeResourceExhausted, "")
		_, err := w.AcceptInvite(t.Context(), NewSecret("guess"), right, stranger)
		refused(t, err, connect.CodeResourceExhausted, "")
		diff(t, 1, w.count(`SELECT count(*) FROM attempts`))
	})
}

func TestANeighboursGuessesDoNotHoldUpWhoIsKnownThere(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		w.alice()
		w.must(w.check("alice", right, home))
		for i := range int(addrRate.free) + 1 {
			refused(t, w.check(fmt.Sprintf("user%d", i), wrong, home), connect.CodeUnauthenticated, "wrong")
		}
		refused(t, w.check("another", wrong, home), connect.CodeResourceExhausted, "")
		w.must(w.check("alice", right, home))
		refused(t, w.check("another", wrong, home), connect.CodeResourceExhausted, "") // she bought nobody a guess
	})
}

func TestIPv6NeighboursOfOneHostAreOnePlace(t *testing.T) {
	for _, c := range []struct {
		a, b string
		same bool
	}{
		{"2001:db8::1", "2001:db8::ffff:2", true},
		{"2001:db8::1", "2001:db8:0:1::1", false},
		{"::ffff:192.0.2.1", "192.0.2.1", true},
		{"192.0.2.1", "192.0.2.2", false},
		{"fe80::1%eth0", "fe80::2%eth1", true},
	} {
		a, b := place(netip.MustParseAddr(c.a)), place(netip.MustParseAddr(c.b))
		if (a == b) != c.same {
			t.Errorf("%s is %s, %s is %s", c.a, a, c.b, b)
		}
	}
}

// A stranger who goes on while refused must not fill the log.
func TestRefusalsInOneWaitAreRecordedOnce(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		w.alice()
		w.fail("alice", home, int(pairRate.free)+3)
		refused(t, w.check("alice", wrong, home), connect.CodeUnauthenticated, "")
		for range 5 {
			refused(t, w.check("alice", wrong, home), connect.CodeResourceExhausted, "8s")
		}
		var told []string
		for _, r := range w.records(event.UserLogin) {
			if strings.Contains(r, "too many") {
				told = append(told, r)
			}
		}
		diff(t, []string{"T1000W by alice on alice: too many failed attempts; others within the next 8s are refused without a record"}, told)
	})
}

func TestOldFailuresAreForgottenAndTheirRowsRemoved(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		w.alice()
		w.must(w.check("alice", right, home))
		w.fail("alice", stranger, int(pairRate.free)+5)
		w.clock.forward(idle + time.Minute)
		w.fail("alice", stranger, int(pairRate.free)) // without a wait
		if got := w.waits("alice", stranger); got != 0 {
			t.Errorf("waits %v", got)
		}
		w.clock.forward(idle + time.Minute)
		refused(t, w.check("bob", wrong, home), connect.CodeUnauthenticated, "")
		diff(t, 3, w.count(`SELECT count(*) FROM attempts`)) // bob's two, and that alice is known at home
		w.clock.forward(knownLife + time.Minute)
		refused(t, w.check("bob", wrong, home), connect.CodeUnauthenticated, "")
		diff(t, 2, w.count(`SELECT count(*) FROM attempts`))
	})
}

func TestARowFromAWrongClockKeepsNobodyOut(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		w.alice()
		w.clock.forward(10 * 365 * 24 * time.Hour)
		w.fail("alice", home, int(pairRate.free)+5)
		w.clock.forward(-10 * 365 * 24 * time.Hour)
		w.must(w.check("alice", right, home))
	})
}
