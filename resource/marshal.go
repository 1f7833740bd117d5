package resource

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// MarshalJSON writes r on one line: fields in the order of their types, maps
// by name, zero times left out. ParseJSON reads it back.
func MarshalJSON(r Resource) ([]byte, error) {
	if err := checkKind(r); err != nil {
		return nil, err
	}
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(r); err != nil {
		return nil, fmt.Errorf("resource: %w", err)
	}
	return bytes.TrimRight(b.Bytes(), "\n"), nil
}

// MarshalYAML writes one document for each resource, in the same order and
// with the same fields as MarshalJSON, but for maps by number, such as PCRs: 2
// comes before 10. ParseYAML reads them back.
func MarshalYAML(all ...Resource) ([]byte, error) {
	var b bytes.Buffer
	e := yaml.NewEncoder(&b)
	e.SetIndent(2)
	e.CompactSeqIndent()
	for _, r := range all {
		doc, err := MarshalJSON(r)
		if err != nil {
			return nil, err
		}
		root, err := treeOfJSON(doc)
		if err != nil {
			return nil, fmt.Errorf("resource: %w", err)
		}
		setStyles(root)
		sortNumbers(root)
		if err := e.Encode(root); err != nil {
			return nil, fmt.Errorf("resource: %w", err)
		}
	}
	if err := e.Close(); err != nil {
		return nil, fmt.Errorf("resource: %w", err)
	}
	return b.Bytes(), nil
}

// setStyles says how each text is written. The encoder's own choice cannot be
// read back where a text of several lines begins with a tab.
func setStyles(n *yaml.Node) {
	if n.Kind == yaml.ScalarNode && n.Tag == tagText {
		n.Style = styleOf(n.Value)
	}
	for _, child := range n.Content {
		setStyles(child)
	}
}

// sortNumbers puts mappings whose keys all are numbers in their order.
func sortNumbers(n *yaml.Node) {
	for _, child := range n.Content {
		sortNumbers(child)
	}
	if n.Kind != yaml.MappingNode {
		return
	}
	type entry struct {
		number uint64
		pair   []*yaml.Node
	}
	var entries []entry
	for pair := range slices.Chunk(slices.Clone(n.Content), 2) {
		number, err := strconv.ParseUint(pair[0].Value, 10, 64)
		if err != nil {
			return
		}
		entries = append(entries, entry{number, pair})
	}
	slices.SortStableFunc(entries, func(a, b entry) int { return cmp.Compare(a.number, b.number) })
	n.Content = n.Content[:0]
	for _, e := range entries {
		n.Content = append(n.Content, e.pair...)
	}
}

var (
	// plain texts look like nothing else in YAML; whether they look like a
	// number or a time is asked separately.
	plain = lazily(`^[a-zA-Z0-9_./+-]+([ @][a-zA-Z0-9_./+-]+)*$`)
	// oldWords are booleans to readers of YAML 1.1.
	oldWords = lazily(`(?i)^(y|n|yes|no|on|off)$`)
	// block is what people write after "|": lines that begin and end visibly.
	block = lazily(`^([!-~]([ -~]*[!-~])?\n)+$`)
)

func styleOf(text string) yaml.Style {
	switch {
	case block().MatchString(text) && strings.Count(text, "\n") > 1:
		return yaml.LiteralStyle
	case !plain().MatchString(text) || oldWords().MatchString(text):
		return yaml.DoubleQuotedStyle
	}
	var read yaml.Node
	if err := yaml.Unmarshal([]byte(text), &read); err != nil || len(read.Content) != 1 ||
		read.Content[0].Tag != tagText || read.Content[0].Value != text {
		return yaml.DoubleQuotedStyle
	}
	return 0
}

// checkKind refuses what nobody could read back.
func checkKind(r Resource) error {
	if r == nil {
		return fmt.Errorf("resource: there is none")
	}
	h := r.Head()
	k, known := knownKinds[h.Kind]
	if !known || fmt.Sprintf("%T", k.make()) != fmt.Sprintf("%T", r) {
		return fmt.Errorf("resource: a %T cannot be of kind %q", r, h.Kind)
	}
	if h.Version != k.version {
		return fmt.Errorf("resource: a %s is written in version %s, and not %q", h.Kind, k.version, h.Version)
	}
	return nil
}
