package policy

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestLengthsOfTimeAreTexts(t *testing.T) {
	doc, err := json.Marshal(RoleOptions{MaxSessionTTL: Duration(90 * time.Minute)})
	if want := `{"max_session_ttl":"1h30m0s"}`; err != nil || string(doc) != want {
		t.Errorf("got %s, %v; want %s", doc, err, want)
	}
	for _, text := range []string{`""`, `"0s"`, `"-1h"`, `"never"`, `30`, `"30"`, `"1h "`} {
		var d Duration
		if err := json.Unmarshal([]byte(text), &d); err == nil || d != 0 {
			t.Errorf("%s was read as %v", text, d)
		}
	}
}

func TestOneValueIsATextAndSeveralAreAList(t *testing.T) {
	for text, want := range map[string]Values{`"a"`: {"a"}, `["a","b"]`: {"a", "b"}, `[]`: {}} {
		var v Values
		if err := json.Unmarshal([]byte(text), &v); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, v); diff != "" {
			t.Errorf("%s: want (-), got (+):\n%s", text, diff)
		}
		if doc, err := json.Marshal(v); err != nil || string(doc) != text {
			t.Errorf("got %s, %v; want %s", doc, err, text)
		}
	}
	if doc, err := json.Marshal(Values(nil)); err != nil || string(doc) != `[]` {
		t.Errorf("none: got %s, %v", doc, err)
	}
	for _, text := range []string{`null`, `7`, `true`, `{}`, `[null]`, `["a",1]`, `[["a"]]`} {
		var v Values
		if err := json.Unmarshal([]byte(text), &v); err == nil {
			t.Errorf("%s was read as %q", text, v)
		}
	}
}
