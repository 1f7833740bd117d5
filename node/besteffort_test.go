package node

import (
	"context"
	"slices"
	"strings"
	"testing"

	"devicetrust/audit/event"
	"devicetrust/policy"
)

func bestEffort(s *policy.RoleSpec) { s.Options.Audit = "best_effort" }

// empty undoes fill.
func (s *spool) empty() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.segments = slices.DeleteFunc(s.segments, func(seg segment) bool { return seg.number == 0 })
}

func TestWhoseRolesAllowItWorksWhereNothingCanBeRecorded(t *testing.T) {
	n := startNode(t)
	n.decideBy(access(t, bestEffort))
	c := n.mustDial(tester, n.cluster.certify(t, alice(), newSigner(t)))
	n.spool.fill(10)
	if out, _, status := run(t, c, "echo ran"); out != "ran\n" || status != 0 {
		t.Errorf("%q, %d", out, status)
	}
	// Its start, what it runs, and its end.
	eventually(t, "it is counted", func() bool { return n.metric("dtnoded_unrecorded_total") == "3" })
	if log := n.log.String(); !strings.Contains(log, "best_effort") || !strings.Contains(log, "audit spool is full") {
		t.Errorf("the log: %s", log)
	}
	n.spool.empty()
	if _, _, status := run(t, c, "echo again"); status != 0 {
		t.Error(status)
	}
	if e := n.recorded(event.SessionStart); !slices.Equal(e.Reasons, []string{notRecorded(3)}) {
		t.Errorf("the next record: %q", e.Reasons)
	}
	if e := n.recorded(event.SessionEnd); len(e.Reasons) > 0 {
		t.Errorf("the one after it: %q", e.Reasons)
	}
	// What was allowed is not any more.
	n.spool.fill(10)
	n.decideBy(access(t))
	if out, errs, _ := run(t, c, "echo ran"); out != "" || !strings.Contains(errs, "audit spool is full") {
		t.Errorf("%q, %q", out, errs)
	}
}

func TestFilesAndForwardsGoOnToWhereNothingCanBeRecorded(t *testing.T) {
	n := startNode(t)
	n.decideBy(access(t, forwardsAll, bestEffort))
	c := n.mustDial(tester, n.cluster.certify(t, forwarder(), newSigner(t)))
	files := newSFTP(t, c)
	target := serveEach(t, tcpListener(t), echo).Addr().String()
	n.spool.fill(10)
	if err := files.Mkdir(theirs(t) + "/made"); err != nil {
		t.Error(err)
	}
	conn, err := c.Dial("tcp", target)
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
}

func TestWhatIsMissingIsCountedUntilItIsRecorded(t *testing.T) {
	n := startNode(t)
	loose := &admission{limits: policy.Limits{BestEffortAudit: true}}
	loose.identity.User = "alice"
	strict := &admission{}
	strict.identity.User = "alice"
	act := event.Event{Type: event.SFTP, User: "alice"}
	n.spool.fill(10)
	for range 2 {
		if err := n.recordFor(loose, act); err != nil {
			t.Error(err)
		}
	}
	if err := n.recordFor(strict, act); err == nil {
		t.Error("a strict one was let go on")
	}
	n.spool.empty()
	bob := &admission{}
	bob.identity.User = "bob"
	if err := n.recordFor(bob, event.Event{Type: event.SFTP, User: "bob"}); err != nil {
		t.Error(err)
	}
	if err := n.recordFor(strict, act); err != nil {
		t.Error(err)
	}
	for _, e := range n.records() {
		if want := e.User == "alice"; slices.Contains(e.Reasons, notRecorded(2)) != want {
			t.Errorf("%s: %q", e.User, e.Reasons)
		}
	}
	for i := range 2 * maxUnrecorded {
		n.unrecorded.add(strings.Repeat("x", i), 1)
	}
	if got := len(n.unrecorded.of); got != maxUnrecorded {
		t.Errorf("%d users are counted", got)
	}
}

func TestTheEndOfASessionIsRecordedWithWhatItWas(t *testing.T) {
	n, c := enterNode(t)
	s := newSession(t, c)
	s.Stdin = strings.NewReader("12345")
	command := "cat; echo 12 >&2; exit 3 # " + strings.Repeat("é", maxEndCommand)
	if err := s.Run(command); err == nil {
		t.Error("it did not fail")
	}
	e := n.recorded(event.SessionEnd)
	if !strings.HasPrefix(command, strings.TrimSuffix(e.Command, "…")) || len(e.Command) > maxEndCommand+3 || len(e.Command) < maxEndCommand {
		t.Errorf("the command: %d bytes, %.64q", len(e.Command), e.Command)
	}
	if e.BytesIn == nil || *e.BytesIn != 5 || e.Bytes == nil || *e.Bytes != 8 || e.ExitStatus == nil || *e.ExitStatus != 3 {
		t.Errorf("got %+v", e)
	}
	if got := n.recorded(event.Exec).Command; got != command {
		t.Errorf("what was run: %d bytes", len(got))
	}
	if _, err := n.spool.shipOnce(t.Context(), func(context.Context, [][]byte) error { return nil }); err != nil {
		t.Error(err)
	}
}
