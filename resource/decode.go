package resource

import (
	"encoding"
	"reflect"
	"strconv"
	"strings"
	"time"
	"unicode"

	"go.yaml.in/yaml/v3"
)

// decode reads root into r, a pointer to a struct. It is written out rather
// than left to yaml's KnownFields, whose errors talk of Go types, tell lists
// of mistakes over several lines, and leave out the line where a type reads
// itself.
func (d *document) decode(root *yaml.Node, r Resource) error {
	return d.value(root, reflect.ValueOf(r).Elem(), "")
}

// value reads n into v, which is at path.
func (d *document) value(n *yaml.Node, v reflect.Value, path string) error {
	if own, ok := v.Addr().Interface().(interface{ UnmarshalYAML(func(any) error) error }); ok {
		err := own.UnmarshalYAML(func(into any) error { return d.value(n, reflect.ValueOf(into).Elem(), path) })
		return at(n, path, err)
	}
	if isNull(n) {
		return nil // as if it were not there
	}
	switch into := v.Addr().Interface().(type) {
	case *time.Time:
		return d.time(n, into, path)
	case encoding.TextUnmarshaler:
		text, err := d.text(n, path)
		if err != nil {
			return err
		}
		return at(n, path, into.UnmarshalText([]byte(text)))
	}
	switch v.Kind() {
	case reflect.Struct:
		return d.fields(n, v, path)
	case reflect.Map:
		return d.mapping(n, v, path)
	case reflect.Slice:
		return d.list(n, v, path)
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		return d.value(n, v.Elem(), path)
	default:
		return d.scalar(n, v, path)
	}
}

// at puts the line and the path before what a type said of its own value.
func at(n *yaml.Node, path string, err error) error {
	if err == nil {
		return nil
	}
	return lineError(n, "%s: %v", path, err)
}

func join(path, name string) string {
	if path == "" {
		return name
	}
	return path + "." + name
}

// fields reads a mapping into the struct v.
func (d *document) fields(n *yaml.Node, v reflect.Value, path string) error {
	if n.Kind != yaml.MappingNode {
		return lineError(n, "%s holds fields, and not a text or a list", path)
	}
	known := map[string]reflect.Value{}
	collect(v, known)
	seen := map[string]bool{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key := n.Content[i]
		into, ok := known[key.Value]
		switch {
		case key.Kind != yaml.ScalarNode:
			return lineError(key, "the name of a field is a text")
		case !ok:
			return lineError(key, "field %.64q is not supported in %s%s", key.Value, article(d.kind), within(path))
		case seen[key.Value]:
			return lineError(key, "field %q is there twice%s", key.Value, within(path))
		}
		seen[key.Value] = true
		d.lines[join(path, key.Value)] = key.Line
		value := n.Content[i+1]
		if isNull(value) && into.Kind() == reflect.Slice { // all of it is commented out
			into.Set(reflect.MakeSlice(into.Type(), 0, 0))
			continue
		}
		if err := d.value(value, into, join(path, key.Value)); err != nil {
			return err
		}
	}
	return nil
}

func within(path string) string {
	if path == "" {
		return ""
	}
	return " (" + path + ")"
}

// collect gives the fields of the struct v by the names in their yaml tags.
func collect(v reflect.Value, into map[string]reflect.Value) {
	for i := range v.NumField() {
		name, options, _ := strings.Cut(v.Type().Field(i).Tag.Get("yaml"), ",")
		switch {
		case options == "inline":
			collect(v.Field(i), into)
		case name != "":
			into[name] = v.Field(i)
		}
	}
}

// mapping reads a mapping into the map v. A list that is empty is left out:
// documents have "kubernetes_groups: null" where there are none.
func (d *document) mapping(n *yaml.Node, v reflect.Value, path string) error {
	if n.Kind != yaml.MappingNode {
		return lineError(n, "%s holds names and values, and not a text or a list", path)
	}
	result := reflect.MakeMap(v.Type())
	seen := map[string]bool{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		name, err := d.text(n.Content[i], path)
		if err != nil {
			return err
		}
		if seen[name] {
			return lineError(n.Content[i], "%.64q is there twice (%s)", name, path)
		}
		seen[name] = true
		value, element := n.Content[i+1], reflect.New(v.Type().Elem()).Elem()
		if isNull(value) && element.Kind() != reflect.Slice {
			return lineError(value, "%.64q has no value (%s)", name, path)
		}
		d.lines[join(path, name)] = n.Content[i].Line
		if err := d.value(value, element, join(path, name)); err != nil {
			return err
		}
		if element.Kind() != reflect.Slice || element.Len() > 0 {
			result.SetMapIndex(reflect.ValueOf(name), element)
		}
	}
	if result.Len() > 0 {
		v.Set(result)
	}
	return nil
}

