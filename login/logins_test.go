package login

import (
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/google/uuid"

	"devicetrust/audit/event"
	"devicetrust/store"
	"devicetrust/store/storetest"
)

func aLogin(w *world) Login {
	return Login{
		ID: NewID(), SSHKey: []byte("ssh"), TLSKey: []byte("tls"), RemoteAddr: home.String(),
		TTL: 12 * time.Hour, Expires: w.clock.now().Add(12 * time.Hour),
	}
}

// begun is a login of alice, who exists from then on.
func (w *world) begun() (l Login) {
	w.t.Helper()
	w.alice()
	v, err := w.CheckPassword(w.t.Context(), "alice", right, home)
	w.must(err)
	w.must(w.write(func(tx *store.Tx) (err error) { l, err = w.Begin(tx, v, aLogin(w)); return err }))
	return l
}

func (w *world) find(id string) (l Login, err error) {
	err = w.db.Read(w.t.Context(), func(tx *store.Tx) (err error) { l, err = w.Find(tx, id); return err })
	return l, err
}

func TestALoginIsFoundAsItBegan(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		l := w.begun()
		want := aLogin(w)
		want.ID, want.User, want.Created = l.ID, "alice", w.clock.now()
		diff(t, want, l)
		found, err := w.find(l.ID)
		w.must(err)
		diff(t, want, found)
		diff(t, []string{"T1000I by alice on alice"}, w.records(event.UserLogin))

		again := aLogin(w)
		again.ID = l.ID
		v, err := w.CheckPassword(t.Context(), "alice", right, home)
		w.must(err)
		if err := w.write(func(tx *store.Tx) error { _, err := w.Begin(tx, v, again); return err }); err == nil {
			t.Error("another login began under its ID")
		}

		w.must(w.write(func(tx *store.Tx) error { return w.MarkDevice(tx, l.ID, "device-1") }))
		w.must(w.write(func(tx *store.Tx) error {
			return w.ReplaceKeys(tx, l.ID, []byte("ssh in the TPM"), []byte("tls in the TPM"))
		}))
		want.DeviceID, want.SSHKey, want.TLSKey = "device-1", []byte("ssh in the TPM"), []byte("tls in the TPM")
		for name, keys := range map[string][2][]byte{"no SSH key": {nil, []byte("tls")}, "no TLS key": {[]byte("ssh"), nil}} {
			if err := w.write(func(tx *store.Tx) error { return w.ReplaceKeys(tx, l.ID, keys[0], keys[1]) }); err == nil {
				t.Errorf("%s: it was taken", name)
			}
		}
		found, err = w.find(l.ID)
		w.must(err)
		diff(t, want, found)
	})
}

func TestNobodyCannotBegin(t *testing.T) {
	w := newWorld(t, storetest.Open(t))
	w.alice()
	if err := w.write(func(tx *store.Tx) error { _, err := w.Begin(tx, Verified{}, aLogin(w)); return err }); err == nil {
		t.Error("the zero Verified began a login")
	}
	v, err := w.CheckPassword(t.Context(), "alice", right, home)
	w.must(err)
	for name, change := range map[string]func(*Login){
		"an odd ID":      func(l *Login) { l.ID = "x" },
		"no SSH key":     func(l *Login) { l.SSHKey = nil },
		"no TLS key":     func(l *Login) { l.TLSKey = nil },
		"no end":         func(l *Login) { l.Expires = time.Time{} },
		"an end already": func(l *Login) { l.Expires = w.clock.now() },
		"less than none": func(l *Login) { l.TTL = -1 },
	} {
		l := aLogin(w)
		change(&l)
		if err := w.write(func(tx *store.Tx) error { _, err := w.Begin(tx, v, l); return err }); err == nil {
			t.Errorf("%s: it began", name)
		}
	}
}

func TestALoginIsGivenAnIDWhereItHasNone(t *testing.T) {
	w := newWorld(t, storetest.Open(t))
	w.alice()
	v, err := w.CheckPassword(t.Context(), "alice", right, home)
	w.must(err)
	l := aLogin(w)
	l.ID = ""
	w.must(w.write(func(tx *store.Tx) (err error) { l, err = w.Begin(tx, v, l); return err }))
	found, err := w.find(l.ID)
	w.must(err)
	diff(t, "alice", found.User)
}

