package main

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"

	"devicetrust/api/dtv1"
	"devicetrust/resource"
)

func (d deviceAPI) AcceptDevice(_ context.Context, r *connect.Request[dtv1.AcceptDeviceRequest]) (*connect.Response[dtv1.AcceptDeviceResponse], error) {
	return answer[dtv1.AcceptDeviceRequest, dtv1.AcceptDeviceResponse](d.c, "AcceptDevice", r)
}

func (d deviceAPI) EvaluateDevices(_ context.Context, r *connect.Request[dtv1.EvaluateDevicesRequest], s *connect.ServerStream[dtv1.EvaluateDevicesResponse]) error {
	if err := d.c.note(r.Msg); err != nil {
		return err
	}
	for _, e := range d.c.evaluations {
		if err := s.Send(e); err != nil {
			return err
		}
	}
	return nil
}

func TestADeviceIsAcceptedAndWhatChangedIsShown(t *testing.T) {
	c := startCluster(t)
	c.put(t, devices)
	accepted, err := resource.MarshalJSON(c.get(resource.KindDevice, "PF0A"))
	if err != nil {
		t.Fatal(err)
	}
	c.answers["AcceptDevice"] = &dtv1.AcceptDeviceResponse{Device: accepted, Changes: []string{"PCR 4: 000000000000 → 0123456789ab", "reset count: 4 → 0"}}
	const want = "PCR 4: 000000000000 → 0123456789ab\nreset count: 4 → 0\nDevice \"PF0A\" accepted\n"
	byID := &dtv1.AcceptDeviceRequest{Device: &dtv1.DeviceRef{DeviceId: "9cdfc0ad-64b7-4d9c-8a9c-000000000002"}}
	c.prints(t, want, "devices", "accept", "PF0A")
	c.asked(t, byID)
	c.prints(t, want, "devices", "accept", "--device-id=9cdfc0ad-64b7-4d9c-8a9c-000000000002")
	c.asked(t, byID)
	c.prints(t, want, "devices", "accept", "--asset-tag=PF0A")
	c.asked(t, &dtv1.AcceptDeviceRequest{Device: &dtv1.DeviceRef{AssetTag: "PF0A"}})
	if out := c.good(t, "devices", "accept", "PF0A", "--format=json"); !strings.Contains(out, `"reset count: 4 → 0"`) || !strings.Contains(out, `"asset_tag": "PF0A"`) {
		t.Errorf("as JSON: %s", out)
	}
	for _, args := range [][]string{{"accept"}, {"accept", "PF0A", "--asset-tag=PF0A"}, {"accept", "a", "b"}} {
		if r := c.run(t, append([]string{"devices"}, args...)...); r.status != 2 {
			t.Errorf("%q: status %d, %s", args, r.status, r.errors)
		}
	}
}

