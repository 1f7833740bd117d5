package resource

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"go.yaml.in/yaml/v3"
)

// The tags that plain values get (YAML 1.2 section 10.3, core schema).
const (
	tagNull  = "!!null"
	tagBool  = "!!bool"
	tagInt   = "!!int"
	tagFloat = "!!float"
	tagText  = "!!str"
	tagMerge = "!!merge"
)

func isNull(n *yaml.Node) bool { return n.Kind == yaml.ScalarNode && n.Tag == tagNull }

func lineError(n *yaml.Node, format string, args ...any) error {
	return fmt.Errorf("line %d: %s", n.Line, fmt.Sprintf(format, args...))
}

// field gives the value of the first field so called; nil where there is none.
func field(n *yaml.Node, name string) *yaml.Node {
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == name {
			return n.Content[i+1]
		}
	}
	return nil
}

// checkTree refuses what only makes documents mean other than they seem:
// anchors and aliases (by which a page can grow into gigabytes), merge keys
// and tags.
func checkTree(n *yaml.Node) error {
	switch {
	case n.Kind == yaml.AliasNode:
		return lineError(n, "the alias *%.64s is not supported; write the value itself", n.Value)
	case n.Anchor != "":
		return lineError(n, "the anchor &%.64s is not supported", n.Anchor)
	case n.Tag == tagMerge:
		return lineError(n, "the merge key << is not supported")
	case n.Style&yaml.TaggedStyle != 0:
		return lineError(n, "the tag %.64s is not supported", n.Tag)
	}
	for _, child := range n.Content {
		if err := checkTree(child); err != nil {
			return err
		}
	}
	return nil
}

// treeOfJSON reads data into the same tree as YAML's, so that both are held
// to the same rules: encoding/json takes fields that are there twice, and in
// another case.
func treeOfJSON(data []byte) (*yaml.Node, error) {
	if !json.Valid(data) {
		return nil, jsonError(data)
	}
	b := &jsonTree{data: data, decoder: json.NewDecoder(bytes.NewReader(data)), line: 1}
	b.decoder.UseNumber()
	return b.value()
}

// jsonError says where the mistake is.
func jsonError(data []byte) error {
	var v json.RawMessage
	err := json.Unmarshal(data, &v)
	var syntax *json.SyntaxError
	if errors.As(err, &syntax) {
		before := data[:min(int(syntax.Offset), len(data))]
		return fmt.Errorf("line %d: %s", 1+bytes.Count(before, []byte("\n")), syntax.Error())
	}
	return errors.New("it is not JSON")
}

type jsonTree struct {
	data    []byte
	decoder *json.Decoder
	// line is that of the byte at offset, where the decoder was last.
	line, offset int
}

func (b *jsonTree) value() (*yaml.Node, error) {
	token, err := b.decoder.Token()
	if err != nil {
		return nil, err // cannot be: the text was found valid
	}
	end := int(b.decoder.InputOffset())
	b.line += bytes.Count(b.data[b.offset:end], []byte("\n"))
	b.offset = end
	switch t := token.(type) {
	case json.Delim:
		return b.container(t)
	case string:
		return b.scalar(tagText, t), nil
	case json.Number:
		if strings.ContainsAny(t.String(), ".eE") {
			return b.scalar(tagFloat, t.String()), nil
		}
		return b.scalar(tagInt, t.String()), nil
	case bool:
		return b.scalar(tagBool, fmt.Sprint(t)), nil
	default:
		return b.scalar(tagNull, "null"), nil
	}
}

func (b *jsonTree) scalar(tag, value string) *yaml.Node {
	return &yaml.Node{Kind: yaml.ScalarNode, Tag: tag, Value: value, Line: b.line}
}

// container reads what follows after { or [, up to its end.
func (b *jsonTree) container(open json.Delim) (*yaml.Node, error) {
	n := &yaml.Node{Kind: yaml.SequenceNode, Line: b.line}
	if open == '{' {
		n.Kind = yaml.MappingNode
	}
	for b.decoder.More() {
		child, err := b.value()
		if err != nil {
			return nil, err
		}
		n.Content = append(n.Content, child)
	}
	if _, err := b.decoder.Token(); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	return n, nil
}
