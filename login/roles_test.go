package login

import (
	"testing"

	"connectrpc.com/connect"

	"devicetrust/api"
	"devicetrust/store"
)

func TestRolesAreCheckedInTheTransactionThatGivesThem(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		w.must(w.CreateUser(t.Context(), "admin", user("alice"), nil))
		asked := 0
		w.CheckRoles = func(tx *store.Tx, roles []string) error {
			asked++
			if len(roles) == 0 {
				t.Error("asked for no roles")
			}
			// Only a transaction that writes can do this.
			if _, err := tx.Exec(`UPDATE change_sequence SET seq = seq`); err != nil {
				t.Error(err)
			}
			return api.Refuse(connect.CodeInvalidArgument, "no such role")
		}
		invited := func(_ Invite, err error) error { return err }
		for _, err := range []error{
			w.CreateUser(t.Context(), "admin", user("bob"), &right),
			invited(w.CreateInvited(t.Context(), "admin", user("carol"), 0)),
			w.UpdateUser(t.Context(), "admin", user("alice"), "", nil),
		} {
			refused(t, err, connect.CodeInvalidArgument, "no such role")
		}
		diff(t, 3, asked)
		diff(t, 1, w.count(`SELECT count(*) FROM users WHERE revision = 1`))
	})
}
