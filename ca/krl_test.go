package ca

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"devicetrust/identity"
	"devicetrust/policy"
	"devicetrust/store"
	"devicetrust/store/storetest"
)

func nobody(string, string) (bool, error) { return false, nil }

// forSSHD gives the ranges as pairs.
func (w *world) forSSHD(t *testing.T, refused func(user, deviceID string) (bool, error)) (out [][2]uint64) {
	t.Helper()
	w.read(t, func(tx *store.Tx) error {
		ranges, err := RevokedForSSHD(tx, w.clock.now(), refused)
		for _, r := range ranges {
			out = append(out, [2]uint64{r.First, r.Last})
		}
		return err
	})
	return out
}

func (w *world) revokeLogin(t *testing.T, login string) {
	t.Helper()
	w.write(t, func(tx *store.Tx) error {
		_, err := w.ca.RevokeLogin(tx, login, "x")
		return err
	})
}

func TestRangesForServersEndAtWhatIsGood(t *testing.T) {
	storetest.Run(t, func(t *testing.T, db *store.DB) {
		w := manyCertificates(t, db)
		// SSH certificates of users: 1 (login-1), 3 (login-2), 5 (login-3).
		for _, step := range []struct {
			does string
			do   func()
			want [][2]uint64
		}{
			{"nothing", func() {}, nil},
			{"a logout", func() { w.revokeLogin(t, "login-1") }, [][2]uint64{{1, 1}}},
			{"beside one that is good", func() { w.revokeLogin(t, "login-3") }, [][2]uint64{{1, 1}, {5, 5}}},
			{"what was between", func() { w.revokeLogin(t, "login-2") }, [][2]uint64{{1, 5}}},
			{"a new one", func() { w.issue(t, func(r *UserRequest) { r.LoginID = "login-4" }) }, [][2]uint64{{1, 5}}},
			{"servers are not users", func() {
				w.write(t, func(tx *store.Tx) error {
					_, err := w.ca.RevokeSubject(tx, SubjectNode, "node-1", "x")
					return err
				})
			}, [][2]uint64{{1, 5}}},
			{"the new one", func() { w.revokeLogin(t, "login-4") }, [][2]uint64{{1, 11}}},
		} {
			step.do()
			if d := cmp.Diff(step.want, w.forSSHD(t, nobody)); d != "" {
				t.Errorf("%s: want (-), got (+):\n%s", step.does, d)
			}
		}
	})
}

// The API's certificate of a login can be revoked without the other in theory
// only, but then it is none of sshd's.
func TestServersAreNotToldOfWhatTheyNeverSee(t *testing.T) {
	w := manyCertificates(t, storetest.Open(t))
	w.exec(t, `UPDATE certificates SET revoked_at = 1 WHERE kind <> 'user_ssh'`)
	if got := w.forSSHD(t, nobody); len(got) > 0 {
		t.Errorf("got %v", got)
	}
}

func TestWhoIsRefusedIsOnTheList(t *testing.T) {
	storetest.Run(t, func(t *testing.T, db *store.DB) {
		w := manyCertificates(t, db)
		w.revokeLogin(t, "login-1")
		var asked []string
		got := w.forSSHD(t, func(user, device string) (bool, error) {
			asked = append(asked, user+"/"+device)
			return user == "bob", nil
		})
		if d := cmp.Diff([][2]uint64{{1, 1}, {5, 5}}, got); d != "" {
			t.Errorf("want (-), got (+):\n%s", d)
		}
		if d := cmp.Diff([]string{"alice/", "bob/device-1"}, asked); d != "" {
			t.Errorf("asked: want (-), got (+):\n%s", d)
		}
	})
}

func TestWithoutAnAnswerWhoIsRefusedThereIsNoList(t *testing.T) {
	w := manyCertificates(t, storetest.Open(t))
	broken := errors.New("broken")
	for _, refused := range []func(string, string) (bool, error){nil, func(string, string) (bool, error) { return false, broken }} {
		err := w.db.Read(t.Context(), func(tx *store.Tx) error {
			_, err := RevokedForSSHD(tx, w.clock.now(), refused)
			return err
		})
		if err == nil {
			t.Error("a list all the same")
		}
	}
}

