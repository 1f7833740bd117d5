package main

import (
	"context"
	"strings"
	"testing"

	"connectrpc.com/connect"

	"devicetrust/api/dtv1"
)

// SyncDevices tells of each of the answers' sources.
func (d deviceAPI) SyncDevices(_ context.Context, r *connect.Request[dtv1.SyncDevicesRequest], stream *connect.ServerStream[dtv1.SyncDevicesResponse]) error {
	if err := d.c.note(r.Msg); err != nil {
		return err
	}
	for _, name := range []string{"jamf", "assets"} {
		if err := stream.Send(&dtv1.SyncDevicesResponse{Source: name, Seen: 1}); err != nil {
			return err
		}
		if m, ok := d.c.answers[name].(*dtv1.SyncDevicesResponse); ok {
			if err := stream.Send(m); err != nil {
				return err
			}
		}
	}
	return nil
}

func TestASyncEndsWithALineForEachSource(t *testing.T) {
	c := startCluster(t)
	c.answers["jamf"] = &dtv1.SyncDevicesResponse{
		Source: "jamf", Full: true, Done: true, Seen: 120, Created: 3, Updated: 4, Unchanged: 110, Skipped: 3, Problems: []string{"page 1, id 7: it is \x1b[2Jodd"},
	}
	c.answers["assets"] = &dtv1.SyncDevicesResponse{Source: "assets", Full: true, Done: true, Seen: 1, Unchanged: 1}
	c.prints(t, `jamf: full sync: 120 seen, 3 created, 4 updated, 110 unchanged, 0 deleted, 3 skipped
  page 1, id 7: it is \u001b[2Jodd
  and 2 more
assets: full sync: 1 seen, 0 created, 0 updated, 1 unchanged, 0 deleted, 0 skipped
`, "mdm", "sync")
	c.asked(t, &dtv1.SyncDevicesRequest{Full: true})
	c.good(t, "mdm", "sync", "--source=jamf", "--partial")
	c.asked(t, &dtv1.SyncDevicesRequest{Source: "jamf"})
	if out := c.good(t, "mdm", "sync", "--format=json"); !strings.Contains(out, `"unchanged": 110`) || !strings.HasPrefix(out, "[") {
		t.Errorf("printed %s", out)
	}
}

func TestASyncThatFailedIsTheExitStatus(t *testing.T) {
	c := startCluster(t)
	c.answers["jamf"] = &dtv1.SyncDevicesResponse{Source: "jamf", Full: true, Done: true, Failure: "Jamf Pro, page 2: it broke"}
	for _, format := range []string{"text", "json"} {
		r := c.run(t, "mdm", "sync", "--format="+format)
		if r.status != 1 || !strings.Contains(r.errors+r.out, "Jamf Pro, page 2: it broke") {
			t.Errorf("status %d, %s%s", r.status, r.out, r.errors)
		}
	}
	if r := c.run(t, "mdm", "sync", "--full", "--partial"); r.status != 2 {
		t.Errorf("both: status %d", r.status)
	}
}
