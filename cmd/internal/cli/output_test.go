package cli

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.yaml.in/yaml/v3"
)

func TestAConfigurationsMistakeIsNamedForItsWriter(t *testing.T) {
	for text, want := range map[string]string{
		"listen: a\nlisten_on: b\n": `line 2: unknown key "listen_on"`,
		"data-dir: a\n":             `line 1: unknown key "data-dir": keys have _ where flags have -`,
		"a: [":                      "line 1: did not find expected node content",
		"listen: a\nlisten: b\n":    `line 2: mapping key "listen" already defined at line 1`,
		"listen: [a]\nmore: 1\n":    "line 1: listen: want a text; line 2: unknown key \"more\"",
		"- a\n":                     "line 1: want keys and values",
		"sources:\n  a: b\n":        "line 2: sources: want a list",
		"sources: [{every: 1h}, {note: soon, every: soonest of all}]\n": "line 1: sources[1].every: want a duration such as 15m or 24h",
		"sources: [{most: many}]\n":                                     "line 1: sources[0].most: want a whole number",
	} {
		file := filepath.Join(t.TempDir(), "c.yaml")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		var into struct {
			Listen  string `yaml:"listen"`
			Sources []struct {
				Note  string        `yaml:"note"`
				Every time.Duration `yaml:"every"`
				Most  *int          `yaml:"most"`
			} `yaml:"sources"`
		}
		err := ReadYAML(file, &into)
		if exit, ok := errors.AsType[*ExitError](err); !ok || exit.Status != 2 {
			t.Errorf("%q: not a wrong command line: %v", text, err)
		}
		if err == nil || err.Error() != file+": "+want {
			t.Errorf("%q: %v, want %s", text, err, want)
		}
	}
}

func TestATableHasTheSeedsLayout(t *testing.T) {
	var b bytes.Buffer
	err := Table(&b, []string{"Asset Tag", "OS", "Enroll Status", "Device ID"}, [][]string{
		{"C00AA0AAAA0A", "macOS", "not enrolled", "9cdfc0ad-64b7-4d9c-a000-000000000000"},
		{"é\x1b[2J", "Linux", "enrolled"},
	})
	if err != nil {
		t.Fatal(err)
	}
	want := `Asset Tag    OS    Enroll Status Device ID
------------ ----- ------------- ------------------------------------
C00AA0AAAA0A macOS not enrolled  9cdfc0ad-64b7-4d9c-a000-000000000000
é\u001b[2J   Linux enrolled
`
	if diff := cmp.Diff(want, b.String()); diff != "" {
		t.Error(diff)
	}
}

func TestJSONAndYAMLAreTheSameDocument(t *testing.T) {
	v := struct {
		Z     string   `json:"z"`
		A     []any    `json:"a"`
		Empty []string `json:"empty"`
		Text  string   `json:"text"`
		Odd   string   `json:"odd"`
	}{"true", []any{1, 2.5, true, nil, map[string]any{"k": "<v>"}}, []string{}, "one\ntwo\n", "\x7f\u0085"}
	var j, y bytes.Buffer
	if err := Write(&j, JSON, v); err != nil {
		t.Fatal(err)
	}
	if err := Write(&y, YAML, v); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(j.String(), `"<v>"`) || !strings.HasPrefix(j.String(), "{\n  \"z\"") {
		t.Errorf("JSON %s", j.String())
	}
	if !strings.HasPrefix(y.String(), "z: \"true\"\na:\n") {
		t.Errorf("YAML loses order or quotes:\n%s", y.String())
	}
	var fromJSON, fromYAML any
	if err := yaml.Unmarshal(bytes.ReplaceAll(bytes.ReplaceAll(j.Bytes(), []byte("\x7f"), []byte(`\x7f`)), []byte("\u0085"), []byte(`\x85`)), &fromJSON); err != nil {
		t.Fatal(err)
	}
	if err := yaml.Unmarshal(y.Bytes(), &fromYAML); err != nil {
		t.Fatalf("%v\n%s", err, y.String())
	}
	if diff := cmp.Diff(fromJSON, fromYAML); diff != "" {
		t.Errorf("%s\n%s", diff, y.String())
	}
}
