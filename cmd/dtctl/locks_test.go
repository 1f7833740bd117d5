package main

import (
	"encoding/json"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"devicetrust/policy"
	"devicetrust/resource"
)

// createdLock runs what must create a lock and gives that.
func (c *cluster) createdLock(t *testing.T, args ...string) resource.LockSpec {
	t.Helper()
	out := c.good(t, args...)
	m := regexp.MustCompile(`^Created a lock with name "([0-9a-f-]{36})"\.\n$`).FindStringSubmatch(out)
	if m == nil {
		t.Fatalf("said %q", out)
	}
	lock, ok := c.get(resource.KindLock, m[1]).(*resource.Lock)
	if !ok {
		t.Fatal("there is no such lock")
	}
	return lock.Spec
}

func TestALockHasItsTargetItsReasonAndItsEnd(t *testing.T) {
	c := startCluster(t)
	c.put(t, devices)
	c.put(t, everybody)
	for _, tt := range []struct {
		args string
		want resource.LockSpec
	}{
		{"lock --user=alice --message=gone", resource.LockSpec{Target: policy.LockTarget{User: "alice"}, Message: "gone"}},
		{"lock --login=root --node=web-1 --ttl=2h", resource.LockSpec{
			Target: policy.LockTarget{Login: "root", Node: "web-1"}, Expires: now.Add(2 * time.Hour)}},
		{"lock --role=access --expires=2026-03-02T00:00:00+01:00", resource.LockSpec{
			Target: policy.LockTarget{Role: "access"}, Expires: time.Date(2026, 3, 1, 23, 0, 0, 0, time.UTC)}},
		{"lock --device=C00AA0AAAA0A", resource.LockSpec{Target: policy.LockTarget{Device: macID}}},
		{"devices lock --asset-tag=C00AA0AAAA0A", resource.LockSpec{Target: policy.LockTarget{Device: macID}}},
		{"devices lock --device-id=" + macID, resource.LockSpec{Target: policy.LockTarget{Device: macID}}},
	} {
		if diff := cmp.Diff(tt.want, c.createdLock(t, strings.Fields(tt.args)...)); diff != "" {
			t.Errorf("%s: %s", tt.args, diff)
		}
	}
	if r := c.run(t, "devices", "lock", "--asset-tag=NOBODYS"); r.status != 1 {
		t.Errorf("a device that does not exist was locked: %+v", r)
	}
	if r := c.run(t, "lock", "--user=alise"); r.status != 0 || r.errors != "WARNING: there is no user \"alise\": the lock is for one that comes.\n" {
		t.Errorf("%+v", r)
	}
	for _, args := range [][]string{{"lock", "--user="}, {"lock", "--user=alice", "--message=two\nlines"}} {
		if r := c.run(t, args...); r.status != 2 {
			t.Errorf("%q: %+v", args, r)
		}
	}
}

// everybody are those who are locked here.
const everybody = `kind: user
metadata: {name: alice}
---
kind: role
metadata: {name: access}
---
kind: node
metadata: {name: web-1}
spec: {hostname: web-1, addr: "web-1:22"}
`

func TestLocksAreListedWithTheirTargets(t *testing.T) {
	c := startCluster(t)
	c.put(t, everybody)
	c.createdLock(t, "lock", "--user=alice", "--node=web-1", "--message=gone")
	out := c.good(t, "get", "locks", "--format=text")
	if !strings.Contains(out, " user=alice,node=web-1 gone    never\n") {
		t.Error(out)
	}
	var all []resource.Lock
	if err := json.Unmarshal([]byte(c.good(t, "get", "locks", "--format=json")), &all); err != nil || len(all) != 1 {
		t.Errorf("%v, %d locks", err, len(all))
	}
}
