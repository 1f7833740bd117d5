package login

import (
	"errors"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"

	"devicetrust/audit/event"
	"devicetrust/resource"
	"devicetrust/store"
)

func (w *world) get(name string) (u resource.User, err error) {
	err = w.db.Read(w.t.Context(), func(tx *store.Tx) (err error) { u, err = w.GetUser(tx, name); return err })
	return u, err
}

func TestAUserIsReadAsItWasCreated(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		u := user("alice")
		u.Metadata.Labels = map[string]string{"team": "a"}
		u.Metadata.Revision, u.Metadata.ID = "99", 7
		u.Spec.TrustedDeviceIDs = []string{"claimed"}
		w.must(w.CreateUser(t.Context(), "admin", u, nil))

		want := u
		want.Kind, want.Version = "user", "v2"
		want.Metadata.Revision, want.Metadata.ID = "1", 0
		want.Spec.TrustedDeviceIDs = nil
		want.Spec.CreatedBy.Time = w.clock.now()
		want.Spec.CreatedBy.User.Name = "admin"
		got, err := w.get("alice")
		w.must(err)
		diff(t, want, got)
		diff(t, []string{"T1002I by admin on alice"}, w.records(event.UserCreate))

		refused(t, w.CreateUser(t.Context(), "admin", user("alice"), nil), connect.CodeAlreadyExists, `user "alice" already exists`)
	})
}

func TestUsersAreListedByName(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		for _, name := range []string{"bob", "Zoe", "alice", "a-b"} {
			w.must(w.CreateUser(t.Context(), "admin", user(name), nil))
		}
		var names []string
		w.must(w.db.Read(t.Context(), func(tx *store.Tx) error {
			n, err := w.Count(tx)
			w.must(err)
			diff(t, int64(4), n)
			users, err := w.ListUsers(tx)
			for _, u := range users {
				names = append(names, u.Metadata.Name+" "+u.Metadata.Revision)
			}
			return err
		}))
		diff(t, []string{"Zoe 1", "a-b 1", "alice 1", "bob 1"}, names)
	})
}

func TestUpdateReplacesOnlyWhatWasRead(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		w.alice()
		mine, err := w.get("alice")
		w.must(err)
		theirs := mine
		theirs.Spec.Roles = []string{"editor"}
		w.must(w.UpdateUser(t.Context(), "bob", theirs, theirs.Metadata.Revision, nil))

		for _, revision := range []string{"1", "", "0", "x"} { // "": the document's own, 1
			refused(t, w.UpdateUser(t.Context(), "carol", mine, revision, nil), connect.CodeAborted, "changed by somebody else")
		}
		got, err := w.get("alice")
		w.must(err)
		diff(t, theirs.Spec.Roles, got.Spec.Roles)
		diff(t, "2", got.Metadata.Revision)
		diff(t, "admin", got.Spec.CreatedBy.User.Name)

		mine.Metadata.Revision = ""
		mine.Spec.CreatedBy.User.Name = "mallory"
		w.must(w.UpdateUser(t.Context(), "carol", mine, "", nil)) // asked for no revision
		got, err = w.get("alice")
		w.must(err)
		diff(t, []string{"access"}, got.Spec.Roles)
		diff(t, "admin", got.Spec.CreatedBy.User.Name)
		w.must(w.check("alice", right, home)) // the password is not part of the document

		refused(t, w.UpdateUser(t.Context(), "bob", user("nobody"), "", nil), connect.CodeNotFound, "does not exist")
		diff(t, []string{"T1003I by bob on alice", "T1003I by carol on alice"}, w.records(event.UserUpdate))
	})
}

func TestDeleteTakesEverythingWithIt(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		w.begun()
		_, err := w.Invite(t.Context(), "admin", "alice", 0)
		w.must(err)
		w.must(w.DeleteUser(t.Context(), "admin", "alice", nil))
		for _, table := range []string{"users", "passwords", "invites", "logins"} {
			diff(t, 0, w.count(`SELECT count(*) FROM `+table))
		}
		refused(t, w.check("alice", right, home), connect.CodeUnauthenticated, "wrong")
		refused(t, w.DeleteUser(t.Context(), "admin", "alice", nil), connect.CodeNotFound, "does not exist")
		diff(t, []string{"T1004I by admin on alice"}, w.records(event.UserDelete))
	})
}

