package resource

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"

	"devicetrust/policy"
)

// ParseYAML reads documents that people wrote: one or more resources in YAML,
// or in JSON (one, or a list of them). What is not understood is an error, in
// one line that names the line and the field: unknown kinds, versions and
// fields, fields that are there twice, anchors and tags, values that do not
// hold. So are values that only the server can make true.
func ParseYAML(data []byte) ([]Resource, error) {
	if err := checkSize(data); err != nil {
		return nil, err
	}
	roots, fromJSON, err := roots(data)
	if err != nil {
		return nil, err
	}
	var all []Resource
	for _, root := range roots {
		r, err := parse(root, document{strictTexts: fromJSON, written: true})
		if err != nil {
			return nil, err
		}
		all = append(all, r)
	}
	if len(all) == 0 {
		return nil, errors.New("there is no resource in it")
	}
	return all, nil
}

// ParseJSON reads one resource as MarshalJSON writes it, as strictly as
// ParseYAML does.
func ParseJSON(data []byte) (Resource, error) {
	if err := checkSize(data); err != nil {
		return nil, err
	}
	root, err := treeOfJSON(data)
	if err != nil {
		return nil, err
	}
	return parse(root, document{strictTexts: true})
}

func checkSize(data []byte) error {
	if len(data) > MaxText {
		return fmt.Errorf("%d bytes are more than %d", len(data), MaxText)
	}
	if !utf8.Valid(data) {
		return errors.New("it is not text in UTF-8")
	}
	return nil
}

// roots gives the documents in data.
func roots(data []byte) (all []*yaml.Node, fromJSON bool, err error) {
	// YAML may begin with { or [ too, but hardly anybody then writes quotes.
	start, inner := bytes.TrimLeft(data, " \t\r\n"), bytes.TrimLeft(data, " \t\r\n[{")
	likeJSON := len(start) > len(inner) && bytes.HasPrefix(inner, []byte(`"`))
	if !likeJSON || !json.Valid(data) {
		all, err = rootsOfYAML(data)
		if err != nil && likeJSON {
			err = jsonError(data) // it knows the line better
		}
		return all, false, err
	}
	root, err := treeOfJSON(data)
	if err != nil {
		return nil, true, err
	}
	if root.Kind == yaml.SequenceNode {
		return root.Content, true, nil
	}
	return []*yaml.Node{root}, true, nil
}

func rootsOfYAML(data []byte) (all []*yaml.Node, err error) {
	decoder := yaml.NewDecoder(bytes.NewReader(data))
	for {
		var doc yaml.Node
		err := decoder.Decode(&doc)
		if errors.Is(err, io.EOF) {
			return all, nil
		}
		if err != nil {
			return nil, errors.New(strings.TrimPrefix(err.Error(), "yaml: "))
		}
		root := doc.Content[0]
		if isNull(root) {
			continue // nothing between two marks, or comments only
		}
		if len(all) == maxDocuments {
			return nil, lineError(root, "there are more than %d resources", maxDocuments)
		}
		if err := checkTree(root); err != nil {
			return nil, err
		}
		all = append(all, root)
	}
}

// document is one resource being read.
type document struct {
	kind string
	// strictTexts: a text must be one. In YAML, "name: 7" is meant as one.
	strictTexts bool
	// written by a person, and not by the server.
	written bool
	// lines says where each field was: "spec.options.lock" on line 9.
	lines map[string]int
}

func parse(root *yaml.Node, d document) (Resource, error) {
	name, k, err := kindOf(root)
	if err != nil {
		return nil, err
	}
	d.kind, d.lines = name, map[string]int{"": root.Line}
	// First of all: what another version means is not known.
	if v := field(root, "version"); v != nil && !isNull(v) && !slices.Contains(k.reads, v.Value) {
		return nil, lineError(v, "version %.64q of %s is not supported; %s is", v.Value, article(name), strings.Join(k.reads, ", "))
	}
	if name == KindUser {
		lowerStatus(root)
	}
	r := k.make()
	if err := d.decode(root, r); err != nil {
		return nil, err
	}
	r.Head().Version = k.version
	if err := d.check(r); err != nil {
		return nil, d.locate(err)
	}
	return r, nil
}

// kindOf finds out what root is to be read as.
func kindOf(root *yaml.Node) (string, kind, error) {
	if root.Kind != yaml.MappingNode {
		return "", kind{}, lineError(root, "a resource is wanted: kind, version, metadata, spec")
	}
	n := field(root, "kind")
	if n == nil {
		return "", kind{}, lineError(root, `"kind" is missing; there are %s`, strings.Join(Kinds(), ", "))
	}
	k, known := knownKinds[n.Value]
	if n.Kind != yaml.ScalarNode || !known {
		return "", kind{}, lineError(n, "unknown kind %.64q; there are %s", n.Value, strings.Join(Kinds(), ", "))
	}
	return n.Value, k, nil
}

// lowerStatus moves a user's status to where it is kept: there are documents
// that have it beside the spec.
func lowerStatus(root *yaml.Node) {
	spec := field(root, "spec")
	if spec == nil || spec.Kind != yaml.MappingNode || field(spec, "status") != nil {
		return
	}
	for i := 0; i < len(root.Content); i += 2 {
		if root.Content[i].Value == "status" {
			spec.Content = append(spec.Content, root.Content[i], root.Content[i+1])
			root.Content = append(root.Content[:i:i], root.Content[i+2:]...)
			return
		}
	}
}

// locate says where the field is that err is about.
func (d *document) locate(err error) error {
	var f *policy.FieldError
	if !errors.As(err, &f) {
		return err
	}
	for at := f.Field; ; at = at[:strings.LastIndexAny(at, ".[")] {
		if line, ok := d.lines[at]; ok {
			return fmt.Errorf("line %d: %s: %s", line, f.Field, f.Problem)
		}
		if !strings.ContainsAny(at, ".[") {
			return fmt.Errorf("line %d: %s: %s", d.lines[""], f.Field, f.Problem)
		}
	}
}

func fieldError(field, format string, args ...any) error {
	return &policy.FieldError{Field: field, Problem: fmt.Sprintf(format, args...)}
}
