package cli

import (
	"strings"
	"testing"

	"devicetrust/api/dtv1"
)

func TestFindingsArePrintedWithTheirRemedies(t *testing.T) {
	var out strings.Builder
	err := WriteFindings(&out, Findings([]*dtv1.Finding{
		{Name: "tpm", State: dtv1.Finding_STATE_OK, Detail: "it answers"},
		{Name: "owner", State: dtv1.Finding_STATE_FAULT, Detail: "another's", Remedy: "ask\x1b[2J"},
		{Name: "required", State: dtv1.Finding_STATE_NOTE, Detail: "nobody asks"},
		{Name: "new", State: 17, Detail: "of a later version"},
		{Name: "none", Detail: "of no state"},
	}))
	const want = `ok   tpm: it answers
FAIL owner: another's
     ask\u001b[2J
--   required: nobody asks
FAIL new: of a later version
FAIL none: of no state
`
	if err != nil || out.String() != want {
		t.Errorf("got\n%s%v", out.String(), err)
	}
}
