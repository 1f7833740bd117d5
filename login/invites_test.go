package login

import (
	"crypto/sha256"
	"errors"
	"regexp"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"connectrpc.com/connect"

	"devicetrust/audit/event"
	"devicetrust/store"
	"devicetrust/store/storetest"
)

func (w *world) accept(token, password Secret) error {
	_, err := w.AcceptInvite(w.t.Context(), token, password, home)
	return err
}

func TestAnInviteSetsThePasswordOnce(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		invite, err := w.CreateInvited(t.Context(), "admin", user("alice"), 0)
		w.must(err)
		diff(t, w.clock.now().Add(time.Hour), invite.Expires)
		if token := invite.Token.Reveal(); !regexp.MustCompile(`^[A-Za-z0-9_-]{43}$`).MatchString(token) {
			t.Errorf("token %q", token)
		}
		refused(t, w.accept(invite.Token, NewSecret("short")), connect.CodeInvalidArgument, "8 to 256") // not spent by that
		name, err := w.AcceptInvite(t.Context(), invite.Token, right, home)
		w.must(err)
		diff(t, "alice", name)
		w.must(w.check("alice", right, home))
		refused(t, w.accept(invite.Token, wrong), connect.CodeUnauthenticated, "this invite is not valid")
		w.must(w.check("alice", right, home))
		diff(t, []string{"T1005I by alice on alice", "T1005E by  on : the invite is unknown, spent or replaced"},
			w.records(event.UserPasswordChange))
		diff(t, []string{"DT102I by admin on alice"}, w.records(event.InviteCreate))
		diff(t, []string{"T1002I by admin on alice"}, w.records(event.UserCreate))
	})
}

func TestTheStoreHoldsNoToken(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		invite, err := w.CreateInvited(t.Context(), "admin", user("alice"), 0)
		w.must(err)
		want := sha256.Sum256([]byte(invite.Token.Reveal()))
		var got []byte
		w.must(w.db.Read(t.Context(), func(tx *store.Tx) error {
			return tx.QueryRow(`SELECT token_hash FROM invites`).Scan(&got)
		}))
		diff(t, want[:], got)
		diff(t, 0, w.count(`SELECT count(*) FROM audit_log WHERE record LIKE '%' || $1 || '%'`, invite.Token.Reveal()))
	})
}

func TestAnExpiredInviteIsSpentByTrying(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		invite, err := w.CreateInvited(t.Context(), "admin", user("alice"), time.Hour)
		w.must(err)
		w.clock.forward(time.Hour)
		refused(t, w.accept(invite.Token, right), connect.CodeUnauthenticated, "has expired")
		diff(t, 0, w.count(`SELECT count(*) FROM invites`))
		refused(t, w.check("alice", right, home), connect.CodeUnauthenticated, "")
		diff(t, []string{"T1005E by  on alice: the invite has expired"}, w.records(event.UserPasswordChange))
	})
}

func TestForgottenInvitesAreRemoved(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		_, err := w.CreateInvited(t.Context(), "admin", user("alice"), time.Hour)
		w.must(err)
		w.clock.forward(time.Hour + maxInviteLife)
		refused(t, w.check("alice", right, home), connect.CodeUnauthenticated, "")
		diff(t, 0, w.count(`SELECT count(*) FROM invites`))
	})
}

func TestANewInviteVoidsTheOld(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		old, err := w.CreateInvited(t.Context(), "admin", user("alice"), 0)
		w.must(err)
		fresh, err := w.Invite(t.Context(), "admin", "alice", 0)
		w.must(err)
		refused(t, w.accept(old.Token, right), connect.CodeUnauthenticated, "replaced")
		w.must(w.accept(fresh.Token, right))
	})
}

