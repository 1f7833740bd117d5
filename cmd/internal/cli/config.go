package cli

import (
	"errors"
	"fmt"
	"io"
	"os"

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
		return fmt.Errorf("%s: %w", file, err)
	}
	return nil
}
