package cli

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// ReadYAML reads a program's configuration file into the struct that into
// points at. A key that it does not have, and a value that is not what the key
// wants, are a wrong command line: the error names the line and the key. An
// empty file changes nothing.
func ReadYAML(file string, into any) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return fmt.Errorf("the configuration cannot be read: %w", err)
	}
	d := yaml.NewDecoder(bytes.NewReader(text))
	d.KnownFields(true)
	if err := d.Decode(into); err != nil && !errors.Is(err, io.EOF) {
		return &ExitError{Status: statusUsage, Err: fmt.Errorf("%s: %s", file, plainYAML(text, err))}
	}
	return nil
}

var (
	// unknownKey is how the YAML package names a key that a struct lacks.
	unknownKey = lazily(`field (.+) not found in type .+`)
	// wrongValue is how it names a value that is not of the type wanted: line,
	// tag, the value's beginning where it is a scalar, and the type.
	wrongValue = lazily("(?s)^line ([0-9]+): cannot unmarshal (!!?[a-z]+)(?: `(.*)`)? into (.+)$")
)

// plainYAML leaves out what only a programmer knows: packages and types. Nor
// does it repeat values, which may be secrets.
func plainYAML(text []byte, err error) string {
	mistakes := []string{strings.TrimPrefix(err.Error(), "yaml: ")}
	if e, ok := errors.AsType[*yaml.TypeError](err); ok {
		mistakes = e.Errors
	}
	plain := make([]string, 0, len(mistakes))
	for _, m := range mistakes {
		if said := wrongValue().FindStringSubmatch(m); said != nil {
			m = wanted(text, said[1], said[2], strings.TrimSuffix(said[3], "..."), said[4])
		}
		if said := unknownKey().FindStringSubmatch(m); said != nil {
			m = unknownKey().ReplaceAllString(m, `unknown key "$1"`)
			if strings.Contains(said[1], "-") {
				m += ": keys have _ where flags have -"
			}
		}
		plain = append(plain, m)
	}
	return strings.Join(plain, "; ")
}

// wanted says what should stand on a line in place of the value with this tag
// and beginning.
func wanted(text []byte, line, tag, value, goType string) string {
	where := "line " + line
	var root yaml.Node
	if yaml.Unmarshal(text, &root) == nil && len(root.Content) > 0 {
		number, _ := strconv.Atoi(line) // digits; 0 is no line
		if key := keyOf(root.Content[0], "", func(n *yaml.Node) bool {
			return n.Line == number && n.ShortTag() == tag && strings.HasPrefix(n.Value, value)
		}); key != "" {
			where += ": " + key
		}
	}
	return where + ": want " + wordFor(strings.TrimLeft(goType, "*"))
}

// keyOf gives the path of the first value in n that is the one, or nothing.
func keyOf(n *yaml.Node, path string, is func(*yaml.Node) bool) string {
	if is(n) {
		return path
	}
	for i, child := range n.Content {
		at := fmt.Sprintf("%s[%d]", path, i)
		if n.Kind == yaml.MappingNode {
			if i%2 == 0 {
				continue // a key
			}
			at = strings.TrimPrefix(path+"."+n.Content[i-1].Value, ".")
		}
		if found := keyOf(child, at, is); found != "" {
			return found
		}
	}
	return ""
}

func wordFor(goType string) string {
	switch {
	case goType == "time.Duration":
		return "a duration such as 15m or 24h"
	case goType == "string":
		return "a text"
	case goType == "bool":
		return "true or false"
	case strings.HasPrefix(goType, "int"), strings.HasPrefix(goType, "uint"):
		return "a whole number"
	case strings.HasPrefix(goType, "[]"):
		return "a list"
	default:
		return "keys and values"
	}
}
