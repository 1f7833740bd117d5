package policy

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestStaleLocksAreToldWithTheirAgeAndTheLimit(t *testing.T) {
	strict := func(s *State, _ *Request) { s.Preference.LockingMode = LockingStrict }
	role := func(s *State, r *Request) {
		s.Roles["careful"] = mustRole(t, "careful", RoleSpec{Options: RoleOptions{Lock: LockingStrict}})
		r.Subject.Roles = append(r.Subject.Roles, "careful")
	}
	for name, row := range map[string]struct {
		change func(*State, *Request)
		age    time.Duration
		limit  Duration
		want   string
	}{
		"the cluster": {strict, 6*time.Minute + 400*time.Millisecond, 0,
			"the node has not heard of new locks for 6m0s, and the cluster (locking_mode: strict) wants none older than 5m0s"},
		"a role": {role, time.Hour, Duration(10 * time.Minute),
			`the node has not heard of new locks for 1h0m0s, and role "careful" (lock: strict) wants none older than 10m0s`},
		"since the start": {strict, NeverHeard, 0,
			"the node has not heard of new locks since it started, and the cluster (locking_mode: strict) wants none older than 5m0s"},
	} {
		t.Run(name, func(t *testing.T) {
			s, r := presetState(t), session()
			row.change(s, &r)
			s.Preference.StalenessLimit, r.StateAge = row.limit, row.age
			d := Explain(s, r)
			if d.Allowed() || d.Cause != CauseStaleLocks || d.Reason != row.want {
				t.Errorf("got %+v, want %q", d, row.want)
			}
			if diff := cmp.Diff([]string{"let the node reach the control plane"}, d.Changes); diff != "" {
				t.Errorf("changes: want (-), got (+):\n%s", diff)
			}
		})
	}
}

func TestAnAllowSaysWhenItHasToBeAskedForAgain(t *testing.T) {
	s, r := presetState(t), session()
	if d := Decide(s, r); !d.Allowed() || d.Limits.StaleAfter != 0 {
		t.Errorf("best effort: got %+v", d)
	}
	s.Preference.LockingMode = LockingStrict
	for limit, want := range map[Duration]time.Duration{0: 5 * time.Minute, -1: 5 * time.Minute, Duration(time.Hour): time.Hour} {
		s.Preference.StalenessLimit, r.StateAge = limit, want
		if d := Decide(s, r); !d.Allowed() || d.Limits.StaleAfter != want {
			t.Errorf("limit %s: got %+v, want an allow until %s", limit, d, want)
		}
		if r.StateAge++; Decide(s, r).Allowed() {
			t.Errorf("limit %s: allowed after %s", limit, r.StateAge)
		}
	}
}

func TestALockingModeThatNobodyKnowsDenies(t *testing.T) {
	s, r := presetState(t), session()
	s.Preference.LockingMode = "lenient"
	for _, action := range []Action{OpenSession, Forward} {
		r.Action, r.Target = action, Target{Kind: ToAgent}
		d := Explain(s, r)
		if d.Allowed() || d.Cause != CauseUnknownMode || !strings.Contains(d.Reason, "locking mode is unknown") {
			t.Errorf("got %+v", d)
		}
		if diff := cmp.Diff([]string{"set locking_mode in cluster_auth_preference to one that exists"}, d.Changes); diff != "" {
			t.Errorf("changes: want (-), got (+):\n%s", diff)
		}
	}
	if r.Action = LogIn; !Decide(s, r).Allowed() {
		t.Error("nobody can log in and set it right")
	}
}

func TestStalenessLimitsAreNeitherShortNorEndless(t *testing.T) {
	for limit, ok := range map[Duration]bool{
		0: true, -1: false, 1: false, Duration(time.Minute - 1): false, Duration(time.Minute): true,
		Duration(31 * 24 * time.Hour): true, Duration(31*24*time.Hour + 1): false,
	} {
		if err := CheckStalenessLimit(limit); (err == nil) != ok {
			t.Errorf("%s: %v", limit, err)
		}
	}
}
