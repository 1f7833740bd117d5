package e2e

import (
	"encoding/json"
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"github.com/rogpeppe/go-internal/testscript"
)

// getjson VAR FILE PATH sets $VAR to what is at PATH, as "0.metadata.name".
func cmdGetJSON(ts *testscript.TestScript, neg bool, args []string) {
	setOf(ts, neg)
	usage(ts, args, 3, "getjson VAR FILE PATH")
	text, err := jsonAt(ts.ReadFile(args[1]), args[2])
	ts.Check(err)
	ts.Setenv(args[0], text)
}

// [!] json FILE PATH PATTERN wants what is at PATH to match as a whole.
// Strings are taken without quotes, lists and objects as compact JSON, what
// is absent as "absent".
func cmdJSON(ts *testscript.TestScript, neg bool, args []string) {
	setOf(ts, false)
	usage(ts, args, 3, "[!] json FILE PATH PATTERN")
	text, err := jsonAt(ts.ReadFile(args[0]), args[1])
	ts.Check(err)
	matched, err := regexp.MatchString("^(?:"+args[2]+")$", text)
	ts.Check(err)
	if matched == neg {
		ts.Fatalf("%s is %s", args[1], text)
	}
}

func jsonAt(text, path string) (string, error) {
	var v any
	if err := json.Unmarshal([]byte(text), &v); err != nil {
		return "", fmt.Errorf("not JSON: %w: %s", err, text)
	}
	for _, key := range strings.Split(path, ".") {
		switch at := v.(type) {
		case map[string]any:
			v = at[key]
		case []any:
			i, err := strconv.Atoi(key)
			if err != nil {
				return "", fmt.Errorf("%q: not an index", key)
			}
			if i < 0 {
				i += len(at)
			}
			if v = nil; i >= 0 && i < len(at) {
				v = at[i]
			}
		case nil:
		default:
			return "", fmt.Errorf("there is nothing below %v", at)
		}
	}
	switch v := v.(type) {
	case nil:
		return "absent", nil
	case string:
		return v, nil
	}
	out, err := json.Marshal(v)
	return string(out), err
}
