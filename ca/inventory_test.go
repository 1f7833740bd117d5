package ca

import (
	"context"
	"errors"
	"math"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/google/go-cmp/cmp"

	"devicetrust/api"
	"devicetrust/identity"
	"devicetrust/policy"
	"devicetrust/store"
	"devicetrust/store/storetest"
)

func (w *world) revoked(t *testing.T) (serials []uint64) {
	t.Helper()
	w.read(t, func(tx *store.Tx) error {
		ranges, err := Revoked(tx, w.clock.now())
		for _, r := range ranges {
			for serial := r.First; serial <= r.Last; serial++ {
				serials = append(serials, serial)
			}
		}
		return err
	})
	return serials
}

// manyCertificates issues: 1, 2 alice's login-1 on device-1; 3, 4 alice's
// login-2 without a device; 5, 6 bob's login-3 on device-1; 7, 8 node-1's;
// 9, 10 those of a node called like a user.
func manyCertificates(t *testing.T, db *store.DB) *world {
	t.Helper()
	w := newWorld(t, db)
	w.issue(t, nil)
	w.issue(t, func(r *UserRequest) { r.LoginID, r.Identity.Device = "login-2", identity.Device{} })
	w.issue(t, func(r *UserRequest) { r.LoginID, r.Identity.User = "login-3", "bob" })
	for _, id := range []string{"node-1", "alice"} {
		req := w.nodeRequest(t)
		req.NodeID = id
		if _, _, err := w.ca.IssueNode(t.Context(), req, allow); err != nil {
			t.Fatal(err)
		}
	}
	return w
}

func TestRevokingEndsExactlyWhatIsMeant(t *testing.T) {
	for name, row := range map[string]struct {
		revoke func(c *CA, tx *store.Tx) (int64, error)
		want   []uint64
	}{
		"a login":            {func(c *CA, tx *store.Tx) (int64, error) { return c.RevokeLogin(tx, "login-1", "x") }, []uint64{1, 2}},
		"a device":           {func(c *CA, tx *store.Tx) (int64, error) { return c.RevokeDevice(tx, "device-1", "x") }, []uint64{1, 2, 5, 6}},
		"a user on a device": {func(c *CA, tx *store.Tx) (int64, error) { return c.RevokeDeviceOf(tx, "device-1", "alice", "x") }, []uint64{1, 2}},
		"a user":             {func(c *CA, tx *store.Tx) (int64, error) { return c.RevokeSubject(tx, SubjectUser, "alice", "x") }, []uint64{1, 2, 3, 4}},
		"a node":             {func(c *CA, tx *store.Tx) (int64, error) { return c.RevokeSubject(tx, SubjectNode, "node-1", "x") }, []uint64{7, 8}},
		"an unknown login":   {func(c *CA, tx *store.Tx) (int64, error) { return c.RevokeLogin(tx, "login-9", "x") }, nil},
		"a login's wildcard": {func(c *CA, tx *store.Tx) (int64, error) { return c.RevokeLogin(tx, "login-%", "x") }, nil},
	} {
		t.Run(name, func(t *testing.T) {
			storetest.Run(t, func(t *testing.T, db *store.DB) {
				w := manyCertificates(t, db)
				before := w.sequence(t)
				w.write(t, func(tx *store.Tx) error {
					n, err := row.revoke(w.ca, tx)
					if int(n) != len(row.want) {
						t.Errorf("it says %d, want %d", n, len(row.want))
					}
					return err
				})
				if d := cmp.Diff(row.want, w.revoked(t)); d != "" {
					t.Errorf("want (-), got (+):\n%s", d)
				}
				if told := w.sequence(t) > before; told != (len(row.want) > 0) {
					t.Errorf("nodes were told: %v", told)
				}
			})
		})
	}
}

func (w *world) sequence(t *testing.T) (seq uint64) {
	t.Helper()
	w.read(t, func(tx *store.Tx) (err error) {
		seq, err = tx.Sequence()
		return err
	})
	return seq
}

