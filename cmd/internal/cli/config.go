package cli

import (
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"strings"

	"go.yaml.in/yaml/v3"
)

// ReadYAML reads a program's configuration file into the struct that into
// points at. A key that it does not have is an error that names the line; an
// empty file changes nothing.
func ReadYAML(file string, into any) (err error) {
	f, err := os.Open(file)
	if err != nil {
		return fmt.Errorf("the configuration cannot be read: %w", err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	d := yaml.NewDecoder(f)
	d.KnownFields(true)
	if err := d.Decode(into); err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("%s: %s", file, plainYAML(err))
	}
	return nil
}

// unknownKey is how the YAML package names a key that a struct lacks.
var unknownKey = regexp.MustCompile(`field (.+) not found in type .+`)

// plainYAML leaves out what only a programmer knows: packages and types.
func plainYAML(err error) string {
	mistakes := []string{strings.TrimPrefix(err.Error(), "yaml: ")}
	if e, ok := errors.AsType[*yaml.TypeError](err); ok {
		mistakes = e.Errors
	}
	plain := make([]string, 0, len(mistakes))
	for _, m := range mistakes {
		plain = append(plain, unknownKey.ReplaceAllString(m, `unknown key "$1"`))
	}
	return strings.Join(plain, "; ")
}