func TestDevicesAreEvaluatedAndLocked(t *testing.T) {
	c := startCluster(t)
	c.prints(t, "No enrolled devices found\n", "devices", "evaluate")
	c.prints(t, "[]\n", "devices", "evaluate", "--format=json")
	c.put(t, devices)
	c.evaluations = []*dtv1.EvaluateDevicesResponse{
		{DeviceId: "9cdfc0ad-64b7-4d9c-8a9c-000000000002", AssetTag: "PF0A", OsType: "linux", Owner: "alice", EvidenceLevel: "quote", Reasons: []string{"PCR 4 changed", "event log: empty"}},
		{DeviceId: macID, AssetTag: "C00AA0AAAA0A", OsType: "macos", Owner: "bob", Passes: true, EvidenceLevel: "key"},
	}
	const table = `Asset Tag    OS    Device ID                            Owner Result Evidence Reason
------------ ----- ------------------------------------ ----- ------ -------- -------------------------------
C00AA0AAAA0A macOS 9cdfc0ad-64b7-4d9c-8a9c-000000000001 bob   pass   key
PF0A         Linux 9cdfc0ad-64b7-4d9c-8a9c-000000000002 alice fail   quote    PCR 4 changed; event log: empty
`
	if r := c.run(t, "devices", "evaluate"); r.status != 1 || r.out != table || r.errors != "" {
		t.Errorf("status %d, %s%s", r.status, r.out, r.errors)
	}
	c.asked(t, &dtv1.EvaluateDevicesRequest{})
	if r := c.run(t, "devices", "evaluate", "PF0A", "--format=json"); r.status != 1 || !strings.Contains(r.out, `"evidence_level": "quote"`) {
		t.Errorf("status %d, %s%s", r.status, r.out, r.errors)
	}
	c.asked(t, &dtv1.EvaluateDevicesRequest{Device: &dtv1.DeviceRef{DeviceId: "9cdfc0ad-64b7-4d9c-8a9c-000000000002"}})

	if r := c.run(t, "devices", "evaluate", "--lock", "--message=look at it"); r.status != 0 || !strings.Contains(r.out, "Created a lock with name ") {
		t.Errorf("status %d, %s%s", r.status, r.out, r.errors)
	}
	// Again, there is nothing left to lock.
	r := c.run(t, "devices", "evaluate", "--lock")
	if r.status != 0 || !strings.Contains(r.out, "PF0A/linux is locked already, by the lock with name ") || strings.Contains(r.out, "Created") {
		t.Errorf("status %d, %s%s", r.status, r.out, r.errors)
	}
	c.good(t, "devices", "evaluate", "--lock", "--ttl=1h")
	var locks []*resource.Lock
	for _, r := range c.resources {
		if l, ok := r.(*resource.Lock); ok {
			locks = append(locks, l)
		}
	}
	if len(locks) != 1 || locks[0].Spec.Target.Device != "9cdfc0ad-64b7-4d9c-8a9c-000000000002" || locks[0].Spec.Message != "look at it" {
		t.Errorf("locks: %+v", locks)
	}
	out := c.good(t, "devices", "evaluate", "--lock", "--format=json")
	if strings.Count(out, `"lock": `) != 1 || !strings.Contains(out, `"lock": "`+locks[0].Metadata.Name+`"`) {
		t.Error(out)
	}
	locks[0].Spec.Expires = now.Add(time.Hour)
	if r := c.good(t, "devices", "evaluate", "--lock", "--ttl=30m"); strings.Contains(r, "Created") {
		t.Error(r)
	}
	for _, longer := range [][]string{{"--ttl=2h"}, nil} {
		if r := c.good(t, append([]string{"devices", "evaluate", "--lock"}, longer...)...); !strings.Contains(r, "Created") {
			t.Errorf("%q: %s", longer, r)
		}
	}
	c.evaluations = c.evaluations[1:]
	c.good(t, "devices", "evaluate")
}

func TestAnEmptyNameIsNotEveryDevice(t *testing.T) {
	c := startCluster(t)
	for _, flag := range []string{"--asset-tag=", "--device-id="} {
		for _, command := range [][]string{{"evaluate", "--lock"}, {"accept"}, {"explain", "--user=a"}, {"enroll"}, {"rm"}, {"lock"}} {
			args := append(append([]string{"devices"}, command...), flag)
			if r := c.run(t, args...); r.status != 2 || !strings.Contains(r.errors, "is empty") {
				t.Errorf("%q: status %d, %s", args, r.status, r.errors)
			}
		}
	}
	if len(c.requests) > 0 {
		t.Errorf("the cluster was asked: %v", c.requests)
	}
}

func TestDevicesAreEvaluatedUnderAnotherPreference(t *testing.T) {
	c := startCluster(t)
	file := filepath.Join(t.TempDir(), "next.yaml")
	write := func(text string) {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("kind: cluster_auth_preference\nversion: v2\nmetadata: {name: cluster-auth-preference}\nspec: {device_trust: {pcr_policy: enforce}}\n")
	c.good(t, "devices", "evaluate", "--preference", file)
	sent := c.requests[len(c.requests)-1].(*dtv1.EvaluateDevicesRequest).GetPreference()
	if !strings.Contains(string(sent), `"pcr_policy":"enforce"`) {
		t.Errorf("sent %s", sent)
	}
	for text, status := range map[string]int{
		"kind: cluster_auth_preference\nspec: {device_trust: {pcr_policy: strict}}\n": 1,
		"kind: lock\nversion: v2\nmetadata: {name: x}\nspec: {target: {user: a}}\n":   1,
	} {
		write(text)
		if r := c.run(t, "devices", "evaluate", "--preference", file); r.status != status || r.out != "" {
			t.Errorf("%q: status %d, %s", text, r.status, r.out)
		}
	}
	if r := c.run(t, "devices", "evaluate", "--message=x"); r.status != 2 {
		t.Errorf("--message without --lock: status %d", r.status)
	}
}