// list reads a list into the slice v.
func (d *document) list(n *yaml.Node, v reflect.Value, path string) error {
	if n.Kind != yaml.SequenceNode {
		return lineError(n, "%s is a list: write [a, b], or each on its own line after a dash", path)
	}
	result := reflect.MakeSlice(v.Type(), 0, len(n.Content)) // an empty list is not none
	for i, item := range n.Content {
		element := reflect.New(v.Type().Elem()).Elem()
		at := path + "[" + strconv.Itoa(i) + "]"
		if isNull(item) && element.Kind() != reflect.Pointer {
			return lineError(item, "%s is empty", at)
		}
		d.lines[at] = item.Line
		if err := d.value(item, element, at); err != nil {
			return err
		}
		result = reflect.Append(result, element)
	}
	v.Set(result)
	return nil
}

func (d *document) scalar(n *yaml.Node, v reflect.Value, path string) error {
	if n.Kind != yaml.ScalarNode {
		return lineError(n, "%s is one value, and not a list or fields", path)
	}
	switch v.Kind() {
	case reflect.String:
		text, err := d.text(n, path)
		v.SetString(text)
		return err
	case reflect.Bool:
		is, ok := truth(n)
		if !ok {
			return lineError(n, "%s is true or false, and not %.64q", path, n.Value)
		}
		v.SetBool(is)
		return nil
	case reflect.Int64:
		number, err := strconv.ParseInt(n.Value, 10, 64)
		if n.Tag != tagInt || err != nil {
			return lineError(n, "%s is a whole number, and not %.64q", path, n.Value)
		}
		v.SetInt(number)
		return nil
	default:
		return lineError(n, "%s cannot be read", path)
	}
}

// truth reads a boolean, also in the words of YAML 1.1 that Teleport's own
// examples use (yes, no, on, off).
func truth(n *yaml.Node) (is, ok bool) {
	if n.Style&(yaml.SingleQuotedStyle|yaml.DoubleQuotedStyle) != 0 {
		return false, false
	}
	switch strings.ToLower(n.Value) {
	case "true", "yes", "on":
		return true, true
	case "false", "no", "off":
		return false, true
	}
	return false, false
}

// text reads a text as it was written: YAML would take off, 7 and 2020-01-01
// for other things than what people mean in a text's place.
func (d *document) text(n *yaml.Node, path string) (string, error) {
	switch {
	case n.Kind != yaml.ScalarNode:
		return "", lineError(n, "%s is a text, and not a list or fields", path)
	case d.strictTexts && n.Tag != tagText:
		return "", lineError(n, "%s is a text, and not %.64s", path, n.Value)
	case strings.ContainsFunc(n.Value, unprintable):
		return "", lineError(n, "%s holds what cannot be printed", path)
	}
	return n.Value, nil
}

// unprintable: escape sequences in a document would act on the terminal of
// whoever lists it.
func unprintable(r rune) bool {
	return r != '\n' && r != '\t' && !unicode.IsPrint(r) && !unicode.In(r, unicode.Zs)
}

// time reads RFC 3339, and keeps it in UTC.
func (d *document) time(n *yaml.Node, into *time.Time, path string) error {
	text, err := d.text(n, path)
	if err != nil {
		return err
	}
	t, err := time.Parse(time.RFC3339Nano, text)
	// Beyond these years RFC 3339 could not write it again.
	if t = t.UTC(); err != nil || t.Year() < 1 || t.Year() > 9999 {
		return lineError(n, "%s: %.64q is not a time such as 2006-01-02T15:04:05Z", path, text)
	}
	if !t.IsZero() {
		*into = t
	}
	return nil
}
