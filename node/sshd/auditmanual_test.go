package sshd

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// Who reads a code in the output of a script finds it in the manual.
func TestTheManualNamesEachCode(t *testing.T) {
	var all []string
	for _, c := range slices.Concat(consulted(""), otherMethods(), weakened(), forwarding()) {
		all = append(all, c.code)
	}
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	written := regexp.MustCompile(`(?:Code: |Code, f\.\w+(?:, f\.\w+)* = |\{)"([a-z]+(?:-[a-z0-9]+)+)"`)
	for _, name := range files {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasSuffix(name, "_test.go") || !strings.Contains(string(text), "Finding{") {
			continue
		}
		for _, m := range written.FindAllStringSubmatch(string(text), -1) {
			all = append(all, m[1])
		}
	}
	manual, err := os.ReadFile("../../docs/operating.md")
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(all)
	all = slices.Compact(all)
	if len(all) < 45 {
		t.Errorf("only %d codes were found: %q", len(all), all)
	}
	for _, code := range all {
		if !strings.Contains(string(manual), "`"+code+"`") {
			t.Errorf("the manual does not know %s", code)
		}
	}
}