func TestAnInviteIsBoundToItsUser(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		alice, err := w.CreateInvited(t.Context(), "admin", user("alice"), 0)
		w.must(err)
		_, err = w.CreateInvited(t.Context(), "admin", user("bob"), 0)
		w.must(err)
		w.must(w.accept(alice.Token, right))
		refused(t, w.check("bob", right, home), connect.CodeUnauthenticated, "")
		w.must(w.DeleteUser(t.Context(), "admin", "bob", nil))
		diff(t, 0, w.count(`SELECT count(*) FROM invites`))
	})
}

func TestInvitesNeedAUserAndASensibleLife(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		_, err := w.Invite(t.Context(), "admin", "nobody", 0)
		refused(t, err, connect.CodeNotFound, `"nobody" does not exist`)
		w.alice()
		for _, ttl := range []time.Duration{-1, maxInviteLife + 1} {
			_, err := w.Invite(t.Context(), "admin", "alice", ttl)
			refused(t, err, connect.CodeInvalidArgument, "at most 168h")
			_, err = w.CreateInvited(t.Context(), "admin", user("bob"), ttl)
			refused(t, err, connect.CodeInvalidArgument, "at most 168h")
		}
		diff(t, 1, w.count(`SELECT count(*) FROM users`)) // bob was not left without an invite
	})
}

// Of many who come with one token at once, on two replicas, one is served.
func TestAnInviteCannotBeSpentTwice(t *testing.T) {
	storetest.RunAt(t, func(t *testing.T, address string) {
		one := newWorld(t, storetest.OpenAt(t, address))
		two := newReplica(t, storetest.OpenAt(t, address), one.clock)
		invite, err := one.CreateInvited(t.Context(), "admin", user("alice"), 0)
		one.must(err)
		var served atomic.Int32
		var wg sync.WaitGroup
		for range 8 {
			for _, w := range []*world{one, two} {
				wg.Go(func() {
					if _, err := w.AcceptInvite(t.Context(), invite.Token, right, home); err == nil {
						served.Add(1)
					} else {
						refused(t, err, connect.CodeUnauthenticated, "invite is not valid")
					}
				})
			}
		}
		wg.Wait()
		diff(t, int32(1), served.Load())
	})
}

func TestResetVoidsEverything(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		w.alice()
		proved, err := w.CheckPassword(t.Context(), "alice", right, home)
		w.must(err)
		var l Login
		w.must(w.write(func(tx *store.Tx) (err error) { l, err = w.Begin(tx, proved, aLogin(w)); return err }))
		old, err := w.Invite(t.Context(), "admin", "alice", 0)
		w.must(err)

		var ran bool
		fresh, err := w.Reset(t.Context(), "admin", "alice", 0, func(*store.Tx) error { ran = true; return nil })
		w.must(err)
		if !ran {
			t.Error("the caller's part did not run")
		}
		refused(t, w.check("alice", right, home), connect.CodeUnauthenticated, "wrong")
		refused(t, w.accept(old.Token, right), connect.CodeUnauthenticated, "replaced")
		refused(t, w.write(func(tx *store.Tx) error { _, err := w.Find(tx, l.ID); return err }), connect.CodeUnauthenticated, "this login has ended")
		refused(t, w.write(func(tx *store.Tx) error { _, err := w.Begin(tx, proved, aLogin(w)); return err }), connect.CodeUnauthenticated, "wrong")
		w.must(w.accept(fresh.Token, right))
		refused(t, w.write(func(tx *store.Tx) error { _, err := w.Begin(tx, proved, aLogin(w)); return err }), connect.CodeUnauthenticated, "wrong")
		w.must(w.check("alice", right, home))
		diff(t, []string{"DT101I by admin on alice"}, w.records(event.UserReset))

		failed := errors.New("cannot revoke")
		if _, err := w.Reset(t.Context(), "admin", "alice", 0, func(*store.Tx) error { return failed }); !errors.Is(err, failed) {
			t.Errorf("got %v", err)
		}
		w.must(w.check("alice", right, home)) // all of it or nothing
		_, err = w.Reset(t.Context(), "admin", "nobody", 0, nil)
		refused(t, err, connect.CodeNotFound, "does not exist")
	})
}
