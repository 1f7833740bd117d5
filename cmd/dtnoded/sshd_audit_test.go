package main

import (
	"encoding/json"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"devicetrust/cmd/internal/cli"
	"devicetrust/node/sshd"
)

func TestFindingsSayWhatWhereForWhomAndWhatToDo(t *testing.T) {
	found := []sshd.Finding{
		{
			Code: "a-code", Severity: sshd.SeverityOpen, For: []string{"User bob", "Group x"}, Setting: "s", Value: "v\n\x1b[2J", Want: "w",
			File: "/f", Line: 7, Problem: "P.", Remedy: "R.",
		},
		{Code: "b-code", Severity: sshd.SeverityNote, For: []string{}, Setting: "s", Value: "v", Problem: "P.", Remedy: "R."},
	}
	var text strings.Builder
	if err := printFindings(&text, cli.Text, found); err != nil {
		t.Fatal(err)
	}
	const want = `OPEN a-code: P.
     at /f:7
     for User bob; Group x
     s is v \u001b[2J, want w
     R.

note b-code: P.
     s is v
     R.

1 way around is open
`
	if diff := cmp.Diff(want, text.String()); diff != "" {
		t.Error(diff)
	}
	for n, want := range []string{"No way around was found", "1 way around is open", "2 ways around are open"} {
		if got := verdict(n); got != want {
			t.Errorf("%d: %s", n, got)
		}
	}
	for format, want := range map[cli.Format]string{cli.Text: "No way around was found\n", cli.JSON: "[]\n", cli.YAML: "[]\n"} {
		var none strings.Builder
		if err := printFindings(&none, format, nil); err != nil || none.String() != want {
			t.Errorf("%s: %q: %v", format, none.String(), err)
		}
	}
	if n := open([]sshd.Finding{{Severity: "of a later version"}, {Severity: sshd.SeverityNote}, {}}); n != 2 {
		t.Errorf("%d are open, want 2: what nobody knows is", n)
	}
}

func TestTheAuditsExitStatusTellsWhatItFound(t *testing.T) {
	run := func(args ...string) (int, string, string) {
		var stdout, stderr strings.Builder
		status := cli.Run(t.Context(), &cli.Env{Args: append([]string{"sshd", "audit"}, args...), Stdout: &stdout, Stderr: &stderr}, newRoot)
		return status, stdout.String(), stderr.String()
	}
	for _, args := range [][]string{{"x"}, {"--bogus"}, {"--format=xml"}, {"--sshd="}, {"--sshd-config="}, {"--data-dir="}} {
		if status, out, _ := run(args...); status != 2 || out != "" {
			t.Errorf("%q: status %d, printed %q", args, status, out)
		}
	}
	nowhere := []string{"--sshd-config=/nowhere/sshd_config", "--sshd=/nowhere/sshd", "--data-dir=/nowhere/data", "--format=json"}
	status, out, said := run(nowhere...)
	if os.Geteuid() != 0 {
		if status != 1 || !strings.Contains(said, "run it as root") {
			t.Errorf("status %d, said %q", status, said)
		}
		return
	}
	var found []sshd.Finding
	if err := json.Unmarshal([]byte(out), &found); err != nil || status != 1 || open(found) == 0 {
		t.Errorf("status %d, printed %q: %v", status, out, err)
	}
}
