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

// Each change of a node is one that all the others are woken for.
func TestANodeDoesNotKeepTheOthersAwake(t *testing.T) {
	r, c := startWithClock(t)
	c.forward(time.Until(time.Now().Truncate(time.Minute).Add(time.Minute)))
	restless, quiet := r.join("restless"), r.join("quiet")
	n := 0
	move := func(k *keys, name string) error {
		n++
		info := nodeInfo(name)
		info.Addresses = []string{fmt.Sprintf("127.0.0.1:%d", 4000+n)}
		return r.heartbeat(k, &dtv1.HeartbeatRequest{Node: info})
	}
	for moved := 0; ; moved++ {
		if err := move(restless, "restless"); err != nil {
			wantCode(t, err, connect.CodeResourceExhausted)
			break
		}
		if moved > maxReported/changeCost {
			t.Fatalf("it moved %d times within a minute", moved)
		}
	}
	_, err := dtv1connect.NewNodeServiceClient(r.https(restless), r.url()).Renew(t.Context(), connect.NewRequest(&dtv1.RenewRequest{
		Node: nodeInfo("restless"), SshPublicKey: restless.ssh.PublicKey().Marshal(), TlsPublicKey: restless.der,
	}))
	wantCode(t, err, connect.CodeResourceExhausted)
	if err := move(quiet, "quiet"); err != nil {
		t.Errorf("another node: %v", err)
	}
	c.forward(time.Minute)
	if err := move(restless, "restless"); err != nil {
		t.Errorf("a minute later: %v", err)
	}
}