// An empty name must not stand for every node, or every login without a device.
func TestRevokingNobodyIsAnError(t *testing.T) {
	w := manyCertificates(t, storetest.Open(t))
	for name, revoke := range map[string]func(tx *store.Tx) (int64, error){
		"login":               func(tx *store.Tx) (int64, error) { return w.ca.RevokeLogin(tx, "", "x") },
		"device":              func(tx *store.Tx) (int64, error) { return w.ca.RevokeDevice(tx, "", "x") },
		"a device of nobody":  func(tx *store.Tx) (int64, error) { return w.ca.RevokeDeviceOf(tx, "device-1", "", "x") },
		"no device of a user": func(tx *store.Tx) (int64, error) { return w.ca.RevokeDeviceOf(tx, "", "alice", "x") },
		"user":                func(tx *store.Tx) (int64, error) { return w.ca.RevokeSubject(tx, SubjectUser, "", "x") },
		"unknown subject":     func(tx *store.Tx) (int64, error) { return w.ca.RevokeSubject(tx, "", "alice", "x") },
	} {
		err := w.db.Write(t.Context(), func(tx *store.Tx) error {
			_, err := revoke(tx)
			return err
		})
		if err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if got := w.revoked(t); len(got) > 0 {
		t.Errorf("revoked: %v", got)
	}
}

func TestUnknownAndRevokedSerialsAreRefused(t *testing.T) {
	storetest.Run(t, func(t *testing.T, db *store.DB) {
		w := manyCertificates(t, db)
		w.write(t, func(tx *store.Tx) error {
			_, err := w.ca.RevokeLogin(tx, "login-1", "logged out")
			return err
		})
		w.read(t, func(tx *store.Tx) error {
			for serial, want := range map[uint64]bool{1: true, 2: true, 3: false, 7: false, 0: true, 99: true, math.MaxInt64 + 1: true, math.MaxUint64: true} {
				if got, err := w.ca.IsRevoked(tx, serial); err != nil || got != want {
					t.Errorf("serial %d: revoked %v, %v", serial, got, err)
				}
			}
			if login, err := w.ca.LoginOf(tx, 4); err != nil || login != "login-2" {
				t.Errorf("serial 4 is of login %q, %v", login, err)
			}
			for name, serial := range map[string]uint64{"revoked": 2, "a node's": 7, "unknown": 99, "none": 0} {
				login, err := w.ca.LoginOf(tx, serial)
				var refusal *api.Refusal
				if login != "" || !errors.As(err, &refusal) || refusal.Code != connect.CodeUnauthenticated {
					t.Errorf("%s: login %q, %v", name, login, err)
				}
			}
			return nil
		})
	})
}

// Between recording and signing somebody may revoke: the serial was on record
// then, so the certificate is born revoked.
func TestRevokingBetweenRecordAndSignatureCounts(t *testing.T) {
	storetest.Run(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db)
		write := w.ca.write
		w.ca.write = func(ctx context.Context, fn func(*store.Tx) error) error {
			if err := write(ctx, fn); err != nil {
				return err
			}
			return w.db.Write(ctx, func(tx *store.Tx) error {
				_, err := w.ca.RevokeSubject(tx, SubjectUser, "alice", "removed")
				return err
			})
		}
		certs := w.issue(t, nil)
		if d := cmp.Diff([]uint64{certs.SSH.Serial, tlsSerial(t, certs.TLS)}, w.revoked(t)); d != "" {
			t.Error(d)
		}
	})
}

// A session goes on when its certificate ends, and its user may be removed then.
func TestACertificateThatEndedIsRevokedForWhatItOpened(t *testing.T) {
	storetest.Run(t, func(t *testing.T, db *store.DB) {
		w := manyCertificates(t, db)
		w.clock.move(time.Hour + remembered - time.Second)
		w.write(t, func(tx *store.Tx) error {
			_, err := w.ca.RevokeLogin(tx, "login-1", "x")
			return err
		})
		if d := cmp.Diff([]uint64{1, 2}, w.revoked(t)); d != "" {
			t.Error(d)
		}
	})
}

func TestRevokedSerialsAreKeptUntilNoSessionCanBeThatOld(t *testing.T) {
	storetest.Run(t, func(t *testing.T, db *store.DB) {
		w := manyCertificates(t, db)
		w.write(t, func(tx *store.Tx) error {
			_, err := w.ca.RevokeLogin(tx, "login-1", "x")
			return err
		})
		prune := func() {
			t.Helper()
			if err := w.ca.Prune(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		w.clock.move(time.Hour + remembered - time.Second)
		prune()
		if d := cmp.Diff([]uint64{1, 2}, w.revoked(t)); d != "" {
			t.Errorf("within the grace: %s", d)
		}
		w.clock.move(time.Second)
		if got := w.revoked(t); len(got) > 0 {
			t.Errorf("after the grace: %v", got)
		}
		prune()
		if n := w.count(t, `SELECT count(*) FROM certificates`); n != 4 {
			t.Errorf("%d certificates are known, want the nodes' 4", n)
		}
		if serial := w.issue(t, nil).SSH.Serial; serial != 11 {
			t.Errorf("after pruning the next serial is %d", serial)
		}
	})
}

func TestRevokingTwiceKeepsTheFirstReason(t *testing.T) {
	w := manyCertificates(t, storetest.Open(t))
	for _, reason := range []string{"logged out", "device removed"} {
		w.write(t, func(tx *store.Tx) error {
			_, err := w.ca.RevokeLogin(tx, "login-1", reason)
			return err
		})
	}
	if n := w.count(t, `SELECT count(*) FROM certificates WHERE revoked_reason = 'logged out'`); n != 2 {
		t.Errorf("%d have the first reason", n)
	}
}

func TestARevocationIsFoundWithItsReason(t *testing.T) {
	storetest.Run(t, func(t *testing.T, db *store.DB) {
		w := manyCertificates(t, db)
		w.write(t, func(tx *store.Tx) error {
			_, err := w.ca.RevokeLogin(tx, "login-1", "the user has logged out")
			return err
		})
		for serial, want := range map[uint64]struct {
			r         policy.Revocation
			is, known bool
		}{
			1:                 {policy.Revocation{First: 1, Last: 1, Reason: "the user has logged out"}, true, true},
			3:                 {policy.Revocation{First: 3, Last: 3}, false, true},
			11:                {},
			0:                 {},
			math.MaxInt64 + 1: {},
		} {
			w.read(t, func(tx *store.Tx) error {
				r, is, known, err := RevocationOf(tx, serial)
				if r != want.r || is != want.is || known != want.known {
					t.Errorf("%d: %+v, revoked %t, known %t; want %+v", serial, r, is, known, want)
				}
				return err
			})
		}
	})
}
