package login

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"

	"devicetrust/api"
	"devicetrust/audit/event"
	"devicetrust/resource"
	"devicetrust/store"
	"devicetrust/store/storetest"
)

func TestTheRightPasswordProvesTheUser(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		w.alice()
		v, err := w.CheckPassword(t.Context(), "alice", right, home)
		w.must(err)
		if v.User() != "alice" {
			t.Errorf("verified %q", v.User())
		}
		if (Verified{}).User() != "" {
			t.Error("the zero value is somebody")
		}
	})
}

// What a person hears, and the work done, must not tell whether a user exists.
func TestAllWrongLoginsGetOneAnswerForTheSameWork(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		w.alice()
		w.must(w.CreateUser(t.Context(), "admin", user("invited"), nil))
		gone := user("gone")
		gone.Spec.Expires = w.clock.now()
		w.must(w.CreateUser(t.Context(), "admin", gone, &right))
		w.hashed()
		for _, c := range []struct {
			user, reason string
			password     Secret
		}{
			{"alice", "wrong password", wrong},
			{"alice", "wrong password", NewSecret("")},
			{"alice", "wrong password", NewSecret(strings.Repeat("x", 100_000))},
			{"Alice", "unknown user", right},
			{"nobody", "unknown user", right},
			{"", "unknown user", right},
			{"no\x00body\xff", "unknown user", right},
			{"invited", "no password is set", right},
			{"invited", "no password is set", NewSecret("")},
			{"gone", "the user has expired", right},
		} {
			v, err := w.CheckPassword(t.Context(), c.user, c.password, home)
			refused(t, err, connect.CodeUnauthenticated, "the user name or the password is wrong")
			if v != (Verified{}) {
				t.Errorf("%q: verified", c.user)
			}
			diff(t, []params{cheap}, w.hashed())
			all := w.records(event.UserLogin)
			name := strings.NewReplacer("\x00", "\uFFFD", "\xff", "\uFFFD").Replace(c.user)
			diff(t, "T1000W by "+name+" on "+name+": "+c.reason, all[len(all)-1])
		}
	})
}

// The key of the dummy is zeros, so a hash of zeros must not open the door.
func TestNothingMatchesTheDummy(t *testing.T) {
	w := newWorld(t, storetest.Open(t))
	w.hasher.derive = func([]byte, []byte, params, uint32) []byte { return make([]byte, keyLen) }
	refused(t, w.check("nobody", right, home), connect.CodeUnauthenticated, "wrong")
	w.must(w.CreateUser(t.Context(), "admin", user("invited"), nil))
	refused(t, w.check("invited", right, home), connect.CodeUnauthenticated, "wrong")
}

func TestTheFailedLoginIsRefusedWhereItCannotBeRecorded(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		w.alice()
		w.must(w.write(func(tx *store.Tx) error { _, err := tx.Exec(`DROP TABLE audit_log`); return err }))
		// Not "the password is wrong": that the log is gone is told to those
		// who run the server.
		var r *api.Refusal
		if err := w.check("alice", wrong, home); err == nil || errors.As(err, &r) {
			t.Errorf("got %v, want an internal error", err)
		}
	})
}

// An attempt is counted before the hash is computed, so guesses made together
// cannot slip through, on one replica or on two.
func TestGuessesMadeTogetherAreCounted(t *testing.T) {
	storetest.RunAt(t, func(t *testing.T, address string) {
		one := newWorld(t, storetest.OpenAt(t, address))
		one.alice()
		two := newReplica(t, storetest.OpenAt(t, address), one.clock)
		var wg sync.WaitGroup
		for range 12 {
			for _, w := range []*world{one, two} {
				wg.Go(func() {
					if err := w.check("alice", wrong, home); err == nil {
						t.Error("a wrong password was right")
					}
				})
			}
		}
		wg.Wait()
		if n := len(one.hashed()) + len(two.hashed()); n != int(pairRate.free)+1 {
			t.Errorf("%d guesses were looked at, want %d", n, pairRate.free+1)
		}
		refused(t, two.check("alice", right, home), connect.CodeResourceExhausted, "Try again in 1s")
	})
}

func TestARightPasswordIsTakenBackFromTheCount(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		w.alice()
		for range 3 * addrRate.free {
			w.must(w.check("alice", right, home))
		}
		if n := w.count(`SELECT count(*) FROM attempts WHERE failures > 0`); n != 0 {
			t.Errorf("%d buckets still count", n)
		}
	})
}