func TestTheCallersPartIsOneWithTheAct(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		w.alice()
		failed := errors.New("cannot revoke")
		no := func(*store.Tx) error { return failed }
		u := user("alice")
		u.Spec.Roles = nil
		if err := w.UpdateUser(t.Context(), "admin", u, "", no); !errors.Is(err, failed) {
			t.Errorf("update: %v", err)
		}
		if err := w.DeleteUser(t.Context(), "admin", "alice", no); !errors.Is(err, failed) {
			t.Errorf("delete: %v", err)
		}
		got, err := w.get("alice")
		w.must(err)
		diff(t, "1", got.Metadata.Revision)
		if n := len(w.records(event.UserUpdate)) + len(w.records(event.UserDelete)); n != 0 {
			t.Errorf("%d records of what did not happen", n)
		}
	})
}

func TestNoActOnAUserWithoutItsRecord(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		w.alice()
		w.must(w.write(func(tx *store.Tx) error { _, err := tx.Exec(`DROP TABLE audit_log`); return err }))
		ctx := t.Context()
		invited := func(_ Invite, err error) error { return err }
		for name, err := range map[string]error{
			"create":  w.CreateUser(ctx, "admin", user("bob"), &right),
			"invited": invited(w.CreateInvited(ctx, "admin", user("bob"), 0)),
			"invite":  invited(w.Invite(ctx, "admin", "alice", 0)),
			"reset":   invited(w.Reset(ctx, "admin", "alice", 0, nil)),
			"update":  w.UpdateUser(ctx, "admin", user("alice"), "", nil),
			"change":  w.ChangePassword(ctx, "alice", right, wrong, home, nil),
			"delete":  w.DeleteUser(ctx, "admin", "alice", nil),
		} {
			if err == nil {
				t.Errorf("%s was done", name)
			}
		}
		diff(t, 1, w.count(`SELECT count(*) FROM users WHERE revision = 1`))
		diff(t, 0, w.count(`SELECT count(*) FROM invites`))
		w.must(w.check("alice", right, home))
	})
}

func TestADocumentMustBeInOrder(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		w.must(w.CreateUser(t.Context(), "admin", user("alice"), nil))
		for want, change := range map[string]func(*resource.User){
			`kind is "role"`:                 func(u *resource.User) { u.Kind = "role" },
			`version of a user is`:           func(u *resource.User) { u.Version = "v1" },
			`is_locked cannot be`:            func(u *resource.User) { u.Spec.Status.IsLocked = true },
			`role "a" is there`:              func(u *resource.User) { u.Spec.Roles = []string{"a", "a"} },
			`role is empty`:                  func(u *resource.User) { u.Spec.Roles = []string{""} },
			`role "a\nb" holds`:              func(u *resource.User) { u.Spec.Roles = []string{"a\nb"} },
			`role "\xff" holds`:              func(u *resource.User) { u.Spec.Roles = []string{"\xff"} },
			`more than 128 of: role`:         func(u *resource.User) { u.Spec.Roles = make([]string, 129) },
			`login "-oProxy"`:                func(u *resource.User) { u.Spec.Traits["logins"] = []string{"-oProxy"} },
			`login "root,x"`:                 func(u *resource.User) { u.Spec.Traits["logins"] = []string{"root,x"} },
			`trait is empty`:                 func(u *resource.User) { u.Spec.Traits[""] = nil },
			`trait "x" "\x00"`:               func(u *resource.User) { u.Spec.Traits["x"] = []string{"\x00"} },
			`trait "x" "a" is there twice`:   func(u *resource.User) { u.Spec.Traits["x"] = []string{"a", "a"} },
			`"logins" "root" is there twice`: func(u *resource.User) { u.Spec.Traits["logins"] = []string{"root", "root"} },
			`more than 256 of`:               func(u *resource.User) { u.Spec.Traits["x"] = make([]string, 257) },
			`more than 65536`:                func(u *resource.User) { u.Metadata.Description = strings.Repeat("x", 70_000) },
			`as JSON`:                        func(u *resource.User) { u.Spec.Expires = time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC) },
		} {
			u := user("alice")
			change(&u)
			refused(t, w.UpdateUser(t.Context(), "admin", u, "", nil), connect.CodeInvalidArgument, want)
			u.Metadata.Name = "bob"
			refused(t, w.CreateUser(t.Context(), "admin", u, nil), connect.CodeInvalidArgument, want)
			_, err := w.CreateInvited(t.Context(), "admin", u, 0)
			refused(t, err, connect.CodeInvalidArgument, want)
		}
		for _, name := range []string{"", "-x", "a b", "os:root", "a\x00", strings.Repeat("x", 129), "é"} {
			refused(t, w.CreateUser(t.Context(), "admin", user(name), nil), connect.CodeInvalidArgument, "user name")
			_, err := w.get(name)
			refused(t, err, connect.CodeNotFound, "does not exist")
			refused(t, w.DeleteUser(t.Context(), "admin", name, nil), connect.CodeNotFound, "does not exist")
		}
		diff(t, 1, w.count(`SELECT count(*) FROM users`))
	})
}
