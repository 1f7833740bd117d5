package catalog

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/google/go-cmp/cmp"

	"devicetrust/api"
	"devicetrust/audit"
	"devicetrust/policy"
	"devicetrust/resource"
	"devicetrust/store"
	"devicetrust/store/storetest"
)

// cluster is a catalog that Init has run on, with a clock to turn.
type cluster struct {
	*Catalog
	log  *audit.Log
	time time.Time
}

func newCluster(t *testing.T, db *store.DB) *cluster {
	t.Helper()
	c := &cluster{time: time.Date(2026, 2, 3, 4, 5, 6, 0, time.UTC)}
	now := func() time.Time { return c.time }
	c.log = audit.Open(db, "example", [32]byte{1}, now)
	c.Catalog = Open(db, c.log, now)
	if err := c.Init(t.Context()); err != nil {
		t.Fatal(err)
	}
	return c
}

func run(t *testing.T, body func(t *testing.T, c *cluster)) {
	t.Helper()
	storetest.Run(t, func(t *testing.T, db *store.DB) { body(t, newCluster(t, db)) })
}

// records are the audit records since the given number of them, as
// "event name by user".
func (c *cluster) records(t *testing.T, since int) []string {
	t.Helper()
	all, _, err := c.log.List(t.Context(), audit.Filter{Limit: 1000})
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	for _, e := range all[since:] {
		lines = append(lines, string(e.Type)+" "+e.Name+" by "+e.User)
	}
	return lines
}

// names are those that List gives.
func (c *cluster) names(t *testing.T, kind string) []string {
	t.Helper()
	all, err := c.List(t.Context(), kind)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, r := range all {
		names = append(names, r.Head().Metadata.Name)
	}
	return names
}

