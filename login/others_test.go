package login

import (
	"testing"

	"devicetrust/audit/event"
	"devicetrust/store"
)

func TestTheOtherLoginsOfAPersonAreEnded(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		own := w.begun()
		v, err := w.CheckPassword(t.Context(), "alice", right, home)
		w.must(err)
		var stolen Login
		w.must(w.write(func(tx *store.Tx) (err error) { stolen, err = w.Begin(tx, v, aLogin(w)); return err }))
		end := func() (ids []string) {
			w.must(w.write(func(tx *store.Tx) (err error) {
				ids, err = w.EndOthers(tx, own, "because")
				return err
			}))
			return ids
		}
		diff(t, []string{stolen.ID}, end())
		if _, err := w.find(own.ID); err != nil {
			t.Errorf("one's own login: %v", err)
		}
		if _, err := w.find(stolen.ID); err == nil {
			t.Error("the other login stands")
		}
		diff(t, []string(nil), end())
		diff(t, []string{"DT100I by alice on alice: all others, 1: because"}, w.records(event.UserLogout))
	})
}