// A serial that was given back is issued again, to somebody who must get in.
func TestASerialThatWasGivenBackIsNotOnTheList(t *testing.T) {
	storetest.Run(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db)
		first := w.issue(t, nil).SSH.Serial
		refuse := errors.New("refused")
		if _, err := w.ca.IssueUser(t.Context(), w.request(t), func(tx *store.Tx) error {
			if _, err := nextSerials(tx, 2); err != nil {
				return err
			}
			return refuse
		}); !errors.Is(err, refuse) {
			t.Fatal(err)
		}
		w.revokeLogin(t, "login-1")
		again := w.issue(t, func(r *UserRequest) { r.LoginID = "login-2" }).SSH.Serial
		if again != first+2 {
			t.Fatalf("serial %d was not given back: the next is %d", first+2, again)
		}
		if d := cmp.Diff([][2]uint64{{first, first}}, w.forSSHD(t, nobody)); d != "" {
			t.Errorf("want (-), got (+):\n%s", d)
		}
	})
}

func TestWhatHasExpiredLeavesTheListAndStopsNoRange(t *testing.T) {
	storetest.Run(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db)
		for i, life := range []time.Duration{3, 1, 3, 1, 3, 1} { // serials 1, 3, 5, …
			w.issue(t, func(r *UserRequest) {
				r.LoginID, r.Identity.ValidBefore = fmt.Sprint("login-", i), w.clock.now().Add(life*time.Hour)
			})
		}
		for _, login := range []string{"login-0", "login-2", "login-4", "login-5"} {
			w.revokeLogin(t, login)
		}
		check := func(when string, want ...[2]uint64) {
			t.Helper()
			if d := cmp.Diff(want, w.forSSHD(t, nobody)); d != "" {
				t.Errorf("%s: want (-), got (+):\n%s", when, d)
			}
		}
		check("at first", [2]uint64{1, 1}, [2]uint64{5, 5}, [2]uint64{9, 11})
		w.clock.move(time.Hour + expiryGrace - time.Second)
		check("within the grace", [2]uint64{1, 1}, [2]uint64{5, 5}, [2]uint64{9, 11})
		w.clock.move(time.Second)
		check("after it", [2]uint64{1, 9})
		if err := w.ca.Prune(t.Context()); err != nil {
			t.Fatal(err)
		}
		check("once they are forgotten", [2]uint64{1, 9})
		w.clock.move(2 * time.Hour)
		check("in the end")
	})
}

// Whatever happened: all that is revoked is on the list, nothing that is good,
// nothing that is still to be issued, and no range that could be a part of
// another.
func TestTheListIsExactAndShort(t *testing.T) {
	storetest.Run(t, func(t *testing.T, db *store.DB) {
		w, random := newWorld(t, db), rand.New(rand.NewPCG(3, 4))
		for i := range 60 {
			w.issue(t, func(r *UserRequest) {
				r.LoginID, r.Identity.ValidBefore = fmt.Sprint("login-", i), w.clock.now().Add(time.Duration(20+random.IntN(100))*time.Minute)
				r.Identity.User = []string{"alice", "bob", "locked"}[random.IntN(3)]
				r.Identity.Device = identity.Device{}
			})
			if random.IntN(2) == 0 {
				w.revokeLogin(t, fmt.Sprint("login-", random.IntN(i+1)))
			}
			if i%20 == 19 {
				if err := w.ca.Prune(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			w.clock.move(time.Minute)
		}
		w.checkForSSHD(t)
	})
}

func (w *world) checkForSSHD(t *testing.T) {
	t.Helper()
	var all []userCertificate
	var ranges []policy.Revocation
	w.read(t, func(tx *store.Tx) (err error) {
		if all, err = userCertificates(tx, w.clock.now()); err != nil {
			return err
		}
		ranges, err = RevokedForSSHD(tx, w.clock.now(), func(user, _ string) (bool, error) { return user == "locked", nil })
		return err
	})
	revoked, err := policy.NewRevocations(ranges...)
	if err != nil {
		t.Fatal(err)
	}
	good := map[uint64]bool{}
	for _, c := range all {
		good[c.serial] = !c.revoked && c.user != "locked"
		if _, on := revoked.Find(c.serial); on == good[c.serial] {
			t.Errorf("%+v is on the list: %v", c, on)
		}
	}
	last := uint64(w.count(t, `SELECT last FROM certificate_serial`))
	if _, on := revoked.Find(last + 1); on {
		t.Error("what is still to be issued is on the list")
	}
	for i := 1; i < len(ranges); i++ {
		between := false
		for serial := ranges[i-1].Last; serial < ranges[i].First; serial++ {
			between = between || good[serial]
		}
		if !between {
			t.Errorf("%v and %v could be one", ranges[i-1], ranges[i])
		}
	}
	if len(ranges) < 5 {
		t.Errorf("only %d ranges: nothing was tried", len(ranges))
	}
}
