package authd

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"

	"devicetrust/api/dtv1"
	"devicetrust/api/dtv1/dtv1connect"
	"devicetrust/audit/event"
)

func TestANodeDoesNotFillTheRecord(t *testing.T) {
	r, c := startWithClock(t)
	// The minute must not turn by itself before the test has seen its end.
	c.forward(time.Until(time.Now().Truncate(time.Minute).Add(time.Minute)))
	flood, quiet := r.join("flood"), r.join("quiet")
	n := 0
	report := func(k *keys, events int) error {
		req := &dtv1.RecordEventsRequest{}
		for range events {
			n++
			raw, err := json.Marshal(event.Event{
				Type: event.Exec, UID: fmt.Sprint("u", n), Time: c.now(), User: "alice", Command: "true", Message: strings.Repeat("m", 60<<10),
			})
			if err != nil {
				t.Fatal(err)
			}
			req.Events = append(req.Events, raw)
		}
		return fails(dtv1connect.NewNodeServiceClient(r.https(k), r.url()).RecordEvents(t.Context(), connect.NewRequest(req)))
	}
	const each = 16
	for sent := 0; ; sent += each * 60 << 10 {
		if err := report(flood, each); err != nil {
			wantCode(t, err, connect.CodeResourceExhausted)
			break
		}
		if sent > 2*maxReported {
			t.Fatalf("%d bytes were taken within a minute", sent)
		}
	}
	wantCode(t, report(flood, 1), connect.CodeResourceExhausted) // it would overtake what was refused
	if err := report(quiet, each); err != nil {
		t.Errorf("another node: %v", err)
	}
	c.forward(time.Minute)
	if err := report(flood, each); err != nil {
		t.Errorf("a minute later: %v", err)
	}
	if told := strings.Count(r.log.String(), "reports more than"); told != 1 {
		t.Errorf("the log says it %d times", told)
	}
}