func TestWhatWasNotComparedIsNotCounted(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		w.alice()
		for range cap(w.hasher.queue) {
			w.hasher.queue <- struct{}{}
		}
		refused(t, w.check("alice", right, home), connect.CodeResourceExhausted, "Try again in a few seconds")
		for range cap(w.hasher.queue) {
			<-w.hasher.queue
		}
		for range cap(w.hasher.slots) {
			w.hasher.slots <- struct{}{}
		}
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() {
			if _, err := w.CheckPassword(ctx, "alice", right, home); !errors.Is(err, context.Canceled) {
				t.Errorf("got %v", err)
			}
		})
		for deadline := time.Now().Add(time.Minute); len(w.hasher.queue) == 0; { // until it waits for a slot
			if time.Now().After(deadline) {
				t.Error("after a minute it does not wait for a slot")
				break
			}
			time.Sleep(time.Millisecond)
		}
		cancel()
		wg.Wait()
		if n := w.count(`SELECT count(*) FROM attempts WHERE failures > 0`); n != 0 {
			t.Errorf("%d buckets count", n)
		}
	})
}

func TestAnOutdatedHashIsReplacedAtLogin(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		w.alice()
		better := params{memory: 128, passes: 2, threads: 1}
		w.hasher.params = better
		v, err := w.CheckPassword(t.Context(), "alice", right, home)
		w.must(err)
		diff(t, []params{cheap, better}, w.hashed())
		w.must(w.write(func(tx *store.Tx) error { _, err := w.Begin(tx, v, aLogin(w)); return err }))
		w.must(w.check("alice", right, home))
		diff(t, []params{better}, w.hashed())
	})
}

func TestChangePassword(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		w.alice()
		invite, err := w.Invite(t.Context(), "admin", "alice", 0)
		w.must(err)
		replacement := NewSecret("tr0ub4dor&3")
		change := func(old, replacement Secret) error {
			return w.ChangePassword(t.Context(), "alice", old, replacement, home, nil)
		}
		refused(t, change(wrong, replacement), connect.CodeUnauthenticated, "the old password is wrong")
		refused(t, change(right, NewSecret("short")), connect.CodeInvalidArgument, "8 to 256 bytes")
		refused(t, change(right, right), connect.CodeInvalidArgument, "is the old one")
		w.must(w.check("alice", right, home))

		w.must(change(right, replacement))
		refused(t, w.check("alice", right, home), connect.CodeUnauthenticated, "")
		w.must(w.check("alice", replacement, home))
		_, err = w.AcceptInvite(t.Context(), invite.Token, wrong, home)
		refused(t, err, connect.CodeUnauthenticated, "invite is not valid")
		diff(t, []string{
			"T1005E by alice on alice: wrong password",
			"T1005I by alice on alice",
			"T1005E by  on : the invite is unknown, spent or replaced",
		}, w.records(event.UserPasswordChange))
	})
}

func TestGuessingTheOldPasswordIsLimitedToo(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		w.alice()
		var err error
		for range pairRate.free + 2 {
			err = w.ChangePassword(t.Context(), "alice", wrong, NewSecret("another one"), home, nil)
		}
		refused(t, err, connect.CodeResourceExhausted, "too many failed attempts")
	})
}

// Between the two, a password may be reset: what was compared does not count.
func TestAPasswordReplacedMeanwhileIsNotReplacedAgain(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		w.alice()
		g, err := w.guess(t.Context(), "alice", event.Event{}, home)
		w.must(err)
		replace := func() error {
			return w.write(func(tx *store.Tx) error { return w.replaceHash(tx, g, "x", w.now()) })
		}
		invite, err := w.Reset(t.Context(), "admin", "alice", 0, nil)
		w.must(err)
		refused(t, replace(), connect.CodeAborted, "changed at the same moment")
		w.must(w.accept(invite.Token, right))
		refused(t, replace(), connect.CodeAborted, "changed at the same moment")
		w.must(w.check("alice", right, home))
	})
}

func TestPasswordsHaveLimits(t *testing.T) {
	w := newWorld(t, storetest.Open(t))
	for _, p := range []string{"", "1234567", strings.Repeat("x", 257)} {
		s := NewSecret(p)
		refused(t, w.CreateUser(t.Context(), "admin", user("bob"), &s), connect.CodeInvalidArgument, "8 to 256 bytes")
	}
	for name, p := range map[string]string{"short": "12345678", "long": strings.Repeat("\x00", 256)} {
		s := NewSecret(p)
		w.must(w.CreateUser(t.Context(), "admin", user(name), &s))
		w.must(w.check(name, s, home))
	}
	var u resource.User
	w.must(w.db.Read(t.Context(), func(tx *store.Tx) (err error) { u, err = w.GetUser(tx, "short"); return err }))
	diff(t, "1", u.Metadata.Revision)
}