func (c *cluster) sequence(t *testing.T) (n uint64) {
	t.Helper()
	err := c.db.Read(t.Context(), func(tx *store.Tx) (err error) {
		n, err = tx.Sequence()
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func (c *cluster) state(t *testing.T) *policy.State {
	t.Helper()
	var s *policy.State
	err := c.db.Read(t.Context(), func(tx *store.Tx) (err error) {
		s, err = c.State(tx, c.time)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func role(name, env string) *resource.Role {
	r := &resource.Role{Header: resource.NewHeader(resource.KindRole, name)}
	r.Spec.Allow = policy.RoleConditions{Logins: []string{"root"}, NodeLabels: map[string]policy.Values{"env": {env}}}
	return r
}

func lock(name string, expires time.Time) *resource.Lock {
	return &resource.Lock{Header: resource.NewHeader(resource.KindLock, name), Spec: resource.LockSpec{
		Target: policy.LockTarget{User: "alice"}, Message: "on leave", Expires: expires,
	}}
}

func wantCode(t *testing.T, err error, want connect.Code) {
	t.Helper()
	var r *api.Refusal
	if !errors.As(err, &r) || r.Code != want {
		t.Errorf("got %v, want a refusal with %v", err, want)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

var presets = []string{"access", "auditor", "device-admin", "device-enroll", "editor", "require-trusted-device"}

func TestANewClusterHasThePresetsAndThePreference(t *testing.T) {
	run(t, func(t *testing.T, c *cluster) {
		if diff := cmp.Diff(presets, c.names(t, resource.KindRole)); diff != "" {
			t.Errorf("roles: want (-), got (+):\n%s", diff)
		}
		r, err := c.Get(t.Context(), resource.KindPreference, "")
		must(t, err)
		doc, err := resource.MarshalYAML(r)
		must(t, err)
		want := "kind: cluster_auth_preference\nversion: v2\nmetadata:\n  name: cluster-auth-preference\n  revision: \"1\"\n" +
			"spec:\n  type: local\n  second_factor: \"off\"\n  device_trust:\n    mode: optional\n"
		if diff := cmp.Diff(want, string(doc)); diff != "" {
			t.Errorf("preference: want (-), got (+):\n%s", diff)
		}
		for _, p := range policy.Presets() {
			r, err := c.Get(t.Context(), resource.KindRole, p.Name)
			must(t, err)
			if diff := cmp.Diff(p.Spec, r.(*resource.Role).Spec); diff != "" {
				t.Errorf("%s: want (-), got (+):\n%s", p.Name, diff)
			}
		}
	})
}

func TestAnotherStartLeavesWhatIsThere(t *testing.T) {
	run(t, func(t *testing.T, c *cluster) {
		changed := role("access", "dev")
		must(t, c.Update(t.Context(), "os:root", changed, ""))
		must(t, c.Delete(t.Context(), "os:root", resource.KindRole, "auditor", nil))
		before := len(c.records(t, 0))
		must(t, c.Init(t.Context()))
		if diff := cmp.Diff(presets, c.names(t, resource.KindRole)); diff != "" {
			t.Errorf("roles: want (-), got (+):\n%s", diff)
		}
		if diff := cmp.Diff([]string{"role.created auditor by "}, c.records(t, before)); diff != "" {
			t.Errorf("records: want (-), got (+):\n%s", diff)
		}
		got, err := c.Get(t.Context(), resource.KindRole, "access")
		must(t, err)
		if diff := cmp.Diff(changed.Spec, got.(*resource.Role).Spec); diff != "" {
			t.Errorf("access: want (-), got (+):\n%s", diff)
		}
		sequence := c.sequence(t)
		must(t, c.Init(t.Context()))
		if got := c.sequence(t); got != sequence {
			t.Errorf("a start that made nothing told followers of %d changes", got-sequence)
		}
	})
}

// Each change is recorded, and followers hear of it.
func TestALifeOfARole(t *testing.T) {
	run(t, func(t *testing.T, c *cluster) {
		ctx, before, sequence := t.Context(), len(c.records(t, 0)), c.sequence(t)
		must(t, c.Create(ctx, "alice", role("dev", "dev")))
		wantCode(t, c.Create(ctx, "alice", role("dev", "test")), connect.CodeAlreadyExists)
		r, err := c.Get(ctx, resource.KindRole, "dev")
		must(t, err)
		first := r.Head().Metadata.Revision
		must(t, c.Update(ctx, "bob", role("dev", "test"), first))
		wantCode(t, c.Update(ctx, "carol", role("dev", "prod"), first), connect.CodeAborted)
		r, err = c.Get(ctx, resource.KindRole, "dev")
		must(t, err)
		if got := r.(*resource.Role).Spec.Allow.NodeLabels["env"]; !slices.Equal(got, policy.Values{"test"}) {
			t.Errorf("got env %q", got)
		}
		must(t, c.Update(ctx, "dave", role("dev", "any"), ""))
		must(t, c.Delete(ctx, "erin", resource.KindRole, "dev", nil))
		_, err = c.Get(ctx, resource.KindRole, "dev")
		wantCode(t, err, connect.CodeNotFound)
		wantCode(t, c.Delete(ctx, "erin", resource.KindRole, "dev", nil), connect.CodeNotFound)
		wantCode(t, c.Update(ctx, "erin", role("dev", "any"), ""), connect.CodeNotFound)
		want := []string{"role.created dev by alice", "role.updated dev by bob", "role.updated dev by dave", "role.deleted dev by erin"}
		if diff := cmp.Diff(want, c.records(t, before)); diff != "" {
			t.Errorf("records: want (-), got (+):\n%s", diff)
		}
		if got := c.sequence(t); got != sequence+4 {
			t.Errorf("followers heard of %d changes, want 4", got-sequence)
		}
	})
}

// A revision never comes back, so nobody overwrites a namesake.
func TestARoleMadeAgainIsAnotherOne(t *testing.T) {
	run(t, func(t *testing.T, c *cluster) {
		ctx := t.Context()
		must(t, c.Create(ctx, "a", role("dev", "dev")))
		old, err := c.Get(ctx, resource.KindRole, "dev")
		must(t, err)
		must(t, c.Delete(ctx, "a", resource.KindRole, "dev", nil))
		must(t, c.Create(ctx, "a", role("dev", "prod")))
		wantCode(t, c.Update(ctx, "b", role("dev", "x"), old.Head().Metadata.Revision), connect.CodeAborted)
		// The document's own revision counts where no other is given.
		wantCode(t, c.Update(ctx, "b", old, ""), connect.CodeAborted)
	})
}

func TestADeletionMayBeRefusedInItsTransaction(t *testing.T) {
	run(t, func(t *testing.T, c *cluster) {
		before, refusal := len(c.records(t, 0)), api.Refuse(connect.CodeFailedPrecondition, "held")
		err := c.Delete(t.Context(), "a", resource.KindRole, "access", func(*store.Tx) error { return refusal })
		if !errors.Is(err, refusal) {
			t.Errorf("got %v", err)
		}
		if !slices.Contains(c.names(t, resource.KindRole), "access") || len(c.records(t, before)) > 0 {
			t.Errorf("got %q and %q", c.names(t, resource.KindRole), c.records(t, before))
		}
	})
}

func TestDeletingThePreferenceResetsIt(t *testing.T) {
	run(t, func(t *testing.T, c *cluster) {
		ctx, before := t.Context(), len(c.records(t, 0))
		p := defaultPreference()
		p.Spec.DeviceTrust.Mode = policy.ModeRequired
		wantCode(t, c.Create(ctx, "a", p), connect.CodeAlreadyExists)
		must(t, c.Update(ctx, "a", p, ""))
		if got := c.state(t).Preference.DeviceTrust.Mode; got != policy.ModeRequired {
			t.Errorf("mode: got %q", got)
		}
		must(t, c.Delete(ctx, "b", resource.KindPreference, "", nil))
		if got := c.state(t).Preference.DeviceTrust.Mode; got != policy.ModeOptional {
			t.Errorf("mode after the reset: got %q", got)
		}
		want := []string{"auth_preference.update cluster-auth-preference by a", "auth_preference.update cluster-auth-preference by b"}
		if diff := cmp.Diff(want, c.records(t, before)); diff != "" {
			t.Errorf("records: want (-), got (+):\n%s", diff)
		}
	})
}

func TestALockLastsUntilItExpires(t *testing.T) {
	run(t, func(t *testing.T, c *cluster) {
		ctx := t.Context()
		l := lock("", c.time.Add(time.Hour))
		must(t, c.Create(ctx, "alice", l))
		name := l.Metadata.Name
		if len(name) != 36 || l.Spec.CreatedBy != "alice" || !l.Spec.CreatedAt.Equal(c.time) {
			t.Errorf("got name %q, made by %q at %s", name, l.Spec.CreatedBy, l.Spec.CreatedAt)
		}
		c.time = c.time.Add(time.Minute)
		longer := lock(name, c.time.Add(2*time.Hour))
		must(t, c.Update(ctx, "bob", longer, ""))
		got, err := c.Get(ctx, resource.KindLock, name)
		must(t, err)
		if by := got.(*resource.Lock).Spec.CreatedBy; by != "alice" {
			t.Errorf("the lock is bob's now: %q", by)
		}
		if locks := c.state(t).Locks; len(locks) != 1 || locks[0].Target.User != "alice" || locks[0].Message != "on leave" {
			t.Errorf("locks in force: got %+v", locks)
		}
		c.time = c.time.Add(2 * time.Hour)
		if names, locks := c.names(t, resource.KindLock), c.state(t).Locks; len(names)+len(locks) > 0 {
			t.Errorf("after its time: got %q, %+v", names, locks)
		}
		_, err = c.Get(ctx, resource.KindLock, name)
		wantCode(t, err, connect.CodeNotFound)
		wantCode(t, c.Delete(ctx, "a", resource.KindLock, name, nil), connect.CodeNotFound)
		must(t, c.Create(ctx, "a", lock(name, time.Time{})))
		must(t, c.Prune(ctx))
		if diff := cmp.Diff([]string{name}, c.names(t, resource.KindLock)); diff != "" {
			t.Errorf("a lock for ever: want (-), got (+):\n%s", diff)
		}
	})
}

func TestPruningDropsOnlyWhatExpired(t *testing.T) {
	run(t, func(t *testing.T, c *cluster) {
		must(t, c.Create(t.Context(), "a", lock("short", c.time.Add(time.Minute))))
		must(t, c.Create(t.Context(), "a", lock("long", c.time.Add(time.Hour))))
		c.time = c.time.Add(time.Minute)
		must(t, c.Prune(t.Context()))
		var rows int
		must(t, c.db.Read(t.Context(), func(tx *store.Tx) error {
			return tx.QueryRow(`SELECT count(*) FROM policy_objects WHERE kind = 'lock'`).Scan(&rows)
		}))
		if diff := cmp.Diff([]string{"long"}, c.names(t, resource.KindLock)); diff != "" || rows != 1 {
			t.Errorf("%d rows; want (-), got (+):\n%s", rows, diff)
		}
	})
}

func TestWhatNobodyCouldDecideByIsNotStored(t *testing.T) {
	run(t, func(t *testing.T, c *cluster) {
		before := len(c.records(t, 0))
		nobody := lock("l", time.Time{})
		nobody.Spec.Target = policy.LockTarget{}
		strange := role("r", "dev")
		strange.Spec.Options.DeviceTrustMode = "strange"
		login := role("r", "dev")
		login.Spec.Allow.Logins = []string{"Root"}
		big := role("r", "dev")
		for i := range 60 {
			for j := range 10 {
				key, value := fmt.Sprint("key-", i), strings.Repeat(fmt.Sprint(j), 200)
				big.Spec.Allow.NodeLabels[key] = append(big.Spec.Allow.NodeLabels[key], value)
			}
		}
		mode := defaultPreference()
		mode.Spec.DeviceTrust.Mode = "strict"
		for name, r := range map[string]resource.Resource{
			"a lock of nobody":   nobody,
			"a lock of the past": lock("l", c.time),
			"an unknown mode":    strange,
			"no login":           login,
			"a role too long":    big,
			"an unknown trust":   mode,
			"a user":             &resource.User{Header: resource.NewHeader(resource.KindUser, "u")},
		} {
			if err := c.Create(t.Context(), "a", r); err == nil {
				t.Errorf("%s was created", name)
			}
			if err := c.Update(t.Context(), "a", r, ""); err == nil {
				t.Errorf("%s was updated", name)
			}
		}
		if got := c.records(t, before); len(got) > 0 {
			t.Errorf("records: got %q", got)
		}
	})
}

// Audit comes first: what cannot be recorded does not happen.
func TestNothingChangesWithoutItsRecord(t *testing.T) {
	run(t, func(t *testing.T, c *cluster) {
		ctx := t.Context()
		must(t, c.Create(ctx, "a", role("dev", "dev")))
		must(t, c.db.Write(ctx, func(tx *store.Tx) error {
			_, err := tx.Exec(`ALTER TABLE audit_log RENAME TO gone`)
			return err
		}))
		for name, err := range map[string]error{
			"create": c.Create(ctx, "a", role("other", "dev")),
			"update": c.Update(ctx, "a", role("dev", "prod"), ""),
			"delete": c.Delete(ctx, "a", resource.KindRole, "dev", nil),
			"reset":  c.Delete(ctx, "a", resource.KindPreference, "", nil),
		} {
			if err == nil {
				t.Errorf("%s: happened without a record", name)
			}
		}
		got, err := c.Get(ctx, resource.KindRole, "dev")
		must(t, err)
		if !slices.Equal(got.(*resource.Role).Spec.Allow.NodeLabels["env"], policy.Values{"dev"}) || slices.Contains(c.names(t, resource.KindRole), "other") {
			t.Errorf("got %+v and %q", got, c.names(t, resource.KindRole))
		}
	})
}

func TestTheNumberOfRolesIsBounded(t *testing.T) {
	c := newCluster(t, storetest.Open(t))
	must(t, c.fill(t, maxRoles-len(presets), 0))
	wantCode(t, c.Create(t.Context(), "a", role("one-more", "dev")), connect.CodeFailedPrecondition)
}

// fill puts so many roles there, each of so many bytes.
func (c *cluster) fill(t *testing.T, roles, size int) error {
	return c.db.Write(t.Context(), func(tx *store.Tx) error {
		_, err := tx.Exec(`WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < $1)
			INSERT INTO policy_objects (kind, name, document, revision) SELECT 'role', 'r' || i, $2, 1 FROM n`, roles, strings.Repeat("x", size))
		return err
	})
}

func TestTheSizeOfAllIsBounded(t *testing.T) {
	run(t, func(t *testing.T, c *cluster) {
		must(t, c.Create(t.Context(), "a", role("dev", "dev")))
		must(t, c.fill(t, maxAll/maxDocument, maxDocument))
		for name, err := range map[string]error{
			"one more":  c.Create(t.Context(), "a", role("one-more", "dev")),
			"a change":  c.Update(t.Context(), "a", role("dev", "prod"), ""),
			"the reset": c.Delete(t.Context(), "a", resource.KindPreference, "", nil),
		} {
			var refusal *api.Refusal
			if !errors.As(err, &refusal) || refusal.Code != connect.CodeFailedPrecondition {
				t.Errorf("%s: got %v", name, err)
			}
		}
		must(t, c.db.Write(t.Context(), func(tx *store.Tx) error {
			_, err := tx.Exec(`DELETE FROM policy_objects WHERE name = 'r1'`)
			return err
		}))
		must(t, c.Create(t.Context(), "a", role("one-more", "dev")))
	})
}

// Of many who change the same revision, one does.
func TestOneOfManyConcurrentEditsWins(t *testing.T) {
	run(t, func(t *testing.T, c *cluster) {
		must(t, c.Create(t.Context(), "a", role("dev", "dev")))
		r, err := c.Get(t.Context(), resource.KindRole, "dev")
		must(t, err)
		var wins, aborts int
		var mu sync.Mutex
		var all sync.WaitGroup
		for range 8 {
			all.Go(func() {
				err := c.Update(context.Background(), "a", role("dev", "x"), r.Head().Metadata.Revision)
				mu.Lock()
				defer mu.Unlock()
				var refusal *api.Refusal
				switch {
				case err == nil:
					wins++
				case errors.As(err, &refusal) && refusal.Code == connect.CodeAborted:
					aborts++
				default:
					t.Error(err)
				}
			})
		}
		all.Wait()
		if wins != 1 || aborts != 7 {
			t.Errorf("%d won and %d were told, want 1 and 7", wins, aborts)
		}
	})
}

// One stored document that cannot be read denies everything.
func TestAStoreThatCannotBeReadGivesNoState(t *testing.T) {
	run(t, func(t *testing.T, c *cluster) {
		for _, damage := range []string{
			`UPDATE policy_objects SET document = '{}' WHERE name = 'access'`,
			`DELETE FROM policy_objects WHERE kind = 'cluster_auth_preference'`,
			`INSERT INTO policy_objects (kind, name, document, revision) VALUES ('user', 'u', '{}', 1)`,
		} {
			err := c.db.Write(t.Context(), func(tx *store.Tx) error {
				if _, err := tx.Exec(damage); err != nil {
					return err
				}
				if s, err := c.State(tx, c.time); err == nil || s != nil {
					t.Errorf("%s: got %v, %v", damage, s, err)
				}
				return errors.New("roll back")
			})
			if err == nil {
				t.Error("it was not rolled back")
			}
		}
	})
}

func TestNodesGetWhatDecides(t *testing.T) {
	run(t, func(t *testing.T, c *cluster) {
		must(t, c.Create(t.Context(), "a", lock("l", c.time.Add(time.Hour))))
		err := c.db.Read(t.Context(), func(tx *store.Tx) error {
			for range 2 { // the second time from what was read before
				roles, preference, locks, err := c.Content(tx)
				if err != nil {
					return err
				}
				s, err := resource.PolicyState(slices.Collect(maps.Values(roles)), preference, nil)
				if err != nil {
					return err
				}
				if len(s.Roles) != len(presets) || s.Preference.DeviceTrust.Mode != policy.ModeOptional {
					t.Errorf("got %+v", s)
				}
				if len(locks) != 1 || locks[0].Name != "l" || locks[0].Target.User != "alice" {
					t.Errorf("got locks %+v", locks)
				}
			}
			n, err := c.Count(tx, resource.KindRole)
			if n != int64(len(presets)) {
				t.Errorf("counted %d roles", n)
			}
			return err
		})
		must(t, err)
	})
}
