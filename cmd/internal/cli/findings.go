package cli

import (
	"fmt"
	"io"
	"strings"

	"devicetrust/api/dtv1"
)

// Finding is one of a diagnosis as JSON and YAML have it.
type Finding struct {
	Name   string `json:"name" yaml:"name"`
	State  string `json:"state" yaml:"state"` // ok, fault, note
	Detail string `json:"detail" yaml:"detail"`
	Remedy string `json:"remedy" yaml:"remedy"`
}

// Findings are those off the wire; of a state that nobody knows is a fault.
func Findings(all []*dtv1.Finding) []Finding {
	out := []Finding{}
	for _, f := range all {
		state := "fault"
		switch f.GetState() {
		case dtv1.Finding_STATE_OK:
			state = "ok"
		case dtv1.Finding_STATE_NOTE:
			state = "note"
		case dtv1.Finding_STATE_FAULT, dtv1.Finding_STATE_UNSPECIFIED:
		}
		out = append(out, Finding{f.GetName(), state, f.GetDetail(), f.GetRemedy()})
	}
	return out
}

// WriteFindings prints a line for each, and its remedy below.
func WriteFindings(w io.Writer, all []Finding) error {
	marks := map[string]string{"ok": "ok", "note": "--"}
	var b strings.Builder
	for _, f := range all {
		mark := marks[f.State]
		if mark == "" {
			mark = "FAIL"
		}
		fmt.Fprintf(&b, "%-4s %s: %s\n", mark, Safe(f.Name), Safe(f.Detail))
		if f.Remedy != "" {
			fmt.Fprintf(&b, "     %s\n", Safe(f.Remedy))
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}
