package policy

import (
	"maps"
	"slices"
	"strconv"
	"strings"
	"unicode"
)

// anything is the key that stands for all nodes and the value that stands
// for all values.
const anything = "*"

// labels is a checked node_labels: every label in it must be on the node.
// The zero value matches no node.
type labels struct {
	all  bool // '*': '*'
	want []label
	// everyNode and matched are the rules where it matches.
	everyNode, matched *Rule
}

// label is one of them, with the rules where it fails.
type label struct {
	key           string
	any           bool
	values        []string
	absent, other *Rule
}

// newLabels checks spec; where it matches, it has the effect.
func newLabels(effect RuleEffect, source, field string, spec map[string]Values) (labels, error) {
	if len(spec) > maxLabels {
		return labels{}, fieldError(field, "%d labels are more than %d", len(spec), maxLabels)
	}
	l := labels{
		everyNode: &Rule{effect, source, "every node"},
		matched:   &Rule{effect, source, "the node's labels match"},
	}
	for _, key := range slices.Sorted(maps.Keys(spec)) {
		if key == anything {
			// Whether the others then still count would be a matter of
			// taste; nobody's safety should hang on it.
			if len(spec) > 1 || !slices.Equal(spec[key], Values{anything}) {
				return labels{}, fieldError(field, "'*' stands for all nodes: it takes the value '*' and no other label beside it")
			}
			l.all = true
			return l, nil
		}
		one, err := newLabel(source, field+"."+key, key, spec[key])
		if err != nil {
			return labels{}, err
		}
		l.want = append(l.want, one)
	}
	return l, nil
}

func newLabel(source, field, key string, values Values) (label, error) {
	if problem := checkText(key); problem != "" {
		return label{}, fieldError(field, "the label's name %s", problem)
	}
	if len(values) == 0 || len(values) > maxValues {
		return label{}, fieldError(field, "%d values are not between 1 and %d", len(values), maxValues)
	}
	quoted := make([]string, len(values))
	for i, v := range values {
		if problem := checkText(v); v != anything && problem != "" {
			return label{}, fieldError(field, "%.64q %s", v, problem)
		}
		quoted[i] = strconv.Quote(v)
	}
	return label{
		key: key, any: slices.Contains(values, anything), values: slices.Clone(values),
		absent: &Rule{RuleSkip, source, "the node has no label " + strconv.Quote(key)},
		other:  &Rule{RuleSkip, source, "the node's label " + strconv.Quote(key) + " is not " + strings.Join(quoted, " or ")},
	}, nil
}

// checkText refuses texts that others would read as patterns: in a deny
// block, taking one for a plain text would let in whom it should keep out.
func checkText(s string) string {
	switch {
	case s == "":
		return "is empty"
	case len(s) > maxText:
		return "has more than " + strconv.Itoa(maxText) + " bytes"
	case strings.Contains(s, anything), strings.Contains(s, "{{"), strings.HasPrefix(s, "^") && strings.HasSuffix(s, "$"):
		return "is a pattern or a variable, which are not supported here"
	case strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }):
		return "holds what cannot be printed"
	}
	return ""
}

// match tells whether l matches a node with the labels, and the rule that
// says so; nil where l says nothing about nodes.
func (l *labels) match(node map[string]string) (bool, *Rule) {
	if l.all {
		return true, l.everyNode
	}
	if len(l.want) == 0 {
		return false, nil
	}
	for i := range l.want {
		w := &l.want[i]
		value, ok := node[w.key]
		if !ok {
			return false, w.absent
		}
		if !w.any && !slices.Contains(w.values, value) {
			return false, w.other
		}
	}
	return true, l.matched
}

// none tells whether l matches no node whatsoever.
func (l *labels) none() bool { return !l.all && len(l.want) == 0 }