func TestALoginDoesNotBeginWithoutItsRecord(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		w.alice()
		v, err := w.CheckPassword(t.Context(), "alice", right, home)
		w.must(err)
		w.must(w.write(func(tx *store.Tx) error { _, err := tx.Exec(`DROP TABLE audit_log`); return err }))
		if err := w.write(func(tx *store.Tx) error { _, err := w.Begin(tx, v, aLogin(w)); return err }); err == nil {
			t.Error("it began")
		}
		diff(t, 0, w.count(`SELECT count(*) FROM logins`))
	})
}

func TestALoginEnds(t *testing.T) {
	for name, end := range map[string]func(w *world, l Login) error{
		"by logging out": func(w *world, l Login) error {
			return w.write(func(tx *store.Tx) error { return w.End(tx, l.ID) })
		},
		"by its time": func(w *world, l Login) error { w.clock.forward(12 * time.Hour); return nil },
		"with its user": func(w *world, l Login) error {
			return w.DeleteUser(w.t.Context(), "admin", "alice", nil)
		},
		"with its user's time": func(w *world, l Login) error {
			u := user("alice")
			u.Spec.Expires = w.clock.now()
			return w.UpdateUser(w.t.Context(), "admin", u, "", nil)
		},
	} {
		t.Run(name, func(t *testing.T) {
			run(t, func(t *testing.T, w *world) {
				l := w.begun()
				w.must(end(w, l))
				_, err := w.find(l.ID)
				refused(t, err, connect.CodeUnauthenticated, "dtsh login")
				refused(t, w.write(func(tx *store.Tx) error { return w.End(tx, l.ID) }), connect.CodeUnauthenticated, "has ended")
				for _, act := range []func(tx *store.Tx) error{
					func(tx *store.Tx) error { return w.MarkDevice(tx, l.ID, "d") },
					func(tx *store.Tx) error { return w.ReplaceKeys(tx, l.ID, []byte("ssh"), []byte("tls")) },
					func(tx *store.Tx) error { return w.Extend(tx, l.ID, w.clock.now().Add(time.Hour)) },
				} {
					refused(t, w.write(act), connect.CodeUnauthenticated, "has ended")
				}
			})
		})
	}
}

func TestALoginIsLengthenedAndNeverShortened(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		l := w.begun()
		for _, until := range []time.Duration{13 * time.Hour, time.Hour, 0, -time.Hour} {
			w.must(w.write(func(tx *store.Tx) error { return w.Extend(tx, l.ID, w.clock.now().Add(until)) }))
			found, err := w.find(l.ID)
			w.must(err)
			diff(t, w.clock.now().Add(13*time.Hour), found.Expires)
		}
		w.clock.forward(13*time.Hour - time.Second)
		_, err := w.find(l.ID)
		w.must(err)
		w.clock.forward(time.Second)
		_, err = w.find(l.ID)
		refused(t, err, connect.CodeUnauthenticated, "has ended")
	})
}

func TestALoginKeepsTwoKeys(t *testing.T) {
	w := newWorld(t, storetest.Open(t))
	l := w.begun()
	for _, keys := range [][2][]byte{{nil, []byte("tls")}, {[]byte("ssh"), nil}} {
		if err := w.write(func(tx *store.Tx) error { return w.ReplaceKeys(tx, l.ID, keys[0], keys[1]) }); err == nil {
			t.Errorf("%q are its keys", keys)
		}
	}
}

func TestLoggingOutIsRecorded(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		l := w.begun()
		w.must(w.write(func(tx *store.Tx) error { return w.End(tx, l.ID) }))
		diff(t, []string{"DT100I by alice on alice"}, w.records(event.UserLogout))
	})
}

func TestAnUnknownLoginDoesNotStand(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		for _, id := range []string{"", "x", "\x00", uuid.NewString()} {
			_, err := w.find(id)
			refused(t, err, connect.CodeUnauthenticated, "has ended")
		}
	})
}
