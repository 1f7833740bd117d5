package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v3"
)

// Format is how a result is printed.
type Format string

const (
	Text Format = "text"
	JSON Format = "json"
	YAML Format = "yaml"
)

func (f *Format) String() string { return string(*f) }

// Type is shown in the help.
func (f *Format) Type() string { return "text|json|yaml" }

// Set takes text, json or yaml.
func (f *Format) Set(s string) error {
	switch v := Format(s); v {
	case Text, JSON, YAML:
		*f = v
		return nil
	}
	return fmt.Errorf("want text, json or yaml")
}

// AddFormat gives c the flag --format and returns where its value will be.
func AddFormat(c *cobra.Command, preset Format) *Format {
	f := preset
	c.Flags().Var(&f, "format", "form of the result: text, json or yaml")
	// Failing would mean that the flag defined above does not exist.
	_ = c.RegisterFlagCompletionFunc("format", cobra.FixedCompletions(
		[]string{"text", "json", "yaml"}, cobra.ShellCompDirectiveNoFileComp))
	return &f
}

// Write prints v, which marshals as JSON, as indented JSON or as the same
// document in YAML. Text is the caller's own to print; asked for it here,
// Write prints JSON.
func Write(w io.Writer, f Format, v any) error {
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	if err := enc.Encode(v); err != nil {
		return err
	}
	if f != YAML {
		_, err := w.Write(buf.Bytes())
		return err
	}
	node, err := yamlNode(json.NewDecoder(&buf))
	if err != nil {
		return err
	}
	out := yaml.NewEncoder(w)
	out.SetIndent(2)
	if err := out.Encode(node); err != nil {
		return err
	}
	return out.Close()
}

// yamlNode reads one JSON value as YAML, keeping the order of keys, which a
// map would lose.
func yamlNode(dec *json.Decoder) (*yaml.Node, error) {
	dec.UseNumber()
	token, err := dec.Token()
	if err != nil {
		return nil, err
	}
	switch t := token.(type) {
	case json.Delim:
		n := &yaml.Node{Kind: yaml.SequenceNode}
		if t == '{' {
			n.Kind = yaml.MappingNode
		}
		for dec.More() {
			// Keys of an object come as tokens of their own, as values do.
			child, err := yamlNode(dec)
			if err != nil {
				return nil, err
			}
			n.Content = append(n.Content, child)
		}
		if len(n.Content) == 0 {
			n.Style = yaml.FlowStyle // "[]", not nothing
		}
		_, err := dec.Token()
		return n, err
	case string:
		n := &yaml.Node{}
		n.SetString(t)
		return n, nil
	case nil:
		return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!null", Value: "null"}, nil
	default: // json.Number, bool
		return &yaml.Node{Kind: yaml.ScalarNode, Value: fmt.Sprint(t)}, nil
	}
}

// Table prints rows below headers and a line of dashes, each column as wide
// as its widest cell, one space between. Cells are made Safe.
func Table(w io.Writer, headers []string, rows [][]string) error {
	widths := make([]int, len(headers))
	lines := make([][]string, 0, len(rows)+2)
	lines = append(lines, headers, make([]string, len(headers)))
	for _, row := range rows {
		safe := make([]string, len(headers))
		for i := range min(len(row), len(headers)) {
			safe[i] = Safe(row[i])
		}
		lines = append(lines, safe)
	}
	for _, line := range lines {
		for i, cell := range line {
			widths[i] = max(widths[i], utf8.RuneCountInString(cell))
		}
	}
	for i, width := range widths {
		lines[1][i] = strings.Repeat("-", width)
	}
	var b strings.Builder
	for _, line := range lines {
		var l strings.Builder
		for i, cell := range line {
			l.WriteString(cell)
			l.WriteString(strings.Repeat(" ", widths[i]-utf8.RuneCountInString(cell)+1))
		}
		b.WriteString(strings.TrimRight(l.String(), " "))
		b.WriteByte('\n')
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// Time is t as a person reads it, in their own time zone; empty for the
// zero time.
func (e *Env) Time(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.In(e.Location).Format("2006-01-02 15:04:05")
}
